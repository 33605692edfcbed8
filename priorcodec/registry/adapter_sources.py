"""Fetches trained adapters and publishes them: a local file, or one on the Hugging Face Hub at a pinned commit."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from priorcodec.backbones.spec import AdapterSource
from priorcodec.core.errors import AdapterError

SUFFIX = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
HUB_ID = r"(?!\S*(?:--|\.\.))\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b"  # OWNER/REPO, as huggingface_hub validates it
HUB_PATH = re.compile(rf"({HUB_ID})/(\w[\w.-]*(?:/\w[\w.-]*)*)")
COMMIT = re.compile(r"[0-9a-f]{40}")


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
        AdapterError: It cannot be downloaded, is not pinned to a commit, is a pickle, or has another SHA-256 than pinned.
    """
    path = local_path(source)
    if path is not None:
        return path
    repository = _hub_file(source)
    return _verify_sha256(source, _download(*repository)) if repository else Path(source.location).expanduser()


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
    """Upload an adapter and its card in one commit.

    Args:
        file: The adapter, FILE.safetensors.
        card: Its model card; "OWNER/REPO" in it becomes `repo`.
        repo: Repository on the Hub, created if it does not exist.
        private: Whether a repository created here is private.
        branch: Created if it does not exist.

    Returns:
        The uploaded file, pinned by its commit and SHA-256.

    Raises:
        AdapterError: A name that the Hub or `fetch` would not take; no network, no token, no permission to write.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not re.fullmatch(HUB_ID, repo) or not HUB_PATH.fullmatch(f"{repo}/{file.name}") or file.suffix != SUFFIX:
        raise AdapterError(
            f"cannot push {file.name} to {repo}: wanted a FILE{SUFFIX} and OWNER/REPO, letters, digits, - _ . only"
        )
    text = card.read_text(encoding="utf-8").replace("OWNER/REPO", repo)
    data = file.read_bytes()
    added = [
        CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=data),
        CommitOperationAdd(path_in_repo=card.name, path_or_fileobj=text.encode()),
    ]
    api = HfApi(library_name="priorcodec")
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        if branch != "main":
            api.create_branch(repo, branch=branch, exist_ok=True)
        commit = api.create_commit(repo, added, commit_message=f"{file.stem}: adapter and card", revision=branch)
    except Exception as exc:  # offline, no token, no permission: huggingface_hub has a dozen classes for it
        reason = (str(exc).splitlines() or [""])[0]
        raise AdapterError(
            f"the Hub did not take {file.name} for {repo} ({type(exc).__name__}: {reason}): "
            "run `hf auth login` with a token that may write there, and try again with a network"
        ) from exc
    return AdapterSource(
        name="default",
        location=f"{repo}/{file.name}",
        revision=commit.oid,
        sha256=hashlib.sha256(data).hexdigest(),
    )


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
        raise AdapterError(f"{location} is no {SUFFIX} file{why}: give an adapter's {SUFFIX} file")
    match = HUB_PATH.fullmatch(location)
    if revision and not match:
        raise AdapterError(
            f"{location} is no file on the Hub like owner/repo/file{SUFFIX}, but has revision {revision}"
        )
    if revision and not COMMIT.fullmatch(revision):
        raise AdapterError(
            f"{location}: {revision!r} is no commit (a branch or tag can move): write {location}@COMMIT with its 40 hex digits"
        )
    if match and revision:
        return match[1], match[2], revision
    if match and not Path(location).exists():
        raise AdapterError(
            f"{location} is no file here, and for the Hub it lacks its commit: write {location}@COMMIT with its 40 hex digits"
        )
    return None


def _download(repo: str, name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except Exception as exc:  # offline, gated, gone, disk full: huggingface_hub has a dozen classes for it
        raise AdapterError(
            f"{repo}/{name} is not on this machine and the Hub did not give it ({type(exc).__name__}): "
            f"run `hf download {repo} {name} --revision {revision}` with a network, or give adapter=FILE{SUFFIX}"
        ) from exc


def _verify_sha256(source: AdapterSource, path: Path) -> Path:
    got = sha256(path) if source.sha256 else ""
    if got != source.sha256:
        raise AdapterError(
            f"{path} has SHA-256 {got[:12]}, wanted {source.sha256[:12]}: it is damaged or not the pinned file; "
            "delete it and get it again"
        )
    return path
