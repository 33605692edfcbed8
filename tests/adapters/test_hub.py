"""`Adapter.push_to_hub` and `from_pretrained` through huggingface_hub itself, against a small Hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from priorcodec.adapters import card
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.core import shipped
from priorcodec.core.errors import AdapterError
from priorcodec.registry import open_registry

TOKEN, NAME, REPO = "hf_of_this_test", "toy.adapter.safetensors", "jo/sharp"
TOY = shipped.FOLDER / NAME


class Hub(ThreadingHTTPServer):
    """The part of the Hub's HTTP interface that pushing and downloading need.

    Attributes:
        repositories: id -> {branch or commit -> {file name -> bytes}}.
        private: ids of private repositories.
        summaries: of all commits.
        requests: (method, path) of every request.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.private, self.summaries, self.requests = {}, set(), [], []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, *_):
        pass

    def answer(self, status: int, content: Any = b"", **headers: object) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        hub, body = self.server, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.requests.append(("POST", self.path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in hub.repositories:
                return self.answer(409, {"error": "You already created this model repo", "url": f"{hub.url}/{repo}"})
            hub.repositories[repo] = {"main": {}}
            hub.private |= {repo} if asked.get("private") or asked.get("visibility") == "private" else set()
            return self.answer(200, {"url": f"{hub.url}/{repo}", "id": repo})
        if self.path == "/api/validate-yaml":  # of the card's header
            return self.answer(200, {"errors": [], "warnings": []})
        repo, kind, branch = self.path.removeprefix("/api/models/").rsplit("/", 2)
        branches = hub.repositories[repo]
        if kind == "branch":
            if branch in branches:
                return self.answer(409, {"error": "Reference already exists"})
            branches[branch] = dict(branches["main"])
            return self.answer(201)
        if kind == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer(200, {"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        hub.summaries += [line["value"]["summary"] for line in lines if line["key"] == "header"]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        commit = hashlib.sha1(body).hexdigest()
        branches[branch] = branches[commit] = {**branches[branch], **added}
        self.answer(
            200, {"commitOid": commit, "commitUrl": f"{hub.url}/{repo}/commit/{commit}", "pullRequestUrl": None}
        )

    def do_GET(self):
        self.server.requests.append((self.command, self.path))
        repo, _, rest = self.path[1:].partition("/resolve/")
        revision, _, name = rest.partition("/")
        files = self.server.repositories.get(repo, {}).get(revision)
        if files is None or name not in files:
            code = "RevisionNotFound" if files is None else "EntryNotFound"
            return self.answer(404, X_Error_Code=code, X_Repo_Commit=revision)
        data = files[name]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        self.answer(200, data, ETag=etag, X_Repo_Commit=revision, Accept_Ranges="bytes")

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that huggingface_hub takes for the real one, with an empty cache."""
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(constants + "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants + "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants + "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def spec():
    return open_registry().spec("toy")


@pytest.fixture
def adapter(spec):
    """The shipped one."""
    return Adapter.from_pretrained(TOY, spec=spec)


def same(a: Adapter, b: Adapter) -> bool:
    pairs = [(a.state_dict(), b.state_dict()), (a.lora_values, b.lora_values)]
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


def test_what_is_pushed_comes_back_at_its_commit(hub, adapter, spec):
    commit = adapter.push_to_hub(REPO, private=True)
    files = hub.repositories[REPO][commit]
    assert files.keys() == {NAME, card.NAME} and hub.private == {REPO}
    assert hub.summaries == ["toy.adapter: adapter and card"]
    assert f"--adapter {REPO}/{NAME}@COMMIT".encode() in files[card.NAME]
    again = Adapter.from_pretrained(REPO, spec=spec, revision=commit)
    assert same(again, adapter) and again.config == adapter.config
    assert {**again.metadata, "config": ""} == {**adapter.metadata, "config": ""}
    backbone = spec.build(None, dtype=torch.float32)
    again.inject(backbone)  # usable, not just equal
    again.eject()
    hub.requests.clear()
    assert same(Adapter.from_pretrained(REPO, spec=spec, revision=commit), adapter)
    assert not [path for method, path in hub.requests if method == "GET"]  # from the cache


def test_a_second_push_keeps_the_first_commit(hub, adapter, spec):
    first = adapter.push_to_hub(REPO)
    with torch.no_grad():
        next(iter(adapter.parameters())).add_(1)
    second = adapter.push_to_hub(REPO, branch="next", commit_message="brighter")
    assert hub.repositories[REPO]["main"] == hub.repositories[REPO][first]
    assert hub.repositories[REPO]["next"] == hub.repositories[REPO][second]
    assert hub.summaries[1] == "brighter" and not hub.private
    old, new = (Adapter.from_pretrained(REPO, spec=spec, revision=commit) for commit in (first, second))
    assert same(old, Adapter.from_pretrained(TOY, spec=spec)) and not same(old, new)


@pytest.mark.parametrize("revision", [None, "main", "v1", "0123abc"])
def test_only_a_commit_is_taken_and_the_hub_is_not_asked(hub, spec, revision):
    with pytest.raises(AdapterError, match="wanted 40 hex digits of a commit") as caught:
        Adapter.from_pretrained(REPO, spec=spec, revision=revision)
    assert "\n" not in str(caught.value) and not hub.requests


def test_what_the_hub_lacks_is_one_line_and_leaves_nothing(hub, adapter, spec, tmp_path):
    commit = adapter.push_to_hub(REPO)
    for repo, revision, filename in (
        (REPO, "f" * 40, None),
        (REPO, commit, "other.safetensors"),
        ("jo/blunt", commit, None),
    ):
        with pytest.raises(AdapterError, match="run `hf download") as caught:
            Adapter.from_pretrained(repo, spec=spec, revision=revision, filename=filename)
        assert "\n" not in str(caught.value)
    with pytest.raises(AdapterError, match=r"card.md is not a .safetensors file"):
        Adapter.from_pretrained(REPO, spec=spec, revision=commit, filename="card.md")
    assert not list((tmp_path / "cache").rglob("snapshots/*/*"))


def test_a_damaged_file_of_the_hub_is_refused(hub, adapter, spec):
    commit = adapter.push_to_hub(REPO)
    hub.repositories[REPO][commit][NAME] = TOY.read_bytes()[:-1]
    with pytest.raises(AdapterError) as caught:
        Adapter.from_pretrained(REPO, spec=spec, revision=commit)
    assert "\n" not in str(caught.value)


def test_without_the_right_to_write_it_is_one_line(hub, adapter, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(AdapterError, match=f"the Hub did not take {NAME} for {REPO} .*run `hf auth login`") as caught:
        adapter.push_to_hub(REPO)
    assert "\n" not in str(caught.value) and not hub.repositories


def test_what_cannot_be_described_or_named_sends_nothing(hub, adapter, spec):
    with pytest.raises(AdapterError, match="no description yet"):
        Adapter(spec, AdapterConfig(), m=6, levels=8).push_to_hub(REPO)
    for repo in ("sharp", "jo/sharp/x", "https://huggingface.co/jo/sharp", "jo/sh arp"):
        with pytest.raises(AdapterError, match="wanted OWNER/REPO"):
            adapter.push_to_hub(repo)
    adapter.metadata["tiny"] = "true"
    with pytest.raises(AdapterError, match="of a dry run"):
        adapter.push_to_hub(REPO)
    assert not hub.requests


def test_a_folder_is_read_without_the_hub(hub, adapter, spec, tmp_path):
    assert adapter.save_pretrained(tmp_path).name == NAME
    assert same(Adapter.from_pretrained(tmp_path, spec=spec), adapter)
    with pytest.raises(AdapterError, match="is neither a local file or folder nor a repository"):
        Adapter.from_pretrained(tmp_path / "gone", spec=spec)
    assert not hub.requests
