"""The settings an adapter is built from: sizes of its parts, validated on construction, since a file may hold any value."""

from __future__ import annotations

from dataclasses import dataclass

from priorcodec.adapters.fusion import HEAD
from priorcodec.core.errors import AdapterError

SIZES = (  # name, least, most
    ("width", 1, 4096),
    ("depth", 0, 64),
    ("stem_width", 1, 4096),
    ("stem_depth", 0, 64),
    ("fusion", 0, 4096),
    ("window", 1, 64),
    ("refiner", 0, 4096),
    ("refiner_depth", 0, 64),
    ("noise_channels", 0, 64),
    ("tokens", 1, 1024),
    ("lora_rank", 0, 1024),
)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Shape of an adapter.

    Attributes:
        width: Channels of the bridge on the latent grid.
        depth: Residual blocks of the bridge on the latent grid.
        stem_width: Channels of the bridge at half the latent's stride.
        stem_depth: Residual blocks of the bridge at half the latent's stride.
        fusion: Channels of the attentive fusion's bottleneck, 0 for no fusion.
        window: Side of the attentive fusion's windows, in positions.
        refiner: Channels of the residual refiner, 0 for none.
        refiner_depth: Residual blocks of the residual refiner.
        noise_channels: Channels of the noise that the residual refiner makes texture from, 0 for none.
        tokens: Number of conditioning tokens.
        mapper: Whether the tokens depend on the file.
        moments: Whether the latent's mean and standard deviation are predicted, for renormalization.
        start: Start time at the lowest and at the highest quality, 0 to 999.
        lora_rank: One rank for all LoRA modules, 0 for no LoRA, None for the ranks of the spec's rules.

    Raises:
        AdapterError: A field has the wrong type or an impossible value.
    """

    width: int = 96
    depth: int = 2
    stem_width: int = 48
    stem_depth: int = 1
    fusion: int = 64
    window: int = 8
    refiner: int = 32
    refiner_depth: int = 2
    noise_channels: int = 4
    tokens: int = 16
    mapper: bool = True
    moments: bool = True
    start: tuple[float, float] = (300.0, 40.0)
    lora_rank: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in SIZES:
            value = getattr(self, name)
            if not (type(value) is int and low <= value <= high or name == "lora_rank" and value is None):
                raise AdapterError(f"adapter setting {name} is {value!r}, wanted a whole number from {low} to {high}")
        if self.fusion > HEAD and self.fusion % HEAD:
            raise AdapterError(f"adapter setting fusion is {self.fusion}, wanted at most {HEAD} or a multiple of it")
        for name in ("mapper", "moments"):
            if type(getattr(self, name)) is not bool:
                raise AdapterError(f"adapter setting {name} is {getattr(self, name)!r}, wanted true or false")
        if len(self.start) != 2 or not all(type(t) in (int, float) and 0 <= t <= 999 for t in self.start):
            raise AdapterError(f"adapter setting start is {self.start!r}, wanted two times from 0 to 999")
