"""Adapters on the Hugging Face Hub: `Adapter.from_pretrained` and `Adapter.push_to_hub`.

huggingface_hub's `ModelHubMixin` gives the names and their meaning. Its own loading is not used: it follows branches and keeps a
config.json, while an adapter is one safetensors file that describes itself, taken at a pinned commit only.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from priorcodec.core.errors import AdapterError

if TYPE_CHECKING:
    from priorcodec.adapters.adapter import Adapter

SUFFIX = ".safetensors"
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")


def locate(location: str | Path, filename: str, revision: str | None) -> Path:
    """The file of an adapter: `location` itself, `filename` in that folder, or `filename` in that repository at a commit.

    Raises:
        AdapterError: It cannot be found or downloaded, or the commit is not pinned.
    """
    path = Path(location).expanduser()
    if path.is_dir():
        path = path / filename
    if path.exists():
        return path
    repo = str(location)
    if not REPOSITORY.fullmatch(repo):
        raise AdapterError(
            f"{location} is no file or folder here and no repository: give a {SUFFIX} file or OWNER/REPO"
        )
    if revision is None or not COMMIT.fullmatch(revision):
        raise AdapterError(
            f"{repo}: got revision {revision!r}, wanted 40 hex digits of a commit (a branch or tag can move): "
            "give revision=COMMIT"
        )
    if not filename.endswith(SUFFIX):
        raise AdapterError(f"{filename} is no {SUFFIX} file: give the name of one in {repo}")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, filename, revision=revision))
    except Exception as error:  # offline, gated, gone, disk full: huggingface_hub has a dozen classes for it
        raise AdapterError(
            f"{repo}/{filename} is not on this machine and the Hub did not give it ({type(error).__name__}): "
            f"run `hf download {repo} {filename} --revision {revision}` with a network"
        ) from error


def push(adapter: Adapter, repo: str, *, private: bool, branch: str, message: str | None) -> str:
    """Upload an adapter and its card in one commit; returns the commit, 40 hex digits.

    Raises:
        AdapterError: It has no description yet, a bad name, no network, no token, or no right to write.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from priorcodec.adapters import card

    if not REPOSITORY.fullmatch(repo):
        raise AdapterError(f"cannot push to {repo!r}: wanted OWNER/REPO, letters, digits, - _ . only")
    api = HfApi(library_name="priorcodec")
    with tempfile.TemporaryDirectory() as folder:
        file = adapter.save_pretrained(folder)
        text = card.write(file).read_text(encoding="utf-8").replace("OWNER/REPO", repo)
        added = [
            CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.read_bytes()),
            CommitOperationAdd(path_in_repo=card.NAME, path_or_fileobj=text.encode()),
        ]
        try:
            api.create_repo(repo, private=private or None, exist_ok=True)
            if branch != "main":
                api.create_branch(repo, branch=branch, exist_ok=True)
            summary = message or f"{file.stem}: adapter and card"
            return api.create_commit(repo, added, commit_message=summary, revision=branch).oid
        except Exception as error:  # offline, no token, no right to write: huggingface_hub has a dozen classes for it
            reason = (str(error).splitlines() or [""])[0]
            raise AdapterError(
                f"the Hub did not take {file.name} for {repo} ({type(error).__name__}: {reason}): "
                "run `hf auth login` with a token that may write there, and try again with a network"
            ) from error
