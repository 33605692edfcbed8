"""The settings an adapter is built from: sizes of its parts, validated on construction, since a file may hold any value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from priorcodec.adapters.fusion import HEAD
from priorcodec.core.errors import AdapterError

if TYPE_CHECKING:
    pass

SIZES = (
    ("width", 1, 4096),
    ("depth", 0, 64),
    ("fine_width", 1, 4096),
    ("fine_depth", 0, 64),
    ("fusion", 0, 4096),
    ("window", 1, 64),
    ("detail", 0, 4096),
    ("detail_depth", 0, 64),
    ("grain", 0, 64),
    ("tokens", 1, 1024),
    ("lora_rank", 0, 1024),
)  # name, least, most


LATER = {
    "detail": 0,
    "detail_depth": 2,
    "grain": 0,
}  # what came after the first files of this kind, and what those have


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Shape of an adapter.

    width, depth: channels and blocks of the bridge on the latent grid; fine_*: at half that stride; fusion: channels of the
    attentive fusion's bottleneck, 0 for no fusion; window: of its attention, in positions; detail, detail_depth: channels and
    blocks of what adds the preview's detail to the image, 0 channels for nothing; grain: channels of noise that detail makes
    texture of; tokens: vectors that stand where text stood; mapper: whether they depend on the file; statistics: whether the
    latent's are predicted, for renormalization; start: pseudo-timestep at the lowest and the highest quality; lora_rank: the
    rules' own ranks (None), one rank for all, or 0 for no LoRA.
    """

    width: int = 192
    depth: int = 3
    fine_width: int = 96
    fine_depth: int = 1
    fusion: int = 0
    window: int = 8
    detail: int = 64
    detail_depth: int = 4
    grain: int = 4
    tokens: int = 8
    mapper: bool = False
    statistics: bool = True
    start: tuple[float, float] = (250.0, 80.0)
    lora_rank: int | None = None

    def __post_init__(self) -> None:
        """Raises AdapterError: a field of the wrong type or beyond any use (a stranger's file may say anything)."""
        for name, low, high in SIZES:
            value = getattr(self, name)
            if not (type(value) is int and low <= value <= high or name == "lora_rank" and value is None):
                raise AdapterError(f"adapter setting {name} is {value!r}, wanted a whole number from {low} to {high}")
        if self.fusion > HEAD and self.fusion % HEAD:
            raise AdapterError(f"adapter setting fusion is {self.fusion}, wanted at most {HEAD} or a multiple of it")
        for name in ("mapper", "statistics"):
            if type(getattr(self, name)) is not bool:
                raise AdapterError(f"adapter setting {name} is {getattr(self, name)!r}, wanted true or false")
        if len(self.start) != 2 or not all(type(t) in (int, float) and 0 <= t <= 999 for t in self.start):
            raise AdapterError(f"adapter setting start is {self.start!r}, wanted two times from 0 to 999")
