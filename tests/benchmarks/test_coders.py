"""The anchors: files decode to their image in its colors, more bits are better, a file is always the same."""

import importlib.util
import os
import sys

import numpy as np
import pytest

from priorcodec.core.errors import ConfigError, ImageError
from priorcodec.core.image import io as image_io
from priorcodec.evaluation import metrics

from .conftest import ROOT


@pytest.fixture(scope="module")
def coders():
    spec = importlib.util.spec_from_file_location("coders", ROOT / "benchmarks" / "coders.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["coders"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["coders"]


def make(coders, name):
    coder = coders.anchor(name)
    if coder.missing:
        pytest.skip(coder.missing)
    return coder


CLASSICAL = pytest.mark.parametrize("name", ["jpeg", "webp", "avif", "jxl", "hevc", "av1"])


@CLASSICAL
def test_rate_and_quality_rise_with_the_settings(coders, name, images, tmp_path):
    coder = make(coders, name)
    pixels = image_io.load(images / "pic-0.png").pixels
    seen = []
    for setting in (coder.settings[0], coder.settings[-1]):
        data = coder.encode(pixels, setting, "pic-0")
        assert data == coder.encode(pixels, setting, "pic-0")
        file = tmp_path / f"x{coder.suffix}"
        file.write_bytes(data)
        decoded = coder.decode(file)
        assert decoded.shape == pixels.shape and decoded.dtype == np.uint8
        seen.append((len(data), metrics.psnr(pixels, decoded)))
    assert seen[0][0] < seen[1][0] and seen[0][1] + 3 < seen[1][1]


@CLASSICAL
def test_colors_survive(coders, name, tmp_path):
    """A wrong matrix or range would shift a flat color by ten levels and more."""
    coder = make(coders, name)
    pixels = np.full((64, 64, 3), (200, 40, 90), np.uint8)
    pixels[:, 32:] = (30, 160, 220)
    file = tmp_path / f"x{coder.suffix}"
    best = {"jpeg": "90", "webp": "90", "avif": "90", "jxl": "90", "hevc": "10", "av1": "10"}[name]
    file.write_bytes(coder.encode(pixels, best, ""))
    decoded = coder.decode(file).astype(int)
    for part in (slice(4, 24), slice(40, 60)):
        assert np.abs((decoded[4:60, part] - pixels[4:60, part].astype(int)).mean((0, 1))).max() <= 3


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="no scheduling policies here")
def test_an_encoder_leaves_no_real_time_thread_behind(coders):
    """What it leaves is inherited by everything started later, and starves its core."""
    before = os.sched_getscheduler(0)
    make(coders, "av1").encode(np.full((64, 64, 3), 128, np.uint8), "40", "")
    assert os.sched_getscheduler(0) == before


def test_no_bytes_are_wasted_on_the_encoders_name(coders):
    pixels = np.full((64, 64, 3), 128, np.uint8)
    data = make(coders, "hevc").encode(pixels, "40", "")
    assert b"x265" not in data and len(data) < 200


def test_odd_sizes_are_refused_by_video_in_one_line(coders):
    with pytest.raises(ImageError, match="65x64, libx265 wants even sides"):
        make(coders, "hevc").encode(np.zeros((64, 65, 3), np.uint8), "40", "")


def test_ready_bitstreams_are_found_by_name(coders, images, tmp_path):
    for qp in (22, 37):
        (tmp_path / f"pic-0-qp{qp}.266").write_bytes(bytes(qp))
    coder = coders.anchor("vvc", vvc=tmp_path)
    assert coder.settings == ("37", "22")
    assert coder.encode(image_io.load(images / "pic-0.png").pixels, "22", "pic-0") == bytes(22)
    (tmp_path / "pic-0-qp22.266").write_bytes(b"other")
    assert coders.anchor("vvc", vvc=tmp_path).writer != coder.writer


def test_unknown_codec(coders):
    with pytest.raises(ConfigError, match="no codec 'bpg'"):
        coders.anchor("bpg")


@pytest.mark.slow
def test_compressai_files_decode(coders, images, tmp_path):
    coder = coders.untrained("mbt2018-mean")
    pixels = image_io.load(images / "pic-0.png").pixels
    (tmp_path / "x.cai").write_bytes(coder.encode(pixels, "1", ""))
    assert coder.decode(tmp_path / "x.cai").shape == pixels.shape
