"""A small pixel-space backbone and its adapter on one GPU: first the denoiser alone, then, frozen, its adapter on the file.

    python3 -m recipes.gpu.decoder nano_pixel PACK SNAPSHOT OUT --denoise-minutes 4 --max-minutes 9
PACK is what recipes/gpu/pack.py wrote (with NAME.safetensors and NAME.adapter-state.safetensors in it, training goes on from
them), SNAPSHOT the file that recipes.gpu.encoder writes beside this run (or PACK's own start if
there is none). OUT receives NAME.safetensors (fp16), NAME.adapter-state.safetensors and NAME.txt.

1. Denoiser: noisy image, time and tokens of the image (a small network that is thrown away) -> image. Squared error of the
   velocity, and the ensemble of feature networks where little noise is left (as PixelGen, 2026).
2. Adapter: the same losses as recipes/encoder2 on the decoded image, later a projected critic (Sauer et al., NeurIPS 2021)
   conditioned on the preview (Yan et al., ICML 2021).
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import priorcodec
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.adapters.tokens import TokenMapper
from priorcodec.backbones.diffusion import add_noise, to_sample
from priorcodec.core.precision import autocast
from priorcodec.core.transforms import EncoderConfig
from priorcodec.training import losses
from recipes.encoder2.transforms import ImageEncoder2
from recipes.gpu.common import (
    Average,
    Ensemble,
    Images,
    Log,
    build_backbone,
    load_features,
    load_vgg,
    minutes,
    optimize,
    schedule,
)
from recipes.gpu.encoder import initial

SIZES = {"nano_pixel": AdapterConfig(), "nano_dit": AdapterConfig()}


class Condition(nn.Module):
    """Images -> tokens as an adapter will make them; only while the denoiser is trained."""

    def __init__(self, tokens: int, dim: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(16), nn.Conv2d(768, 192, 1), nn.GELU(), nn.Conv2d(192, 128, 3, padding=1), nn.GELU(),
        )  # fmt: skip
        self.mapper = TokenMapper(128, 2, tokens, dim, 0, mapped=True)
        assert self.mapper.out is not None  # for the type checker: the width is not 0
        nn.init.normal_(self.mapper.out.weight, std=0.02)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        tokens, base = self.mapper(self.stem(x), torch.zeros(len(x), device=x.device))[0], self.mapper.base
        assert tokens is not None and base is not None  # for the type checker: the width is not 0
        return torch.where(keep[:, None, None], tokens, base)


class Critic(nn.Module):
    """One small head with spectral norm for each of Lite0's strides, on features of the image beside those of the preview."""

    def __init__(self, channels: list[int], width: int = 96):
        super().__init__()
        norm = torch.nn.utils.parametrizations.spectral_norm
        self.heads = nn.ModuleList(
            nn.Sequential(
                norm(nn.Conv2d(2 * c, width, 1)), nn.LeakyReLU(0.2),
                norm(nn.Conv2d(width, width, 3, padding=1)), nn.LeakyReLU(0.2),
                norm(nn.Conv2d(width, 1, 3, padding=1)),
            )
            for c in channels
        )  # fmt: skip

    def forward(self, features: list[Tensor], preview: list[Tensor]) -> list[Tensor]:
        return [
            head(torch.cat([f.float(), p.float()], 1)) for head, f, p in zip(self.heads, features, preview, strict=True)
        ]


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("name", choices=tuple(SIZES))
    p.add_argument("pack", type=Path)
    p.add_argument("snapshot", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--denoise-minutes", type=float, default=4.0, help="until when the denoiser is trained")
    p.add_argument("--adapter-from", type=float, default=0.0, help="wait until then before the adapter")
    p.add_argument("--max-minutes", type=float, default=9.0, help="hard stop, from the start of the process to its end")
    p.add_argument("--device", default="cuda")
    p.add_argument("--batch", type=int, default=24)
    p.add_argument("--adapter-batch", type=int, default=16)
    p.add_argument("--crop", type=int, default=256)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--adapter-lr", type=float, default=5e-4)
    p.add_argument("--repetition", type=float, default=20.0, help="2 left dots on flat areas")
    p.add_argument(
        "--adversarial", type=float, default=0.0, help="of the critic; 0.05 without more repetition made dots"
    )
    p.add_argument("--critic-from", type=float, default=0.4, help="share of the adapter's time before the critic")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--limit", type=int, help="use only so many images of each file (to rehearse)")
    return p.parse_args()


def main() -> None:
    a = arguments()
    device = torch.device(a.device)
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(a.seed)
    earlier = a.pack / f"{a.name}.safetensors"  # go on from there
    spec, backbone = build_backbone(a.name, earlier if earlier.exists() else None)
    if not earlier.exists():
        start_fresh(backbone.module)
    backbone = backbone.to(device)
    log = Log(a.out / f"{a.name}.txt")
    log.say(f"# {a}")
    images = Images(sorted(a.pack.glob("images*.tar")), device, limit=a.limit)
    log.say(f"# {minutes():.2f} min: {len(images.images)} images on {device}")
    ensemble = Ensemble(
        load_features(a.pack / "features.safetensors"), load_vgg(a.pack / "vgg.safetensors"), side=224
    ).to(device)
    condition = Condition(SIZES[a.name].tokens, spec.token_dim).to(device)
    train_denoiser(a, spec, backbone, condition, images, ensemble, log)
    state = {k: v.half() for k, v in backbone.module.state_dict().items()}
    backbone.module.load_state_dict({k: v.float() for k, v in state.items()})  # what follows sees what is shipped
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, a.out / f"{a.name}.safetensors")
    while minutes() < a.adapter_from:
        time.sleep(0.5)
    train_adapter(a, spec, backbone, condition.mapper, images, ensemble, log)


def train_denoiser(a, spec, backbone: Any, condition: Condition, images: Images, ensemble, log: Log) -> None:
    module = backbone.module.train().requires_grad_(True)
    parameters = [*module.parameters(), *condition.parameters()]
    opt = torch.optim.AdamW(parameters, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=a.device == "cuda")
    average = Average(module.state_dict(), 0.999)
    generator, rng = torch.Generator().manual_seed(a.seed), random.Random(a.seed)
    step, began = 0, minutes()
    while minutes() < a.denoise_minutes:
        done = (minutes() - began) / (a.denoise_minutes - began)
        for group in opt.param_groups:
            group["lr"] = a.lr * min(1, (step + 1) / 200) * schedule(done, 0.3)
        b = a.batch
        x = images.batch(b, a.crop, generator, rng, 0.15)
        t = ((torch.arange(b, device=x.device) + torch.rand(1, device=x.device)) * (999 / b)).clamp(max=999.0)
        alpha, z = backbone.alpha_bar(t), backbone.to_latents(x)
        x_t = add_noise(z, torch.randn_like(z), alpha)
        if hasattr(module, "pos_embed"):
            module.pos_embed.origin = (rng.randrange(240), rng.randrange(240))
        with autocast(x.device):
            tokens = condition(x, torch.rand(b, device=x.device) > 0.1)
            output = backbone.predict(x_t, t, priorcodec.Condition(tokens=tokens))
        z_0 = to_sample(output.float(), x_t, alpha, spec.prediction)
        error = (z_0 - z).square().mean((1, 2, 3))
        velocity = (error / (1 - alpha).clamp(min=0.05)).mean()
        d, _, _ = ensemble(backbone.to_pixels(z_0), x, ensemble.view(x, rng))
        perceptual = (alpha * d).mean()
        loss = velocity + 0.5 * perceptual
        optimize(opt, loss, parameters)
        step += 1
        average.update(module.state_dict())
        log.add(loss=loss, velocity=velocity, d=d.mean(), mse=error.mean())
        if step % (100 if a.device == "cuda" else 2) == 0:
            log.flush(f"denoiser {step} {minutes():.2f} min")
    module.load_state_dict(average.tensors)
    if hasattr(module, "pos_embed"):
        module.pos_embed.origin = (0, 0)
    module.eval().requires_grad_(False)
    log.flush(f"denoiser {step} {minutes():.2f} min")
    log.say(f"# {minutes():.2f} min: denoiser done, {step} steps")


def start_fresh(module: nn.Module) -> None:
    """Last layers at zero, so that every block starts as the identity."""
    for name, layer in module.named_modules():
        if name.endswith((".project", "to_out.0", "net.2")) or name in ("tail", "proj_out"):
            nn.init.zeros_(layer.weight)  # pyright: ignore
            nn.init.zeros_(layer.bias)  # pyright: ignore
    for name, parameter in module.named_parameters():
        if name.endswith("scale_shift_table") and len(parameter) in (3, 6):
            with torch.no_grad():
                parameter.zero_()
                parameter[2::3] = 1.0  # gates


def train_adapter(a, spec, backbone: Any, mapper: TokenMapper, images: Images, ensemble, log: Log) -> None:
    encoder = ImageEncoder2(EncoderConfig())
    encoder.load_state_dict(initial(a.pack))
    encoder.to(images.images[0].device, memory_format=torch.channels_last).requires_grad_(False)  # pyright: ignore
    adapter = Adapter(spec, SIZES[a.name], m=encoder.config.m, levels=encoder.config.levels)
    ours, theirs = dict(adapter.tokens.named_parameters()), dict(mapper.named_parameters())
    for name in ("base", "queries", "out.weight"):
        ours[name].data.copy_(theirs[name].data)
    adapter.inject(backbone)
    adapter.to(images.images[0].device, memory_format=torch.channels_last)  # pyright: ignore
    for parameter in adapter.lora.values():
        parameter.data = parameter.data.to(images.images[0].device, torch.float32)
        parameter.requires_grad_(True)
    if (earlier := a.pack / f"{a.name}.adapter-state.safetensors").exists():
        values = load_file(earlier)
        adapter.load_state_dict({k: v.float() for k, v in values.items() if not k.startswith("lora.")})
        for k, parameter in adapter.lora.items():
            parameter.data.copy_(values[f"lora.{k}"])
    parameters = adapter.trainable()
    named = adapter.state_dict() | {f"lora.{k}": v for k, v in adapter.lora.items()}
    log.say(f"# adapter: {sum(p.numel() for p in parameters):,} parameters")
    opt = torch.optim.AdamW(parameters, lr=a.adapter_lr, betas=(0.9, 0.99), weight_decay=0.0, fused=a.device == "cuda")
    with torch.no_grad():
        channels = [f.shape[1] for f in ensemble.features(torch.zeros(1, 3, 64, 64, device=images.images[0].device))]
    critic = Critic(channels).to(images.images[0].device)
    opt_critic = torch.optim.AdamW(critic.parameters(), lr=2e-4, betas=(0.5, 0.99), weight_decay=0.0)
    average = Average(named, 0.998)
    generator, rng = torch.Generator().manual_seed(a.seed + 1), random.Random(a.seed + 1)
    top, step, critic_steps, began, seen = encoder.config.levels - 1, 0, 0, minutes(), 0.0
    reserve = 0.12
    while minutes() < a.max_minutes - reserve:
        if step % 50 == 0 and a.snapshot.exists() and a.snapshot.stat().st_mtime != seen:
            seen = a.snapshot.stat().st_mtime
            saved = torch.load(a.snapshot, map_location="cpu")
            encoder.load_state_dict(saved["average"])
            if saved["final"]:
                log.say(f"# {minutes():.2f} min: the encoder is final")
        done = (minutes() - began) / max(a.max_minutes - reserve - began, 1e-3)
        for group in opt.param_groups:
            group["lr"] = a.adapter_lr * min(1, (step + 1) / 100) * schedule(done, 0.4)
        b = a.adapter_batch
        x = images.batch(b, a.crop, generator, rng, 0.15)
        q = ((torch.randperm(b, generator=generator) + torch.rand(b, generator=generator)) / b * top).to(x.device)
        with torch.no_grad():
            coded = encoder.code_latent(encoder.analyze(x, autocast=True), q, autocast=True)
            y_hat = coded.y_hat.float()
            with autocast(x.device):
                preview = encoder.g_p(y_hat, q).float()
        with autocast(x.device):
            estimate = adapter(y_hat, q, preview)
            decoded = backbone.to_pixels(estimate.z.float())
            noise = torch.randn(b, *adapter.noise_shape(a.crop, a.crop), device=x.device)
            x_hat = adapter.finish(decoded, q, preview, noise).float()
        view = ensemble.view(x, rng)
        d, fake, real = ensemble(x_hat, x, view)
        pixel = (x_hat - x).abs().mean()
        artifact = losses.periodic_artifact(x_hat, x)
        scale = torch.as_tensor(adapter.bridge.std).flatten()
        moments = losses.moments(estimate.mean, estimate.std, backbone.to_latents(x), scale)
        loss = pixel + 2.0 * d.mean() + a.repetition * artifact + 0.05 * moments
        scalars = {"pixel": pixel, "d": d.mean(), "artifact": artifact}
        if done > a.critic_from and a.adversarial:
            with torch.no_grad(), autocast(x.device):
                both = ensemble.features(view(preview))
            scores = critic(fake, both)
            adversarial = -sum(s.mean() for s in scores) / len(scores)
            critic_steps += 1
            loss = loss + a.adversarial * min(1.0, critic_steps / 200) * adversarial
            scalars["adversarial"] = adversarial  # pyright: ignore
            for p in critic.parameters():
                p.requires_grad_(False)
        optimize(opt, loss, parameters)
        if "adversarial" in scalars:
            for p in critic.parameters():
                p.requires_grad_(True)
            for group in opt_critic.param_groups:
                group["lr"] = 4e-4 * min(1.0, critic_steps / 50) * schedule(done, 0.8)
            pairs = zip(critic([f.detach() for f in real], both), critic([f.detach() for f in fake], both), strict=True)
            judged = sum(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs) / len(fake)
            opt_critic.zero_grad(set_to_none=True)
            judged.backward()  # pyright: ignore
            opt_critic.step()
            scalars["critic"] = judged  # pyright: ignore
        step += 1
        average.update(adapter.state_dict() | {f"lora.{k}": v for k, v in adapter.lora.items()})
        log.add(loss=loss, **scalars)
        if step % (100 if a.device == "cuda" else 2) == 0:
            log.flush(f"adapter {step} {minutes():.2f} min")
    out = {k: v.detach().cpu().contiguous().half() for k, v in average.tensors.items()}
    save_file(out, a.out / f"{a.name}.adapter-state.safetensors", {"steps": str(step)})
    log.flush(f"adapter {step} {minutes():.2f} min")
    log.say(f"# {minutes():.2f} min: adapter done, {step} steps")


if __name__ == "__main__":
    main()
