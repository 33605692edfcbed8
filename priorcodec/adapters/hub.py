"""Adapter files on the Hugging Face Hub: one file at a pinned commit, and its model card.

`Adapter.from_pretrained` and `push_to_hub` have the names of huggingface_hub's `ModelHubMixin` but do not inherit from it: the
mixin looks for a config.json before anything else, so an adapter, which is one file that describes itself, would not load offline
from the cache, and importing the mixin would add 0.3 s to every decode.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from priorcodec.core.errors import AdapterError

SUFFIX = ".safetensors"
HUB_ID = r"(?!\S*(?:--|\.\.))\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b"  # OWNER/REPO, as huggingface_hub validates it
HUB_PATH = re.compile(rf"({HUB_ID})/(\w[\w.-]*(?:/\w[\w.-]*)*)")
COMMIT = re.compile(r"[0-9a-f]{40}")


def file_name(backbone: str) -> str:
    """Usual file name of an adapter for the backbone of this name."""
    return f"{backbone}.adapter{SUFFIX}"


def in_folder(given: Path) -> Path:
    """A file as it is; for a folder, the adapter in it. Raises AdapterError: the folder has none, or several."""
    if not given.is_dir():
        return given
    found = sorted(given.glob(f"*.adapter{SUFFIX}"))
    if len(found) != 1:
        raise AdapterError(f"the folder {given} has {len(found) or 'no'} adapters, wanted one: give the file itself")
    return found[0]


def locate(location: str | Path, filename: str, revision: str | None) -> Path:
    """The file of an adapter: `location` itself, `filename` in that folder, or `filename` in that repository at a commit.

    Raises:
        AdapterError: It cannot be found or downloaded, or the commit is not pinned.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        path = path / filename
        if not path.exists():
            raise AdapterError(
                f"the folder {location} has no {filename}: give the file itself (filename=NAME in Python)"
            )
    if path.exists():
        return path
    repo = str(location)
    if not re.fullmatch(HUB_ID, repo):
        raise AdapterError(
            f"{location} is neither a local file or folder nor a repository: give a {SUFFIX} file or OWNER/REPO"
        )
    if revision is None or not COMMIT.fullmatch(revision):
        raise AdapterError(
            f"{repo}: got revision {revision!r}, wanted 40 hex digits of a commit (a branch or tag can move): "
            "give revision=COMMIT"
        )
    if not filename.endswith(SUFFIX):
        raise AdapterError(f"{filename} is not a {SUFFIX} file: give the name of one in {repo}")
    return download(repo, filename, revision)


def download(repo: str, filename: str, revision: str) -> Path:
    """The file in the Hub's cache, downloaded if it is not there. Raises AdapterError: it cannot be had."""
    from huggingface_hub import hf_hub_download

    try:
        with quiet_retries():
            return Path(hf_hub_download(repo, filename, revision=revision))
    except Exception as error:  # offline, gated, gone, disk full: huggingface_hub has a dozen classes for it
        raise AdapterError(
            f"{repo}/{filename} is not on this machine and could not be downloaded from the Hub ({type(error).__name__}): "
            f"run `hf download {repo} {filename} --revision {revision}` with a network, or name a {SUFFIX} file"
        ) from error


@contextlib.contextmanager
def quiet_retries() -> Iterator[None]:
    """Without the lines that huggingface_hub logs at each of its retries: our error says once that it failed."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def upload(
    file: Path, card: Path, repo: str, *, private: bool = False, branch: str = "main", message: str | None = None
) -> str:
    """Upload an adapter and its card in one commit.

    Args:
        file: The adapter, FILE.safetensors.
        card: Its model card; "OWNER/REPO" in it becomes `repo`.
        repo: Repository on the Hub, created if it does not exist.
        private: Whether a repository created here is private.
        branch: Created if it does not exist.
        message: Summary of the commit.

    Returns:
        The commit, 40 hex digits.

    Raises:
        AdapterError: A name that the Hub or `download` would not take; no network, no token, no permission to write.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not re.fullmatch(HUB_ID, repo) or not HUB_PATH.fullmatch(f"{repo}/{file.name}") or file.suffix != SUFFIX:
        raise AdapterError(
            f"cannot push {file.name} to {repo}: wanted OWNER/REPO of letters, digits, - _ . and a FILE{SUFFIX}"
        )
    text = card.read_text(encoding="utf-8").replace("OWNER/REPO", repo)
    added = [
        CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.read_bytes()),
        CommitOperationAdd(path_in_repo=card.name, path_or_fileobj=text.encode()),
    ]
    summary = message or f"{file.stem}: adapter and card"
    api = HfApi(library_name="priorcodec")
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        if branch != "main":
            api.create_branch(repo, branch=branch, exist_ok=True)
        return api.create_commit(repo, added, commit_message=summary, revision=branch).oid
    except Exception as error:  # offline, no token, no permission: huggingface_hub has a dozen classes for it
        reason = (str(error).splitlines() or [""])[0]
        raise AdapterError(
            f"the Hub did not take {file.name} for {repo} ({type(error).__name__}: {reason}): "
            "run `hf auth login` with a token that may write there, and try again with a network"
        ) from error
