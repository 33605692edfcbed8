"""The Python API: what goes in, what comes out, what is loaded for it, and what is said when something is missing."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from priorcodec import AdapterError, BackboneError, ConfigError, StreamError, open_session
from priorcodec.adapters.bridge import MomentsHead
from priorcodec.core import container, shipped
from priorcodec.core.image import io as image_io
from priorcodec.core.statistics import ImageStatistics
from tests.helpers import DEMO


@pytest.fixture(scope="module")
def session():
    return open_session()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return image_io.load(DEMO).pixels[:100, :150]


def test_pil_array_tensor_and_path_give_the_same_file(session, photo, tmp_path):
    image_io.save(photo, tmp_path / "photo.png")
    tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1) / 127.5 - 1
    files = {
        session.encode(given, quality=2) for given in (photo, Image.fromarray(photo), tensor, tmp_path / "photo.png")
    }
    assert len(files) == 1


def test_decode_and_preview_have_the_true_size_and_look_alike(session, photo):
    data = session.encode(photo, quality=5)
    decoded, preview = session.decode(data), session.preview(data)
    assert decoded.size == preview.size == (150, 100)
    for image in (decoded, preview):
        error = np.mean((np.asarray(image).astype(float) - photo) ** 2)
        assert 10 * np.log10(255**2 / error) > 18


def test_the_same_file_decodes_to_the_same_image(session, photo):
    data = session.encode(photo, quality=3)
    again = open_session()
    assert np.array_equal(session.decode(data, output="np"), again.decode(data, output="np"))


def test_every_shipped_backbone_decodes_one_file(photo):
    data = open_session().encode(photo, quality=4)
    images = {name: open_session(backbone=name).decode(data, output="np") for name in ("nano_pixel", "toy")}
    assert not np.array_equal(images["nano_pixel"], images["toy"])
    assert all(image.shape == photo.shape for image in images.values())


def test_what_is_wrong_is_said_in_one_line(session, photo):
    data = session.encode(photo, quality=0)
    with pytest.raises(BackboneError, match="nano_pixel"):
        open_session(backbone="nano_unt").decode(data)
    with pytest.raises(AdapterError, match="no adapter 'fancy'"):
        open_session(adapter="fancy").decode(data)
    with pytest.raises(AdapterError, match="no file nowhere.safetensors"):
        open_session(adapter="nowhere.safetensors").decode(data)
    with pytest.raises(ConfigError, match="float12"):
        open_session(dtype="float12")


def test_another_backbones_adapter_is_refused(session, photo):
    data = session.encode(photo, quality=0)
    toys = session.registry.adapters(session.registry.spec("toy"))[0].location
    with pytest.raises(AdapterError, match="is for backbone toy"):
        open_session(adapter=toys).decode(data)


def test_the_dial_changes_the_image_and_one_file_gives_one_image(session, photo):
    data = session.encode(photo, quality=2, statistics=True)
    images = {session.decode(data, output="np").tobytes()}
    for settings in ({"steps": 2}, {"steps": 4, "renorm": "written"}):
        other = open_session(**settings)
        one, two = other.decode(data, output="np"), other.decode(data, output="np")
        assert np.array_equal(one, two) and one.shape == photo.shape
        images.add(one.tobytes())
    assert len(images) == 3


def test_a_target_out_of_reach_is_noted(session, photo):
    assert session.encode(photo, quality=2).note == ""
    assert "written at the highest quality" in session.encode(photo, bpp=9).note


def test_targets_and_numbers_of_any_size(session, photo):
    for settings in ({"bpp": 1e308}, {"bpp": 10**400}, {"max_bytes": 10**400}):
        assert "highest quality" in session.encode(photo, **settings).note
    with pytest.raises(ConfigError, match="wanted 1 to 10000"):
        session.encode(photo, refine=10**400)


def test_files_that_cannot_be_read_are_one_line(session):
    closed = io.BytesIO(b"GIC")
    closed.close()
    for data in (closed, os.fsencode("nowhere.gic")):
        with pytest.raises(StreamError) as caught:
            session.preview(data)
        assert "\n" not in str(caught.value)


class Somewhere:
    """A path of bytes."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fsencode(self.path)


def test_paths_of_bytes(session, photo, tmp_path):
    image_io.save(photo, tmp_path / "photo.png")
    data = session.encode(Somewhere(tmp_path / "photo.png"), quality=1)
    (tmp_path / "a.gic").write_bytes(data)
    (tmp_path / "c.yaml").write_text("backbone: toy\n")
    adapter = session.registry.adapters(session.registry.spec("toy"))[0].location
    other = open_session(
        config=Somewhere(tmp_path / "c.yaml"), adapter=Somewhere(adapter), encoder=Somewhere(shipped.ENCODER)
    )
    assert np.array_equal(
        other.decode(Somewhere(tmp_path / "a.gic"), output="np"), open_session("toy").decode(data, output="np")
    )


def test_a_folder_of_an_adapter_without_a_slash_is_kept_when_the_working_folder_changes(
    session, photo, tmp_path, monkeypatch
):
    adapter = session.registry.adapters(session.registry.spec("toy"))[0].location
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "toy.adapter.safetensors").write_bytes(Path(adapter).read_bytes())
    monkeypatch.chdir(tmp_path)
    other = open_session("toy", adapter="mine")
    monkeypatch.chdir("/")
    assert other.decode(session.encode(photo, quality=0)).size == (150, 100)


@pytest.mark.parametrize("settings", [{"renorm": "written"}, {"tile": 128}, {"blend": 0.5}])
def test_a_default_device_of_the_caller_changes_nothing(session, photo, settings):
    data = session.encode(photo, quality=2, statistics=True)
    wanted = open_session("toy", **settings).decode(data, output="np")
    with torch.device("meta"):
        other = open_session("toy", **settings)
        assert other.encode(photo, quality=2, statistics=True) == data
        assert np.array_equal(other.decode(data, output="np"), wanted)
        rendered = other.encode(photo, layers=["semantic"])
        assert np.array_equal(other.preview(rendered, output="np"), session.preview(rendered, output="np"))


def test_tensors_are_float32_whatever_the_default_is(session, photo):
    data = session.encode(photo, quality=1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert session.preview(data, output="pt").dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


def test_blend_is_a_line_from_the_preview_to_the_backbones_image(session, photo):
    data = session.encode(photo, quality=2)
    none, half, all_of_it = (open_session(blend=s).decode(data, output="np") for s in (0, 0.5, 1))
    assert np.array_equal(none, session.preview(data, output="np"))
    assert np.array_equal(all_of_it, session.decode(data, output="np"))
    between = (none.astype(float) + all_of_it) / 2
    inside = (np.minimum(none, all_of_it) > 0) & (np.maximum(none, all_of_it) < 255)  # not clipped
    assert np.abs(half - between)[inside].max() <= 1 and np.abs(between - none).max() > 5


def test_noise_comes_from_the_file(session, photo):
    """The same features under another checksum: one step has other refiner noise only, two steps another latent too."""
    plain, other = session.encode(photo, quality=2), session.encode(photo, quality=2, statistics=True)
    assert np.array_equal(session.decode(plain, output="np"), session.decode(plain, output="np"))
    more = open_session(steps=2)
    one, two = (
        np.abs(s.decode(plain, output="np") - s.decode(other, output="np").astype(float)).mean()
        for s in (session, more)
    )
    assert 0 < one < 2 < two
    smooth = open_session()
    with torch.no_grad():
        smooth.adapter.refiner.noise.weight.zero_()
    assert np.array_equal(smooth.decode(plain, output="np"), smooth.decode(other, output="np"))


def test_written_statistics_are_met(photo):
    data = open_session("toy").encode(photo, quality=3, statistics=True)
    wanted = ImageStatistics.measure(photo)
    off, written = (
        ImageStatistics.measure(open_session("toy", renorm=mode).decode(data, output="np"))
        for mode in ("none", "written")
    )
    before, after = (np.subtract([*s.mean, *s.std], [*wanted.mean, *wanted.std]) for s in (off, written))
    assert np.abs(after).max() < 1.5 and np.square(after).sum() < np.square(before).sum()


def test_damaged_statistics_matter_only_where_they_are_used(photo):
    data = open_session("toy").encode(photo, quality=1, statistics=True)
    content = container.unpack(data)
    segments = tuple(replace(part, data=part.data[:7]) for part in content.segments)
    damaged = container.pack(replace(content, segments=segments))
    plain, written = open_session("toy"), open_session("toy", renorm="written")
    assert np.array_equal(plain.preview(damaged, output="np"), plain.preview(data, output="np"))
    assert plain.decode(damaged).size == photo.shape[1::-1]
    with pytest.raises(StreamError, match="the statistics have 7 bytes"):
        written.decode(damaged)


def test_renormalization_without_statistics_or_moments_is_one_line_with_the_remedy(session, photo, monkeypatch):
    data = session.encode(photo, quality=0)
    with pytest.raises(StreamError, match="encode --statistics") as caught:
        open_session("toy", renorm="written").decode(data)
    assert "\n" not in str(caught.value)
    predicted = open_session("toy", renorm="predicted")
    monkeypatch.setattr(predicted.adapter, "moments", None)
    with pytest.raises(AdapterError, match="renorm=none") as caught:
        predicted.decode(data)
    assert "\n" not in str(caught.value)


def test_predicted_moments_are_those_of_the_latent(photo, monkeypatch):
    """An adapter with a head for moments: what reaches the autoencoder has exactly those."""
    session = open_session("toy", renorm="predicted")
    adapter = session.adapter
    channels = adapter.spec.latent.channels
    mean, std = torch.linspace(-0.2, 0.2, channels)[None], torch.linspace(0.3, 0.6, channels)[None]

    class Head(torch.nn.Module):
        def forward(self, *_):
            return mean, std

        measure, predict = staticmethod(MomentsHead.measure), forward

    monkeypatch.setattr(adapter, "moments", Head())
    seen, to_pixels = [], adapter.attached.to_pixels
    monkeypatch.setattr(adapter.attached, "to_pixels", lambda z: seen.append(z) or to_pixels(z))
    session.decode(session.encode(photo, quality=3))
    torch.testing.assert_close(seen[0].mean((2, 3)), mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[0].std((2, 3), correction=0), std, rtol=1e-3, atol=0)
