"""Files with semantic layers through the codec: without a latent, beside one, cut, edited, and from another encoder."""

from dataclasses import replace

import numpy as np
import pytest

from priorcodec.core import container, shipped
from priorcodec.core.codec import Codec
from priorcodec.core.container import STRUCTURE, TEXTURE
from priorcodec.core.errors import ConfigError, StreamError, WeightsError
from priorcodec.core.image import io as image_io
from priorcodec.core.layers import editing, structure, texture
from priorcodec.core.layers.semantic import SHIPPED, SemanticTables
from priorcodec.core.layers.settings import LayerConfig
from tests.core.entropy.reference import Encoder, decode
from tests.core.layers import reference
from tests.helpers import DEMO

SEMANTIC = LayerConfig(layers=("semantic",))


@pytest.fixture(scope="module")
def codec():
    return Codec()


@pytest.fixture(scope="module")
def pixels():
    return image_io.load(DEMO).pixels[40:190, 50:250]


@pytest.fixture(scope="module")
def alone(codec, pixels):
    """A file without a latent."""
    return codec.encode(pixels, layers=SEMANTIC).data


@pytest.fixture(scope="module")
def beside(codec, pixels, alone):
    """The same layers beside a latent."""
    layers = container.unpack(alone).segments
    return container.pack(replace(container.unpack(codec.encode(pixels, 3).data), segments=layers))


def error(a, b):
    return float(np.abs(a.astype(float) - b).mean())


def test_a_file_without_a_latent_is_small_and_shows_the_image(codec, pixels, alone):
    assert len(alone) < 120
    decoded = codec.decode(alone)
    preview = codec.preview(decoded)
    assert preview.shape == pixels.shape
    flat = np.broadcast_to(pixels.mean((0, 1)), pixels.shape)
    assert error(preview, pixels) < 0.8 * error(flat, pixels)
    np.testing.assert_array_equal(preview, codec.preview(decoded, perceptual=True))
    np.testing.assert_array_equal(preview, codec.preview(codec.decode(alone)))
    assert decoded.y_hat.shape == (1, codec.transforms.config.m, 12, 16)
    assert container.pack(container.unpack(alone)) == alone


def test_tiles_do_not_change_the_preview(pixels, alone):
    one, many = (Codec(tile=tile) for tile in (0, 64))
    np.testing.assert_allclose(
        one.preview(one.decode(alone)).astype(int), many.preview(many.decode(alone)).astype(int), atol=1
    )


def test_layers_beside_a_latent_leave_the_image_as_it_is(codec, pixels, beside):
    plain = codec.encode(pixels, 3).data
    np.testing.assert_array_equal(codec.preview(codec.decode(beside)), codec.preview(codec.decode(plain)))


def test_every_cut_between_segments_is_a_file(codec, alone, beside):
    """Structure alone is no image but has regions; structure and texture are the file without a latent, with its quality byte."""
    content = container.unpack(beside)
    cut = container.pack(replace(content, string=None))
    assert beside.startswith(cut)
    assert codec.preview(codec.decode(cut)).shape == (150, 200, 3)
    first = container.pack(replace(content, string=None, segments=content.segments[:1]))
    assert beside.startswith(first)
    assert codec.regions(container.unpack(first)).values is None
    with pytest.raises(StreamError, match="a structure layer but no texture layer"):
        codec.decode(first)


def test_a_map_that_gives_no_image_is_not_even_read(codec, monkeypatch):
    read = []
    monkeypatch.setattr(structure, "unpack", lambda *_: read.append(1))
    forged = codec.without_latent((8192, 8192), (container.Segment(type=STRUCTURE, data=b"\1"),))
    with pytest.raises(StreamError, match="a structure layer but no texture layer"):
        codec.decode(forged.data)
    assert not read


def test_regions_are_those_of_the_second_reader(codec, alone, beside):
    t = reference.tables()
    for data in (alone, beside):
        content = container.unpack(data)
        found = codec.regions(content)
        labels = reference.read_map(t, content.segment(STRUCTURE), 10, 13)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_array_equal(found.values, reference.read_values(t, content.segment(TEXTURE), labels))


@pytest.mark.parametrize("quality", [0, 3, 5.5, 11])
def test_derived_regions_are_those_of_the_second_reader(codec, pixels, quality):
    small = pixels[:96, :100]
    data = codec.encode(small, quality).data
    found = codec.regions(container.unpack(data))
    v, _ = decode(Encoder(), data)
    classes = reference.derive(reference.tables(), v, round(16 * quality), 6, 7)
    np.testing.assert_array_equal(found.classes[found.labels], classes)
    assert not found.written and found.values is None


def test_values_without_a_map_use_the_derived_one(codec, pixels):
    data = codec.encode(pixels, 3).data
    content = container.unpack(data)
    derived = codec.regions(content)
    _, values = codec.semantic_networks.describe(pixels, codec.analyze(pixels), labels=derived.labels)
    layers = codec.semantic_tables.write(derived.labels, values, map_written=False)
    assert [part.type for part in layers] == [TEXTURE]
    found = codec.regions(replace(content, segments=layers))
    np.testing.assert_array_equal(found.labels, derived.labels)
    assert np.abs(found.values / texture.ONE - values).max() <= (texture.STEPS[texture.STEP] / 2 + 1) / texture.ONE


def test_recoloring_without_a_latent_moves_that_region_alone(codec, alone):
    before = codec.regions(container.unpack(alone))
    region = int(texture.areas(before.labels).argmax())
    edited = codec.regions(
        container.unpack(editing.edit(codec, alone, editing.Edit(region=region, color=(30, 40, 220))).data)
    )
    np.testing.assert_array_equal(edited.labels, before.labels)
    r, g, b = edited.colors()[region].astype(int)
    assert b > 150 and b - max(r, g) > 80
    others = np.arange(before.count) != region
    assert np.abs(edited.values - before.values)[others].max() <= texture.STEPS[before.step] // 2 + 1


def test_recoloring_with_a_latent_codes_its_part_again(codec, pixels, beside):
    before = codec.decode(beside)
    labels = codec.regions(before.container).labels
    region = int(texture.areas(labels).argmax())
    made = editing.edit(codec, beside, editing.Edit(region=region, color=(30, 40, 220)))
    assert made.container.string is not None and made.container.quality == before.container.quality
    assert [part.type for part in made.container.segments] == [STRUCTURE, TEXTURE]
    inside = (labels == region).repeat(16, 0).repeat(16, 1)[:150, :200]
    old, new = codec.preview(before).astype(float), codec.preview(codec.decode(made.data)).astype(float)
    bluer = (new - old)[..., 2] - (new - old)[..., 0]
    assert bluer[inside].mean() > 60
    far = ~np.pad(inside, 48).astype(bool)
    far = np.lib.stride_tricks.sliding_window_view(far, (97, 97)).all((2, 3))
    assert far.sum() > 500
    assert abs(bluer[far].mean()) < 10
    assert error(new[far], old[far]) < 10  # it was coded twice


def test_an_edit_that_changes_nothing_keeps_the_rest_of_the_image(codec, pixels):
    """y is in an encoder's units, y_hat in a decoder's: what is coded again must be brought from one to the other."""
    data = codec.encode(pixels, 9, layers=LayerConfig(layers=("semantic", "latent"))).data
    before = codec.decode(data)
    regions = codec.regions(before.container)
    region = int(texture.areas(regions.labels).argmin())
    color = tuple(int(value) for value in regions.colors()[region])
    again = codec.decode(editing.edit(codec, data, editing.Edit(region=region, color=color)).data)
    outside = (regions.labels != region).repeat(16, 0).repeat(16, 1)[:150, :200]
    assert outside.mean() > 0.5
    old, new = codec.preview(before).astype(float), codec.preview(again).astype(float)
    assert error(new[outside], old[outside]) < 2


def test_texture_of_another_file(codec, pixels, alone):
    flat = np.full((64, 64, 3), (20, 60, 200), np.uint8)
    source = codec.encode(flat, layers=SEMANTIC).data
    values = editing.values_of(codec, source, None)
    region = int(texture.areas(codec.regions(container.unpack(alone)).labels).argmax())
    for data in (alone, codec.encode(pixels, 3).data):
        found = codec.regions(container.unpack(data))
        number = region if found.written else int(texture.areas(found.labels).argmax())
        made = editing.edit(codec, data, editing.Edit(region=number, values=values))
        inside = (found.labels == number).repeat(16, 0).repeat(16, 1)[:150, :200]
        old, new = (codec.preview(codec.decode(d))[inside].mean(0) for d in (data, made.data))
        assert new[2] - new[0] > old[2] - old[0] + 20  # bluer


def test_edits_can_drop_the_latent_and_name_a_region_that_exists(codec, beside):
    change = editing.Edit(region=0, color=(0, 0, 0))
    assert editing.edit(codec, beside, change, keep_latent=False).container.string is None
    with pytest.raises(ConfigError, match="region is 40, wanted 0 to"):
        editing.edit(codec, beside, replace(change, region=40))


def test_tables_of_another_encoder_and_damaged_ones_are_refused(codec, monkeypatch, tmp_path):
    other = Codec()
    monkeypatch.setattr(other, "id", 5)
    with pytest.raises(WeightsError, match="made for encoder .* this is 00000005"):
        other.semantic_tables  # noqa: B018
    data = SHIPPED.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:5000])
    with pytest.raises(WeightsError, match="no readable semantic tables"):
        SemanticTables(tmp_path / "cut.safetensors")
    (tmp_path / "other.safetensors").write_bytes(shipped.ENCODER.read_bytes()[:1000])
    with pytest.raises(WeightsError):
        SemanticTables(tmp_path / "other.safetensors")


def test_any_size_from_one_pixel(codec):
    for height, width in ((1, 1), (1, 70), (65, 16)):
        data = codec.encode(np.full((height, width, 3), 90, np.uint8), layers=SEMANTIC).data
        assert len(data) < 50
        assert codec.preview(codec.decode(data)).shape == (height, width, 3)
        assert codec.regions(container.unpack(data)).labels.shape == structure.grid(height, width)
