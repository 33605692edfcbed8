"""Which layers an encoder writes. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from priorcodec.core.container import LAYERS
from priorcodec.core.errors import ConfigError
from priorcodec.core.layers.residual import LEVELS, MOST_AREAS, Area, Settings, settings


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """What is written.

    Attributes:
        layers: Names of `container.LAYERS`, at least "latent" or "semantic"; "residual" needs "latent".
        residual: How much of the residual is written, 0 to 10.
        roi: Regions of interest (x, y, width, height) in pixels: the residual is written for these alone. Empty for everywhere.

    Raises:
        ConfigError: An unknown layer, a combination that does not make an image, or a value out of range.
    """

    layers: Collection[str] = ("latent",)
    residual: float = float(LEVELS)
    roi: Sequence[tuple[int, int, int, int]] = ()

    def __post_init__(self) -> None:
        check_names(self.layers)
        if "residual" in self.layers and "latent" not in self.layers:
            raise ConfigError("got the residual layer without the latent that it refines: add latent to the layers")
        if self.roi and "residual" not in self.layers:
            raise ConfigError(
                "got a region of interest without the residual layer that is written for it: add residual"
            )
        settings(self.residual)
        for region in self.roi:
            if len(region) != 4 or not all(type(value) is int for value in region):
                raise ConfigError(f"a region of interest is {region}, wanted x, y, width, height in whole pixels")
        if len(self.roi) > MOST_AREAS:
            raise ConfigError(f"got {len(self.roi)} regions of interest, wanted at most {MOST_AREAS}")

    def residual_settings(self, height: int, width: int) -> Settings | None:
        """The first fields of the residual layer of an image of that size in pixels, None without one.

        Raises ConfigError: A region of interest is not inside the image.
        """
        for x, y, w, h in self.roi:
            if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
                raise ConfigError(
                    f"region {x},{y},{w},{h} (x, y, width, height) is not inside the image of {width}x{height}"
                )
        if "residual" not in self.layers:
            return None
        return settings(self.residual, tuple(Area.covering(*region) for region in self.roi))


def check_names(layers: Collection[str]) -> None:
    """Raises ConfigError: none is named, or one does not exist."""
    wanted = f"wanted a list of {', '.join(LAYERS)}"
    if isinstance(layers, str) or not isinstance(layers, Collection):
        raise ConfigError(f"layers are {layers!r}, {wanted}")
    if not layers:
        raise ConfigError(f"no layers are named, {wanted}")
    if unknown := [str(name) for name in layers if name not in LAYERS]:
        raise ConfigError(f"layers are {', '.join(unknown)!r}, {wanted}")
