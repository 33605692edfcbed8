"""Muon for convolutions beside Adam for everything else, in one optimizer.

Jordan et al. 2024 (Muon: momentum, then the nearest semi-orthogonal matrix by Newton-Schulz); Liu et al. 2025 (updates scaled
to Adam's usual size, so that both share one learning rate). A convolution is the matrix (c_out, c_in * k * k).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FAST = 3.0  # learning rate of what starts fresh, relative to the warm-started trunks
COEFFICIENTS, STEPS = (3.4445, -4.7750, 2.0315), 5  # of Newton-Schulz
MOMENTUM, BETAS = 0.95, (0.9, 0.99)


def orthogonalized(matrices: Tensor) -> Tensor:
    """The semi-orthogonal matrix nearest to each of `matrices` (k, rows, columns), roughly: singular values near 1.

    Newton-Schulz on the smaller Gram matrix: every step is a polynomial of it, so the long side enters two products only.
    Needs true float32 products: a Gram matrix with eigenvalues below zero would grow.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    gram = x @ x.mT
    scale = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] + 1e-14
    gram = gram / scale
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    product = eye
    for step in range(STEPS):
        factor = a * eye + b * gram + c * gram @ gram
        product = factor @ product
        if step + 1 < STEPS:
            gram = factor @ gram @ factor
    x = (product @ x) * scale.rsqrt()
    return x.mT if tall else x


class MuonAdam(torch.optim.Optimizer):
    """Muon for weights of at least 16 rows and columns when `muon`, Adam otherwise."""

    def __init__(
        self,
        named: Iterable[tuple[str, Tensor]],
        lr: float,
        *,
        muon: bool = True,
    ):
        kinds: dict[tuple[bool, float], list[Tensor]] = {}
        for name, p in named:
            matrix = p.ndim >= 4 and 16 <= min(p.shape[0], p[0].numel()) <= 256 and muon
            fast = name.startswith(("entropy.", "h_a.")) or "modulation" in name
            kinds.setdefault((matrix, FAST if fast else 1.0), []).append(p)
        groups = [{"params": ps, "muon": m, "factor": f} for (m, f), ps in kinds.items()]
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._muon if group["muon"] else self._adam)(params, group)

    def _muon(self, params: list[Tensor], group: dict) -> None:
        lr, same = group["lr"] * group["factor"], {}
        for p in params:
            m = self.state[p].setdefault("m", torch.zeros_like(p))
            m.lerp_(p.grad, 1 - MOMENTUM)  # pyright: ignore
            direction = p.grad.lerp(m, MOMENTUM).flatten(1)  # pyright: ignore
            same.setdefault(direction.shape, []).append((p, direction))
        for shape, pairs in same.items():
            updates = orthogonalized(torch.stack([d for _, d in pairs])).mul_(0.2 * max(shape) ** 0.5)
            for (p, _), update in zip(pairs, updates, strict=True):
                p.add_(update.view(p.shape), alpha=-lr)

    def _adam(self, params: list[Tensor], group: dict) -> None:
        lr, (b1, b2) = group["lr"] * group["factor"], BETAS
        for p in params:
            if not self.state[p]:
                self.state[p].update(step=torch.zeros(()), m=torch.zeros_like(p), v=torch.zeros_like(p))
        states, grads = [self.state[p] for p in params], [p.grad for p in params]
        for state in states:
            state["step"] += 1
        firsts, seconds = [s["m"] for s in states], [s["v"] for s in states]
        torch._foreach_lerp_(firsts, grads, 1 - b1)  # pyright: ignore
        torch._foreach_mul_(seconds, b2)  # pyright: ignore
        torch._foreach_addcmul_(seconds, grads, grads, 1 - b2)  # pyright: ignore
        times = [float(s["step"]) for s in states]
        scales = torch._foreach_div(seconds, [1 - b2**t for t in times])  # pyright: ignore
        torch._foreach_sqrt_(scales)  # pyright: ignore
        torch._foreach_add_(scales, 1e-8)  # pyright: ignore
        torch._foreach_addcdiv_(params, firsts, scales, [-lr / (1 - b1**t) for t in times])  # pyright: ignore
