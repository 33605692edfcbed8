"""Turn a finished run into the weight file that ships.

python recipes/freeze.py nano_vae  RUN_FOLDER priorcodec/weights/nano_vae.safetensors
python recipes/freeze.py nano_unet RUN_FOLDER priorcodec/weights/nano_unet.safetensors
python recipes/freeze.py nano_dit  RUN_FOLDER priorcodec/weights/nano_dit.safetensors

The encoder has a command of its own, `recipes.encoder2.release`. A denoiser's file names the autoencoder beside it: freeze it
again when that one changes. The SHA-256 printed goes into its SPEC.
"""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from priorcodec.backbones.builtin import _nano, nano_dit, nano_unet
from priorcodec.backbones.builtin._nano_dit import Transformer
from priorcodec.backbones.builtin._nano_unet import UNet
from priorcodec.training import checkpoint

LICENSE = "Apache-2.0; trained on research-use images, see WEIGHTS.md"

what, run, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
state = checkpoint.read(run / checkpoint.NAME)
metadata = {"steps": str(state["step"]), "minutes": f"{state['minutes']:.0f}", "license": LICENSE}


def averaged(model: torch.nn.Module) -> torch.nn.Module:
    model.load_state_dict(state["model"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter, average in zip(trained, state["average"], strict=True):
        parameter.data.copy_(average)
    return model


def save_half(model: torch.nn.Module) -> None:
    tensors = {key: value.half().contiguous() for key, value in averaged(model).state_dict().items()}
    save_file(tensors, target, metadata=metadata)
    print(hashlib.sha256(target.read_bytes()).hexdigest())


def save_denoiser(model: torch.nn.Module) -> None:
    metadata["autoencoder"] = hashlib.sha256((target.parent / _nano.AUTOENCODER_FILE).read_bytes()).hexdigest()
    save_half(model)


match what:
    case "nano_vae":
        vae = _nano.Autoencoder()
        decoder_alone = len(state["average"]) < len(list(vae.parameters()))  # recipes/nano_vae.py --decoder
        vae.encoder.requires_grad_(not decoder_alone)
        save_half(vae)
    case "nano_unet":
        save_denoiser(UNet(**nano_unet.CONFIG))
    case "nano_dit":
        save_denoiser(Transformer(**nano_dit.CONFIG))
    case _:
        raise SystemExit(__doc__)
