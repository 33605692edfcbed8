"""`priorcodec export`: the folder that a reader without torch needs.

analysis.onnx hyper.onnx preview.onnx perceptual.onnx decoder.onnx     float networks, see `export.networks`
tables.safetensors     the exact tables and the inverse gains, with the encoder's id (docs/format.md, section 3)
manifest.json          ids, SHA-256 and size of every file, inputs and outputs, tile and margins in pixels
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from priorcodec.adapters.decode import MARGIN
from priorcodec.core.errors import ConfigError
from priorcodec.core.exact_reader import TABLES
from priorcodec.core.io import atomic, safetensors
from priorcodec.core.weights import KIND
from priorcodec.export import networks
from priorcodec.export.graph import trace

if TYPE_CHECKING:
    from priorcodec.core.codec import Codec
    from priorcodec.session import Session

FORMAT = 1  # of the manifest
TILE = 512  # pixels
GRID = 64  # a tile is a multiple of it
EXACT = "tables.safetensors"
MANIFEST = "manifest.json"


def export(
    session: Session,
    folder: Path,
    *,
    tile: int = TILE,
    decoder: bool = True,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Write the folder.

    Args:
        session: On the CPU in float32, with the settings' backbone and adapter.
        folder: Made if it does not exist; files of the same names are replaced.
        tile: Side in pixels of the squares that the decoder works on, margins counted.
        decoder: Whether to write it, or the encoder's graphs alone.
        progress: Called with the name of each file when it is written.

    Returns:
        The manifest.

    Raises:
        ConfigError: An impossible tile or device, or packages that write ONNX are missing.
        WeightsError, AdapterError, BackboneError: The decoder is not complete.
    """
    if tile % GRID or not 4 * MARGIN <= tile <= 4096:
        raise ConfigError(f"tile is {tile}, wanted a multiple of {GRID} from {4 * MARGIN} to 4096")
    if session.device.type != "cpu" or decoder and session.dtype != torch.float32:
        raise ConfigError(f"export got {session.device} and {session.dtype}, wanted cpu and float32")
    codec = session.codec
    wanted = list(networks.of_encoder(codec.transforms))
    manifest: dict[str, Any] = {"format": FORMAT, "encoder": {"id": f"{codec.id:08x}", "levels": codec.levels}}
    if decoder:
        adapter, spec = session.adapter, session.spec
        wanted.append(networks.of_decoder(adapter, codec.transforms.config.m, tile))
        manifest["backbone"] = {"name": spec.name, "revision": spec.revision, "license": spec.license}
        manifest["tile"], manifest["margin"] = tile, MARGIN
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made ({error.strerror}): choose another folder") from error
    files: dict[str, Any] = {}

    def put(name: str, data: bytes, **described: Any) -> None:
        atomic.write(folder / name, data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **described}
        progress(name)

    put(EXACT, tables(codec))
    for network in wanted:
        data = trace(network.module, network.examples(), network.inputs, network.outputs)
        halo = {} if network.halo is None else {"halo": network.halo}
        ports = {"inputs": network.inputs, "outputs": network.outputs}
        shapes = {kind: {port.name: list(port.shape) for port in some} for kind, some in ports.items()}
        put(f"{network.name}.onnx", data, **halo, **shapes)
    manifest["files"] = files
    atomic.write(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


def tables(codec: Codec) -> bytes:
    """The tables file of docs/format.md, section 3."""
    exact = {f"{TABLES}{name}": torch.from_numpy(value) for name, value in codec.entropy_model.tables.items()}
    metadata = {"kind": KIND, "config": codec.weights.metadata["config"], "encoder_id": f"{codec.id:08x}"}
    return safetensors.to_bytes(exact | {"log_inverse": codec.transforms.log_inverse.detach()}, metadata)
