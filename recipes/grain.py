"""Make the noise in an adapter's detail weaker: smoother surfaces (as truncation in StyleGAN, Karras et al., CVPR 2019).

python recipes/grain.py ADAPTER FACTOR RESULT
"""

import sys
from pathlib import Path

from priorcodec.adapters import checkpoint
from priorcodec.core import files, tensorfile

adapter, factor = checkpoint.read(Path(sys.argv[1])), float(sys.argv[2])
name = "own.detail.grain.weight"
tensors = {**adapter.tensors, name: (factor * adapter.tensors[name].float()).half()}
metadata = {**adapter.metadata, "grain": f"{factor:g} of what was trained"}
files.write(Path(sys.argv[3]), tensorfile.to_bytes(tensors, metadata))
