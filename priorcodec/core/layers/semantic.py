"""Reads and writes the semantic layers of a file: its regions and what they look like. numpy only.

    structure layer --> map of regions <-- or, where there is none: classes of the decoded features, which cost no bytes
    texture layer, sizes of the regions --> values of every region
docs/format.md specifies both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from priorcodec.core import shipped
from priorcodec.core.container import STRUCTURE, TEXTURE, Container, Segment
from priorcodec.core.entropy.exact import ONE
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.errors import StreamError
from priorcodec.core.layers import structure, texture
from priorcodec.core.layers.structure import Labels
from priorcodec.core.layers.texture import TextureModel, Values
from priorcodec.core.statistics import TO_YCC

if TYPE_CHECKING:
    from priorcodec.core.exact_reader import ExactReader

KIND = "priorcodec semantic 1"
NETWORKS = ("encoder.", "renderer.", "segment.")  # prefixes of the tensors that torch reads
INVERSE_BITS = 12  # fractional bits of the inverse gains
GAIN_ONE = QUALITY_STEPS << INVERSE_BITS
VALUE_LIMIT = 1 << 20
STRIP = 32  # rows of cells worked on at a time
SHIPPED = shipped.FOLDER / "semantic.safetensors"


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The semantic content of a file.

    Attributes:
        labels: Canonical map (rows, columns), a label for every 16 pixels.
        classes: Class of every region (regions,) where the map was derived from the latent; None where it was written.
        values: Values of every region (regions, CHANNELS) in 1/256; None without a texture layer.
        step: Index of their step; None without a texture layer.
    """

    labels: Labels
    classes: NDArray[np.intp] | None = None
    values: Values | None = None
    step: int | None = None

    @property
    def written(self) -> bool:
        """Whether the file has a structure layer."""
        return self.classes is None

    @property
    def count(self) -> int:
        return structure.regions(self.labels)

    def colors(self) -> NDArray[np.uint8]:
        """Mean color of every region, RGB (regions, 3). Raises StreamError: there is no texture layer."""
        if self.values is None:
            raise StreamError("the file has no texture layer: encode the image with --layers semantic")
        levels = self.values[:, : texture.COLORS] / ONE * np.array(texture.UNIT[: texture.COLORS]) + (128, 0, 0)
        return np.clip(np.round(levels @ np.linalg.inv(np.array(TO_YCC)).T), 0, 255).astype(np.uint8)


class SemanticTables:
    """The integer tables that reading and writing need.

    Args:
        path: Weight file of the semantic layers.

    Attributes:
        encoder_id: Of the encoder it was made for.
        start: Counts that decisions of the structure layer start from.
        texture: The model of the texture layer.

    Raises:
        WeightsError: Missing, damaged, or of another kind.
    """

    def __init__(self, path: Path = SHIPPED):
        with shipped.opened(path, "semantic tables") as (file, _):
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if not name.startswith(NETWORKS)]  # noqa: SIM118
            tables = {name: file.get_tensor(name) for name in names}
            if metadata.get("kind") != KIND:
                raise ValueError(f"it is {metadata.get('kind')!r}, wanted {KIND!r}")
            self.encoder_id = int(metadata["encoder_id"], 16)
            self.start, self._weight, self._bias, self._inverse = (
                tables[name] for name in ("structure.start", "classes.weight", "classes.bias", "classes.inverse")
            )
            given = {name.removeprefix("texture."): v for name, v in tables.items() if name.startswith("texture.")}
            self._check(given)
        self.texture = TextureModel(given)

    def _check(self, given: dict[str, NDArray]) -> None:
        for name, shape in texture.sizes().items():
            if given[name].shape != shape and not (name == "t_cdf" and given[name].shape[:1] == shape[:1]):
                raise ValueError(f"texture.{name} is {given[name].shape}, wanted {shape}")
        if self.start.shape != (structure.CONTEXTS, 2) or self.start.min() < 1:
            raise ValueError(f"structure.start is {self.start.shape} or not positive")

    def read(self, content: Container, reader: ExactReader) -> Regions:
        """The regions of a file, and their values where it has them.

        Args:
            content: The file.
            reader: Reads the latent where the map has to be derived from it: as it is without a residual.

        Raises:
            StreamError: A layer is damaged, or the file has neither a structure layer nor a latent.
        """
        rows, columns = structure.grid(content.height, content.width)
        written, coded = content.segment(STRUCTURE), content.segment(TEXTURE)
        classes = None
        if written is not None:
            labels = structure.unpack(written, rows, columns, self.start)
        else:
            labels, classes = self.derive(reader.latent(content, residual=False)[0], content.quality, rows, columns)
        if coded is None:
            return Regions(labels=labels, classes=classes)
        values, step = self.texture.decode(coded, texture.areas(labels))
        return Regions(labels=labels, classes=classes, values=values, step=step)

    def write(
        self, labels: Labels, values: NDArray[np.floating], step: int = texture.STEP, *, map_written: bool = True
    ) -> tuple[Segment, ...]:
        """A canonical map and the values of its regions, in units -> the layers. map_written: False where readers derive it."""
        coded = Segment(type=TEXTURE, data=self.texture.encode(values, texture.areas(labels), step))
        if not map_written:
            return (coded,)
        return Segment(type=STRUCTURE, data=structure.pack(labels, self.start)), coded

    def derive(
        self, y_hat_q: NDArray[np.float32], quality: int, rows: int, columns: int
    ) -> tuple[Labels, NDArray[np.intp]]:
        """Regions that cost no bytes: the class of every cell by integer dot products with a codebook.

        Args:
            y_hat_q: As `ExactReader.latent` gives it without a residual (m, h, w).
            quality: The file's quality byte.
            rows, columns: Of the map.

        Returns:
            Canonical map, and the class of every region.
        """
        level = min(quality // QUALITY_STEPS, len(self._inverse) - 2)
        part, inverse = quality - QUALITY_STEPS * level, self._inverse.astype(np.float64)
        gain = ((QUALITY_STEPS - part) * inverse[level] + part * inverse[level + 1])[:, None, None]
        found, weight = np.empty((rows, columns), np.intp), self._weight.astype(np.float64)
        across = np.clip(np.arange(-1, columns + 1), 0, columns - 1)  # the border repeats
        for top in range(0, rows, STRIP):
            bottom = min(top + STRIP, rows)
            down = np.clip(np.arange(top - 1, bottom + 1), 0, rows - 1)
            v = y_hat_q[:, down][:, :, across].astype(np.float64) * ONE
            x = np.clip(np.floor(v * gain / GAIN_ONE), -VALUE_LIMIT, VALUE_LIMIT)
            x = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
            x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
            score = np.tensordot(weight, x, 1) + self._bias[:, None, None]
            found[top:bottom] = score.argmax(0)  # the first of equal ones
        labels = structure.canonical(found)
        first = np.unique(labels, return_index=True)[1]
        return labels, found.reshape(-1)[first]
