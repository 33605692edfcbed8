"""Tiles: they cover everything once, weights add up to one, and what is exact in them equals the whole."""

import itertools

import numpy as np
import pytest
import torch

from priorcodec import ConfigError
from priorcodec.config import decode_config
from priorcodec.core import tiling
from priorcodec.core.codec import Codec
from priorcodec.core.image import io as image_io
from priorcodec.core.transforms import EncoderConfig, Transforms
from tests.helpers import DEMO

PLANS = [(64, 64, 0, 64), (200, 700, 128, 64), (1000, 130, 256, 128), (192, 192, 128, 128), (640, 4096, 192, 20)]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return image_io.load(DEMO).pixels[:300, :400]


@pytest.mark.parametrize("height,width,side,margin", PLANS)
def test_tiles_cover_everything_once(height, width, side, margin):
    plan = tiling.plan(height, width, side, margin)
    assert plan.height - height in range(64) and plan.width - width in range(64)
    count = torch.zeros(plan.height, plan.width)
    for rows, columns in plan:
        count[rows.own(1), columns.own(1)] += 1
        for span in (rows, columns):
            assert all(edge % tiling.GRID == 0 for edge in (span.start, span.stop, span.low, span.high))
            assert span.low <= span.start < span.stop <= span.high
            assert not side or span.stop - span.start <= side
    assert bool((count == 1).all())


@pytest.mark.parametrize("height,width,side,margin", PLANS)
@pytest.mark.parametrize("stride", [1, 8, 16])
def test_weights_add_up_to_one(height, width, side, margin, stride):
    plan = tiling.plan(height, width, side, margin)
    for spans, length in ((plan.rows, plan.height), (plan.columns, plan.width)):
        total = torch.zeros(length // stride)
        for span in spans:
            weight = span.weight(stride, total)
            assert weight.min() >= 0 and weight.max() <= 1
            total[span.read(stride)] += weight
        torch.testing.assert_close(total, torch.ones_like(total))
        for before, after in itertools.pairwise(spans):  # what lies next to a false border counts for nothing
            assert after.weight(stride, total)[0] <= 1 / 4 and before.weight(stride, total)[-1] <= 1 / 4


def test_an_image_of_one_tile_is_read_whole_with_weight_one():
    plan = tiling.plan(500, 640, 640, 64)
    assert len(plan) == 1
    x = torch.randn(1, 3, 64, 80)
    assert all(bool((span.weight(8, x) == 1).all()) and (span.low, span.start) == (0, 0) for at in plan for span in at)
    (band,) = tiling.blend(plan, lambda rows, columns: [x])
    assert band[0] is not None and torch.equal(band[0], x)


def test_blending_pieces_of_a_whole_gives_the_whole():
    """Two maps, the second twice as fine, in bands from top to bottom."""
    plan = tiling.plan(704, 1100, 256, 64)
    whole = [torch.randn(1, 4, plan.height // stride, plan.width // stride) for stride in (8, 4)]

    def make(rows, columns):
        return [w[..., rows.read(s), columns.read(s)].clone() for w, s in zip(whole, (8, 4), strict=True)]

    bands = list(tiling.blend(plan, make))
    assert len(bands) == len(plan.rows) == 3
    for wanted, parts in zip(whole, zip(*bands, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts, -2), wanted)
    in_numpy = tiling.blend(plan, lambda rows, columns: [part.numpy() for part in make(rows, columns)])
    for other, wanted in zip(in_numpy, bands, strict=True):
        for one, two in zip(other, wanted, strict=True):
            np.testing.assert_allclose(one, two.numpy(), rtol=0, atol=1e-6)


def test_blending_leaves_what_it_was_given_as_it_was():
    whole = torch.ones(1, 1, 64, 16)
    plan = tiling.plan(512, 128, 256, 64)
    bands = list(tiling.blend(plan, lambda rows, columns: [whole[..., rows.read(8), columns.read(8)]]))
    torch.testing.assert_close(torch.cat([band[0] for band in bands], -2), torch.ones_like(whole))
    assert torch.equal(whole, torch.ones_like(whole))


def test_neighbors_that_disagree_fade_into_each_other():
    plan = tiling.plan(64, 512, 256, 64)
    values = iter((0.0, 1.0))
    ((band,),) = tiling.blend(
        plan, lambda rows, columns: [torch.full((1, 1, 64, columns.high - columns.low), next(values))]
    )
    line = band[0, 0, 0]
    assert line[:224].max() == 0 and line[288:].min() == 1
    assert line.diff().max() == pytest.approx(1 / 64, rel=1e-3) and line.diff().min() >= 0


def test_a_local_network_in_parts_is_the_network():
    torch.manual_seed(0)
    f = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 3 * 4, 3, padding=1), torch.nn.PixelShuffle(2)
    )
    x = torch.randn(1, 2, 32, 48)  # at stride 8: two 3x3 look 16 pixels far, and it answers at stride 4
    with torch.no_grad():
        whole = f(x)
        for rows, columns in tiling.plan(256, 384, 128, 0):
            part = tiling.part(f, x, (rows, columns), 16, 8)
            torch.testing.assert_close(part, whole[..., rows.own(4), columns.own(4)], rtol=0, atol=1e-6)
            if rows.start:
                alone = f(x[..., rows.own(8), columns.own(8)])
                assert (alone - whole[..., rows.own(4), columns.own(4)]).abs().max() > 0.01  # the border does matter


@pytest.mark.parametrize("depth8, depth16", [(1, 1), (2, 1), (0, 2)])
def test_the_halo_is_as_far_as_the_networks_look(depth8, depth16):
    torch.manual_seed(0)
    model = Transforms(EncoderConfig(n8=4, n16=4, m=4, groups=(4,), depth8=depth8, depth16=depth16)).double()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter)
    quality, at = torch.tensor([3.0]), 256
    x = torch.randn(1, 3, 64, 2 * at, dtype=torch.float64, requires_grad=True)
    model.g_a(x)[..., at // 16 :].sum().backward()
    reach = [at - int(x.grad.abs().sum((0, 1, 2)).nonzero()[0])]
    for network in (model.g_s, model.g_p):
        y = torch.randn(1, 4, 4, 2 * at // 16, dtype=torch.float64, requires_grad=True)
        network(y, quality)[..., at:].sum().backward()
        reach.append(at - 16 * int(y.grad.abs().sum((0, 1, 2)).nonzero()[0]))
    assert max(reach) == model.halo


def test_encoder_and_preview_in_tiles_are_those_of_the_whole_image(photo):
    whole, tiled = Codec(tile=0), Codec(tile=128)
    with torch.inference_mode():
        planes = image_io.pad(image_io.to_planes(photo), 64)
        y = whole.transforms.g_a(image_io.to_range(planes))
        torch.testing.assert_close(tiled._analyzed(planes), y, rtol=0, atol=1e-4)
        assert torch.equal(whole._analyzed(planes), y)
    data = tiled.encode(photo, 6).data
    decoded = tiled.decode(data)
    for perceptual in (True, False):
        shown, wanted = (codec.preview(decoded, perceptual=perceptual).astype(int) for codec in (tiled, whole))
        assert shown.shape == photo.shape and np.abs(shown - wanted).max() <= 1
    assert np.array_equal(wanted, image_io.to_pixels(image_io.crop(tiled.preview_tensor(decoded), *photo.shape[:2])))


def test_the_automatic_side_follows_the_memory(monkeypatch, tmp_path):
    sides = []
    for gib in (0.1, 1, 4, 16, 1000):
        monkeypatch.setattr(tiling, "memory", lambda device, gib=gib: int(gib * 2**30))
        sides.append(tiling.automatic(400, 64, 2048, "cpu"))
    assert sides == sorted(sides) and sides[0] == 256 and sides[-1] == 2048 and all(side % 256 == 0 for side in sides)
    for side, gib in zip(sides[1:], (1, 4, 16, 1000), strict=True):
        assert (side + 128) ** 2 * 400 <= tiling.SHARE * gib * 2**30
    monkeypatch.undo()
    monkeypatch.setattr(tiling, "_CGROUP", tmp_path / "memory.max")
    cpu = torch.device("cpu")
    free = tiling.memory(cpu)
    for text, wanted in (("max\n", free), (f"{free // 2}\n", free // 2)):
        (tmp_path / "memory.max").write_text(text)
        assert tiling.memory(cpu) == wanted


@pytest.mark.parametrize("tile", [-64, 64, 100, 130])
def test_an_impossible_tile_is_refused_in_one_line(tile):
    with pytest.raises(ConfigError, match=f"tile={tile}: wanted a multiple of 64") as caught:
        decode_config([f"tile={tile}"])
    assert "\n" not in str(caught.value)
    assert decode_config(["tile=0"]).tile == 0 and decode_config(["tile=null"]).tile is None
