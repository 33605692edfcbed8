"""A decode on a phone's budget: one thread of this machine, 768x512.   python benchmarks/phone.py MODELS

MODELS: a folder of `priorcodec export --half`. Rows, each in a process of its own on one thread:
    half    as exported: large weights stored in half precision, computed in float32
    int8    large weights stored in 8 bits, one step size for each output channel, computed in float32
Each: megabytes of what a decoder needs (perceptual preview, decoder, tables), as they are and compressed, seconds to load and to
run, peak memory, and how far the image is from the one with the weights in full precision, on the golden file of 768x512.
And for each graph: megabytes, multiplications, and seconds.
--images FOLDER [--most N]: also both rows by the yardstick (Lite1), means over images encoded at quality 3.25.
--executorch FOLDER: also rows of ExecuTorch (`pip install executorch`) with its XNNPACK backend, in full precision and with the
convolutions computed in 8 bits, calibrated on crops of --calibrate PACKED (recipes/encoder2/crops.py). Programs are made in
FOLDER unless they are there, which takes many minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import resultfile

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests' assembled priorcodec_lite
FILE = ROOT / "tests" / "golden" / "photo-768x512-q3.25.gic"
GRAPHS = ("perceptual", "decoder")
YARDSTICK = ("lite1_lpips", "lite1_dists")
QUALITY = 3.25
LEAST = 1024  # values of a weight that is stored in 8 bits

ONNX = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

def load(path):
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

def run(graph, **inputs):
    return graph.run(None, inputs)[0]
"""

EXECUTORCH = """
import torch
from executorch.runtime import Runtime
torch.set_num_threads(1)
programs = []  # must outlive their methods

def load(path):
    programs.append(Runtime.get().load_program(path))
    return programs[-1].load_method("forward")

def run(graph, **inputs):
    (image,) = graph.execute(tuple(torch.from_numpy(value) for value in inputs.values()))
    return image.contiguous().numpy().copy()
"""

MEASURE = """
import json, sys, time
import numpy as np
given, out = dict(np.load(sys.argv[1])), sys.argv[2]
y_hat, quality, noise = (given[name] for name in ("y_hat", "quality", "noise"))
start = time.process_time()
perceptual, decoder = map(load, sys.argv[3:])
loaded, runs, parts = time.process_time() - start, [], []
for _ in range(4):
    start = time.process_time()
    preview = run(perceptual, y_hat=y_hat, quality=quality)
    between = time.process_time()
    image = run(decoder, y_hat=y_hat, quality=quality, preview=preview, noise=noise)
    end = time.process_time()
    runs.append(end - start)
    parts.append((between - start, end - between))
np.save(out, image)
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
each = [min(part) for part in zip(*parts)]
print(json.dumps({"load_cpu_seconds": loaded, "run_cpu_seconds": min(runs), "peak_megabytes": peak, "each": each}))
"""


def lowered(folder: Path, given: dict[str, np.ndarray], crops: Path | None) -> list[Path]:
    """Both networks as ExecuTorch programs for the file's size: in full precision, or in 8 bits, calibrated on crops."""
    import torch
    import torch.nn.functional as F
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # pyright: ignore[reportMissingImports]
        XnnpackPartitioner,
    )
    from executorch.exir import to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]

    from priorcodec import open_session
    from priorcodec.export import graph
    from priorcodec.export.networks import _Decoder

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{'-int8' if crops else ''}.pte" for name in GRAPHS]
    if all(path.exists() for path in paths):
        return paths
    session = open_session(device="cpu", dtype="float32")
    synthesis, decoder = session.codec.transforms.g_p, _Decoder(session.adapter).eval()

    def arguments(values: dict[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
        y_hat, quality, noise = (torch.from_numpy(values[name]) for name in ("y_hat", "quality", "noise"))
        with torch.no_grad():
            return y_hat, quality, synthesis(y_hat, quality).contiguous(), noise

    examples = [arguments(values) for values in calibration(session, crops, given)] if crops else []
    rewritten = mock.patch.multiple(F, pixel_unshuffle=graph.unshuffle, adaptive_avg_pool2d=graph.adaptive_pool)
    with torch.no_grad(), rewritten:
        for path, module, count in zip(paths, (synthesis, decoder), (2, 4), strict=True):
            if path.exists():
                continue
            for parameter in module.parameters():
                parameter.data = parameter.data.contiguous()
            example = arguments(given)[:count]
            program = torch.export.export(module, example)
            if examples:
                quantized = in_8_bits_throughout(program.module(), [values[:count] for values in examples])
                program = torch.export.export(quantized, example)
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            path.write_bytes(edge.to_executorch().buffer)
    return paths


def calibration(session: Any, crops: Path, given: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """What the networks take for a few training crops of the file's size."""
    from recipes.encoder2.crops import Crops

    height, width = (16 * side for side in given["y_hat"].shape[2:])
    source, rng = Crops(crops, seed=77), np.random.default_rng(0)
    for i, quality in enumerate((1, 3, 4, 6, 3, 4)):
        half = source.crop(i, 0, height, 0.0).permute(1, 2, 0).numpy()
        pixels = np.concatenate([half, half[:, ::-1]], 1)[:, :width]
        y_hat = session.codec.decode(session.codec.encode(pixels, quality).data).y_hat.numpy()
        noise = rng.standard_normal(given["noise"].shape, np.float32)
        yield {"y_hat": y_hat, "quality": np.array([quality], np.float32), "noise": noise}


def in_8_bits_throughout(module: Any, examples: list[tuple[Any, ...]]) -> Any:
    """An exported module whose convolutions take and give 8 bits. XNNPACK refuses the decoder with its linear layers as well."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (  # pyright: ignore[reportMissingImports]
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import (  # pyright: ignore[reportMissingImports]
        convert_pt2e,
        prepare_pt2e,
    )

    quantizer = XNNPACKQuantizer()
    quantizer.transform_for_annotation = lambda model: model  # it would make the quality's index a float
    quantizer.set_operator_type(torch.ops.aten.conv2d.default, get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(module, quantizer)
    for values in examples:
        prepared(*values)
    return convert_pt2e(prepared)


def inputs() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the graphs take for the file, and the image that torch makes of it in float32."""
    import torch

    from priorcodec import open_session
    from priorcodec.backbones.diffusion import seeded_noise

    session = open_session(device="cpu", dtype="float32")
    decoded = session.codec.decode(FILE.read_bytes())
    size = (16 * decoded.y_hat.shape[-2], 16 * decoded.y_hat.shape[-1])
    noise = seeded_noise([decoded.seed], (1, *session.adapter.noise_shape(*size)), "cpu", torch.float32)(0)
    quality = np.array([decoded.quality], np.float32)
    given = {"y_hat": np.ascontiguousarray(decoded.y_hat.numpy()), "quality": quality, "noise": noise.numpy()}
    return given, session.decode(FILE.read_bytes(), output="np")


def in_8_bits(path: Path, target: Path) -> None:
    """Store a graph's large weights in 8 bits, symmetric, with one step size for each output channel."""
    import onnx  # pyright: ignore[reportMissingImports]
    from onnx import TensorProto, helper, numpy_helper  # pyright: ignore[reportMissingImports]

    model = onnx.load(path)
    graph, nodes, cast = model.graph, [], {}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0].endswith(".half"):
            cast[node.input[0]] = node.output[0]
        else:
            nodes.append(node)
    by_columns = {node.input[1] for node in nodes if node.op_type == "MatMul"}  # an output channel is a column
    first = []
    for tensor in list(graph.initializer):
        values, name = numpy_helper.to_array(tensor), cast.get(tensor.name, tensor.name)
        if values.size < LEAST or values.ndim < 2 or tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            if tensor.name in cast:
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
            continue
        axis = values.ndim - 1 if name in by_columns else 0
        over = tuple(i for i in range(values.ndim) if i != axis)
        step = np.maximum(np.abs(values.astype(np.float32)).max(over) / 127, 1e-12)
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        whole = np.rint(values.astype(np.float32) / step.reshape(shape)).astype(np.int8)
        tensor.CopyFrom(numpy_helper.from_array(whole, f"{name}.int8"))
        graph.initializer.append(numpy_helper.from_array(step.astype(np.float32), f"{name}.step"))
        first.append(helper.make_node("DequantizeLinear", [f"{name}.int8", f"{name}.step"], [name], axis=axis))
    del graph.node[:]
    graph.node.extend([*first, *nodes])
    target.write_bytes(model.SerializeToString(deterministic=True))


def measured(script: str, given: Path, files: list[Path], wanted: np.ndarray) -> dict[str, Any]:
    """One row, from a process with one thread."""
    out = given.with_name("image.npy")
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script + MEASURE, str(given), str(out), *map(str, files)],
        capture_output=True, text=True, env={**os.environ, **threads},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{files[-1].name}: {done.stderr.strip()[-2000:]}")
    image = np.floor(((np.load(out)[0] + 1) * 127.5).clip(0, 255) + 0.5).transpose(1, 2, 0)
    difference = np.abs(image - wanted.astype(float))
    answer = json.loads(done.stdout.splitlines()[-1])
    row = {"each": [round(value, 2) for value in answer.pop("each")]}
    row |= {key: round(value, 2) for key, value in answer.items()}
    psnr = 10 * np.log10(255**2 / max(float((difference**2).mean()), 1e-9))
    return row | {"largest_difference": int(difference.max()), "psnr_to_full_precision": round(float(psnr), 2)}


def multiplications(given: dict[str, np.ndarray]) -> list[float]:
    """Of each graph for the file, in 10**9: those of convolutions and products of matrices."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from priorcodec import open_session
    from priorcodec.export.networks import _Decoder

    session = open_session(device="cpu", dtype="float32")
    y_hat, quality, noise = (torch.from_numpy(given[name]) for name in ("y_hat", "quality", "noise"))
    synthesis, found = session.codec.transforms.g_p, []
    decoder = _Decoder(session.adapter)
    with torch.inference_mode():
        preview = synthesis(y_hat, quality)
        for network, inputs in (synthesis, (y_hat, quality)), (decoder, (y_hat, quality, preview, noise)):
            with FlopCounterMode(display=False) as counter:
                network(*inputs)
            found.append(round(counter.get_total_flops() / 2e9, 2))
    return found


def by_yardstick(models: Path, small: list[Path], images: list[Path], work: Path) -> dict[str, dict[str, float]]:
    """Lite1 of images decoded by priorcodec-lite with the weights in half precision and in 8 bits."""
    from priorcodec.core.image import io as image_io
    from priorcodec.evaluation import metrics
    from tests.lite.assembled import assemble

    sys.path.insert(0, str(assemble(work / "lite")))
    import priorcodec_lite  # pyright: ignore[reportMissingImports]

    shutil.copytree(models, work / "int8")
    manifest = json.loads((work / "int8" / "manifest.json").read_text())
    for path in small:
        shutil.copy(path, work / "int8")
        data = path.read_bytes()
        manifest["files"][path.name] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (work / "int8" / "manifest.json").write_text(json.dumps(manifest))
    sessions = {"half": priorcodec_lite.open_session(models, threads=1)}
    sessions["int8"] = priorcodec_lite.open_session(work / "int8", threads=1)
    scores: dict[str, list[dict[str, Any]]] = {name: [] for name in sessions}
    for path in images:
        pixels = image_io.load(path).pixels
        data = sessions["half"].encode(pixels, QUALITY)
        for name, session in sessions.items():
            scores[name].append(metrics.score(pixels, session.decode(data, output="np"), YARDSTICK))
        print(path.stem, {name: rows[-1] for name, rows in scores.items()}, flush=True)
    return {
        name: {metric: round(float(np.mean([row[metric] for row in rows])), 4) for metric in YARDSTICK}
        for name, rows in scores.items()
    }


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("models", type=Path)
    cli.add_argument("--images", type=Path, help="folder of images to measure the quality on")
    cli.add_argument("--most", type=int, default=6, help="images that are measured at most")
    cli.add_argument(
        "--executorch", type=Path, metavar="FOLDER", help="also ExecuTorch; its programs are kept in FOLDER"
    )
    cli.add_argument("--calibrate", type=Path, metavar="PACKED", help="training images, for 8 bits in ExecuTorch")
    args = cli.parse_args()
    given, wanted = inputs()
    rows: list[dict[str, Any]] = []
    seconds: dict[str, list[float]] = {}  # of each graph
    tables = args.models / "tables.safetensors"
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "inputs.npz")
        np.savez(path, **given)  # pyright: ignore[reportArgumentType]
        half = [args.models / f"{name}.onnx" for name in GRAPHS]
        small = [Path(work, f"{name}.onnx") for name in GRAPHS]
        for source, target in zip(half, small, strict=True):
            in_8_bits(source, target)
        runs = [("onnxruntime", ONNX, "half", half), ("onnxruntime", ONNX, "int8", small)]
        if args.executorch:
            runs.append(("ExecuTorch", EXECUTORCH, "full", lowered(args.executorch, given, None)))
        if args.executorch and args.calibrate:
            programs = lowered(args.executorch, given, args.calibrate)
            runs.append(("ExecuTorch", EXECUTORCH, "int8, computed in int8", programs))
        for runtime, script, stored, files in runs:
            data = [file.read_bytes() for file in (tables, *files)]
            sizes = {
                "megabytes": round(sum(map(len, data)) / 1e6, 1),
                "compressed_megabytes": round(sum(len(zlib.compress(part)) for part in data) / 1e6, 1),
            }
            found = measured(script, path, files, wanted)
            seconds[stored] = found.pop("each")
            rows.append({"runtime": runtime, "weights": stored, **sizes, **found})
            print(rows[-1], flush=True)
        graphs = [
            {
                "graph": name,
                "megabytes": {
                    "half": round(large.stat().st_size / 1e6, 1),
                    "int8": round(less.stat().st_size / 1e6, 1),
                },
                "multiplications": count,
                "run_cpu_seconds": {stored: each[i] for stored, each in seconds.items()},
            }
            for i, (name, large, less, count) in enumerate(
                zip(GRAPHS, half, small, multiplications(given), strict=True)
            )
        ]
        tables_row = {
            "graph": "tables",
            "megabytes": {stored: round(tables.stat().st_size / 1e6, 1) for stored in ("half", "int8")},
        }
        content = {"graphs": [*graphs, tables_row]}
        if args.images:
            images = sorted(path for path in args.images.iterdir() if path.suffix == ".png")[: args.most]
            scores = by_yardstick(args.models, small, images, Path(work))
            content |= {"set": args.images.name, "images": len(images), "quality": QUALITY}
            rows = [{**row, **scores.get(row["weights"], {})} for row in rows]
    load = [round(value, 1) for value in os.getloadavg()]
    print(resultfile.write("phone", "phone", {"file": FILE.stem, "load_average": load, "rows": rows, **content}))


if __name__ == "__main__":
    main()
