"""`priorcodec export`: the folder that a reader without torch needs.

analysis.onnx hyper.onnx preview.onnx perceptual.onnx decoder.onnx     float networks, see `export.networks`
renderer.onnx          makes the preview of a file without a latent, if the encoder has semantic layers (section 15)
residual.safetensors   the tables of the residual layer, if the encoder has them (section 16)
semantic.safetensors   the tables of the semantic layers, if the encoder has them (sections 13 and 14)
tables.safetensors     the exact tables and the inverse gains, with the encoder's id (docs/format.md, section 3)
manifest.json          ids, SHA-256 and size of every file, inputs and outputs, tile and margins in pixels
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from priorcodec.adapters.decode import MARGIN
from priorcodec.core.errors import ConfigError, PriorCodecError, WeightsError
from priorcodec.core.exact_reader import RESIDUAL_FILE, TABLES
from priorcodec.core.io import atomic, safetensors
from priorcodec.core.layers import semantic
from priorcodec.core.weights import KIND
from priorcodec.export import networks
from priorcodec.export.graph import trace
from priorcodec.export.networks import Network

if TYPE_CHECKING:
    from priorcodec.adapters.adapter import Adapter
    from priorcodec.core.codec import Codec
    from priorcodec.session import Session

logger = logging.getLogger(__name__)

FORMAT = 1  # of the manifest
TILE, FIXED_TILE = 1024, 512  # pixels
GRID = 64  # a tile is a multiple of it
HALF_A_LEVEL = 0.5 / 127.5
UNTRACED = ((3, 2), (2, 5))  # sizes, in the units of a network's ports
EXACT = "tables.safetensors"
SEMANTIC = semantic.SHIPPED.name
MANIFEST = "manifest.json"
NAMES = (
    *(f"{name}.onnx" for name in ("analysis", "hyper", "preview", "perceptual", "renderer", "decoder")),
    *(EXACT, SEMANTIC, RESIDUAL_FILE, MANIFEST),
)
"""All files that an export may write."""


def export(
    session: Session,
    folder: Path,
    *,
    tile: int | None = None,
    fixed: bool = False,
    half: bool = False,
    decoder: bool = True,
    replace: bool = True,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Write the folder.

    Args:
        session: On the CPU in float32, with the settings' backbone and adapter.
        folder: Made if it does not exist.
        tile: Side in pixels of the tiles that large images are decoded in, margins counted; None for 1024, or 512 if fixed.
        fixed: Whether the decoder takes squares of that side only. It does as well if it cannot be traced with free sizes.
        half: Whether the decoder's large weights are rounded to half precision; merged ones do not fit it exactly.
        decoder: Whether to write it, or the encoder's graphs alone.
        replace: Whether files of the same names are replaced.
        progress: Called with the name of each file as it is written, which is when all are made.

    Returns:
        The manifest.

    Raises:
        ConfigError: An impossible tile or device, or packages that write ONNX are missing.
        WeightsError, AdapterError, BackboneError: The decoder is not complete.
        PriorCodecError: A file exists by the time it is written, and may not be replaced.
    """
    if tile is None:
        tile = FIXED_TILE if fixed else TILE
    if tile % GRID or not 4 * MARGIN <= tile <= 4096:
        raise ConfigError(f"tile is {tile}, wanted a multiple of {GRID} from {4 * MARGIN} to 4096")
    if session.device.type != "cpu" or decoder and session.dtype != torch.float32:
        raise ConfigError(f"export got {session.device} and {session.dtype}, wanted cpu and float32")
    codec = session.codec
    manifest: dict[str, Any] = {"format": FORMAT, "encoder": {"id": f"{codec.id:08x}", "levels": codec.levels}}
    if decoder:
        adapter, spec = session.adapter, session.spec
        manifest["backbone"] = {"name": spec.name, "revision": spec.revision, "license": spec.license}
        manifest["tile"], manifest["margin"] = tile, MARGIN
    made: dict[str, bytes] = {}
    files: dict[str, Any] = {}

    def put(name: str, data: bytes, **described: Any) -> None:
        made[name] = data
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **described}

    def put_network(network: Network, data: bytes, **described: Any) -> None:
        halo = {} if network.halo is None else {"halo": network.halo}
        ports = {"inputs": network.inputs, "outputs": network.outputs}
        shapes = {kind: {port.name: list(port.shape) for port in some} for kind, some in ports.items()}
        put(f"{network.name}.onnx", data, **described, **halo, **shapes)

    put(EXACT, tables(codec))
    if codec.reader.residual_file.exists():
        put(RESIDUAL_FILE, codec.reader.residual_file.read_bytes())
    for network in networks.of_encoder(codec.transforms):
        put_network(network, checked(network))
    if has_semantic_layers(codec):
        put(SEMANTIC, semantic_tables())
        network = networks.of_semantic(codec.semantic_networks.renderer)
        put_network(network, checked(network))
    if decoder:
        put_network(
            *_decoder(adapter, codec.transforms.config.m, tile, fixed=fixed, half=half), preview=f"{networks.READ}.onnx"
        )
    manifest["files"] = files
    atomic.make_folder(folder)
    if replace:
        (folder / MANIFEST).unlink(missing_ok=True)  # a folder with files of two exports has none
    made[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    for name, data in made.items():
        atomic.write(folder / name, data, replace=replace)
        progress(name)
    return manifest


def checked(network: Network, *, half: bool = False) -> bytes:
    """A network's graph. Raises ConfigError: packages are missing; PriorCodecError: it does not answer what torch answers."""
    data = trace(network.module, network.examples(), network.inputs, network.outputs, half=half)
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("export needs onnxruntime, which is missing: pip install 'priorcodec[export]'") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an exception says the same
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        for cells in UNTRACED:
            inputs = network.examples(cells)
            with torch.inference_mode():
                wanted = network.module(*inputs.values())
            found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
            for one, other in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
                difference, scale = (torch.from_numpy(one) - other).abs().max(), other.abs().max().clamp(min=1)
                if not difference < HALF_A_LEVEL * scale:
                    raise PriorCodecError(
                        f"{network.name}: the graph differs from torch by {difference:.2g}: report this"
                    )
    except PriorCodecError:
        raise
    except Exception as error:  # of onnxruntime, or of a shape that was traced as fixed
        reason = str(error).splitlines()[0][:200]
        raise PriorCodecError(f"{network.name}: onnxruntime cannot run the graph ({reason}): report this") from error
    return data


def _decoder(adapter: Adapter, m: int, tile: int, *, fixed: bool, half: bool) -> tuple[Network, bytes]:
    """With free sizes, if it may have them and they work."""
    if not fixed:
        network = networks.of_decoder(adapter, m)
        try:
            return network, checked(network, half=half)
        except ConfigError:
            raise
        except Exception as error:  # torch's tracer knows many
            logger.warning("%s has no free sizes (%s)", network.name, str(error).splitlines()[0][:200])
    network = networks.of_decoder(adapter, m, tile)
    return network, checked(network, half=half)


def tables(codec: Codec) -> bytes:
    """The tables file of docs/format.md, section 3."""
    exact = {f"{TABLES}{name}": torch.from_numpy(value) for name, value in codec.entropy_model.tables.items()}
    metadata = {"kind": KIND, "config": codec.weights.metadata["config"], "encoder_id": f"{codec.id:08x}"}
    return safetensors.to_bytes(exact | {"log_inverse": codec.transforms.log_inverse.detach()}, metadata)


def has_semantic_layers(codec: Codec) -> bool:
    """Whether the semantic layers were made for this encoder."""
    try:
        return bool(codec.semantic_tables)
    except WeightsError as error:
        logger.warning("semantic layers are left out (%s)", error)
        return False


def semantic_tables() -> bytes:
    """The weight file of the semantic layers, its integer tables alone: docs/format.md, sections 13 and 14."""
    metadata, tensors = safetensors.read(semantic.SHIPPED, semantic.KIND, WeightsError)
    tables = {name: value for name, value in tensors.items() if not name.startswith(semantic.NETWORKS)}
    return safetensors.to_bytes(tables, {name: metadata[name] for name in ("kind", "encoder_id")})
