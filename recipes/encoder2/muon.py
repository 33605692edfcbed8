"""Muon for convolutions beside AdamW for everything else, in one optimizer.

Jordan et al. 2024 (Muon: momentum, then the nearest semi-orthogonal matrix by Newton-Schulz); Liu et al. 2025 (updates scaled
to AdamW's usual size, so that both share one learning rate). A convolution is the matrix (c_out, c_in * k * k).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FAST = 3.0  # learning rate of what starts fresh, relative to the warm-started trunks
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """The semi-orthogonal matrix nearest to `matrix` (rows, columns), roughly: singular values near 1.

    Newton-Schulz on the smaller Gram matrix: every step is a polynomial of it, so the long side enters two products only.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    gram = x @ x.T
    scale = gram.diagonal().sum().add_(1e-14)
    gram = gram / scale
    product = None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    x = (product @ x).mul_(scale.rsqrt())
    return x.T if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon for weights of at least 16 rows and columns when `muon`, AdamW otherwise; no weight decay on vectors."""

    def __init__(
        self,
        named: Iterable[tuple[str, Tensor]],
        lr: float,
        *,
        muon: bool = True,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        kinds: dict[tuple[bool, float], list[Tensor]] = {}
        for name, p in named:
            matrix = p.ndim >= 4 and 16 <= min(p.shape[0], p[0].numel()) <= 256 and muon
            fast = name.startswith(("entropy.", "h_a.")) or "modulation" in name
            kinds.setdefault((matrix, FAST if fast else 1.0), []).append(p)
        groups = [{"params": ps, "muon": m, "factor": f} for (m, f), ps in kinds.items()]
        super().__init__(groups, {"lr": lr, "betas": betas, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            lr, (b1, b2) = group["lr"] * group["factor"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                g = p.grad
                if group["muon"]:
                    m = state.setdefault("m", torch.zeros_like(p))
                    m.lerp_(g, 1 - group["momentum"])
                    direction = g.lerp(m, group["momentum"]).flatten(1)
                    update = orthogonalized(direction).mul_(0.2 * max(direction.shape) ** 0.5)
                    p.mul_(1 - lr * group["weight_decay"]).add_(update.view(p.shape), alpha=-lr)
                else:
                    if not state:
                        state.update(step=torch.zeros(()), m=torch.zeros_like(p), v=torch.zeros_like(p))
                    state["step"] += 1
                    t = float(state["step"])
                    state["m"].lerp_(g, 1 - b1)
                    state["v"].lerp_(g * g, 1 - b2)
                    scale = (state["v"] / (1 - b2**t)).sqrt_().add_(1e-8)
                    p.addcdiv_(state["m"], scale, value=-lr / (1 - b1**t))
