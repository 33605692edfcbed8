"""The exact part of decoding, a file -> its symbols, with numpy alone: what every reader must agree on. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from priorcodec.core import container, shipped
from priorcodec.core.container import Container
from priorcodec.core.entropy.frozen import FrozenEntropyModel
from priorcodec.core.entropy.tables import QUALITY_STEPS, SCALES, Sizes, check_tables
from priorcodec.core.errors import StreamError, WeightsError

STRIDE = 16  # pixels to a position of y
MOST_GROUPS = 16
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
        encoder_id: whose files it reads.
        levels: of quality.
        entropy_model: on the CPU, whatever the device of a session.
    """

    encoder_id: int
    levels: int
    entropy_model: FrozenEntropyModel

    @classmethod
    def load(cls, path: Path) -> ExactReader:
        """From an encoder's weight file, its tables alone, or from a tables file. Raises WeightsError: missing, or no encoder."""
        from safetensors import SafetensorError, safe_open

        try:
            data = path.read_bytes()
            with safe_open(path, framework="numpy") as file:
                config, given = json.loads(file.metadata()["config"]), file.metadata().get("encoder_id")
                names = [name for name in file.keys() if name.startswith(TABLES)]  # noqa: SIM118
                tables = {name.removeprefix(TABLES): file.get_tensor(name) for name in names}
            found, certain = sizes(config), int(config["certain"])
            check_tables(tables, found)
            if not 0 <= certain <= SCALES:
                raise ValueError(f"certain is {certain}, wanted 0 to {SCALES}")
            own_id = encoder_id(data) if given is None else int(given, 16)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"{path} is no readable encoder ({reason}): reinstall priorcodec") from error
        shipped.verify(path, data)
        return cls(encoder_id=own_id, levels=found.levels, entropy_model=FrozenEntropyModel(tables, certain))

    def read(
        self, data: bytes, *, max_pixels: int = container.MAX_PIXELS, layers: Collection[str] | None = None
    ) -> tuple[Container, NDArray[np.float32], str]:
        """A file -> its content, y_hat in quantization steps (m, h, w) and its symbols' SHA-256; layers: see `container.unpack`.

        Raises StreamError: damaged, too large, written by another encoder, or without a latent.
        """
        content = container.unpack(data, max_pixels=max_pixels, layers=layers)
        if content.encoder_id != self.encoder_id:
            raise StreamError(
                f"the file was written by encoder {content.encoder_id:08x}, or is damaged; this is encoder "
                f"{self.encoder_id:08x}: get the file again, or use the priorcodec version that ships that encoder"
            )
        if content.quality > (self.levels - 1) * QUALITY_STEPS:
            raise StreamError(f"quality byte {content.quality} is beyond this encoder's {self.levels} levels")
        if content.string is None:
            raise StreamError("the file has no latent layer: there are no features to read")
        h, w = (side // STRIDE for side in container.padded(content.height, content.width))
        return content, *self.entropy_model.decode(content.string, content.quality, h, w)
