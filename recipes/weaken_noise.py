"""Make the noise of an adapter's residual refiner weaker: smoother surfaces (truncation in StyleGAN, Karras et al., CVPR 2019).

python recipes/weaken_noise.py ADAPTER FACTOR RESULT
"""

import sys
from pathlib import Path

from priorcodec.adapters import file as adapter_file
from priorcodec.core.io import atomic, safetensors

adapter, factor = adapter_file.read(Path(sys.argv[1])), float(sys.argv[2])
name = "own.refiner.noise.weight"
tensors = {**adapter.tensors, name: (factor * adapter.tensors[name].float()).half()}
metadata = {**adapter.metadata, "noise": f"{factor:g} of what was trained"}
atomic.write(Path(sys.argv[3]), safetensors.to_bytes(tensors, metadata))
