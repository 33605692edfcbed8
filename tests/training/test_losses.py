"""Losses between images: what each one minds, and what it does not."""

import pytest
import torch

from priorcodec.training import losses


def dots(period):
    """(1, 3, 128, 128): one raised pixel in every block."""
    x = torch.zeros(1, 3, 128, 128)
    x[..., ::period, ::period] = 0.5
    return x


def test_fine_chroma_is_that_of_the_original_and_all_else_stays():
    g = torch.Generator().manual_seed(0)
    x, luma = torch.rand(1, 3, 64, 64, generator=g), 0.1 * torch.randn(1, 1, 64, 64, generator=g)
    noise = 0.1 * torch.randn(1, 3, 64, 64, generator=g)
    false_color = noise - (noise * torch.tensor(losses.LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    tint = torch.tensor([0.0, 0.0, 0.1]).view(1, 3, 1, 1)
    assert torch.equal(losses.with_fine_chroma(x, x), x)
    seen = losses.with_fine_chroma(x + luma + tint + false_color, x) - x
    torch.testing.assert_close(seen.mean((2, 3)), (luma + tint + false_color).mean((2, 3)))  # the tint is seen
    left = seen - luma - tint
    assert left.std() < 0.2 * false_color.std()  # the false color is not, but for what is coarse in it
    seen = losses.with_fine_chroma(x + luma, x) - x
    torch.testing.assert_close(seen, luma.expand_as(seen))


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_periodic_artifact_minds_a_pattern_in_full(period):
    """Under every period that the pattern's divides."""
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    pattern = dots(period)
    wanted = float((pattern - pattern.mean()).abs().mean()) * (2 if period <= 8 else 1)
    found = losses.periodic_artifact(x + pattern, x)
    assert found == pytest.approx(wanted, rel=1e-3) if period <= 8 else wanted < found < 2 * wanted
    assert losses.periodic_artifact(x, x) == 0


@pytest.mark.parametrize("side", [64, 96, 128, 192])
def test_periodic_artifact_spares_what_does_not_repeat(side):
    x, noise = (
        torch.zeros(1, 3, side, side),
        0.1 * torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)),
    )
    strength = noise.abs().mean()
    pattern = dots(8)[..., :64, :64].repeat(1, 1, 3, 3)[..., :side, :side]
    assert losses.periodic_artifact(x + 0.3, x) < 1e-6  # another brightness
    assert losses.periodic_artifact(noise, x) < (0.3 if side >= 96 else 0.4) * strength  # few blocks average less
    assert (
        losses.periodic_artifact(noise, x)
        < 0.4 * losses.periodic_artifact(pattern, x) * strength / pattern.abs().mean()
    )


def test_periodic_artifact_is_learned_away():
    """Its gradient points from the pattern to the image."""
    pattern = dots(8).requires_grad_()
    losses.periodic_artifact(pattern, torch.zeros_like(pattern)).backward()
    better = pattern.detach() - 20 * pattern.grad
    assert losses.periodic_artifact(better, torch.zeros_like(better)) < losses.periodic_artifact(
        pattern, torch.zeros_like(pattern)
    )
