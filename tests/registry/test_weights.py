"""Finding weights: given folder or mirror, own folder, cache, Hub; safetensors only; one line when missing."""

import fnmatch
import hashlib
from dataclasses import replace

import pytest

from priorcodec import WeightsError
from priorcodec.registry import open_registry, weights

FILES = (
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
)


def fill(folder, files=FILES):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """No network, no weights of this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("PRIORCODEC_WEIGHTS", raising=False)
    monkeypatch.setenv("PRIORCODEC_LOAD_PLUGINS", "")
    return open_registry()


def cache(tmp_path, repo, revision, ref=None, files=FILES):
    root = tmp_path / "cache" / f"models--{repo.replace('/', '--')}"
    if ref:
        (root / "refs").mkdir(parents=True)
        (root / "refs" / ref).write_text(revision)
    return fill(root / "snapshots" / revision, files)


def test_missing_weights_give_the_command_and_the_license_in_one_line(registry):
    spec = registry.spec("sd15")
    with pytest.raises(WeightsError) as caught:
        registry.weights(spec)
    text = str(caught.value)
    assert "\n" not in text
    assert f"hf download {spec.source} {' '.join(FILES)} --revision {spec.revision}" in text
    assert "CreativeML OpenRAIL-M" in text
    assert "text_encoder" not in text
    assert registry.local_weights(spec) is None


def test_pixart_asks_for_its_transformer(registry):
    with pytest.raises(WeightsError, match="transformer/diffusion_pytorch_model.safetensors"):
        registry.weights(registry.spec("pixart"))


def test_the_cache_is_found_at_the_pinned_revision_only(registry, tmp_path):
    spec = registry.spec("sd15")
    cache(tmp_path, spec.source, "0" * 40)
    assert registry.local_weights(spec) is None
    folder = cache(tmp_path, spec.source, spec.revision)
    assert registry.weights(spec) == registry.local_weights(spec) == folder
    (folder / "vae/config.json").unlink()
    assert registry.local_weights(spec) is None


def test_order_given_folder_then_own_folder_then_cache(registry, tmp_path, monkeypatch):
    spec = registry.spec("sd15")
    cached = cache(tmp_path, spec.source, spec.revision)
    assert registry.weights(spec) == cached
    own = fill(tmp_path / "own" / "sd15")
    monkeypatch.setenv("PRIORCODEC_WEIGHTS", str(tmp_path / "own"))
    assert registry.weights(spec) == own
    given = fill(tmp_path / "given")
    assert registry.weights(spec, str(given)) == given


def test_a_mirror_is_taken_from_the_cache(registry, tmp_path):
    spec = registry.spec("sd15")
    folder = cache(tmp_path, "someone/mirror", "1" * 40, ref="main")
    assert registry.weights(spec, f"someone/mirror@{'1' * 40}") == folder
    with pytest.raises(WeightsError, match="could not be downloaded from the Hub"):
        registry.weights(spec, f"someone/else@{'1' * 40}")


@pytest.mark.parametrize("given", ["someone/mirror", "someone/mirror@main", "someone/mirror@1111111"])
def test_a_mirror_is_pinned_by_its_commit_as_an_adapter_is(registry, tmp_path, given):
    cache(tmp_path, "someone/mirror", "1" * 40, ref="main")
    with pytest.raises(WeightsError, match="write someone/mirror@COMMIT with its 40 hex digits") as caught:
        registry.weights(registry.spec("sd15"), given)
    assert "\n" not in str(caught.value)


def test_the_hub_is_asked_for_nothing_but_what_is_needed(registry, tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repo, **options):
        asked.update(options, repo=repo)
        return str(fill(tmp_path / "downloaded"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    spec = registry.spec("sd15")
    assert registry.weights(spec) == tmp_path / "downloaded"
    assert (asked["repo"], asked["revision"]) == (spec.source, spec.revision)
    assert {p.split("/")[0] for p in asked["allow_patterns"]} == {"unet", "vae", "scheduler"}
    assert all(p.endswith((".safetensors", ".json")) for p in asked["allow_patterns"])


def test_pickles_are_refused_with_a_reason(registry, tmp_path):
    spec = registry.spec("sd15")
    fill(tmp_path / "old", [f.replace(".safetensors", ".bin") for f in FILES])
    with pytest.raises(WeightsError, match="is a pickle, which can run any code"):
        registry.weights(spec, str(tmp_path / "old"))
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(WeightsError, match="is a pickle, which can run any code"):
        registry.weights(spec, str(tmp_path / "model.ckpt"))


def test_an_incomplete_folder_and_nonsense_are_one_line(registry, tmp_path):
    spec = registry.spec("sd15")
    fill(tmp_path / "half", FILES[:2])
    with pytest.raises(WeightsError, match="lacks vae/config.json"):
        registry.weights(spec, str(tmp_path / "half"))
    with pytest.raises(WeightsError, match="neither a local folder or file nor a Hub id"):
        registry.weights(spec, "/no/such/folder")


def test_sharded_weights_count_as_there(registry, tmp_path):
    folder = fill(tmp_path / "sharded", [f for f in FILES if f != FILES[1]])
    (folder / f"{FILES[1]}.index.json").write_text("{}")
    assert registry.weights(registry.spec("sd15"), str(folder)) == folder


HALF = tuple(name.replace(".safetensors", ".fp16.safetensors") for name in FILES)


def test_half_precision_files_count_as_there(registry, tmp_path):
    spec = registry.spec("sd15")
    folder = fill(tmp_path / "half", HALF)
    assert registry.weights(spec, str(folder)) == folder
    sharded = fill(tmp_path / "shards", [f.replace(".fp16.safetensors", ".safetensors.index.fp16.json") for f in HALF])
    assert registry.weights(spec, str(sharded)) == sharded
    cache(tmp_path, "someone/half", "2" * 40, ref="main", files=HALF)
    assert registry.weights(spec, f"someone/half@{'2' * 40}").name == "2" * 40


def test_half_precision_is_downloaded_only_where_there_is_nothing_else(registry, tmp_path, monkeypatch):
    """A repository of fp16 files only: what the Hub's own pattern matching gives for each request."""
    asked = []

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.append(allow_patterns)
        given = [f for f in (*HALF, "unet/diffusion_pytorch_model.non_ema.safetensors")
                 if any(fnmatch.fnmatch(f, pattern) for pattern in allow_patterns)]  # fmt: skip
        return str(fill(tmp_path / "downloaded", given))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert registry.weights(registry.spec("sd15"), f"someone/half@{'2' * 40}") == tmp_path / "downloaded"
    assert [any("fp16" in pattern for pattern in patterns) for patterns in asked] == [False, True]
    assert not list((tmp_path / "downloaded").rglob("*non_ema*"))


def test_a_shipped_file_is_checked_against_its_hash(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "PACKAGE", tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    spec = replace(
        registry.spec("sd15"), source="w.safetensors", hub_revision="", sha256=hashlib.sha256(b"weights").hexdigest()
    )
    assert registry.weights(spec) == tmp_path / "w.safetensors"
    (tmp_path / "w.safetensors").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="reinstall"):
        registry.weights(spec)
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(WeightsError, match="should have come with the package"):
        registry.weights(spec)


@pytest.mark.parametrize(
    ("folders", "files"),
    [
        (("unet", "movq", "scheduler"), ["unet/config.json", "movq/config.json", "scheduler/scheduler_config.json"]),
        (("decoder", "", ""), ["decoder/config.json"]),
        ((".", "", "."), ["config.json", "scheduler_config.json"]),
    ],
)
def test_the_spec_names_its_folders(registry, tmp_path, monkeypatch, folders, files):
    """Any autoencoder or none, no scheduler, the repository's own folder: asked for, found in the cache, named if missing."""
    names = dict(zip(("denoiser_subfolder", "autoencoder_subfolder", "scheduler_subfolder"), folders, strict=True))
    spec = replace(registry.spec("sd15"), name="other", **names)
    stem = "diffusion_pytorch_model.safetensors"
    wanted = files + [f"{part}/{stem}".removeprefix("./") for part in folders[:2] if part]
    asked = {}

    def snapshot_download(repo, **options):
        asked.update(options)
        return str(fill(tmp_path / "downloaded", wanted))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert registry.weights(spec) == tmp_path / "downloaded"
    assert {name for name in asked["allow_patterns"] if "*" not in name and "index" not in name} == set(wanted)
    folder = cache(tmp_path, spec.source, spec.revision, files=wanted)
    assert registry.local_weights(spec) == folder
    (folder / wanted[-1]).unlink()
    assert registry.local_weights(spec) is None
    with pytest.raises(WeightsError, match=f"lacks {wanted[-1]}"):
        registry.weights(spec, str(folder))
