"""Entropy coding is exact, whatever the thread count, the library switches or the process."""

import json
import subprocess
import sys

import pytest
import torch

from priorcodec.core.entropy.entropy_model import SCALES, gaussian_bits
from priorcodec.core.entropy.frozen import ExactPrior, gaussian_tables
from priorcodec.core.errors import StreamError
from priorcodec.core.transforms import EncoderConfig, ImageEncoder

SMALL = EncoderConfig(n8=8, n16=8, m=12, m_h=4, n=8, depth=1, levels=3)


def small_prior() -> ExactPrior:
    torch.manual_seed(0)
    prior = ImageEncoder(SMALL).prior
    for parameter in prior.parameters():  # away from the symmetric start, so that every network matters
        parameter.data += 0.3 * torch.randn_like(parameter)
    return ExactPrior(prior.tables() | gaussian_tables())


def latents(scale: float = 3.0, size=(8, 12)):
    torch.manual_seed(1)
    return scale * torch.randn(SMALL.m, *size), scale * torch.randn(SMALL.m_h, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("quality", [0, 17, 64])
@pytest.mark.parametrize("scale", [0.0, 0.3, 3.0, 3000.0])
def test_round_trip(quality, scale):
    prior = small_prior()
    coded = prior.encode(*latents(scale), quality)
    values, digest = prior.decode(coded.hyper, coded.latent, quality, 8, 12)
    assert digest == coded.symbols_sha256
    assert torch.equal(values, coded.y_hat_q)


def test_values_are_within_half_a_step():
    y, z = latents()
    coded = small_prior().encode(y, z, 5)
    assert (coded.y_hat_q - y).abs().max() <= 0.5 + 1e-6


def test_estimated_bits_are_the_length_of_the_strings():
    y, z = latents(3.0, (48, 48))
    coded = small_prior().encode(y, z, 5)
    for data, bits in ((coded.hyper, coded.hyper_bits), (coded.latent, coded.latent_bits)):
        assert abs(len(data) - bits / 8) <= max(8, 0.01 * bits / 8)


def test_the_tables_are_the_gaussians_training_assumes():
    tables = gaussian_tables()
    for i in (0, 20, SCALES - 1):
        length, offset = int(tables["cdf_length"][i]), int(tables["cdf_offset"][i])
        cdf = tables["cdf"][i, :length]
        assert cdf[0] == 0 and cdf[-1] == 65536 and (cdf.diff() > 0).all()
        middle = (cdf.diff()[-offset] / 65536).item()
        assert abs(-torch.log2(torch.tensor(middle)) - gaussian_bits(torch.zeros(1), torch.tensor([float(i)]))) < 0.02


PROBE = """
import json, sys, torch
sys.path.insert(0, {root!r})
from tests.core.entropy.test_frozen import small_prior, latents
torch.set_num_threads({threads})
torch.backends.mkldnn.enabled = {mkldnn}
torch.set_default_dtype(torch.{dtype})
prior = small_prior()
hyper, latent = (bytes.fromhex(part) for part in json.load(sys.stdin))
print(prior.decode(hyper, latent, 17, 40, 56)[1])
"""


def test_other_processes_threads_and_switches_read_the_same_symbols(pytestconfig):
    coded = small_prior().encode(*latents(3.0, (40, 56)), 17)
    strings = json.dumps([coded.hyper.hex(), coded.latent.hex()])
    for threads, mkldnn in ((1, True), (2, True), (2, False)):
        code = PROBE.format(root=str(pytestconfig.rootpath), threads=threads, mkldnn=mkldnn, dtype="float32")
        out = subprocess.run([sys.executable, "-c", code], input=strings, capture_output=True, text=True, check=True)
        assert out.stdout.strip() == coded.symbols_sha256


def test_default_dtype_changes_nothing():
    prior = small_prior()
    coded = prior.encode(*latents(), 17)
    torch.set_default_dtype(torch.float64)
    try:
        assert prior.decode(coded.hyper, coded.latent, 17, 8, 12)[1] == coded.symbols_sha256
    finally:
        torch.set_default_dtype(torch.float32)


def test_strings_that_are_cut_or_forged_end_in_an_error_or_in_symbols_never_elsewhere():
    prior = small_prior()
    coded = prior.encode(*latents(), 17)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        length = int(torch.randint(0, 60, (1,), generator=generator))
        forged = bytes(torch.randint(0, 256, (length,), generator=generator).tolist())
        for hyper, latent in ((forged, coded.latent), (coded.hyper, forged), (b"\xff" * length, b"\xff" * length)):
            try:
                values, _ = prior.decode(hyper, latent, 17, 8, 12)
            except StreamError as error:
                assert "\n" not in str(error)
            else:
                assert values.shape == (SMALL.m, 8, 12)
