"""Settings: the word `backbone=` swaps the model; every mistake is told at once with the nearest name."""

from pathlib import Path

import pytest

from priorcodec import ConfigError
from priorcodec.config import DecodeConfig, Dtype, Renorm, compose, decode_config, shipped
from priorcodec.registry import open_registry

CONFIGS = sorted((Path(__file__).parent.parent / "priorcodec" / "configs").glob("*.yaml"))


def test_one_word_swaps_the_backbone():
    config = decode_config(["backbone=sdxl", "backbone.weights=/models/sdxl", "dtype=bfloat16"])
    assert (config.backbone.name, config.backbone.weights, config.dtype) == ("sdxl", "/models/sdxl", Dtype.bfloat16)
    assert config.low_memory
    assert decode_config(["backbone=nano_unet", "backbone=sdxl"]) == decode_config(["backbone=sdxl"])
    assert decode_config([]) == DecodeConfig()
    assert decode_config(["backbone=stranger"]).backbone.name == "stranger"


def test_values_have_the_types_of_the_schema():
    config = decode_config(["dtype=float16", "low_memory=true", "adapter=12", "backbone.weights=null"])
    assert (config.dtype, config.low_memory, config.adapter) == (Dtype.float16, True, "12")
    assert config.backbone.weights is None


def test_the_dial(tmp_path):
    assert (DecodeConfig().steps, DecodeConfig().renorm, DecodeConfig().strength) == (1, Renorm.off, 1.0)
    config = decode_config(["steps=4", "renorm=predicted"])
    assert (config.steps, config.renorm) == (4, Renorm.predicted)
    (tmp_path / "mine.yaml").write_text("steps: 8\nrenorm: off\n")
    assert compose(DecodeConfig, file=tmp_path / "mine.yaml") == DecodeConfig(steps=8)
    for word, part in (
        ("steps=0", "1 to 8"),
        ("steps=9", "1 to 8"),
        ("steps=2.5", "steps"),
        ("renorm=writen", "renorm"),
        ("strength=1.5", "0 .* to 1"),
        ("strength=nan", "0 .* to 1"),
    ):
        with pytest.raises(ConfigError, match=part) as caught:
            decode_config([word])
        assert "\n" not in str(caught.value)


def test_the_word_wins_over_the_file_whatever_the_order():
    assert not decode_config(["low_memory=false", "backbone=sdxl"]).low_memory


def test_all_mistakes_are_told_at_once_with_the_nearest_names():
    words = [
        "backbone=sdlx",
        "adaptor=a",
        "dtype=flot16",
        "low_memory=maybe",
        "cpu",
        "device=gpu",
        "backbone.wieghts=x",
    ]
    with pytest.raises(ConfigError) as caught:
        decode_config(words, backbones=["sdxl", "sd15"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "7 wrong settings:"
    text = str(caught.value)
    near = ("nearest: sdxl", "nearest: adapter", "nearest: backbone.weights")
    for part in (*near, "dtype=flot16", "low_memory=maybe", "cpu: wanted key=value", "device=gpu: wanted auto"):
        assert part in text, part


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("backbone:\n  name: sd15\n  weights: /models/a\ndevice: cpu\n")
    config = decode_config([f"config={tmp_path / 'mine.yaml'}", "device=cuda"])
    assert (config.backbone.name, config.backbone.weights, config.device) == ("sd15", "/models/a", "cuda")
    with pytest.raises(ConfigError, match="no such file"):
        decode_config(["config=/no/such.yaml"])


def test_a_wrong_file_is_told_with_its_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("backbone:\n  name: sd15\n  wheights: x\ndtype: many\nlow_memory: off\n")
    with pytest.raises(ConfigError) as caught:
        compose(DecodeConfig, file=tmp_path / "mine.yaml")
    assert "mine.yaml: backbone.wheights=x" in str(caught.value)
    assert "mine.yaml: dtype=many" in str(caught.value)
    assert "low_memory" not in str(caught.value)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_every_shipped_file_opens_with_the_command_that_runs_it(file):
    first = file.read_text().splitlines()[0].removeprefix("# ").split()
    assert first[:3] == ["priorcodec", "decode", "image.gic"]
    config = decode_config(first[3:])
    assert config.backbone.name == file.stem
    assert first[3] == f"backbone={file.stem}"
    assert compose(DecodeConfig, file=file).backbone.name == file.stem


def test_there_is_a_file_for_every_backbone_of_ours():
    assert [name for name in open_registry().specs() if shipped(name) is None and not name.startswith("toy")] == []
    assert {f.stem for f in CONFIGS} >= {
        "sd15",
        "sd21",
        "sd21.base",
        "sdxl",
        "pixart",
        "pixart.sigma",
        "nano_unet",
        "nano_dit",
    }
