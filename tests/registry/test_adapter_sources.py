"""Adapters on the Hub: pinned commit, cache first, hash checked, no pickle; what a push would send. No network."""

import hashlib

import pytest

from priorcodec import AdapterError, AdapterSource
from priorcodec.registry import adapter_sources, open_registry

REV = "0123456789abcdef0123456789abcdef01234567"
PLACE = "jo/sharp/sub/toy.adapter.safetensors"
DATA = b"an adapter"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PRIORCODEC_LOAD_PLUGINS", "")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cached(tmp_path):
    """The file in a cache laid out as huggingface_hub does: blob, snapshot, ref of a branch."""
    root = tmp_path / "cache" / "models--jo--sharp"
    blob, file = root / "blobs" / hashlib.sha256(DATA).hexdigest(), root / "snapshots" / REV / PLACE.split("/", 2)[2]
    for path in (blob, file, root / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(DATA)
    file.symlink_to(blob)
    (root / "refs" / "main").write_text(REV)
    return file


def hub(**fields):
    return AdapterSource(**{"name": "x", "location": PLACE, "revision": REV, **fields})


def refused(match, source):
    for ask in (adapter_sources.fetch, adapter_sources.local_path):
        with pytest.raises(AdapterError, match=match) as caught:
            ask(source)
        assert "\n" not in str(caught.value)


def test_the_cache_is_asked_first_at_the_pinned_commit_only(cached):
    assert adapter_sources.local_path(hub()) == adapter_sources.fetch(hub()) == cached
    assert adapter_sources.fetch(hub(sha256=hashlib.sha256(DATA).hexdigest())) == cached
    assert adapter_sources.local_path(hub(revision="f" * 40)) is None


def test_offline_and_not_cached_gives_the_command(cached):
    command = f"`hf download jo/sharp sub/toy.adapter.safetensors --revision {'f' * 40}`"
    with pytest.raises(AdapterError, match=command) as caught:
        adapter_sources.fetch(hub(revision="f" * 40))
    assert "\n" not in str(caught.value)


def test_another_hash_is_refused(cached, tmp_path):
    wrong = "0" * 64
    found = hashlib.sha256(DATA).hexdigest()[:12]
    refused(f"has SHA-256 {found}, wanted 000000000000", hub(sha256=wrong))
    (tmp_path / "a.safetensors").write_bytes(DATA)
    refused("delete it and get it again", hub(location=str(tmp_path / "a.safetensors"), revision="", sha256=wrong))


def test_no_commit_or_a_branch_is_refused_with_the_remedy(cached):
    refused(f"needs a commit: write {PLACE}@COMMIT", hub(revision=""))
    refused(f"'main' is not a commit .*: write {PLACE}@COMMIT", hub(revision="main"))
    refused("not a commit", hub(revision=REV[:7]))


@pytest.mark.parametrize(
    "location", ["toy.safetensors", "/a/b/c.safetensors", "a/b/../c.safetensors", "a//c.safetensors"]
)
def test_what_is_no_file_on_the_hub(location):
    refused("is not a file on the Hub like owner/repo/file.safetensors", hub(location=location))


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
def test_a_pickle_is_refused_before_it_is_fetched(suffix):
    refused("a pickle, which can run any code: give", hub(location=f"jo/sharp/adapter{suffix}"))
    refused("a pickle, which can run any code: give", hub(location=f"adapter{suffix}", revision=""))


def test_what_a_user_may_write(cached, tmp_path):
    registry = open_registry()
    toy = registry.spec("toy")
    local = tmp_path / "runs" / "toy" / "a@2.safetensors"
    local.parent.mkdir(parents=True)
    local.write_bytes(DATA)
    assert registry.adapter(toy) == registry.adapter(toy, "default")
    assert registry.adapter(toy, f"{PLACE}@{REV}") == cached
    assert registry.adapter(toy, str(local)) == local
    assert registry.adapter(toy, "runs/toy/a@2.safetensors").samefile(local)
    with pytest.raises(AdapterError, match=r"the folder .*toy has no toy\.adapter\.safetensors"):
        registry.adapter(toy, str(local.parent))
    (local.parent / "toy.adapter.safetensors").write_bytes(DATA)
    assert registry.adapter(toy, "runs/toy").samefile(local.parent / "toy.adapter.safetensors")
    with pytest.raises(AdapterError, match="no adapter 'fancy' .known: default.: give the path of a"):
        registry.adapter(toy, "fancy")
    with pytest.raises(AdapterError, match="runs/toy/b.safetensors is not a local file"):
        registry.adapter(toy, "runs/toy/b.safetensors")
    with pytest.raises(AdapterError, match="^no file b.safetensors: give an adapter's .safetensors file$"):
        registry.adapter(toy, "b.safetensors")


@pytest.fixture
def sent(monkeypatch):
    """What huggingface_hub would send, caught where it would call the Hub."""
    calls = []

    def create_commit(api, repo_id, operations, *, commit_message, revision):
        files = {op.path_in_repo: op.as_file().__enter__().read() for op in operations}
        calls.append(("commit", repo_id, files, revision))
        return type("CommitInfo", (), {"oid": REV})

    def note(name):
        return lambda api, repo_id, **options: calls.append((name, repo_id, options))

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", note("repo"))
    monkeypatch.setattr("huggingface_hub.HfApi.create_branch", note("branch"))
    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", create_commit)
    return calls


@pytest.fixture
def files(tmp_path):
    (tmp_path / "toy.safetensors").write_bytes(DATA)
    (tmp_path / "README.md").write_text("take OWNER/REPO/toy")
    return tmp_path / "toy.safetensors", tmp_path / "README.md"


def test_a_push_is_one_commit_of_file_and_card_and_returns_the_pin(sent, files):
    source = adapter_sources.push(*files, "jo/sharp")
    assert source == AdapterSource(
        name="default", location="jo/sharp/toy.safetensors", revision=REV, sha256=hashlib.sha256(DATA).hexdigest()
    )
    uploaded = {"toy.safetensors": DATA, "README.md": b"take jo/sharp/toy"}
    assert sent == [
        ("repo", "jo/sharp", {"private": None, "exist_ok": True}),
        ("commit", "jo/sharp", uploaded, "main"),
    ]
    assert files[1].read_text() == "take OWNER/REPO/toy"


def test_a_private_push_to_a_branch(sent, files):
    adapter_sources.push(*files, "jo/sharp", private=True, branch="next")
    assert sent[0][2]["private"] is True
    assert sent[1] == ("branch", "jo/sharp", {"branch": "next", "exist_ok": True})
    assert sent[2][3] == "next"


@pytest.mark.parametrize("repo", ["sharp", "jo/sharp/x", "jo/", "jo/sh arp", "https://huggingface.co/jo/sharp"])
def test_a_push_to_no_repository(sent, files, repo):
    with pytest.raises(AdapterError, match="wanted OWNER/REPO of .* and a FILE.safetensors"):
        adapter_sources.push(*files, repo)
    assert sent == []


def test_a_push_that_the_hub_does_not_take_is_one_line(files):
    with pytest.raises(
        AdapterError, match="the Hub did not take toy.safetensors for jo/sharp .*: run `hf auth login`"
    ) as e:
        adapter_sources.push(*files, "jo/sharp")
    assert "\n" not in str(e.value)
