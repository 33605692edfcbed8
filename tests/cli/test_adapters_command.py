"""`priorcodec adapters`: the list, one file explained, a push; and decoding with an adapter out of the Hub's cache."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.main import get_command

import priorcodec
from priorcodec import AdapterError, AdapterSource, cli, open_registry, open_session
from priorcodec.adapters import file as adapter_file
from priorcodec.core.io import safetensors
from priorcodec.registry.adapter_sources import sha256
from tests.helpers import quick

TOY = Path(priorcodec.__file__).parent / "weights" / "toy.adapter.safetensors"
REV = "0123456789abcdef0123456789abcdef01234567"
PLACE = f"jo/sharp/toy.safetensors@{REV}"


def explained(path):
    status, out, message = quick("adapters", "show", path, "--json")
    assert status == 0, message
    return json.loads(out)


def altered(folder, **metadata):
    path = folder / "altered.safetensors"
    path.write_bytes(safetensors.to_bytes(load_file(TOY), adapter_file.read(TOY).metadata | metadata))
    return path


@pytest.fixture
def hf_home(tmp_path):
    snapshot = tmp_path / "hub" / "models--jo--sharp" / "snapshots" / REV
    snapshot.mkdir(parents=True)
    shutil.copy(TOY, snapshot / "toy.safetensors")
    return tmp_path


def test_all_known_adapters_are_listed():
    rows = {(row["backbone"], row["name"]): row for row in json.loads(quick("adapters", "list", "--json")[1])}
    row = rows["toy", "default"]
    assert (row["file"], row["location"], row["sha256"]) == ("here", str(TOY), sha256(TOY)[:12])
    assert (
        row["encoder"] == adapter_file.read(TOY).metadata["encoder"]
        and row["size"] == f"{TOY.stat().st_size / 2**20:.2f} MiB"
    )
    header, *lines = quick("adapters", "list")[1].splitlines()
    assert header.split() == ["backbone", "name", "size", "encoder", "file", "sha256", "revision", "location"]
    assert len(lines) == len(rows)


def test_missing_and_refused_ones_are_listed_too(monkeypatch):
    pinned = AdapterSource(name="hub", location="jo/none/a.safetensors", revision=REV, sha256="1" * 64)
    wrong = AdapterSource(name="wrong", location=str(TOY), sha256="1" * 64)
    monkeypatch.setattr("priorcodec.registry.Registry.adapters", lambda self, spec: [pinned, wrong])
    first, second = json.loads(quick("adapters", "list", "--json")[1])[:2]
    assert (first["file"], first["sha256"], first["revision"], first["size"]) == ("missing", "1" * 12, REV[:12], "")
    assert second["file"].startswith("refused: ") and "SHA-256" in second["file"]


def test_the_list_loads_no_torch():
    code = (
        "import sys; from priorcodec import open_registry; from priorcodec.cli import plugins; "
        "print(len(plugins.adapter_rows(open_registry())) > 0); "
        "print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["True", "[]"]


def test_one_file_explained():
    row = explained(TOY)
    file, spec = adapter_file.read(TOY), open_registry().spec("toy")
    total = sum(value.numel() for value in file.tensors.values())
    assert row["parameters"]["all"] == total == sum(n for part, n in row["parameters"].items() if part != "all")
    assert {"bridge", "lora", "tokens"} <= set(row["parameters"])
    assert row["share"] == f"{total / spec.parameters:.2%}"
    assert row["settings"]["width"] == file.config.width and row["metadata"]["backbone"] == "toy"
    assert row["bytes"] == TOY.stat().st_size and row["fits"] == "yes"
    lines = quick("adapters", "show", TOY)[1].splitlines()
    assert ["backbone", "toy"] in [line.split() for line in lines] and f"bytes       {TOY.stat().st_size:,}" in lines


@pytest.mark.parametrize(
    "metadata, reason",
    [
        ({"encoder": "deadbeef"}, "is for encoder deadbeef"),
        ({"revision": "f" * 40}, "is for revision fff"),
        ({"backbone": "sd15"}, "is for revision 000"),
        ({"backbone": "sd99"}, "no backbone 'sd99'"),
        ({"rules": "other"}, "is for rules other"),
    ],
)
def test_why_a_file_does_not_fit(tmp_path, metadata, reason):
    fits = explained(altered(tmp_path, **metadata))["fits"]
    assert fits.startswith("no: ") and reason in fits and "\n" not in fits


def test_a_dry_runs_adapter_says_what_it_can_do(tmp_path):
    assert (
        "a dry run's: decodes through the backbone's tiny random model"
        in explained(altered(tmp_path, tiny="true"))["fits"]
    )


def test_a_newer_kind_and_a_pickle_are_one_line(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "b.safetensors").write_bytes(b"PK\x03\x04")
    for words, part in (
        ((altered(tmp_path, kind="priorcodec adapter 99"),), "update priorcodec"),
        ((tmp_path / "a.pt",), "a pickle, which can run any code"),
        ((tmp_path / "b.safetensors",), "a pickle, which can run any code"),
    ):
        status, _, message = quick("adapters", "show", *words)
        assert status == 2 and part in message and "\n" not in message


def test_push_prints_how_to_pin(tmp_path, monkeypatch):
    file = tmp_path / "toy.safetensors"
    shutil.copy(TOY, file)
    sent = {}

    def create_commit(api, repo_id, operations, **options):
        sent.update({op.path_in_repo: op.path_or_fileobj for op in operations})
        return type("CommitInfo", (), {"oid": REV})

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *args, **options: None)
    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", create_commit)
    status, out, _ = quick("adapters", "push", file, "jo/sharp")
    assert status == 0 and f"--adapter {PLACE}" in out
    assert [path.name for path in tmp_path.iterdir()] == ["toy.safetensors"]  # the card is not left beside it
    assert sent["toy.safetensors"] == TOY.read_bytes()
    assert b"--adapter jo/sharp/toy.safetensors@COMMIT" in sent["README.md"]
    line = out.splitlines()[-1].removeprefix("plugin   ")
    source = eval(line, {"AdapterSource": AdapterSource})
    assert (source.location, source.revision) == ("jo/sharp/toy.safetensors", REV)
    assert (
        quick("adapters", "show", file, "--json")[0] == 0
        and json.loads(quick("adapters", "show", file, "--json")[1])["sha256"] == source.sha256
    )


def test_the_folder_that_training_wrote_is_taken_for_its_adapter(tmp_path):
    status, _, message = quick("adapters", "show", tmp_path)
    assert status == 2 and "has no adapters, wanted one" in message
    shutil.copy(TOY, tmp_path / "toy.adapter.safetensors")
    assert json.loads(quick("adapters", "show", tmp_path, "--json")[1])["metadata"]["backbone"] == "toy"
    shutil.copy(TOY, tmp_path / "other.adapter.safetensors")
    status, _, message = quick("adapters", "push", tmp_path, "jo/sharp")
    assert status == 2 and "has 2 adapters, wanted one" in message


def test_what_is_no_adapter_is_not_pushed(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *args, **options: pytest.fail("sent"))
    path = altered(tmp_path, kind="priorcodec encoder 1")
    status, _, message = quick("adapters", "push", path, "jo/sharp")
    assert status == 2 and "give a file of that kind" in message
    status, _, message = quick("adapters", "push", altered(tmp_path, tiny="true"), "jo/sharp")
    assert status == 2 and "of a dry run" in message and "\n" not in message


def test_out_of_the_cache_in_a_process_without_network(hf_home):
    environment = os.environ | {"HF_HOME": str(hf_home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)

    def command(*words):
        words = [sys.executable, "-m", "priorcodec.cli", "adapters", "show", *words]
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)

    done = command(PLACE, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fits"] == "yes"
    gone = command(PLACE.replace("sharp", "blunt"))
    assert gone.returncode == 2 and gone.stderr.count("\n") == 1
    assert f"`hf download jo/blunt toy.safetensors --revision {REV}`" in gone.stderr


def test_a_session_takes_it_from_the_cache_and_refuses_the_wrong_backbone(hf_home, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hf_home / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    adapter = open_session("toy", adapter=PLACE).adapter
    assert adapter.state_dict().keys() == open_session("toy").adapter.state_dict().keys()
    with pytest.raises(AdapterError, match="is for backbone toy, this is nano_pixel"):
        _ = open_session("nano_pixel", adapter=PLACE).adapter
    with pytest.raises(AdapterError, match="needs a commit"):
        _ = open_session("toy", adapter=PLACE.split("@")[0]).adapter


def test_the_options_of_one_command_are_not_in_the_help_of_another():
    group = get_command(cli.app).commands["adapters"].commands
    options = {name: {option for p in command.params for option in p.opts} for name, command in group.items()}
    assert sorted(group) == ["list", "push", "show"]
    assert {"--private", "--branch"} <= options["push"] and not {"--private", "--branch"} & options["list"]
