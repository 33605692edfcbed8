"""The latent space of `nano_vae.safetensors`, apart so that listing backbones loads no torch."""

from priorcodec import LatentSpace

LATENT = LatentSpace(
    channels=8,
    stride=8,
    scale=0.9504705666673692,
    mean=(-0.0532, -0.0944, 0.0219, 0.0565, 0.0465, 0.1027, -0.0972, 0.0560),
    std=(1.0899, 1.0278, 1.0152, 1.0528, 0.8869, 0.9553, 0.9338, 1.0025),
)
