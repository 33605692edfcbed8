"""Settings of the training commands: parsed from words and files, documented from their fields."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from priorcodec import ConfigError
from priorcodec.cli import train
from priorcodec.training.adapter import train_adapter
from priorcodec.training.settings import TINY, AdapterRunConfig, EncoderRunConfig, RunConfig
from priorcodec.training.words import from_words, help_text, rows, table

PAGE = Path(__file__).parents[2] / "docs" / "train.md"
NEEDED = ("data=x", "run=y")


def test_the_page_has_the_tables_of_the_settings():
    """python -m priorcodec.training.words prints them."""
    page = PAGE.read_text()
    assert table(AdapterRunConfig) in page
    assert table(EncoderRunConfig, AdapterRunConfig) in page


@pytest.mark.parametrize("schema", [RunConfig, AdapterRunConfig, EncoderRunConfig])
def test_every_setting_says_what_it_is(schema):
    texts = {name: text for name, _, text in rows(schema)}
    assert [name for name, text in texts.items() if len(text) < 6] == []
    assert all(f"{name}=" in help_text(schema) for name in texts)


@pytest.mark.parametrize("command, schema", [("adapter", AdapterRunConfig), ("encoder", EncoderRunConfig)])
def test_the_command_lists_its_settings(command, schema):
    result = CliRunner().invoke(train.app, [command, "--settings"])
    assert result.exit_code == 0 and result.output == help_text(schema)


@pytest.mark.parametrize(
    "word,part",
    [
        ("crop=100", "multiple of 64"),
        ("loss.pixel=-1", "wanted 0 or more"),
        ("loss.pixel=nan", "wanted 0 or more"),
        ("lr=inf", "finite"),
        ("critic.lr=0", "critic.lr=0.0: wanted more than 0"),
        ("adapter.width=0", "adapter setting width"),
        ("backbone=tyo", "no such backbone"),
        ("lerning=1", "no setting"),
        ("window=64", "no setting 'window'"),
        ("train=tokens", "train=tokens"),
        ("workers=-1", "workers=-1"),
        ("seed=99999999999999999999999", "seed="),
        ("batch=100000000000", "batch="),
        ("background=nocolor", "background"),
        ("save_minutes=-1", "save_minutes=-1"),
        ("adapter.start=100", "a list of numbers in brackets"),
        ("loss.grid=1", "no setting 'loss.grid'; nearest"),
    ],
)
def test_wrong_settings_are_one_line(word, part):
    with pytest.raises(ConfigError, match=part) as caught:
        from_words(AdapterRunConfig, [*NEEDED, word], backbones=["toy"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word",
    [
        "encoder.levels=1",
        "encoder.levels=13",
        "encoder.groups=[8]",
        "distance=-1",
        "lambdas.lowest=0",
        "encoder.n8=0",
        "encoder.depth8=65",  # whose file no reader would take
        "encoder.groups=[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,96]",
        "lambdas.highest=1e-9",
        "batch=1",  # every other image trains g_p
    ],
)
def test_wrong_settings_of_the_encoder_are_one_line(word):
    with pytest.raises(ConfigError, match=word.partition("=")[0].partition(".")[0]) as caught:
        from_words(EncoderRunConfig, [*NEEDED, word])
    assert "\n" not in str(caught.value)


def test_data_is_a_list_in_words_and_files(tmp_path):
    file = tmp_path / "mine.yaml"
    for text in ("data: [a, b]", "data: a,b", "data:\n- a\n- b"):
        file.write_text(f"{text}\nrun: r\n")
        assert from_words(AdapterRunConfig, [f"config={file}"]).data == ["a", "b"]
    file.write_text('data: ["a,b"]\nrun: r\n')
    assert from_words(AdapterRunConfig, [f"config={file}"]).data == ["a,b"]
    assert from_words(AdapterRunConfig, ['data=["a,b", c]', "run=r"]).data == ["a,b", "c"]


def test_tiny_changes_defaults_and_nothing_that_was_given(tmp_path):
    plain, tiny = (from_words(AdapterRunConfig, [*NEEDED, *more]) for more in ([], ["tiny=true"]))
    assert plain.compile and plain.batch == 8 and plain.log_every == 50
    assert (
        not tiny.compile and tiny.batch == 2 and tiny.log_every == 1 and tiny.steps == 10 and tiny.adapter.width == 16
    )
    assert set(TINY) <= {name for name, _, _ in rows(AdapterRunConfig)}
    file = tmp_path / "mine.yaml"
    file.write_text("tiny: true\nbatch: 6\n")
    mixed = from_words(AdapterRunConfig, [*NEEDED, f"config={file}", "crop=128"])
    assert (mixed.batch, mixed.crop, mixed.log_every) == (6, 128, 1)
    assert from_words(AdapterRunConfig, [*NEEDED, f"config={file}", "tiny=false"]).log_every == 50


def test_a_file_may_say_backbone_as_words_do(tmp_path):
    file = tmp_path / "mine.yaml"
    for text in ("backbone: nano_dit\n", "backbone:\n  name: nano_dit\n"):
        file.write_text(text)
        assert from_words(AdapterRunConfig, [*NEEDED, f"config={file}"]).backbone.name == "nano_dit"


@pytest.mark.parametrize(
    "content", [b"a: [1", b"- a", b"\x00\x01\xff", b"word", b"run: ${oc.env:HOME}\n", b"run: ???\n"]
)
def test_a_broken_file_is_one_line(tmp_path, content):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="mine.yaml") as caught:
        from_words(AdapterRunConfig, [*NEEDED, f"config={file}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place, part", [("", "a folder, wanted"), ("nowhere.yaml", "no such file")])
def test_no_file_is_one_line(tmp_path, place, part):
    with pytest.raises(ConfigError, match=part):
        from_words(AdapterRunConfig, [*NEEDED, f"config={tmp_path / place}"])


def test_a_dry_run_shows_progress_from_its_first_step(world, tmp_path, caplog):
    """As the docs promise it: tiny=true and nothing else but places."""
    caplog.set_level("INFO")
    train_adapter(
        ["backbone=toy", "tiny=true", "device=cpu", f"data={world / 'images'}", f"run={tmp_path / 'run'}", "steps=2"]
    )
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[:3] for line in lines if " loss " in line] == [["50%", "step", "1"], ["100%", "step", "2"]]
