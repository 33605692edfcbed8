"""Go on with one decoder on the CPU, the encoder frozen: finish.py PACK STATE g_p|nano_pixel|nano_dit RUN --minutes 40.

PACK holds features.safetensors and vgg.safetensors (recipes/gpu/pack.py), STATE the encoder (recipes/gpu/unpack.py). Adapters
start from and backbones are read in `--decoders` (NAME.safetensors, NAME.adapter-state.safetensors); they go on from the
perceptual preview. Against patterns that repeat from block to block, which feature networks like and the eye does not,
`repetition` has ten times the weight that the shipped decoders had on the GPU. With --critic, a projected critic as in
decoder.py pulls as hard as that share of the other losses' gradient at the image (the balance of Esser et al., CVPR 2021, taken
at the image instead of the last layer). RUN/NAME.state.safetensors is written every three minutes (averaged weights, fp16).
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from priorcodec.adapters.adapter import Adapter
from priorcodec.core.precision import autocast
from priorcodec.training.losses import periodic_artifact
from priorcodec.training.perceptual import View, feature_distance
from recipes.encoder2.crops import Crops
from recipes.encoder2.evaluate import load
from recipes.gpu.common import Average, Log, build_backbone, load_features, load_vgg, optimize, schedule
from recipes.gpu.decoder import SIZES, Critic


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("pack", type=Path)
    p.add_argument("state", type=Path)
    p.add_argument("name", choices=("g_p", *SIZES))
    p.add_argument("run", type=Path)
    p.add_argument("--decoders", type=Path)
    p.add_argument("--cache", type=Path, default=Path("runs/cache/train"))
    p.add_argument("--minutes", type=float, default=40)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--crop", type=int, default=192)
    p.add_argument("--lr", type=float, default=2e-4)
    p.add_argument("--repetition", type=float, default=20.0)
    p.add_argument("--fidelity", type=float, default=0.0, help="more weight of absolute error at the highest quality")
    p.add_argument("--vgg", type=float, default=0.2, help="share of the steps that look through VGG-16")
    p.add_argument("--critic", type=float, default=0.0, help="length of its gradient over that of the other losses")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seed", type=int, default=3)
    a = p.parse_args()
    if a.name != "g_p" and a.decoders is None:
        p.error(f"{a.name} wants --decoders, the folder with its weights")
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    began = time.time()
    minutes = lambda: (time.time() - began) / 60  # noqa: E731
    encoder, _ = load(a.state)
    features = load_features(a.pack / "features.safetensors")
    vgg = load_vgg(a.pack / "vgg.safetensors")
    adapter: Any = None
    if a.name == "g_p":
        named = dict(encoder.g_p.named_parameters())
        parameters = [v.requires_grad_(True) for v in named.values()]
    else:
        spec, backbone = build_backbone(a.name, a.decoders / f"{a.name}.safetensors")
        adapter = Adapter(spec, SIZES[a.name], m=encoder.config.m, levels=encoder.config.levels)
        adapter.inject(backbone)
        adapter.to(memory_format=torch.channels_last)
        named = dict(adapter.named_parameters()) | {f"lora.{k}": v for k, v in adapter.lora.items()}
        parameters = adapter.trainable()
        start = load_file(a.decoders / f"{a.name}.adapter-state.safetensors")
        with torch.no_grad():
            for k, v in named.items():
                v.copy_(start[k])
                v.requires_grad_(True)
    opt = torch.optim.AdamW(parameters, lr=a.lr, betas=(0.9, 0.99), weight_decay=0.0)
    average, crops = Average(named, 0.995), Crops(a.cache, seed=a.seed)
    log, step, saved = Log(a.run / f"{a.name}.txt"), 0, time.time()
    log.say(f"# {a}")
    top, critic_steps, hinged = encoder.config.levels - 1, 0, 0.0
    with torch.no_grad():
        critic = Critic([f.shape[1] for f in features(torch.zeros(1, 3, 64, 64))])
    opt_critic = torch.optim.AdamW(critic.parameters(), lr=4e-4, betas=(0.5, 0.99), weight_decay=0.0)
    while minutes() < a.minutes:
        for group in opt.param_groups:
            group["lr"] = a.lr * min(1, (step + 1) / 50) * schedule(minutes() / a.minutes, 0.3)
        rng, generator = random.Random(a.seed * 7919 + step), torch.Generator().manual_seed(a.seed * 1_000_003 + step)
        x = crops.batch(step, a.batch, a.crop, enlarged=0.15).float() / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        q = (torch.randperm(a.batch, generator=generator) + torch.rand(a.batch, generator=generator)) / a.batch * top
        with torch.no_grad():
            y_hat = encoder.code_latent(encoder.analyze(x, autocast=True), q, autocast=True).y_hat.float()
        with autocast("cpu"):
            if adapter is None:
                x_hat = encoder.g_p(y_hat, q).float()
                preview = x_hat.detach()
            else:
                with torch.no_grad():
                    preview = encoder.g_p(y_hat, q).float()
                z = adapter(y_hat, q, preview).z.float()
                noise = torch.randn(a.batch, *adapter.noise_shape(a.crop, a.crop), generator=generator)
                x_hat = adapter.finish(adapter.attached.to_pixels(z), q, preview, noise).float()
        use_vgg = rng.random() < a.vgg
        shown = x_hat.detach().requires_grad_(True)
        judged = a.critic > 0 and not use_vgg
        images = [shown, x, preview] if judged else [shown, x]
        images = View.draw(rng, (a.crop, a.crop), 128 if use_vgg else 192)(torch.cat(images)).split(a.batch)
        with autocast("cpu"):
            net = vgg if use_vgg else features
            fake = net(images[0])
            with torch.no_grad():
                real, *others = map(net, images[1:])
        d = feature_distance(net, fake, real).mean()
        error, repeated = (shown - x).abs().mean((1, 2, 3)), periodic_artifact(shown, x)
        pixel, weighted = error.mean(), (error * (1 + a.fidelity * q / top)).mean()
        loss = weighted + 2.0 * d + a.repetition * repeated
        (gradient,) = torch.autograd.grad(loss, shown, retain_graph=judged)
        if judged:
            (given,) = others
            scores = critic(fake, given)
            (pull,) = torch.autograd.grad(-torch.stack([s.mean() for s in scores]).mean(), shown)
            share = a.critic * min(1.0, critic_steps / 200)
            gradient = gradient + share * gradient.norm() / pull.norm().clamp(min=1e-12) * pull
            pairs = zip(
                critic([f.detach() for f in real], given), critic([f.detach() for f in fake], given), strict=True
            )
            hinge = torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs]).mean()
            opt_critic.zero_grad(set_to_none=True)
            hinge.backward()
            opt_critic.step()
            critic_steps += 1
            hinged = hinge.item()
        optimize(opt, (x_hat * gradient).sum(), parameters)
        step += 1
        average.update(named)
        log.add(loss=loss, pixel=pixel, d=d, repeated=repeated, critic=torch.tensor(hinged))
        if step % 25 == 0:
            log.flush(f"{step} {minutes():.2f} min")
        if time.time() - saved > 180 or minutes() >= a.minutes:
            out = {k: v.half().contiguous() for k, v in average.tensors.items()}
            save_file(out, a.run / "part", {"steps": str(step)})
            os.replace(a.run / "part", a.run / f"{a.name}.state.safetensors")
            saved = time.time()
    log.say("# done")


if __name__ == "__main__":
    main()
