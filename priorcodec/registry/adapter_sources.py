"""Fetches trained adapters and publishes them: a local file, or one on the Hugging Face Hub at a pinned commit."""

from __future__ import annotations

import hashlib
from pathlib import Path

from priorcodec.adapters import hub
from priorcodec.adapters.hub import COMMIT, HUB_PATH, SUFFIX
from priorcodec.backbones.spec import AdapterSource
from priorcodec.core.errors import AdapterError

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def is_location(given: str) -> bool:
    """Whether `given` means a file, here or on the Hub, and not the name of a known adapter."""
    return "/" in given or Path(given).suffix in (SUFFIX, *PICKLES)


def source(given: str) -> AdapterSource:
    """Parse a user's words: a path, or OWNER/REPO/FILE.safetensors@COMMIT."""
    location, _, revision = given.partition("@")
    if Path(given).expanduser().exists() or not HUB_PATH.fullmatch(location):
        location, revision = given, ""
    return AdapterSource(name=given, location=location, revision=revision)


def fetch(source: AdapterSource) -> Path:
    """The file: the path itself, or from the Hugging Face cache, or downloaded from the Hub.

    Raises:
        AdapterError: It does not exist, cannot be downloaded, is not pinned to a commit, is a pickle, or is not the pinned file.
    """
    path = local_path(source)
    if path is not None:
        return path
    repository = _hub_file(source)
    if repository is None:
        raise AdapterError(f"no file {source.location}: give an adapter's {SUFFIX} file")
    return _verify_sha256(source, hub.download(*repository))


def local_path(source: AdapterSource) -> Path | None:
    """The file if it is on this machine, without using the network. Raises AdapterError as `fetch` does."""
    repository = _hub_file(source)
    if repository is None:
        path = Path(source.location).expanduser()
        return _verify_sha256(source, path) if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    repo, name, revision = repository
    found = try_to_load_from_cache(repo, name, revision=revision)
    return _verify_sha256(source, Path(found)) if isinstance(found, str) else None


def push(file: Path, card: Path, repo: str, *, private: bool = False, branch: str = "main") -> AdapterSource:
    """Upload an adapter and its card as `hub.upload` does; returns the uploaded file, pinned by its commit and SHA-256."""
    commit = hub.upload(file, card, repo, private=private, branch=branch)
    return AdapterSource(name="default", location=f"{repo}/{file.name}", revision=commit, sha256=sha256(file))


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hub_file(source: AdapterSource) -> tuple[str, str, str] | None:
    """(repository, file, commit), or None for a local path. Raises AdapterError: it is neither."""
    location, revision = source.location, source.revision
    suffix = Path(location).suffix
    if suffix != SUFFIX:
        why = ", a pickle, which can run any code" if suffix in PICKLES else ""
        raise AdapterError(
            f"{location} is not a {SUFFIX} file{why}: give an adapter's {SUFFIX} file, or the folder of one"
        )
    match = HUB_PATH.fullmatch(location)
    if revision and not match:
        raise AdapterError(
            f"{location} is not a file on the Hub like owner/repo/file{SUFFIX}, but revision {revision} is given"
        )
    if revision and not COMMIT.fullmatch(revision):
        raise AdapterError(
            f"{location}: {revision!r} is not a commit (a branch or tag can move): write {location}@COMMIT with its 40 hex digits"
        )
    if match and revision:
        return match[1], match[2], revision
    if match and not Path(location).exists():
        raise AdapterError(
            f"{location} is not a local file, and a Hub location needs a commit: write {location}@COMMIT with its 40 hex digits"
        )
    return None


def _verify_sha256(source: AdapterSource, path: Path) -> Path:
    got = sha256(path) if source.sha256 else ""
    if got != source.sha256:
        raise AdapterError(
            f"{path} has SHA-256 {got[:12]}, wanted {source.sha256[:12]}: it is damaged or not the pinned file; "
            "delete it and get it again"
        )
    return path
