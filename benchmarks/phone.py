"""A decode on a phone's budget: one thread of this machine, 768x512.   python benchmarks/phone.py MODELS

MODELS: a folder of `priorcodec export --half`. Rows, each in a process of its own on one thread:
    half    as exported: large weights stored in half precision, computed in float32
    int8    large weights stored in 8 bits, one step size for each output channel, computed in float32
Each: megabytes of what a decoder needs (perceptual preview, decoder, tables), as they are and compressed, seconds to load and to
run, peak memory, and how far the image is from the one with the weights in full precision, on the golden file of 768x512.
And for each graph: megabytes, multiplications, and seconds.
--images FOLDER [--most N]: also both rows by the yardstick (Lite1), means over images encoded at quality 3.25.
--executorch FOLDER: also a row of ExecuTorch (`pip install executorch`) with its XNNPACK backend, weights in full precision. Its
two programs are made in FOLDER unless they are there, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
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
import json, sys, time
import numpy as np, onnxruntime
given, out = dict(np.load(sys.argv[1])), sys.argv[2]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
start = time.process_time()
sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in sys.argv[3:]]
load, runs, parts = time.process_time() - start, [], []
for _ in range(4):
    start = time.process_time()
    (preview,) = sessions[0].run(None, {name: given[name] for name in ("y_hat", "quality")})
    between = time.process_time()
    (image,) = sessions[1].run(None, {**given, "preview": preview})
    end = time.process_time()
    runs.append(end - start)
    parts.append((between - start, end - between))
np.save(out, image)
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
each = [min(part) for part in zip(*parts)]
print(json.dumps({"load_cpu_seconds": load, "run_cpu_seconds": min(runs), "peak_megabytes": peak, "each": each}))
"""


EXECUTORCH = """
import json, sys, time
import numpy as np, torch
from executorch.runtime import Runtime
torch.set_num_threads(1)
given, out = dict(np.load(sys.argv[1])), sys.argv[2]
start = time.process_time()
programs = [Runtime.get().load_program(path) for path in sys.argv[3:]]
methods = [program.load_method("forward") for program in programs]
load, runs, parts = time.process_time() - start, [], []
for _ in range(4):
    start = time.process_time()
    values = {name: torch.from_numpy(value) for name, value in given.items()}
    (preview,) = methods[0].execute((values["y_hat"], values["quality"]))
    preview, between = preview.contiguous().clone(), time.process_time()
    (image,) = methods[1].execute((values["y_hat"], values["quality"], preview, values["noise"]))
    end = time.process_time()
    runs.append(end - start)
    parts.append((between - start, end - between))
np.save(out, image.numpy())
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
each = [min(part) for part in zip(*parts)]
print(json.dumps({"load_cpu_seconds": load, "run_cpu_seconds": min(runs), "peak_megabytes": peak, "each": each}))
"""


def lowered(folder: Path, given: dict[str, np.ndarray]) -> list[Path]:
    """Both networks as ExecuTorch programs for the file's size, in full precision."""
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
    session = open_session(device="cpu", dtype="float32")
    y_hat, quality, noise = (torch.from_numpy(given[name]) for name in ("y_hat", "quality", "noise"))
    preview = session.codec.transforms.g_p(y_hat, quality).contiguous()
    modules = (
        (session.codec.transforms.g_p, (y_hat, quality)),
        (_Decoder(session.adapter), (y_hat, quality, preview, noise)),
    )
    paths = [folder / f"{name}.pte" for name in GRAPHS]
    rewritten = mock.patch.multiple(F, pixel_unshuffle=graph.unshuffle, adaptive_avg_pool2d=graph.adaptive_pool)
    for path, (module, arguments) in zip(paths, modules, strict=True):
        if not path.exists():
            for parameter in module.parameters():
                parameter.data = parameter.data.contiguous()
            with torch.no_grad(), rewritten:
                program = torch.export.export(module.eval(), arguments)
                edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            path.write_bytes(edge.to_executorch().buffer)
    return paths


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
        [sys.executable, "-c", script, str(given), str(out), *map(str, files)],
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
    for path in small:
        shutil.copy(path, work / "int8")
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
            runs.append(("ExecuTorch", EXECUTORCH, "full", lowered(args.executorch, given)))
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
