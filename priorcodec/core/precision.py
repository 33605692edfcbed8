"""Where bfloat16 saves time: on GPUs, and on processors that multiply in it. Others emulate it, an order of magnitude slower."""

from __future__ import annotations

import torch

WITHOUT = ("DEFAULT", "NO AVX", "AVX2")  # of torch.backends.cpu.get_cpu_capability()


def bfloat16_is_fast(device: torch.device | str) -> bool:
    """Whether convolutions and matrix products on this device are faster in bfloat16 than in float32."""
    return torch.device(device).type != "cpu" or torch.backends.cpu.get_cpu_capability() not in WITHOUT


def autocast(device: torch.device | str, *, enabled: bool = True) -> torch.autocast:
    """Context in which convolutions and matrix products run in bfloat16 if `enabled` and faster, else in float32."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=enabled and bfloat16_is_fast(device))
