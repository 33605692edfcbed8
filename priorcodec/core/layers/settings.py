"""Which layers an encoder writes. Imports no torch."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from priorcodec.core import checks
from priorcodec.core.container import check_names
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

    def check_refinable(self) -> None:
        """Raises ConfigError: there are layers that latent refinement would not fit."""
        if tuple(self.layers) != ("latent",):
            raise ConfigError(f"got latent refinement with layers {', '.join(self.layers)}, wanted the latent alone")

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


def layer_config(
    layers: Collection[str], residual: float | None, roi: Sequence[tuple[int, int, int, int]]
) -> LayerConfig:
    """What a user asked for -> what is written; a residual or a region adds the layer it is about. Raises ConfigError."""
    check_names(layers)
    try:
        regions = tuple(tuple(operator.index(value) for value in region) for region in roi)
    except TypeError as error:
        raise ConfigError(f"roi={roi!r}: wanted a list of regions (x, y, width, height) in whole pixels") from error
    more = () if residual is None and not regions or "residual" in layers else ("residual",)
    level = float(LEVELS) if residual is None else checks.number("residual", residual)
    return LayerConfig(layers=(*layers, *more), residual=level, roi=regions)  # pyright: ignore[reportArgumentType]
