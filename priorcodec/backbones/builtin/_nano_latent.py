"""The latent space of our small backbones, apart so that listing backbones loads no torch: pixels in units of their deviation."""

from priorcodec import LatentSpace

# Of red, green and blue over the training images, times the scale.
MEAN, STD = (-0.016, -0.110, -0.306), (1.07, 1.03, 1.09)

LATENT = LatentSpace(
    channels=192,
    stride=8,
    scale=2.0,
    mean=tuple(value for value in MEAN for _ in range(64)),
    std=tuple(value for value in STD for _ in range(64)),
    pixels=True,
)
