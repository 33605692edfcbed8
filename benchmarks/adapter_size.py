"""What an adapter adds to the real architectures, counted on torch's meta device.   python benchmarks/adapter_size.py [NAME...]

Parameters per part and their share of the denoiser; FLOPs that LoRA and fusion add to one call of the denoiser at the size the
model was trained at (torch's FLOP counter; no attention kernel is left out, elementwise work is), and what the rest adds once per
image; for the default setting, one at half of it, and one of twice the widths. Writes benchmarks/results/adapter_size.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import resultfile
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from priorcodec import BackboneSpec, open_registry
from priorcodec.adapters.adapter import Adapter
from priorcodec.adapters.config import AdapterConfig
from priorcodec.backbones.conditions import make_condition
from priorcodec.core.transforms import EncoderConfig

SETTINGS = {
    "default": AdapterConfig(),
    "half": AdapterConfig(lora_rank=8, width=48, stem_width=24, fusion=32, refiner=16),
    "double": AdapterConfig(lora_rank=32, width=192, stem_width=96, fusion=128, refiner=64),
}
PARTS = ("bridge", "refiner", "pyramid", "fusion", "tokens", "moments")


def count(spec: BackboneSpec, config: AdapterConfig) -> dict[str, Any]:
    """One row: parameters per part, share, and the extra work of one call."""
    encoder = EncoderConfig()
    side = spec.size // spec.latent.stride
    with torch.device("meta"), torch.no_grad():
        backbone = spec.build(None, dtype=torch.float32)
        adapter = Adapter(spec, config, m=encoder.m, levels=encoder.levels).to("meta")
        x = torch.empty(1, spec.latent.channels, side, side)
        t, condition = torch.empty(1), make_condition(spec, x, tokens=config.tokens)
        alone = _flops(lambda: backbone.predict(x, t, condition))
        pixels = _flops(lambda: backbone.to_pixels(x))
        adapter.inject(backbone)
        adapter.requires_grad_(False)
        calls: list[int] = []
        predict = backbone.predict

        def counted(*args: Any) -> Tensor:
            with FlopCounterMode(display=False) as counter:
                answer = predict(*args)
            calls.append(counter.get_total_flops())
            return answer

        object.__setattr__(backbone, "predict", counted)
        y_hat = torch.empty(1, encoder.m, spec.size // 16, spec.size // 16)
        with FlopCounterMode(display=False) as counter:
            preview = torch.empty(1, 3, spec.size, spec.size)
            adapter.to_pixels(adapter(y_hat, t, preview).z, t, preview)
        once = counter.get_total_flops() - calls[0] - pixels  # all but the denoiser: once per image, however many steps
    parts = {part: getattr(adapter, part) for part in PARTS}
    parameters = {part: sum(p.numel() for p in module.parameters()) if module else 0 for part, module in parts.items()}
    parameters["lora"] = sum(p.numel() for p in adapter.lora.values())
    total = sum(parameters.values())
    return {
        "backbone": spec.name, "size": spec.size, "parameters": parameters, "total": total,
        "share": round(total / spec.parameters, 5), "call_gflop": round(alone / 1e9, 1),
        "extra_per_call": round(calls[0] / alone - 1, 5), "once_gflop": round(once / 1e9, 1),
        "pixels_gflop": round(pixels / 1e9, 1),
    }  # fmt: skip


def _flops(work: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def main() -> None:
    specs = open_registry().specs()
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("names", nargs="*", metavar="NAME", default=["sd15", "sd21", "sdxl", "pixart"], help="backbones")
    names = cli.parse_args().names
    rows = [{"setting": key, **count(specs[name], config)} for name in names for key, config in SETTINGS.items()]
    shown = {
        key: {"lora_rank": c.lora_rank or 16, "width": c.width, "refiner": c.refiner, "fusion": c.fusion}
        for key, c in SETTINGS.items()
    }
    print(resultfile.write("adapter_size", "adapter_size", {"settings": shown, "rows": rows}))


if __name__ == "__main__":
    main()
