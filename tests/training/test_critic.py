"""The critic: an optimizer of its own, neither clipped nor averaged with the adapter."""

import torch
from torch import nn

from priorcodec.training.adapter import train_adapter
from priorcodec.training.critic import Critic, CriticTrainer
from priorcodec.training.loop import Budget, Loop
from tests.training.helpers import state


def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 32, 32, generator=generator), -torch.rand(2, 3, 32, 32, generator=generator)


def trainer(**how):
    torch.manual_seed(0)
    return CriticTrainer(Critic(8), **{"lr": 1e-2, "warmup": 1, **how})


def test_it_learns_to_tell_decoded_from_original():
    critic, (x_hat, x) = trainer(), pair()
    losses = []
    for _ in range(30):
        losses.append(critic.backward(x_hat, x).item())
        critic.update()
    assert losses[-1] < 0.5 * losses[0]
    assert critic.critic(x).mean() > critic.critic(x_hat).mean()


def test_scoring_moves_the_image_and_no_weight_of_the_critic():
    critic, (x_hat, _) = trainer().critic, pair()
    x_hat.requires_grad_()
    critic.score(x_hat).backward()
    assert x_hat.grad is not None and x_hat.grad.any()
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_its_schedule_is_its_own():
    critic, (x_hat, x) = trainer(lr=1e-2, warmup=4), pair()
    rates = []
    for _ in range(6):
        critic.backward(x_hat, x)
        critic.update()
        rates.append(critic.optimizer.param_groups[0]["lr"])
    assert rates == [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01]


def test_the_loop_neither_clips_nor_averages_nor_schedules_it(tmp_path):
    """A clip and a rate of nearly nothing hold the model, not the critic; its gradient is as large as without a model."""
    critic, alone, (x_hat, x) = trainer(), trainer(), pair()
    model = nn.Linear(4, 1)
    loop = Loop(model, tmp_path, Budget(lr=1e-12, steps=3, clip=1e-12), critic=critic)
    before = model.weight.detach().clone()

    def loss(step):
        critic.backward(x_hat, x)
        return model(torch.ones(1, 4)).sum(), {}

    loop.run(loss)
    for _ in range(3):
        alone.backward(x_hat, x)
        alone.update()
    assert all(torch.equal(a, b) for a, b in zip(critic.critic.parameters(), alone.critic.parameters(), strict=True))
    assert torch.allclose(model.weight, before, atol=1e-9)
    ids = {id(p) for p in critic.critic.parameters()}
    assert not ids & {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
    assert len(loop.average) == len(list(model.parameters()))


def test_a_run_keeps_it_in_the_checkpoint_apart_from_the_model(words, tmp_path):
    train_adapter(words("run", "steps=2", "loss.adversarial=0.1", "critic.lr=0.01"))
    kept = state(tmp_path / "run")
    assert kept["critic"]["step"] == 2
    assert not any("critic" in name for name in kept["model"])
    plain = CriticTrainer(Critic(), lr=1, warmup=1)
    plain.load_state_dict(kept["critic"])
