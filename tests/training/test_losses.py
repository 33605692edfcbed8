"""Losses between images: what each one minds, and what it does not."""

import pytest
import torch

from priorcodec.training import losses


def dots(period):
    """(1, 3, 128, 128): one raised pixel in every block."""
    x = torch.zeros(1, 3, 128, 128)
    x[..., ::period, ::period] = 0.5
    return x


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_periodic_artifact_minds_a_pattern_in_full(period):
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    pattern = dots(period)
    wanted = (pattern - pattern.mean()).abs().mean()
    assert losses.periodic_artifact(x + pattern, x) == pytest.approx(float(wanted), rel=1e-3)
    assert losses.periodic_artifact(x, x) == 0


def test_periodic_artifact_spares_what_does_not_repeat():
    x, noise = (
        torch.zeros(1, 3, 128, 128),
        0.1 * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)),
    )
    assert losses.periodic_artifact(x + 0.3, x) < 1e-6  # another brightness
    assert losses.periodic_artifact(noise, x) < 0.3 * noise.abs().mean()
    assert (
        losses.periodic_artifact(noise, x)
        < losses.periodic_artifact(dots(8), x) * noise.abs().mean() / dots(8).abs().mean()
    )


def test_periodic_artifact_is_learned_away():
    """Its gradient points from the pattern to the image."""
    pattern = dots(8).requires_grad_()
    losses.periodic_artifact(pattern, torch.zeros_like(pattern)).backward()
    better = pattern.detach() - 20 * pattern.grad
    assert losses.periodic_artifact(better, torch.zeros_like(better)) < losses.periodic_artifact(
        pattern, torch.zeros_like(pattern)
    )


def test_spectral_minds_how_strong_texture_is_not_where():
    first, second = (torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(seed)) / 10 for seed in (0, 1))
    assert losses.spectral(first, first) == 0
    other, nothing, half = (float(losses.spectral(x, first)) for x in (second, torch.zeros_like(first), second / 2))
    assert other < 0.5 * half < 0.5 * nothing
    assert losses.spectral(second, torch.zeros_like(first)) > half  # what is not in the image counts too


@pytest.mark.parametrize("period", [4, 8, 16])
def test_spectral_tells_dots_from_texture_as_strong(period):
    first, second = (torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(seed)) / 10 for seed in (0, 1))
    dotted = dots(period) - dots(period).mean()
    dotted *= 0.1 / dotted.std()
    assert losses.spectral(dotted, first) > 1.5 * losses.spectral(second, first)


def test_spectral_is_learned():
    """Its gradient points to stronger texture where there is too little of it."""
    texture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 10
    weak = (0.3 * texture).requires_grad_()
    losses.spectral(weak, texture).backward()
    assert losses.spectral(weak.detach() - 10 * weak.grad, texture) < losses.spectral(weak, texture)
