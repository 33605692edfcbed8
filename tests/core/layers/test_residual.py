"""The residual layer: exact, smaller errors, no other latent, and damage is one line."""

import numpy as np
import pytest
import torch

from priorcodec.core import container, shipped
from priorcodec.core.codec import Codec
from priorcodec.core.container import RESIDUAL, Container, Segment
from priorcodec.core.entropy.frozen import Planes
from priorcodec.core.errors import ConfigError, StreamError, WeightsError
from priorcodec.core.exact_reader import ExactReader
from priorcodec.core.image import io as image_io
from priorcodec.core.io import safetensors
from priorcodec.core.layers import residual
from priorcodec.core.layers.residual import Area, ResidualTables, Settings
from priorcodec.core.layers.semantic import SemanticTables
from priorcodec.core.layers.settings import LayerConfig
from tests.helpers import DEMO

WITH = LayerConfig(layers=("latent", "residual"))


@pytest.fixture(scope="module")
def codec():
    return Codec()


@pytest.fixture(scope="module")
def photo():
    return image_io.load(DEMO).pixels[60:200, 100:290]


@pytest.fixture(scope="module")
def tables():
    return ResidualTables(residual.SHIPPED)


def error(codec, data, photo, **options):
    return float(((codec.preview(codec.decode(data, **options)).astype(float) - photo) ** 2).mean())


def random_planes(shape=(6, 8, 9)):
    rng, planes = np.random.default_rng(0), Planes(shape)
    planes.index[:] = rng.integers(0, 64, shape)
    planes.symbols[:] = rng.integers(-5, 6, shape)
    y_hat_q = planes.symbols + rng.normal(0, 0.1, shape).astype(np.float32)
    return planes, y_hat_q.astype(np.float32), (y_hat_q + rng.uniform(-0.7, 0.7, shape)).astype(np.float32)


@pytest.mark.parametrize("lowest, thirds", [(0, 0), (0, 64), (5, 20), (40, 5), (63, 63), (63, 64)])
@pytest.mark.parametrize(
    "areas", [(), (Area(row=0, column=2, rows=3, columns=1), Area(row=2, column=2, rows=6, columns=7))]
)
def test_what_is_written_is_read(tables, lowest, thirds, areas):
    planes, y_hat_q, y_q = random_planes()
    settings = Settings(higher=3, lowest=lowest, thirds=thirds, areas=areas)
    found, string = Settings.unpack(tables.write(y_q, y_hat_q, planes, settings), planes.index.shape[1:])
    assert found == settings
    refined = y_hat_q.copy()
    tables.refine(string, refined, planes, found)
    inside = np.ones(planes.index.shape[1:], bool)
    if areas:
        inside[:] = False
        inside[0:3, 2], inside[2:8, 2:9] = True, True
    chosen = (planes.index >= lowest) & inside
    left = 3 * (y_q.astype(float) - y_hat_q)
    third = np.where(abs(left) > residual.THRESHOLD, np.sign(left), 0).astype(np.float32) / np.float32(3)
    wanted = np.where(planes.index >= thirds, third, np.where(left >= 0, 0.25, -0.25)) * chosen
    np.testing.assert_array_equal(refined, y_hat_q + wanted.astype(np.float32))
    assert (wanted != 0).any() or lowest == 63


def test_more_of_it_costs_more_and_leaves_less(codec, photo):
    plain = codec.encode(photo, 7).data
    sizes, errors = [len(plain)], [error(codec, plain, photo)]
    for level in (2, 6, 8, 9, 10):
        data = codec.encode(photo, 7, layers=LayerConfig(layers=("latent", "residual"), residual=level)).data
        sizes.append(len(data))
        errors.append(error(codec, data, photo))
    assert sizes == sorted(set(sizes)) and errors == sorted(set(errors), reverse=True)
    assert errors[-1] < 0.75 * errors[0]


def test_halves_take_away_more_error_per_bit_where_cells_are_wide(tables):
    """Values spread evenly over their cells: a half costs 1 bit and leaves a quarter of the error, a third 1.58 and a ninth."""
    rng, planes = np.random.default_rng(2), Planes((8, 32, 32))
    planes.index[:] = 30
    y_hat_q = np.zeros((8, 32, 32), np.float32)
    y_q = rng.uniform(-0.5, 0.5, y_hat_q.shape).astype(np.float32)
    before, gain = float(np.square(y_q).mean()), {}
    for thirds in (0, 64):
        settings, refined = Settings(higher=0, lowest=0, thirds=thirds), y_hat_q.copy()
        _, string = Settings.unpack(data := tables.write(y_q, y_hat_q, planes, settings), (32, 32))
        tables.refine(string, refined, planes, settings)
        gain[thirds] = (before - float(np.square(y_q - refined).mean())) / len(data)
    assert gain[64] > 1.25 * gain[0]


def test_levels_go_from_few_halves_to_nearly_everything_by_thirds():
    found = [residual.settings(level) for level in np.arange(0, 10.25, 0.5)]
    assert [(s.lowest, s.thirds) for s in (found[0], found[16], found[20])] == [(35, 64), (8, 64), (5, 5)]
    for field, falling in (("lowest", True), ("thirds", True), ("higher", False)):
        values = [getattr(s, field) for s in found]
        assert values == sorted(values, reverse=falling)


def test_the_latent_is_that_of_a_plain_file(codec, photo):
    plain, layered = codec.encode(photo, 5, statistics=True), codec.encode(photo, 5, statistics=True, layers=WITH)
    assert layered.container.layers == ("latent", "residual") and layered.container.string == plain.container.string
    assert layered.data.startswith(plain.data) and len(layered.data) > len(plain.data)
    alone, cut = codec.decode(layered.data, layers=["latent"]), codec.decode(layered.data[: len(plain.data)])
    for decoded in (alone, cut):
        assert torch.equal(decoded.y_hat, codec.decode(plain.data).y_hat) and decoded.quality == 5
    whole = codec.decode(layered.data)
    assert whole.seed == alone.seed == cut.seed and whole.symbols_sha256 == alone.symbols_sha256
    assert whole.quality == codec.levels - 1


def test_a_region_of_interest_alone_gains(codec, photo):
    config = LayerConfig(layers=("latent", "residual"), roi=[(64, 32, 60, 60)])
    plain, layered = codec.encode(photo, 6), codec.encode(photo, 6, layers=config)
    everywhere = codec.encode(photo, 6, layers=WITH)
    assert len(plain.data) < len(layered.data) < len(everywhere.data)
    before, after = codec.decode(plain.data), codec.decode(layered.data)
    changed = (before.y_hat != after.y_hat).any(1)[0]
    assert changed[2:6, 4:8].any() and not changed[:2].any() and not changed[6:].any()
    assert not changed[:, :4].any() and not changed[:, 8:].any() and before.quality == after.quality
    square = np.s_[32:92, 64:124]
    errors = [((codec.preview(d).astype(float) - photo)[square] ** 2).mean() for d in (before, after)]
    assert errors[1] < 0.8 * errors[0]


def test_rate_control_counts_every_layer(codec, photo):
    found = codec.encode_to(photo, 3000, layers=WITH).encoded
    assert 2500 < len(found.data) <= 3000 and found.container.layers == ("latent", "residual")


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "has 0 bytes, wanted at least 4"),
        (b"\0\5\0\2" + bytes(15), "has 19 bytes, wanted at least 20"),
        (b"\0\x40\0\0", "field out of range"),
        (b"\0\5\x41\0", "field out of range"),
        (b"\0\5\0\1" + b"\0\0\0\0\0\0\1\0", "field out of range"),
        (b"\0\5\0\1" + b"\3\0\0\0\2\0\1\0", "field out of range"),
        (b"\0\5\0\1" + b"\0\0\xff\xff\1\0\xff\xff", "field out of range"),
        (b"\0\5\5\0" + b"\7\0", "ends with a zero byte"),
        (b"\0\5\x40\0" + b"\7" * 9000, "does not end where its values end"),
    ],
)
def test_damage_is_one_line(codec, photo, data, says):
    stream = codec.encode(photo[:64, :64], 3).container
    forged = container.pack(Container(**{**vars(stream), "segments": (Segment(type=RESIDUAL, data=data),)}))
    with pytest.raises(StreamError, match=says) as caught:
        codec.decode(forged)
    assert "\n" not in str(caught.value)
    assert codec.decode(forged, layers=["latent"]).quality == 3


def test_any_string_is_read_or_refused(tables):
    planes, y_hat_q, _ = random_planes()
    rng, settings, refused = np.random.default_rng(1), Settings(higher=0, lowest=0, thirds=30), 0
    for length in [*range(60), 500]:
        try:
            tables.refine(rng.bytes(length), y_hat_q.copy(), planes, settings)
        except StreamError as reason:
            assert "\n" not in str(reason)
            refused += 1
    assert refused


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"layers": ("residual",)}, "add latent to the layers"),
        ({"layers": ("semantic", "residual")}, "without the latent that it refines"),
        ({"layers": ("latent", "texture")}, "'texture', wanted a list of semantic, latent, residual"),
        ({"layers": ()}, "no layers are named, wanted"),
        ({"layers": "latent"}, "wanted a list"),
        ({"layers": ("latent", "residual"), "residual": 10.5}, "is 10.5, wanted a number from 0 to 10"),
        ({"roi": [(0, 0, 9, 9)]}, "region of interest without the residual"),
        ({"layers": ("latent", "residual"), "roi": [(0, 0, 9)]}, "wanted x, y, width, height in whole pixels"),
    ],
)
def test_impossible_requests(settings, says):
    with pytest.raises(ConfigError, match=says):
        LayerConfig(**settings)


def test_a_region_outside_the_image(codec, photo):
    with pytest.raises(ConfigError, match="region 180,0,20,20 .* is not inside the image of 190x140"):
        codec.encode(photo, 3, layers=LayerConfig(layers=("latent", "residual"), roi=[(180, 0, 20, 20)]))


def test_tables_of_another_kind_or_encoder(codec, photo, tmp_path, monkeypatch):
    data = codec.encode(photo[:64, :64], 3, layers=WITH).data
    frequency = torch.full((64, 4, 3), 3)
    for name, content, metadata in (
        ("sums", frequency, {"kind": residual.KIND, "encoder_id": "00000000"}),
        ("kind", frequency, {"kind": "priorcodec encoder 2"}),
    ):
        path = tmp_path / name
        path.write_bytes(safetensors.to_bytes({"frequency": content}, metadata))
        with pytest.raises(WeightsError, match="no readable residual tables"):
            ResidualTables(path)
    with pytest.raises(WeightsError, match="no readable residual tables"):
        ResidualTables(tmp_path / "missing")
    other = ResidualTables(residual.SHIPPED)
    other.encoder_id = 1
    monkeypatch.setattr("priorcodec.core.exact_reader.ResidualTables", lambda path: other)
    with pytest.raises(WeightsError, match="made for encoder 00000001, this is .* layers=latent"):
        Codec().decode(data)


def test_fitted_frequencies_are_a_distribution():
    rng = np.random.default_rng(0)
    counted = rng.integers(0, 10**6, (64, 4, 3)) * (rng.random((64, 4, 3)) < 0.5)
    frequency = residual.fitted(counted)
    assert (frequency.sum(2) == 1 << 16).all() and frequency.min() >= 1
    assert abs(frequency[:, 0, 0] - frequency[:, 0, 2]).max() <= 2


def test_regions_out_of_a_latent_are_those_without_its_residual(codec, photo):
    """By `priorcodec regions` and by the codec: the format derives them from the latent alone."""
    plain, layered = codec.encode(photo, 2), codec.encode(photo, 2, layers=WITH)
    wanted = codec.regions(plain.container).labels
    tables, reader = SemanticTables(), ExactReader.load(shipped.ENCODER)
    for found in (codec.regions(layered.container), tables.read(layered.container, reader)):
        assert (found.labels == wanted).all()
    y_hat_q = reader.latent(layered.container)[0]
    assert (tables.derive(y_hat_q, layered.container.quality, *wanted.shape)[0] != wanted).any(), "no such case here"
