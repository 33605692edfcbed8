"""Settings: the word `backbone=` swaps the model; every mistake is told at once with the nearest name."""

import pytest

from priorcodec import ConfigError
from priorcodec.config import DecodeConfig, Dtype, Renorm, compose, decode_config


def test_one_word_swaps_the_backbone():
    config = decode_config(["backbone=sdxl", "weights=/models/sdxl", "dtype=bfloat16"])
    assert (config.backbone, config.weights, config.dtype) == ("sdxl", "/models/sdxl", Dtype.bfloat16)
    assert decode_config(["backbone=nano_unet", "backbone=sdxl"]) == decode_config(["backbone=sdxl"])
    assert decode_config([]) == DecodeConfig()
    assert decode_config(["backbone=stranger"]).backbone == "stranger"


def test_values_have_the_types_of_the_schema():
    config = decode_config(["dtype=float16", "low_memory=true", "adapter=12", "weights=null"])
    assert (config.dtype, config.low_memory, config.adapter) == (Dtype.float16, True, "12")
    assert config.weights is None


def test_the_dial(tmp_path):
    assert (DecodeConfig().steps, DecodeConfig().renorm, DecodeConfig().blend) == (1, Renorm.none, 1.0)
    config = decode_config(["steps=4", "renorm=predicted"])
    assert (config.steps, config.renorm) == (4, Renorm.predicted)
    (tmp_path / "mine.yaml").write_text("steps: 8\nrenorm: none\n")
    assert compose(DecodeConfig, file=tmp_path / "mine.yaml") == DecodeConfig(steps=8)
    for word, part in (
        ("steps=0", "1 to 8"),
        ("steps=9", "1 to 8"),
        ("steps=2.5", "steps"),
        ("renorm=writen", "renorm"),
        ("blend=1.5", "0 .* to 1"),
        ("blend=nan", "0 .* to 1"),
    ):
        with pytest.raises(ConfigError, match=part) as caught:
            decode_config([word])
        assert "\n" not in str(caught.value)


def test_the_word_wins_over_the_file_whatever_the_order(tmp_path):
    (tmp_path / "mine.yaml").write_text("low_memory: true\n")
    assert decode_config([f"config={tmp_path / 'mine.yaml'}"]).low_memory
    assert not decode_config(["low_memory=false", f"config={tmp_path / 'mine.yaml'}"]).low_memory


def test_all_mistakes_are_told_at_once_with_the_nearest_names():
    words = [
        "backbone=sdlx",
        "adaptor=a",
        "dtype=flot16",
        "low_memory=maybe",
        "cpu",
        "device=gpu",
        "wieghts=x",
    ]
    with pytest.raises(ConfigError) as caught:
        decode_config(words, backbones=["sdxl", "sd15"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "7 wrong settings:"
    text = str(caught.value)
    near = ("nearest: sdxl", "nearest: adapter", "nearest: weights")
    for part in (*near, "dtype=flot16", "low_memory=maybe", "cpu: wanted key=value", "device=gpu: wanted auto"):
        assert part in text, part


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("backbone: sd15\nweights: /models/a\ndevice: cpu\n")
    config = decode_config([f"config={tmp_path / 'mine.yaml'}", "device=cuda"])
    assert (config.backbone, config.weights, config.device) == ("sd15", "/models/a", "cuda")
    with pytest.raises(ConfigError, match="no such file"):
        decode_config(["config=/no/such.yaml"])


def test_a_wrong_file_is_told_with_its_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("backbone: sd15\nwheights: x\ndtype: many\nlow_memory: off\n")
    with pytest.raises(ConfigError) as caught:
        compose(DecodeConfig, file=tmp_path / "mine.yaml")
    assert "mine.yaml: wheights=x" in str(caught.value)
    assert "mine.yaml: dtype=many" in str(caught.value)
    assert "low_memory" not in str(caught.value)
