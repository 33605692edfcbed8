"""Turn a finished run into the weight file that ships.

python recipes/freeze.py encoder   RUN_FOLDER priorcodec/weights/encoder.safetensors
python recipes/freeze.py nano_vae  RUN_FOLDER priorcodec/weights/nano_vae.safetensors
python recipes/freeze.py nano_unet RUN_FOLDER priorcodec/weights/nano_unet.safetensors
"""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from priorcodec.backbones import _nano, nano_unet
from priorcodec.core.checkpoint import save_encoder
from priorcodec.core.encoder import EncoderConfig, ImageEncoder

LICENCE = "Apache-2.0; trained on research-use pictures, see WEIGHTS.md"

what, run, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
state = torch.load(run / "checkpoint.pt", weights_only=True)
metadata = {"steps": str(state["step"]), "minutes": f"{state['minutes']:.0f}", "licence": LICENCE}


def averaged(model: torch.nn.Module) -> torch.nn.Module:
    model.load_state_dict(state["model"])
    for parameter, average in zip(model.parameters(), state["average"], strict=True):
        parameter.data.copy_(average)
    return model


match what:
    case "encoder":
        print(f"{save_encoder(averaged(ImageEncoder(EncoderConfig())), target, metadata):08x}")  # pyright: ignore
    case "nano_vae" | "nano_unet":
        if what == "nano_vae":
            model = averaged(_nano.Autoencoder())
        else:
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

            model = averaged(UNet2DConditionModel(**nano_unet.CONFIG))
            metadata["autoencoder"] = hashlib.sha256((target.parent / _nano.AUTOENCODER_FILE).read_bytes()).hexdigest()
        tensors = {key: value.half().contiguous() for key, value in model.state_dict().items()}
        save_file(tensors, target, metadata=metadata)
        print(hashlib.sha256(target.read_bytes()).hexdigest())
