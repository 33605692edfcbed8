"""A patch critic (Isola et al., CVPR 2017) with the hinge loss and an optimizer of its own.

It is neither clipped nor averaged with the model it judges, and its learning rate follows its own schedule.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

BETAS = (0.5, 0.99)  # usual for critics: little momentum


class Critic(nn.Module):
    """Images (b, 3, H, W) in [-1, 1] -> scores (b, 1, H/8, W/8), above 0 for real."""

    def __init__(self, width: int = 48):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for c in (width, 2 * width):
            layers += [nn.Conv2d(c, 2 * c, 4, 2, 1), nn.GroupNorm(8, 2 * c), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def score(self, x_hat: Tensor) -> Tensor:
        """What the decoder minimizes: minus the mean score. Its gradient reaches `x_hat` and no weight of the critic."""
        own = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return -torch.func.functional_call(self, own, (x_hat,)).float().mean()

    def loss(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """What the critic minimizes: the hinge loss between decoded and original images."""
        return F.relu(1 - self(x).float()).mean() + F.relu(1 + self(x_hat.detach()).float()).mean()


class CriticTrainer:
    """Optimizer and schedule of a critic: linear warm-up to `lr`, then constant.

    Args:
        critic: on its device.
        lr: learning rate.
        warmup: steps until it is reached.
        accelerator: gradients are averaged over its processes and accumulated parts.
    """

    def __init__(self, critic: Critic, *, lr: float, warmup: int, accelerator: Accelerator | None = None):
        self.critic, self.lr, self.warmup, self.accelerator = critic, lr, warmup, accelerator
        self.parameters = list(critic.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, betas=BETAS)
        self.step = 0

    def backward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Add the gradient of one part of a step; returns its loss."""
        with self.accelerator.autocast() if self.accelerator else contextlib.nullcontext():
            loss = self.critic.loss(x_hat, x)
        parts = self.accelerator.gradient_accumulation_steps if self.accelerator else 1
        (loss / parts).backward()
        return loss.detach()

    def update(self) -> None:
        """One step of the optimizer with the gradients since the last one."""
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            for parameter in self.parameters:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")  # pyright: ignore
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (self.step + 1) / self.warmup)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def state_dict(self) -> dict[str, Any]:
        return {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises KeyError, RuntimeError, ValueError: of another critic."""
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
