"""Settings: the word `backbone=` swaps the model; all mistakes are reported at once, each with the nearest name."""

from pathlib import Path

import pytest

from priorcodec import ConfigError
from priorcodec.config import DecodeConfig, Dtype, Renorm, compose, decode_config, split_list


def test_one_word_swaps_the_backbone():
    config = decode_config(["backbone=sdxl", "weights=/models/sdxl", "dtype=bfloat16"])
    assert (config.backbone, config.weights, config.dtype) == ("sdxl", "/models/sdxl", Dtype.bfloat16)
    assert decode_config(["backbone=nano_pixel", "backbone=sdxl"]) == decode_config(["backbone=sdxl"])
    assert decode_config([]) == DecodeConfig()
    assert decode_config(["backbone=unknown"]).backbone == "unknown"


def test_values_have_the_types_of_the_schema():
    config = decode_config(["dtype=float16", "low_memory=true", "adapter=12", "weights=null"])
    assert (config.dtype, config.low_memory, config.adapter) == (Dtype.float16, True, "12")
    assert config.weights is None


def test_null_and_lists_as_yaml_writes_them(tmp_path):
    file = tmp_path / "mine.yaml"
    for text in ("tile: ~", "tile:", "tile: null", "weights:"):
        file.write_text(f"{text}\nlayers: [semantic, latent]\n")
        assert decode_config(file=file) == DecodeConfig(layers="semantic,latent")
    file.write_text("weights: ''\nadapter: '~'\n")  # quoted: texts
    assert (decode_config(file=file).weights, decode_config(file=file).adapter) == ("", "~")
    assert decode_config(["layers=[latent]"]).layer_names == ["latent"]
    with pytest.raises(ConfigError, match="tile"):
        decode_config(["tile="])


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
        "adaptor=a",
        "dtype=flot16",
        "low_memory=maybe",
        "cpu",
        "device=gpu",
        "wieghts=x",
    ]
    with pytest.raises(ConfigError) as caught:
        decode_config(words)
    lines = str(caught.value).splitlines()
    assert lines[0] == "6 invalid settings:"
    text = str(caught.value)
    near = ("nearest: adapter", "nearest: weights")
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


@pytest.mark.parametrize(
    "content, part",
    [
        (b"steps: [1", "not readable as YAML in line 1"),
        (b"steps: 1\n\tblend: 2\n", "not readable as YAML in line 2"),
        (b"- steps\n- blend\n", "holds a list"),
        (b"steps", "holds a single value"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "not readable as YAML"),
        (b"\x00" * 100, "not readable as YAML"),
        (b"[" * 10000, "not readable as YAML"),
        (b"a" * (2**20 + 1), "larger than"),
        (b"steps: {a: 1}", "steps=.*wanted a whole number, not settings"),
        (b"steps: [[1]]", "steps=.*wanted a plain value"),
        (b"&a {steps: *a}", "not readable as YAML"),
        (b"weights: ${oc.env:HOME}", "interpolations .* are not resolved"),
        (b"weights: /m/${oc.env:HOME}/x", "interpolations .* are not resolved"),
        (b"weights: ???", "wanted a plain value"),
        (b"steps: 2\nblend: 1\nsteps: 3\n", "line 3 sets steps again"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content, part):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=part) as caught:
        decode_config([f"config={tmp_path / 'mine.yaml'}"])
    assert "\n" not in str(caught.value) and "mine.yaml" in str(caught.value)
    assert str(Path.home()) not in str(caught.value)


def test_aliases_that_repeat_themselves_end_soon(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "mine.yaml").write_text("\n".join(lines) + "\nsteps: *a11\n")
    with pytest.raises(ConfigError) as caught:
        decode_config([f"config={tmp_path / 'mine.yaml'}"])
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize("place, part", [(".", "a folder"), ("nowhere", "no such file")])
def test_no_file_is_one_line(tmp_path, place, part):
    with pytest.raises(ConfigError, match=part):
        decode_config([f"config={tmp_path / place}"])


def test_interpolations_in_words_are_not_resolved_either():
    with pytest.raises(ConfigError, match="not resolved") as caught:
        decode_config(["weights=${oc.env:HOME}"])
    assert str(Path.home()) not in str(caught.value)


def test_lists_in_words():
    assert split_list("a, b") == split_list("[a,b]") == ["a", "b"]
    assert split_list('["a, b",c]') == ["a, b", "c"]
    assert split_list("[]") == split_list(" , ") == []


def test_aliases_that_repeat_themselves_take_no_time(tmp_path):
    levels = [f"k{i}: &k{i} {{{', '.join(f'{c}: *k{i - 1}' for c in 'abcdefghi')}}}" for i in range(1, 30)]
    (tmp_path / "mine.yaml").write_text("\n".join(["k0: &k0 {x: 1}", *levels]))
    with pytest.raises(ConfigError, match="no setting 'k0'"):
        decode_config([f"config={tmp_path / 'mine.yaml'}"])


def test_a_settings_file_without_an_end_is_not_read_to_its_end():
    with pytest.raises(ConfigError, match="/dev/zero: larger than"):
        decode_config(["config=/dev/zero"])
