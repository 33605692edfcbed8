"""Average two adapters of one backbone, tensor by tensor ("robust fine-tuning", Wortsman et al., CVPR 2022).

python recipes/average.py EARLIER LATER SHARE RESULT     what EARLIER lacks is taken from LATER; the description is LATER's
"""

import sys
from pathlib import Path

from priorcodec.adapters import file as adapter_file
from priorcodec.core.io import atomic, safetensors

earlier, later = (adapter_file.read(Path(path)) for path in sys.argv[1:3])
share = float(sys.argv[3])
assert earlier.metadata["backbone"] == later.metadata["backbone"], "adapters of two backbones"
tensors = {
    name: value if name not in earlier.tensors else share * value.float() + (1 - share) * earlier.tensors[name].float()
    for name, value in later.tensors.items()
}
metadata = {**later.metadata, "averaged": f"{share:g} of this run, {1 - share:g} of an earlier one"}
atomic.write(Path(sys.argv[4]), safetensors.to_bytes({name: value.half() for name, value in tensors.items()}, metadata))
