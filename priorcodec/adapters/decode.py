"""Decode a file through a backbone, tile by tile; an image of one tile takes the same path.

    y_hat --each tile: preview, adapter--> z --blend--> whole latent --renorm=predicted--> z
    z, preview --each tile: to_pixels, blend--> x --blend--> bands of the image --crop--> renorm=written --> uint8

Held for the whole image at any time: y_hat, the latent, its noise for every step after the first, the 8-bit image, and the
preview in float32, which both passes read; with renorm=written the image in float32 as well, with blend < 1 the other preview.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.refiner import STRIDE as REFINER_STRIDE
from priorcodec.backbones.diffusion import seeded_noise
from priorcodec.core import statistics, tiling
from priorcodec.core.container import STRIDE
from priorcodec.core.image import io as image_io
from priorcodec.core.moments import merge_moments
from priorcodec.core.statistics import ImageStatistics
from priorcodec.core.tiling import Plan, Span
from priorcodec.core.types import Decoded

MARGIN = 64  # pixels a tile reads beyond its own, twice as far as it fades: beyond the reach of a false border
LARGEST = 1024  # as large models were trained; beyond it fresh memory for every layer costs more than overlap


def automatic(pixel_bytes: int, device: torch.device | str) -> int:
    """Side in pixels of a tile's own part, for `BackboneSpec.pixel_bytes` and the device's memory."""
    return tiling.automatic(pixel_bytes, MARGIN, LARGEST, device)


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The latent of a whole image.

    Attributes:
        z: Clean latent (1, c, h', w').
        mean: Mean of z that the adapter predicts (1, c), or None.
        std: Standard deviation of z that the adapter predicts (1, c), or None.
        preview: The perceptual preview (1, 3, H, W), made once for both passes.
    """

    z: Tensor
    mean: Tensor | None
    std: Tensor | None
    preview: Tensor


def latent(adapter: Adapter, decoded: Decoded, preview: Tensor, plan: Plan, *, steps: int) -> Latent:
    """Call the denoiser tile by tile and blend the results.

    The noise is drawn for the whole image, so that tiles agree where they overlap. Moments are predicted from measurements of
    the tiles' own areas, which together are the whole image.

    Args:
        adapter: Attached to its backbone.
        decoded: The file's content.
        preview: `Codec.preview_tensor` of it, the perceptual one.
        plan: Tiles of the padded image.
        steps: Denoiser calls.

    Raises:
        FloatingPointError: A value is not finite.
    """
    space, device = adapter.spec.latent, decoded.y_hat.device
    shape = (1, space.channels, plan.height // space.stride, plan.width // space.stride)
    whole = functools.cache(seeded_noise([decoded.seed], shape, device, torch.float32))
    quality = torch.tensor([decoded.quality], dtype=torch.float32, device=device)
    head, seen, seen_features = adapter.moments, [], []

    def one(rows: Span, columns: Span) -> list[Tensor]:
        y_hat = decoded.y_hat[..., rows.read(STRIDE), columns.read(STRIDE)]

        def noise(step: int) -> Tensor:
            return whole(step)[..., rows.read(space.stride), columns.read(space.stride)]

        out = adapter(y_hat, quality, preview[..., rows.read(1), columns.read(1)], steps=steps, noise=noise)
        if head is not None:
            own = [
                part[..., rows.inner(space.stride), columns.inner(space.stride)] for part in (out.z_hat, out.features)
            ]
            mean, std, features = head.measure(*own)
            seen.append((own[0][0, 0].numel(), mean, std))
            seen_features.append((own[0][0, 0].numel(), features, torch.zeros_like(features)))
        return [_finite(out.z)]

    z, top = torch.empty(shape, device=device), 0
    for (band,) in tiling.blend(plan, one):
        z[..., top : top + band.shape[-2], :] = band
        top += band.shape[-2]
    mean, std = (None, None) if head is None else head.predict(*merge_moments(seen), merge_moments(seen_features)[0])
    return Latent(z=z, mean=mean, std=std, preview=preview)


def image(
    adapter: Adapter,
    decoded: Decoded,
    found: Latent,
    plan: Plan,
    *,
    blend: float = 1.0,
    least: Tensor | None = None,
    written: ImageStatistics | None = None,
) -> np.ndarray:
    """Decode the latent to pixels.

    Args:
        adapter: Attached to its backbone.
        decoded: The file's content.
        found: What `latent` gave.
        plan: Tiles of the padded image.
        blend: Share of the backbone's image, the rest preview, 0 to 1; after Freirich, Michaeli and Meir (NeurIPS 2021), who
            show for ideal estimates that the straight line from least error to realism is the best trade-off.
        least: The preview of least error (1, 3, H, W), wanted for a blend below 1.
        written: Statistics that the image is moved to.

    Returns:
        uint8 (h, w, 3) of the true size.

    Raises:
        FloatingPointError: A value is not finite.
    """
    return _to_pixels(_bands(adapter, decoded, found, plan, blend, least), decoded, written)


def preview_image(decoded: Decoded, preview: Tensor, *, written: ImageStatistics | None = None) -> np.ndarray:
    """`image` for blend=0, which needs no backbone: the preview (1, 3, H, W), moved to the written statistics if given."""
    return _to_pixels([image_io.crop(preview, decoded.height, decoded.width)], decoded, written)


def _to_pixels(bands: Iterable[Tensor], decoded: Decoded, written: ImageStatistics | None) -> np.ndarray:
    if written is not None:
        kept = list(bands)
        shown = statistics.measure_shown(kept)
        bands = (written.apply(band, shown) for band in kept)
    pixels, top = np.empty((decoded.height, decoded.width, 3), np.uint8), 0
    for band in bands:
        pixels[top : top + band.shape[-2]] = image_io.to_pixels(band)
        top += band.shape[-2]
    return pixels


def _bands(
    adapter: Adapter, decoded: Decoded, found: Latent, plan: Plan, blend: float, least: Tensor | None
) -> Iterator[Tensor]:
    """Horizontal bands (1, 3, rows, width) of the image without its padding, float32, not clamped."""
    stride, device = adapter.spec.latent.stride, decoded.y_hat.device
    quality = torch.tensor([decoded.quality], dtype=torch.float32, device=device)
    shape = (1, *adapter.noise_shape(plan.height, plan.width))
    whole = seeded_noise([decoded.seed], shape, device, torch.float32)(0)

    def one(rows: Span, columns: Span) -> list[Tensor]:
        z = found.z[..., rows.read(stride), columns.read(stride)]
        preview = found.preview[..., rows.read(1), columns.read(1)]
        noise = whole[..., rows.read(REFINER_STRIDE), columns.read(REFINER_STRIDE)]
        x = _finite(adapter.to_pixels(z, quality, preview, noise))
        return [x if least is None else torch.lerp(least[..., rows.read(1), columns.read(1)], x, blend)]

    left = decoded.height
    for (band,) in tiling.blend(plan, one):
        if left > 0:
            yield image_io.crop(band, min(left, band.shape[-2]), decoded.width)
        left -= band.shape[-2]


def _finite(x: Tensor) -> Tensor:
    if not bool(x.isfinite().all()):
        raise FloatingPointError("a value is not finite")
    return x
