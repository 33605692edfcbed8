"""Each kind of denoiser output leads back to the clean latent it was made from."""

import pytest
import torch

from priorcodec.backbones.diffusion import add_noise, sample, target, to_input, to_sample
from priorcodec.backbones.spec import Prediction


@pytest.mark.parametrize("prediction", list(Prediction))
def test_a_perfect_denoiser_gives_the_clean_latent(prediction):
    torch.manual_seed(0)
    z, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    alpha_bar = torch.tensor([0.9, 0.2])
    x_t = add_noise(z, noise, alpha_bar)
    answer = target(z, noise, alpha_bar, prediction)
    torch.testing.assert_close(to_sample(answer, x_t, alpha_bar, prediction), z, rtol=1e-4, atol=1e-4)


def test_a_flow_model_sees_its_own_straight_path():
    z, noise, s = torch.randn(1, 2, 2, 2), torch.randn(1, 2, 2, 2), 0.3
    alpha_bar = torch.tensor([(1 - s) ** 2 / ((1 - s) ** 2 + s**2)])
    seen = to_input(add_noise(z, noise, alpha_bar), alpha_bar, Prediction.FLOW)
    torch.testing.assert_close(seen, (1 - s) * z + s * noise)


def test_one_step_of_a_silent_noise_predictor_keeps_the_bridged_latent():
    z_hat, t = torch.randn(1, 2, 2, 2), torch.tensor([300.0])
    z = sample(lambda x, t: torch.zeros_like(x), lambda t: 1 - t / 1000, Prediction.NOISE, z_hat, t)
    torch.testing.assert_close(z, z_hat)
