"""Where bfloat16 saves time: on GPUs, and on processors that multiply in it. Others emulate it, an order of magnitude slower."""

from __future__ import annotations

import torch

WITHOUT = ("DEFAULT", "NO AVX", "AVX2")  # of torch.backends.cpu.get_cpu_capability()
INSTRUCTIONS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # AVX-512 alone has no bfloat16


def bfloat16_is_fast(device: torch.device | str) -> bool:
    """Whether convolutions and matrix products on this device are faster in bfloat16 than in float32."""
    if torch.device(device).type != "cpu":
        return True
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512":
        return any(getattr(torch.cpu, name)() for name in INSTRUCTIONS)
    return capability not in WITHOUT


def autocast(device: torch.device | str, *, enabled: bool = True) -> torch.autocast:
    """Context in which convolutions and matrix products run in bfloat16 if `enabled` and faster, else in float32."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=enabled and bfloat16_is_fast(device))
