"""The training loop: budgets, resuming to the same weights, stopping on a loss that is not finite."""

import json
import math

import pytest
import torch
from torch import nn

from priorcodec import TrainingError
from priorcodec.training.loop import Budget, Loop


def start(folder, **budget) -> Loop:
    torch.manual_seed(0)
    return Loop(nn.Linear(4, 3), folder, Budget(lr=0.05, warmup=3, **budget))


def task(loop: Loop, stop_at: int = 10**9):
    """Random data from torch's generator, which a checkpoint holds."""

    def loss(step: int):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 4)
        value = (loop.model(x) - x[:, :3]).square().mean()
        return value, {"loss": value.item()}

    return loss


def test_a_resumed_run_ends_on_the_same_weights(tmp_path):
    whole = start(tmp_path / "whole", steps=40)
    whole.run(task(whole))
    first = start(tmp_path / "parts", steps=40)
    with pytest.raises(KeyboardInterrupt):
        first.run(lambda step: (first.save() if step == 17 else None, task(first, 17)(step))[1])
    second = start(tmp_path / "parts", steps=40)
    assert second.step == 17
    second.run(task(second))
    assert torch.equal(whole.model.weight, second.model.weight)
    assert all(torch.equal(a, b) for a, b in zip(whole.average, second.average, strict=True))


def test_it_learns_and_logs(tmp_path):
    loop = start(tmp_path, steps=200, log_every=50)
    loop.run(task(loop))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [50, 100, 150, 200]
    assert rows[-1]["loss"] < 0.1 * rows[0]["loss"]


def test_minutes_end_a_run_and_count_across_runs(tmp_path):
    loop = start(tmp_path, steps=10**9, max_minutes=0.01)
    loop.run(task(loop))
    assert loop.minutes >= 0.01 and loop.progress == 1
    steps = loop.step
    again = start(tmp_path, steps=10**9, max_minutes=0.01)
    again.run(task(again))
    assert again.step == steps


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(tmp_path):
    loop = start(tmp_path, steps=10)
    loop.save()
    before = loop.model.weight.detach().clone()
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        loop.run(lambda step: (loop.model(torch.full((1, 4), math.nan)).sum(), {}))
    assert torch.equal(loop.model.weight, before)
    assert start(tmp_path, steps=10).step == 0


def test_swapping_the_average_twice_changes_nothing(tmp_path):
    loop = start(tmp_path, steps=20)
    loop.run(task(loop))
    trained = loop.model.weight.detach().clone()
    loop.swap_average()
    assert not torch.equal(loop.model.weight, trained)
    loop.swap_average()
    assert torch.equal(loop.model.weight, trained)
