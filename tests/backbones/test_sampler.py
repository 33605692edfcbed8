"""Few calls of the denoiser: the time grid, the seeded noise, and one call being what it always was."""

import pytest
import torch

from priorcodec.backbones.diffusion import add_noise, sample, seeded_noise, to_input, to_sample
from priorcodec.backbones.spec import Prediction
from priorcodec.core.errors import ConfigError

SHAPE = (3, 4, 5)


def alpha_bar(t):
    return torch.cos(t / 1000 * torch.pi / 2) ** 2


def silent(x, t):
    return torch.zeros_like(x)


def noise(*seeds, dtype=torch.float32):
    return seeded_noise(seeds, (len(seeds), *SHAPE), "cpu", dtype)


@pytest.mark.parametrize("prediction", list(Prediction))
def test_one_step_is_one_call_without_noise(prediction):
    z_hat, t = torch.randn(2, *SHAPE), torch.tensor([500.0, 150.0])
    a = alpha_bar(t)
    x_t = a.sqrt().view(-1, 1, 1, 1) * z_hat
    wanted = to_sample(torch.tanh(to_input(x_t, a, prediction)), x_t, a, prediction)
    for given in (None, noise(1, 2)):
        assert torch.equal(
            sample(lambda x, t: torch.tanh(x), alpha_bar, prediction, z_hat, t, steps=1, noise=given), wanted
        )


@pytest.mark.parametrize("steps", range(1, 9))
def test_the_time_falls_in_equal_steps_for_every_image(steps):
    seen = []

    def predict(x, t):
        seen.append(t)
        return torch.zeros_like(x)

    start = torch.tensor([480.0, 120.0])
    sample(predict, alpha_bar, Prediction.SAMPLE, torch.zeros(2, *SHAPE), start, steps=steps, noise=noise(1, 2))
    wanted = torch.stack([start * (steps - i) / steps for i in range(steps)])
    torch.testing.assert_close(torch.stack(seen), wanted)


def test_the_second_call_sees_the_clean_estimate_with_the_files_noise():
    seen = []

    def predict(x, t):
        seen.append(x)
        return torch.full_like(x, 0.3)

    t = torch.tensor([400.0])
    sample(predict, alpha_bar, Prediction.SAMPLE, torch.randn(1, *SHAPE), t, steps=2, noise=noise(7))
    torch.testing.assert_close(seen[1], add_noise(torch.full((1, *SHAPE), 0.3), noise(7)(1), alpha_bar(t / 2)))


@pytest.mark.parametrize("prediction", list(Prediction))
def test_a_perfect_denoiser_stays_right_over_all_steps(prediction):
    """It knows z and answers with what was truly added; the start, where nothing was added, is its own matter."""
    z, t, draw = torch.randn(1, *SHAPE), torch.tensor([600.0]), noise(3)

    def predict(x, time):
        a = alpha_bar(time)
        signal, spread = a.sqrt(), (1 - a).sqrt()
        x_t = x * (signal + spread) if prediction is Prediction.FLOW else x
        n = (x_t - signal * z) / spread
        return {"noise": n, "velocity": signal * n - spread * z, "sample": z, "flow": n - z}[prediction]

    for steps in (1, 2, 8):
        got = sample(predict, alpha_bar, prediction, torch.zeros_like(z), t, steps=steps, noise=draw)
        torch.testing.assert_close(got, z, rtol=1e-3, atol=1e-3)


def test_more_steps_give_another_latent():
    z_hat, t = torch.randn(1, *SHAPE), torch.tensor([500.0])
    made = [
        sample(lambda x, t: torch.tanh(x), alpha_bar, Prediction.NOISE, z_hat, t, steps=s, noise=noise(1))
        for s in (1, 2, 4)
    ]
    assert all((a - b).abs().max() > 1e-3 for a, b in ((made[0], made[1]), (made[1], made[2])))


def test_noise_depends_on_the_file_and_the_step_alone():
    first = noise(5)
    alone = [first(i) for i in range(1, 8)]
    batch = noise(9, 5, 2**32 - 1)
    for i in (7, 1, 3):  # in any order
        assert torch.equal(batch(i)[1:2], alone[i - 1])
        assert torch.equal(noise(5)(i), alone[i - 1])
    assert torch.equal(noise(5, dtype=torch.bfloat16)(2), alone[1].bfloat16())
    assert len({tuple(x.flatten().tolist()) for x in [*alone, noise(6)(1), noise(2**32 - 1)(1)]}) == 9


def test_noise_is_standard_normal_and_its_steps_are_independent():
    draw = seeded_noise([123], (1, 4, 64, 64), "cpu", torch.float32)
    values = torch.stack([draw(i).flatten() for i in range(1, 8)])
    assert values.mean(1).abs().max() < 0.04 and (values.std(1) - 1).abs().max() < 0.03
    assert (torch.corrcoef(values) - torch.eye(7)).abs().max() < 0.05


def test_a_batch_gives_each_image_what_it_gets_alone():
    z_hat, t = torch.randn(2, *SHAPE), torch.tensor([500.0, 300.0])

    def run(which, *seeds):
        return sample(
            lambda x, t: torch.tanh(x),
            alpha_bar,
            Prediction.VELOCITY,
            z_hat[which],
            t[which],
            steps=3,
            noise=noise(*seeds),
        )

    together = run(slice(0, 2), 11, 22)
    torch.testing.assert_close(together, torch.cat([run(slice(0, 1), 11), run(slice(1, 2), 22)]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps,part", [(0, "steps is 0"), (9, "wanted 1 to 8"), (2, "give the seed of each file")])
def test_what_cannot_be_done_is_one_line(steps, part):
    with pytest.raises(ConfigError, match=part) as caught:
        sample(silent, alpha_bar, Prediction.NOISE, torch.zeros(1, *SHAPE), torch.tensor([9.0]), steps=steps)
    assert "\n" not in str(caught.value)


def test_every_image_needs_its_seed():
    with pytest.raises(ConfigError, match="1 seeds for 2 images"):
        seeded_noise([1], (2, *SHAPE), "cpu", torch.float32)
