"""One backbone's adapter: it turns features of the file into a clean latent with the backbone's help.

    y_hat, quality, preview --bridge--> z_hat --start time t(quality)--> x_t --backbone.predict (LoRA inside, learned tokens)--> z
The only thing trained per backbone. `inject` and `eject` are inverses; the backbone's own weights never change.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from priorcodec.adapters import lora, rules
from priorcodec.adapters.bridge import LatentBridge
from priorcodec.adapters.checkpoint import AdapterConfig
from priorcodec.core.contract import Backbone, BackboneSpec
from priorcodec.core.errors import AdapterError
from priorcodec.core.sampler import one_step

MARK = "_priorcodec_adapter"  # on the denoiser while an adapter is attached


class Adapter(nn.Module):
    """Trainable parts for one backbone.

    Args:
        spec: the backbone; config: sizes, ranks, start times; m, levels: the encoder's coded channels and levels.
    """

    def __init__(self, spec: BackboneSpec, config: AdapterConfig, *, m: int, levels: int):
        super().__init__()
        self.spec, self.config, self.levels = spec, config, levels
        self.bridge = LatentBridge(
            m, levels, spec.latent, width=config.width, depth=config.depth,
            fine_width=config.fine_width, fine_depth=config.fine_depth,
        )  # fmt: skip
        self.tokens = nn.Parameter(0.02 * torch.randn(1, config.tokens, spec.token_dim))
        self.pooled = nn.Parameter(torch.zeros(1, spec.pooled_dim)) if spec.pooled_dim else None
        self.lora: dict[str, nn.Parameter] = {}
        self.backbone: Backbone | None = None
        self._unmerged: dict[str, Tensor] | None = None

    def inject(self, backbone: Backbone, *, tiny: bool = False) -> None:
        """Attach to a backbone built from `spec` (tiny: by its `build_tiny`).

        Raises:
            AdapterError: attached already, or another adapter is.
            BackboneError: the LoRA rules do not fit the module tree.
        """
        if self.backbone is not None:
            raise AdapterError(f"this adapter is attached to a {self.spec.name} already: eject it first")
        if MARK in vars(backbone.module):
            raise AdapterError(f"this {self.spec.name} carries an adapter already: eject that one first")
        lora.check_free(backbone.module)
        ranks = rules.match(self.spec.lora, backbone.module, tiny=tiny)
        if self.config.lora_rank is not None:
            ranks = {name: self.config.lora_rank for name in ranks if self.config.lora_rank > 0}
        self.lora = lora.inject(backbone.module, ranks)
        setattr(backbone.module, MARK, True)
        object.__setattr__(self, "backbone", backbone)  # a guest, not one of our submodules

    def eject(self) -> None:
        """Detach; the backbone is bit for bit what it was. Raises AdapterError when not attached."""
        module = self.attached.module
        if self._unmerged is not None:
            self.unmerge()
        lora.eject(module)
        delattr(module, MARK)
        object.__setattr__(self, "backbone", None)
        self.lora = {}

    def merge(self) -> None:
        """Add LoRA into the backbone's weights: faster, no longer trainable, at the price of a copy of those weights.

        Raises:
            AdapterError: not attached, or merged already.
        """
        if self._unmerged is not None:
            raise AdapterError("this adapter is merged already: unmerge it first")
        self._unmerged = lora.merge(self.attached.module)

    def unmerge(self) -> None:
        """Undo `merge`, bit for bit. Raises AdapterError when not merged."""
        if self._unmerged is None:
            raise AdapterError("this adapter is not merged: there is nothing to undo")
        lora.unmerge(self.attached.module, self._unmerged)
        self._unmerged = None

    def trainable(self) -> list[nn.Parameter]:
        """Everything a trainer may touch, in a stable order."""
        return [*self.parameters(), *self.lora.values()]

    def start_time(self, quality: Tensor) -> Tensor:
        """quality (b,) in levels -> pseudo-timestep t (b,): a coarser file's latent is taken to be noisier."""
        low, high = self.config.start
        return torch.lerp(torch.full_like(quality, low), torch.full_like(quality, high), quality / (self.levels - 1))

    def forward(self, y_hat: Tensor, quality: Tensor, preview: Tensor) -> tuple[Tensor, Tensor]:
        """y_hat (b, m, h, w), quality (b,), preview (b, 3, 16h, 16w) -> (z_hat of the bridge, clean latent z), each
        (b, c, h', w')."""
        backbone = self.attached
        z_hat = self.bridge(y_hat, quality, preview)
        tokens = self.tokens.expand(len(y_hat), -1, -1)
        pooled = None if self.pooled is None else self.pooled.expand(len(y_hat), -1)
        z = one_step(
            lambda x_t, t: backbone.predict(x_t, t, tokens, pooled),
            backbone.alpha_bar, self.spec.prediction, z_hat, self.start_time(quality),
        )  # fmt: skip
        return z_hat, z

    @property
    def attached(self) -> Backbone:
        """The backbone. Raises AdapterError when there is none."""
        if self.backbone is None:
            raise AdapterError(f"this adapter is not attached: inject it into a {self.spec.name} first")
        return self.backbone
