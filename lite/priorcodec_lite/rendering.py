"""What the renderer of a file without a latent is given: `priorcodec.core.layers.networks` in numpy.

map, values --painted, border repeated up to the padded size--> planes (16, h, w), then noise of the file's seed (16, h, w)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from priorcodec_lite import noise
from priorcodec_lite.core import container
from priorcodec_lite.core.layers import texture
from priorcodec_lite.core.layers.semantic import Regions
from priorcodec_lite.core.layers.structure import CELL

NOISE = 16  # channels


def planes(regions: Regions, height: int, width: int, seed: int) -> NDArray[np.float32]:
    """Regions with values of an image of that true size in pixels -> float32 (1, 32, h, w) on the padded grid, stride 16."""
    assert regions.values is not None
    rows, columns = (side // CELL for side in container.padded(height, width))
    painted = texture.painted(regions.labels, regions.values)
    missing = [(0, 0), (0, rows - painted.shape[1]), (0, columns - painted.shape[2])]
    return np.concatenate([np.pad(painted, missing, "edge")[None], noise.normal(seed, (1, NOISE, rows, columns))], 1)
