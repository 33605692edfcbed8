"""Builds a latent diffusion model from diffusers' own classes: from a folder in Hub layout, or the architecture alone.

denoiser's folder -> denoiser | autoencoder's -> autoencoder | scheduler's -> alpha_bar, as the spec names them; no text encoder
Each part's plain safetensors, or its half-precision ones (variant "fp16") where there are no others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec import BackboneSpec, LatentSpace, Prediction, WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from priorcodec.backbones.builtin._latent_diffusion import LatentDiffusion

DENOISER_CLASS = {"unet": "UNet2DConditionModel", "transformer": "PixArtTransformer2DModel"}
PREDICTION_NAMES = {"epsilon": Prediction.NOISE, "v_prediction": Prediction.VELOCITY, "sample": Prediction.SAMPLE}
STAGES = 4  # of the autoencoder: 3 halvings, stride 8


@dataclass(frozen=True, kw_only=True)
class Model:
    """Constructor arguments of the diffusers classes, as in the config files on the Hub.

    denoiser, autoencoder, scheduler: keyword arguments; predict: (denoiser, x_t, t, tokens, pooled) -> output;
    identity: denoiser settings that tell this model from its relatives, checked when a folder is loaded;
    fp16_autoencoder: False for an autoencoder that overflows in float16 and is kept in float32 then.
    """

    denoiser: Mapping[str, Any]
    autoencoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    predict: Callable[..., Tensor]
    identity: tuple[str, ...]
    fp16_autoencoder: bool = True


def autoencoder(
    *, scale: float, size: int, widths: tuple[int, ...] = (128, 256, 512, 512), **more: Any
) -> dict[str, Any]:
    """AutoencoderKL of Rombach et al. 2022 (stride 8, 4 channels); all six models have it, in two sets of weights."""
    return {
        "down_block_types": ("DownEncoderBlock2D",) * STAGES,
        "up_block_types": ("UpDecoderBlock2D",) * STAGES,
        "block_out_channels": widths,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": size,
        "scaling_factor": scale,
        **more,
    }


def tiny_autoencoder(scale: float) -> dict[str, Any]:
    """The same, tiny."""
    return autoencoder(scale=scale, size=64, widths=(8, 8, 8, 8), norm_num_groups=4) | {"layers_per_block": 1}


def latent_space(scale: float) -> LatentSpace:
    """That autoencoder's. No statistics per channel are published; `scale` was chosen to give z a spread near 1."""
    return LatentSpace(channels=4, stride=8, scale=scale, mean=(0.0,) * 4, std=(1.0,) * 4)


def load(spec: BackboneSpec, model: Model, weights: Path | None, *, dtype: torch.dtype) -> LatentDiffusion:
    """The backbone from a diffusers folder, or with torch's fresh weights (also on the meta device) for `weights=None`.

    Raises:
        WeightsError: not a folder, files missing or unreadable, pickles only, or another model than `spec` names.
    """
    import diffusers
    import torch

    from priorcodec.backbones.builtin._latent_diffusion import LatentDiffusion

    classes: Any = diffusers  # it fills its namespace lazily, unseen by type checkers
    kind = getattr(classes, DENOISER_CLASS[spec.denoiser_subfolder])
    vae_dtype = torch.float32 if dtype is torch.float16 and not model.fp16_autoencoder else dtype
    if weights is None:
        # torch's own `to`: the one of diffusers warns each time, even about nothing
        denoiser = torch.nn.Module.to(kind(**model.denoiser), dtype=dtype)
        vae = torch.nn.Module.to(classes.AutoencoderKL(**model.autoencoder), dtype=vae_dtype)
        scheduler = classes.DDPMScheduler(**model.scheduler)
    else:
        denoiser = _read(spec, kind, weights / spec.denoiser_subfolder, dtype)
        vae = _read(spec, classes.AutoencoderKL, weights / spec.autoencoder_subfolder, vae_dtype)
        scheduler = _read(spec, classes.DDPMScheduler, weights / spec.scheduler_subfolder, None)
        _check_identity(spec, model, weights, denoiser, vae, scheduler)
    return LatentDiffusion(denoiser, vae, scheduler.alphas_cumprod, spec.latent, model.predict)


def load_tiny(spec: BackboneSpec, model: Model) -> LatentDiffusion:
    """The same classes with tiny widths and the same random weights every time."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone: `torch.manual_seed` seeds every GPU too
        return load(spec, model, None, dtype=torch.float32)


def _read(spec: BackboneSpec, kind: Any, folder: Path, dtype: torch.dtype | None) -> Any:
    if not folder.is_dir():
        raise WeightsError(
            f"{spec.name}: {folder.parent} has no folder {folder.name!r}; wanted a diffusers copy of {spec.source}"
        )
    options = {"local_files_only": True}
    if dtype is not None:
        options |= {
            "torch_dtype": dtype,
            "use_safetensors": True,
            "low_cpu_mem_usage": True,
            "variant": _variant(folder),
        }
    try:
        with _quiet_diffusers():
            return kind.from_pretrained(folder, **options)
    # No safetensors, damaged ones, a bad config, wrong shapes: diffusers has a dozen classes for it.
    except Exception as exc:
        reason = " ".join(str(exc).split())[:200]
        raise WeightsError(
            f"{spec.name}: {folder} cannot be read as {kind.__name__} from safetensors: {reason}"
        ) from exc


def _variant(folder: Path) -> str | None:
    """ "fp16" if `folder` holds no weights but those of `save_pretrained(variant="fp16")`, in one file or sharded."""
    plain = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
    half = ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json")
    if any((folder / name).exists() for name in plain):
        return None
    return "fp16" if any((folder / name).exists() for name in half) else None


@contextlib.contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Silences diffusers about keys it no longer knows: config files on the Hub are older than the classes."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_identity(spec: BackboneSpec, model: Model, folder: Path, denoiser: Any, vae: Any, scheduler: Any) -> None:
    got = {key: denoiser.config[key] for key in model.identity} | {
        "scaling_factor": vae.config.scaling_factor,
        "prediction": PREDICTION_NAMES.get(scheduler.config.prediction_type),
    }
    wanted = {key: model.denoiser[key] for key in model.identity} | {
        "scaling_factor": spec.latent.scale,
        "prediction": spec.prediction,
    }
    wrong = [f"{key} {got[key]} instead of {wanted[key]}" for key in got if got[key] != wanted[key]]
    if wrong:
        raise WeightsError(f"{spec.name}: {folder} holds another model ({', '.join(wrong)}); wanted {spec.source}")
