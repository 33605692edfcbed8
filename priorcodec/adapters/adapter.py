"""One backbone's adapter: it turns features of the file into a clean latent with the backbone's help.

    y_hat, quality, preview --bridge--> z_hat --start time t(quality)--> x_t --backbone.predict (LoRA, fusion inside)--> z
                            |-> features --pyramid--> features at the fusion sites
    condition of predict: y_hat --token mapper--> tokens, pooled | preview, its thumbnail, z_hat | features --1x1--> features
    z --backbone.to_pixels--> --residual refiner, with the preview--> image
The only thing trained per backbone. `inject` (to train) and `merge` (to decode) are undone by `eject`, bit for bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from priorcodec.adapters import lora, rules
from priorcodec.adapters.bridge import LatentPredictor, MomentsHead
from priorcodec.adapters.config import AdapterConfig
from priorcodec.adapters.fusion import Fusion, Pyramid, add_to_hidden_state
from priorcodec.adapters.refiner import STRIDE as REFINER_STRIDE
from priorcodec.adapters.refiner import ResidualRefiner
from priorcodec.adapters.tokens import TokenMapper
from priorcodec.backbones.diffusion import sample
from priorcodec.backbones.spec import Backbone, BackboneSpec, Condition, FusionSite, ImageInput
from priorcodec.core.errors import AdapterError, BackboneError, PriorCodecError, out_of_memory
from priorcodec.core.io import atomic
from priorcodec.core.io.names import one_line

MARK = "_priorcodec_adapter"  # on the denoiser while an adapter is attached


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an adapter makes of one batch of files.

    Attributes:
        z_hat: The bridge's latent (b, c, h', w').
        features: The bridge's features (b, width, h', w').
        z: The backbone's clean latent (b, c, h', w').
        mean: Mean that z should have by the adapter's prediction (b, c); None for an adapter that predicts none.
        std: Standard deviation that z should have, likewise.
    """

    z_hat: Tensor
    features: Tensor
    z: Tensor
    mean: Tensor | None
    std: Tensor | None


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What the fusion hooks need to know about one call of the denoiser.

    Attributes:
        adapter: Whose call it is: another adapter's hooks ignore it.
        features: Stride -> features (b, bottleneck, h, w).
        t: Time (b,).
        size: Height and width of the latent.
    """

    adapter: Adapter
    features: dict[int, Tensor]
    t: Tensor
    size: tuple[int, int]


_CALL: ContextVar[_Call | None] = ContextVar("priorcodec_call", default=None)  # each thread has its own


class Adapter(nn.Module):
    """Trainable parts for one backbone. Several threads may call an attached adapter at the same time.

    Adapter(...), fresh                        --inject(backbone)--> LoRA in `lora`, to train --eject--> as before
    open(file), LoRA values in `lora_values`   --merge(backbone)---> LoRA in the weights, to decode --eject--> as before

    Args:
        spec: The backbone.
        config: Sizes, ranks, start times.
        m: Coded channels of the encoder.
        levels: Quality levels of the encoder.
        tiny: Whether it is for the spec's tiny model.

    Attributes:
        lora: LoRA parameters by path while injected for training.
        lora_values: LoRA tensors by path as read from a file, for `merge` and `inject`.
        metadata: What the file it was read from states; empty for a fresh adapter.
        backbone: The backbone it is attached to, or None.
    """

    def __init__(self, spec: BackboneSpec, config: AdapterConfig, *, m: int, levels: int, tiny: bool = False):
        super().__init__()
        self.spec, self.config, self.levels, self.tiny = spec, config, levels, tiny
        self.bridge = LatentPredictor(
            m, levels, spec.latent, width=config.width, depth=config.depth,
            stem_width=config.stem_width, stem_depth=config.stem_depth,
        )  # fmt: skip
        self.counted = rules.tiny_spec(spec) if tiny else spec  # with the counts and widths of the model it is for
        self.sites = self.counted.fusion if config.fusion else ()
        self.pyramid = Pyramid(config.width, config.fusion, [site.stride for site in self.sites])
        self.fusion = nn.ModuleList(
            Fusion(
                site.channels, config.fusion,
                window=config.window, shift=i % 2 * (config.window // 2),
            )
            for i, site in enumerate(self.sites)
        )  # fmt: skip
        self.refiner = (
            ResidualRefiner(config.refiner, config.refiner_depth, config.noise_channels, levels)
            if config.refiner
            else None
        )
        self.tokens = TokenMapper(
            m, levels, config.tokens, spec.token_dim, spec.pooled_dim, spec.more_token_dims, mapped=config.mapper
        )
        self.condition_features = nn.Conv2d(config.width, spec.feature_dim, 1) if spec.feature_dim else None
        self.moments = MomentsHead(config.width, spec.latent.channels) if config.moments else None
        self.lora: dict[str, nn.Parameter] = {}
        self.lora_values: Mapping[str, Tensor] = {}
        self.metadata: Mapping[str, str] = {}
        self.backbone: Backbone | None = None
        self._hooks: list[RemovableHandle] = []
        self._recomputed: _Call | None = None
        self._merged: lora.Merged | None = None

    @classmethod
    def from_pretrained(
        cls,
        location: str | Path,
        *,
        spec: BackboneSpec,
        revision: str | None = None,
        filename: str | None = None,
        encoder: str | Path | None = None,
    ) -> Adapter:
        """Read an adapter, not attached to a backbone yet.

        Args:
            location: A .safetensors file, a folder, or OWNER/REPO on the Hub.
            spec: The backbone it is for, e.g. `open_registry().spec("sdxl")`.
            revision: Commit on the Hub, 40 hex digits.
            filename: Name in the folder or repository, BACKBONE.adapter.safetensors if None.
            encoder: Weight file of an encoder other than the shipped one.

        Raises:
            AdapterError: It cannot be found or downloaded, or belongs to another backbone, revision or encoder.
            WeightsError: The encoder's file cannot be read.
        """
        from priorcodec.adapters import hub
        from priorcodec.core import shipped
        from priorcodec.core.weights import load_encoder

        if not isinstance(spec, BackboneSpec):
            raise AdapterError(f"got spec={spec!r}, wanted a spec, as open_registry().spec(NAME) gives it")
        path = hub.locate(location, filename or hub.file_name(spec.name), revision)
        weights = load_encoder(Path(encoder or shipped.ENCODER))
        shape = weights.transforms.config
        return cls.open(path, spec, encoder_id=weights.id, m=shape.m, levels=shape.levels)

    @classmethod
    def open(cls, path: Path, spec: BackboneSpec, *, encoder_id: int, m: int, levels: int) -> Adapter:
        """Read an adapter file, frozen and not attached yet. No random numbers of the process are used.

        One that a dry run made (`tiny` in its metadata) is for the spec's tiny model.

        Args:
            path: The file.
            spec: The backbone it must be for.
            encoder_id: The encoder it must be for.
            m: Coded channels of that encoder.
            levels: Quality levels of that encoder.

        Raises:
            AdapterError: Not an adapter, or one of another backbone, revision, rule set or encoder, or it does not fit.
        """
        from priorcodec.adapters import file as adapter_file

        file = adapter_file.read(path)
        adapter_file.check(file, spec, encoder_id=encoder_id)
        if file.tiny:
            rules.tiny_spec(spec)  # builds the tiny model, which must have values, and is kept
        with torch.device("meta"):
            adapter = cls(spec, file.config, m=m, levels=levels, tiny=file.tiny)
        adapter_file.check_shapes(file, adapter)
        adapter_file.load(file, adapter)
        return adapter.requires_grad_(False).eval()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the adapter, as it was read and perhaps trained on, to FOLDER/BACKBONE.adapter.safetensors; FOLDER is made.

        Raises:
            AdapterError: It was never read from a file, so that encoder and training are unknown; or a value is not finite.
        """
        from priorcodec.adapters import file as adapter_file
        from priorcodec.adapters import hub

        if "encoder" not in self.metadata:
            raise AdapterError("this adapter has no description yet: write it with `adapters.file.save`")
        path = Path(folder) / hub.file_name(self.spec.name)
        atomic.make_folder(path.parent)
        adapter_file.save(self, path, encoder_id=int(self.metadata["encoder"], 16), metadata=self.metadata)
        return path

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, branch: str = "main", commit_message: str | None = None
    ) -> str:
        """Upload the adapter and its card in one commit.

        Args:
            repo_id: OWNER/REPO, made if it does not exist.
            private: Whether a new repository is private.
            branch: Made if it does not exist.
            commit_message: Summary of the commit.

        Returns:
            The commit, 40 hex digits, as `from_pretrained(revision=...)` takes it.

        Raises:
            AdapterError: As `save_pretrained`; it is of a dry run; or the Hub did not take it.
        """
        from priorcodec.adapters import card, hub

        with tempfile.TemporaryDirectory() as folder:
            file = self.save_pretrained(folder)
            page = card.publishable(file, file.parent)
            return hub.upload(file, page, repo_id, private=private, branch=branch, message=commit_message)

    def inject(self, backbone: Backbone) -> None:
        """Attach to a backbone built from `spec`, to train: LoRA by peft, with the values of `lora_values` if there are any.

        Raises:
            AdapterError: It is attached already, the backbone carries another adapter, or peft is not installed.
            BackboneError: The LoRA rules or fusion sites do not fit the module tree.
        """
        ranks = self._ranks(backbone)
        self.lora = lora.inject(backbone.module, ranks)
        if self.lora_values:
            try:
                lora.load(self.lora, self.lora_values)
            except AdapterError:
                lora.eject(backbone.module)
                self.lora = {}
                raise
        self._attach(backbone)

    def merge(self, backbone: Backbone, *, keep: bool = True) -> None:
        """Attach to a backbone built from `spec`, to decode: the LoRA of `lora_values` is added to the weights.

        Args:
            backbone: Not attached to any adapter.
            keep: Keep the weights that are replaced, so that `eject` can restore them; it takes their memory twice.

        Raises:
            AdapterError: It is attached already, the backbone carries another adapter, or the LoRA does not fit.
            BackboneError: The LoRA rules or fusion sites do not fit the module tree.
        """
        ranks = self._ranks(backbone)
        self._merged = lora.merge(backbone.module, ranks, self.lora_values, keep=keep)
        self._attach(backbone)

    def eject(self) -> None:
        """Detach; the backbone is bit for bit what it was.

        Raises:
            AdapterError: Not attached, or merged without keeping the weights.
        """
        module = self.attached.module
        if self._merged is not None:
            lora.unmerge(module, self._merged)
            self._merged = None
        else:
            lora.eject(module)
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._recomputed = [], None
        delattr(module, MARK)
        object.__setattr__(self, "backbone", None)
        self.lora = {}

    def _ranks(self, backbone: Backbone) -> dict[str, int]:
        """Module path -> LoRA rank. Raises AdapterError: not free; BackboneError: rules or sites do not fit."""
        if self.backbone is not None:
            raise AdapterError(f"this adapter is attached to a {self.spec.name} already: eject it first")
        if MARK in vars(backbone.module):
            raise AdapterError(f"this {self.spec.name} carries an adapter already: eject that one first")
        lora.check_free(backbone.module)
        ranks = rules.match(self.counted.lora, backbone.module)
        if self.config.lora_rank is not None:
            ranks = {name: self.config.lora_rank for name in ranks if self.config.lora_rank > 0}
        missing = {site.module for site in self.sites} - {name for name, _ in backbone.module.named_modules()}
        if missing:
            raise BackboneError(f"{self.spec.name} has no module {min(missing)}: correct the fusion site")
        return ranks

    def _attach(self, backbone: Backbone) -> None:
        for site, fusion in zip(self.sites, self.fusion, strict=True):
            module = backbone.module.get_submodule(site.module)
            self._hooks.append(module.register_forward_hook(partial(self._fuse, site, fusion)))
        setattr(backbone.module, MARK, True)
        object.__setattr__(self, "backbone", backbone)  # not one of our submodules

    def trainable(self) -> list[nn.Parameter]:
        """Everything a trainer may touch, in a stable order."""
        return [*self.parameters(), *self.lora.values()]

    def start_time(self, quality: Tensor) -> Tensor:
        """quality (b,) in levels -> pseudo-timestep t (b,): a coarser file's latent is taken to be noisier."""
        low, high = self.config.start
        return torch.lerp(torch.full_like(quality, low), torch.full_like(quality, high), quality / (self.levels - 1))

    def forward(
        self,
        y_hat: Tensor,
        quality: Tensor,
        preview: Tensor,
        *,
        steps: int = 1,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Estimate:
        """y_hat (b, m, h, w), quality (b,), preview (b, 3, 16h, 16w) -> the latent and its predicted moments.

        steps: calls of the denoiser, 1 to 8; noise: as `backbones.diffusion.sample` wants it for more than one step.
        """
        z_hat, features = self.bridge(y_hat, quality, preview)
        levels = self.pyramid(features)
        condition = self.condition(y_hat, quality, preview, z_hat, features)

        def predict(x_t: Tensor, t: Tensor) -> Tensor:
            height, width = x_t.shape[-2:]
            call = _Call(adapter=self, features=levels, t=t, size=(height, width))
            if torch.is_grad_enabled():  # gradient checkpointing calls the layers again later, maybe in another thread
                self._recomputed = call
            before = _CALL.set(call)
            try:
                return self._ask("predict", x_t, t, condition, shape=x_t.shape)
            finally:
                _CALL.reset(before)

        def alpha_bar(t: Tensor) -> Tensor:
            return self._ask("alpha_bar", t, shape=t.shape)

        t, kind = self.start_time(quality), self.spec.prediction
        z = sample(predict, alpha_bar, kind, z_hat, t, steps=steps, noise=noise)
        mean, std = (None, None) if self.moments is None else self.moments(z_hat, features)
        return Estimate(z_hat=z_hat, features=features, z=z, mean=mean, std=std)

    def condition(self, y_hat: Tensor, quality: Tensor, preview: Tensor, z_hat: Tensor, features: Tensor) -> Condition:
        """What the spec asks for, from the arguments of `forward` and what the bridge made of them."""
        wanted, stride = self.spec.image_inputs, self.spec.latent.stride
        tokens, more, pooled = self.tokens(y_hat, quality)
        return Condition(
            tokens=tokens,
            more_tokens=more,
            pooled=pooled,
            preview=preview if ImageInput.PREVIEW in wanted else None,
            thumbnail=F.avg_pool2d(preview, stride) if ImageInput.THUMBNAIL in wanted else None,
            latent=z_hat if ImageInput.LATENT in wanted else None,
            features=None if self.condition_features is None else self.condition_features(features),
        )

    def to_pixels(self, z: Tensor, quality: Tensor, preview: Tensor, noise: Tensor | None = None) -> Tensor:
        """z (b, c, h', w'), quality (b,) and preview (b, 3, H, W), as `forward` had them -> images, float32, not clamped.

        noise: standard normal (b, *noise_shape(H, W)), what texture is made of; None for none.
        """
        x = self._ask("to_pixels", z, shape=preview.shape)
        return self.finish(x.float(), quality, preview, noise)

    def _ask(self, method: str, *args: Any, shape: torch.Size) -> Tensor:
        """What a method of the backbone gives. Raises BackboneError: an exception of its own, or no tensor of this shape."""
        try:
            answer = getattr(self.attached, method)(*args)
        except Exception as error:
            if isinstance(error, PriorCodecError | FloatingPointError) or out_of_memory(error):
                raise
            raised = f"{type(error).__name__}: {one_line(error)}"
            raise BackboneError(f"{self.spec.name}: {method}() raised {raised}") from error
        if not isinstance(answer, Tensor) or answer.shape != shape:
            got = f"a tensor of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            raise BackboneError(f"{self.spec.name}: {method}() gave {got}, wanted a tensor of shape {tuple(shape)}")
        return answer

    def finish(self, x: Tensor, quality: Tensor, preview: Tensor, noise: Tensor | None = None) -> Tensor:
        """The backbone's own images x (b, 3, H, W) -> refined; other arguments as for `to_pixels`."""
        return x if self.refiner is None else self.refiner(x, preview, quality, noise)

    def _fuse(self, site: FusionSite, fusion: nn.Module, module: nn.Module, args: Any, output: Any) -> Any:
        """Forward hook of one site; outside our own `forward` the denoiser answers as if there were no hook."""
        call = _CALL.get()
        if call is None and torch._C._current_graph_task_id() != -1:  # recomputed inside a backward pass
            call = self._recomputed
        if call is None or call.adapter is not self:
            return None
        return add_to_hidden_state(
            output, lambda hidden: fusion(hidden, call.features[site.stride], call.t), site, call.size
        )

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of the noise that `to_pixels` takes: (channels, height / 4, width / 4), 0 channels for none."""
        return (
            0 if self.refiner is None else self.config.noise_channels,
            height // REFINER_STRIDE,
            width // REFINER_STRIDE,
        )

    @property
    def attached(self) -> Backbone:
        """The backbone. Raises AdapterError when there is none."""
        if self.backbone is None:
            raise AdapterError(f"this adapter is not attached: inject it into a {self.spec.name} first")
        return self.backbone
