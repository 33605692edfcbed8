"""The exact part of decoding, a file -> its symbols, with numpy alone: what every reader must agree on. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from priorcodec.core import container, shipped
from priorcodec.core.container import RESIDUAL, STRIDE, Container
from priorcodec.core.entropy.frozen import FrozenEntropyModel, Planes
from priorcodec.core.entropy.tables import QUALITY_STEPS, SCALES, Sizes, check_tables
from priorcodec.core.errors import StreamError, WeightsError
from priorcodec.core.layers import residual
from priorcodec.core.layers.residual import ResidualTables, Settings

MOST_GROUPS = 16
RESIDUAL_FILE = residual.SHIPPED.name  # beside an encoder's file
TABLES = "entropy."  # before the names of integer tables in an encoder's weight file


def sizes(config: Mapping[str, Any]) -> Sizes:
    """An encoder's config -> the sizes of its tables. Raises KeyError, TypeError, ValueError."""
    m_h, n, levels = (int(config[name]) for name in ("m_h", "n", "levels"))
    groups = tuple(int(count) for count in config["groups"])
    if not 1 <= len(groups) <= MOST_GROUPS:
        raise ValueError(f"there are {len(groups)} groups, wanted 1 to {MOST_GROUPS}")
    return Sizes(m_h=m_h, n=n, levels=levels, groups=groups)


def encoder_id(data: bytes) -> int:
    """A weight file's bytes -> the first 32 bits of their SHA-256, little endian."""
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "little")


@dataclass(frozen=True, kw_only=True)
class ExactReader:
    """Reads the files of one encoder.

    Attributes:
        encoder_id: Of the encoder whose files it reads.
        levels: Number of quality levels.
        entropy_model: On the CPU, whatever the device of a session.
        residual_file: Weight file of the residual layer, read when a file has one.
    """

    encoder_id: int
    levels: int
    entropy_model: FrozenEntropyModel
    residual_file: Path

    @classmethod
    def load(cls, path: Path) -> ExactReader:
        """From an encoder's weight file, its tables alone, or from a tables file. Raises WeightsError: missing, or no encoder."""
        with shipped.opened(path, "encoder tables") as (file, data):
            config, given = json.loads(file.metadata()["config"]), file.metadata().get("encoder_id")
            names = [name for name in file.keys() if name.startswith(TABLES)]  # noqa: SIM118
            tables = {name.removeprefix(TABLES): file.get_tensor(name) for name in names}
            found, certain = sizes(config), int(config["certain"])
            check_tables(tables, found)
            if not 0 <= certain <= SCALES:
                raise ValueError(f"certain is {certain}, wanted 0 to {SCALES}")
            own_id = encoder_id(data) if given is None else int(given, 16)
        return cls(
            encoder_id=own_id,
            levels=found.levels,
            entropy_model=FrozenEntropyModel(tables, certain),
            residual_file=path.with_name(RESIDUAL_FILE),
        )

    def read(
        self, data: bytes, *, max_pixels: int = container.MAX_PIXELS
    ) -> tuple[Container, NDArray[np.float32], str]:
        """A file -> its content, y_hat in quantization steps (m, h, w) and its symbols' SHA-256.

        Raises StreamError: damaged, too large, written by another encoder, or without a latent.
        """
        content = self.unpack(data, max_pixels=max_pixels)
        return content, *self.latent(content)

    def unpack(
        self, data: bytes, *, max_pixels: int = container.MAX_PIXELS, layers: Collection[str] | None = None
    ) -> Container:
        """`container.unpack`, and a check that this encoder wrote the file. Raises StreamError."""
        content = container.unpack(data, max_pixels=max_pixels, layers=layers)
        if content.encoder_id != self.encoder_id:
            raise StreamError(
                f"the file was written by encoder {content.encoder_id:08x}, or is damaged; this is encoder "
                f"{self.encoder_id:08x}: get the file again, or use the priorcodec version that ships that encoder"
            )
        if content.quality > self.top:
            raise StreamError(f"quality byte {content.quality} is beyond this encoder's {self.levels} levels")
        return content

    def latent(self, content: Container, *, residual: bool = True) -> tuple[NDArray[np.float32], str]:
        """y_hat in quantization steps (m, h, w), refined by a residual layer if there is one, and the latent symbols' SHA-256.

        Args:
            content: A file of this encoder.
            residual: Whether a residual layer is read at all.

        Raises:
            StreamError: Damaged, or there is no latent.
        """
        if content.string is None:
            raise StreamError("the file has no latent layer: there are no features to read")
        h, w = _grid(content)
        found = self._residual(content) if residual else None
        planes = None if found is None else Planes((self.entropy_model.m, h, w))
        y_hat_q, digest = self.entropy_model.decode(content.string, content.quality, h, w, planes)
        if found is not None and planes is not None:
            settings, string = found
            self.residual_tables.refine(string, y_hat_q, planes, settings)
        return y_hat_q, digest

    def decoder_quality(self, content: Container) -> int:
        """Quality byte that decoders of `latent` are given: higher than the file's where a residual layer says so."""
        found = self._residual(content)
        return content.quality if found is None else min(content.quality + found[0].higher, self.top)

    @property
    def top(self) -> int:
        """Largest quality byte."""
        return (self.levels - 1) * QUALITY_STEPS

    @cached_property
    def residual_tables(self) -> ResidualTables:
        """Of the residual layer. Raises WeightsError: missing, or made for another encoder."""
        tables = ResidualTables(self.residual_file)
        if tables.encoder_id != self.encoder_id:
            raise WeightsError(
                f"the residual layer was made for encoder {tables.encoder_id:08x}, this is {self.encoder_id:08x}: "
                "encode and decode with layers=latent"
            )
        return tables

    def _residual(self, content: Container) -> tuple[Settings, bytes] | None:
        data = content.segment(RESIDUAL)
        return None if data is None else Settings.unpack(data, _grid(content))


def _grid(content: Container) -> tuple[int, int]:
    """Rows and columns of y."""
    height, width = container.padded(content.height, content.width)
    return height // STRIDE, width // STRIDE
