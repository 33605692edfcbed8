"""What the semantic layers could have been.   python benchmarks/layer_options.py KODAK SHARD.tar... [--only PART...]

    structure   maps at stride 8 against stride 16, and maps of edges: bytes, and what painted regions show of the image
    adapter     texture values beside a latent, read by an addition to the features that nano_pixel's adapter gets
Each part replaces its own share of results/layer_options.json. Start counts of every coder are fitted to training crops.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import resultfile
import torch
import torch.nn.functional as F
from layers import explained, scores
from torch import Tensor

from priorcodec.adapters import decode as adapter_decode
from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.entropy.adaptive import DecisionEncoder
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.image import io as image_io
from priorcodec.core.layers import structure, texture
from priorcodec.core.layers.networks import BORDER, REGION
from priorcodec.core.layers.segmentation import segment
from priorcodec.core.layers.texture import COLORS, UNIT
from priorcodec.core.statistics import TO_YCC
from priorcodec.core.types import Decoded, Encoded
from priorcodec.session import Session, open_session
from priorcodec.training import sources
from recipes.semantic.maps import decisions, start

PARTS = ("structure", "adapter")
CROPS = {"structure": 150, "adapter": 60}
WEIGHT = 16  # of the start counts, in decisions a context
EDGES = (24, 48)  # gradient of Y in levels from one 4x4 cell to the next
STRIDE = 4  # pixels to a bit of the map of edges
MAPS = {"regions, stride 16": (16, 1.0), "regions, stride 8": (8, 1.0), "regions, stride 8, fewer borders": (8, 3.0)}

QUALITIES = (0, 1, 2)
READ_STEPS = (texture.STEP,)  # of the values
BACKBONE = "nano_pixel"

Pixels = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A latent at one quality with values of its derived regions beside it.

    Attributes:
        encoded: The file with the latent alone.
        y: Features of the original (1, m, h, w).
        y_hat: Decoded features (1, m, h, w).
        own: What the decoder knows without the values, for every cell (cells, inputs).
        values: Step -> decoded values of each cell's region (cells, 16).
        sizes: Step -> bytes that the values add to the file.
    """

    encoded: Encoded
    y: Tensor
    y_hat: Tensor
    own: np.ndarray
    values: dict[int, np.ndarray]
    sizes: dict[int, int]


def crops(shards: Sequence[str], folder: Path, count: int) -> list[Pixels]:
    """256x256 parts of training images."""
    entries = [e for e in sources.find(shards, folder, background="white") if min(e.width, e.height) >= 256]
    chosen = np.random.default_rng(3).permutation(len(entries))[:count]
    return [np.ascontiguousarray(sources.read(entries[i], background="white")[:256, :256]) for i in chosen]


def cells(pixels: Pixels, side: int) -> np.ndarray:
    """Mean Y, Cb, Cr of squares of pixels (rows, columns, 3), a border that does not fill one left out."""
    rows, columns = (n // side for n in pixels.shape[:2])
    mean = pixels[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).mean((1, 3))
    return mean @ np.array(TO_YCC).T


def regions(codec: Codec, pixels: Pixels, stride: int, price: float) -> structure.Labels:
    """`SemanticNetworks.describe`'s map at another stride. Error counts by area, borders by their length, times `price`."""
    y, (weight, bias) = codec.analyze(pixels), codec.semantic_networks.segmenter
    smooth = F.avg_pool2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), 3, 1)
    semantic = torch.einsum("kc,chw->hwk", weight, smooth[0]) + bias
    colors, more = cells(pixels, stride), 16 // stride
    semantic = semantic.numpy().repeat(more, 0).repeat(more, 1)[: colors.shape[0], : colors.shape[1]]
    scaled = (colors - (128, 0, 0)) / np.array(UNIT[:COLORS])
    features = np.concatenate([scaled, semantic], -1).astype(np.float32)
    return segment(features, border=price * more * BORDER, region=more**2 * REGION)


def edges(pixels: Pixels, threshold: float) -> np.ndarray:
    """Thin edges of Y at stride 4: where its gradient is above a threshold and largest across the edge."""
    y = cells(pixels, STRIDE)[..., 0]
    dy, dx = np.gradient(y)
    size = np.pad(np.hypot(dx, dy), 1)
    inner, steep = size[1:-1, 1:-1], np.abs(dy) > np.abs(dx)
    across = np.where(steep, np.maximum(size[:-2, 1:-1], size[2:, 1:-1]), np.maximum(size[1:-1, :-2], size[1:-1, 2:]))
    return (inner > threshold) & (inner >= across)


def contexts(bits: np.ndarray) -> np.ndarray:
    """The ten pixels of JBIG2's third template around each bit, as a number."""
    p = np.pad(bits.astype(np.int64), ((2, 0), (3, 3)))
    h, w = bits.shape
    places = [(0, -1), (0, 0), (0, 1), *((1, c) for c in (-2, -1, 0, 1, 2)), (2, -2), (2, -1)]
    return sum(p[r : r + h, 3 + c : 3 + c + w] << i for i, (r, c) in enumerate(places))  # pyright: ignore


def edge_bytes(bits: np.ndarray, counts: np.ndarray) -> int:
    coder = DecisionEncoder(counts)
    for context, bit in zip(contexts(bits).reshape(-1).tolist(), bits.reshape(-1).tolist(), strict=True):
        coder.bit(context, int(bit))
    return len(coder.finish())


def edge_start(maps: list[np.ndarray]) -> np.ndarray:
    counts = np.full((1024, 2), 0.1)
    for bits in maps:
        np.add.at(counts, (contexts(bits).reshape(-1), bits.reshape(-1).astype(int)), 1.0)
    total = counts.sum(1, keepdims=True)
    return np.maximum(np.round(counts / total * np.minimum(total, WEIGHT) * 16), 1).astype(np.uint16)


def painted(pixels: Pixels, labels: structure.Labels, stride: int) -> Pixels:
    """Every pixel of a region in its mean color plus a linear trend: what can be placed without a network."""
    height, width = pixels.shape[:2]
    whole = labels.repeat(stride, 0).repeat(stride, 1)[:height, :width]
    out, at = np.empty(pixels.shape), np.stack([np.ones((height, width)), *np.indices((height, width))], -1)
    for label in range(structure.regions(labels)):
        inside = whole == label
        out[inside] = at[inside] @ np.linalg.lstsq(at[inside], pixels[inside].astype(np.float64), rcond=None)[0]
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def compare_structure(images: dict[str, Pixels], shards: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """A row for every kind of map: means over images."""
    codec, training, rows = Codec(), crops(shards, folder, CROPS["structure"]), []
    for name, (stride, price) in MAPS.items():
        begin = start([decisions(regions(codec, x, stride, price)) for x in training], WEIGHT)
        found = []
        for pixels in images.values():
            labels = regions(codec, pixels, stride, price)
            size = len(structure.pack(labels, begin))
            color = cells(pixels, stride).transpose(2, 0, 1)
            found.append({
                "bytes": size, "regions": structure.regions(labels), "color_explained": explained(labels, color),
                **scores(pixels, painted(pixels, labels, stride)),
            })  # fmt: skip
        rows.append({"map": name, **mean(found)})
        print(rows[-1], flush=True)
    for threshold in EDGES:
        begin = edge_start([edges(x, threshold) for x in training])
        found = []
        for pixels in images.values():
            bits = edges(pixels, threshold)
            found.append({"bytes": edge_bytes(bits, begin), "density": float(bits.mean())})
        rows.append({"map": f"edges, stride {STRIDE}, gradient above {threshold}", **mean(found)})
        print(rows[-1], flush=True)
    return rows


def beside(codec: Codec, pixels: Pixels, quality: int) -> Beside:
    """pixels: sides are multiples of 64."""
    y = codec.analyze(pixels)
    encoded = codec.write(y, (pixels.shape[0], pixels.shape[1]), (), quality * QUALITY_STEPS)
    decoded = codec.decode(encoded.data)
    labels = codec.regions(encoded.container).labels
    y_hat, networks, model = decoded.y_hat, codec.semantic_networks, codec.semantic_tables.texture
    areas, (_, true) = texture.areas(labels), networks.describe(pixels, y, labels=labels)
    _, known = networks.describe(codec.preview(decoded, perceptual=True), y_hat, labels=labels)
    around = F.avg_pool2d(F.pad(y_hat, (1, 1, 1, 1), mode="replicate"), 3, 1)
    grids = [y_hat[0].numpy(), around[0].numpy(), in_cells(labels, known)]
    values, sizes = {}, {}
    for step in READ_STEPS:
        data = model.encode(true, areas, step)
        values[step] = flat(in_cells(labels, model.decode(data, areas)[0] / texture.ONE))
        part = container.Segment(type=container.TEXTURE, data=data)
        sizes[step] = len(container.pack(replace(encoded.container, segments=(part,)))) - len(encoded.data)
    return Beside(
        encoded=encoded, y=y, y_hat=y_hat, own=np.concatenate([flat(g) for g in grids], 1), values=values, sizes=sizes
    )


def in_cells(labels: structure.Labels, values: np.ndarray) -> np.ndarray:
    """Values (regions, 16) painted with their slopes (16, rows, columns)."""
    return texture.painted(labels, np.round(values * texture.ONE).astype(np.int32))


def flat(grid: np.ndarray) -> np.ndarray:
    """(c, rows, columns) -> (cells, c)."""
    return grid.reshape(len(grid), -1).T.astype(np.float64)


class Regression:
    """Ridge regression from what is known of a cell to the error of its features, in sums, so that no crop is kept."""

    def __init__(self) -> None:
        self.gram: np.ndarray | float = 0.0
        self.product: np.ndarray | float = 0.0

    def add(self, inputs: np.ndarray, error: np.ndarray) -> None:
        x = np.concatenate([inputs, np.ones((len(inputs), 1))], 1)
        self.gram, self.product = self.gram + x.T @ x, self.product + x.T @ error

    def solve(self) -> np.ndarray:
        scale = np.diag(np.diag(self.gram))
        return np.linalg.solve(self.gram + 1e-3 * scale, self.product)


def predicted(weight: np.ndarray, inputs: np.ndarray, like: Tensor) -> Tensor:
    found = inputs @ weight[:-1] + weight[-1]
    return torch.from_numpy(found.T.reshape(like.shape)).float()


def backbone_image(session: Session, decoded: Decoded) -> Pixels:
    """`session.decode` of features that are no file's; the preview that the adapter gets is made of them too."""
    with torch.inference_mode():
        plan = session.plan(decoded.height, decoded.width)
        preview = session.codec.preview_tensor(decoded, perceptual=True)
        found = adapter_decode.latent(session.adapter, decoded, preview, plan, steps=1)
        return adapter_decode.image(session.adapter, decoded, found, plan)


def compare_adapter(images: dict[str, Pixels], shards: Sequence[str], folder: Path, qualities: Sequence[int]) -> None:
    """Saves a row for every quality and reader: means over images. All decoded by the backbone."""
    session = open_session(BACKBONE)
    codec, training = session.codec, crops(shards, folder, CROPS["adapter"])
    for quality in qualities:
        fits = {step: Regression() for step in (None, *READ_STEPS)}
        for pixels in training:
            one = beside(codec, pixels, quality)
            error = flat((one.y - one.y_hat)[0].numpy())
            for step, fit in fits.items():
                fit.add(one.own if step is None else np.concatenate([one.own, one.values[step]], 1), error)
        weights = {step: fit.solve() for step, fit in fits.items()}
        found: dict[str, list[dict[str, Any]]] = {}

        def add(reader: str, size: int, content: Decoded, pixels: Pixels, y: Tensor, found: dict = found) -> None:
            error = float(torch.square(y - content.y_hat).mean())
            image = backbone_image(session, content)
            found.setdefault(reader, []).append({"bytes": size, "error": error, **scores(pixels, image)})

        for pixels in images.values():
            one = beside(codec, pixels, quality)
            decoded, size = codec.decode(one.encoded.data), len(one.encoded.data)
            add("none", size, decoded, pixels, one.y)
            for step, weight in weights.items():
                inputs = one.own if step is None else np.concatenate([one.own, one.values[step]], 1)
                better = replace(decoded, y_hat=one.y_hat + predicted(weight, inputs, one.y_hat))
                more = 0 if step is None else one.sizes[step]
                name = "regression without values" if step is None else f"regression with values, step {step}"
                add(name, size + more, better, pixels, one.y)
                if step is not None:
                    larger = codec.encode_to(pixels, size + more).encoded.data
                    add(f"larger latent for step {step}", len(larger), codec.decode(larger), pixels, one.y)
            rows = [{"quality": quality, "reader": reader, **mean(given)} for reader, given in found.items()]
            save("adapter", rows)  # of the images so far
        print(*rows, sep="\n", flush=True)


def mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"images": len(rows)} | {k: round(float(np.mean([row[k] for row in rows])), 5) for k in rows[0]}


def save(part: str, rows: list[dict[str, Any]]) -> None:
    path = resultfile.RESULTS / "layer_options.json"
    old = json.loads(path.read_text()) if path.is_file() else {}
    kept = [row for row in old.get(part, []) if row.get("quality") not in {row.get("quality") for row in rows}]
    together = sorted(kept + rows, key=lambda row: row.get("quality", 0))
    result = {key: old[key] for key in PARTS if key in old} | {part: together}
    resultfile.write("layer_options", "layer_options", result)


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("kodak", type=Path)
    cli.add_argument("shards", nargs="+")
    cli.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    cli.add_argument(
        "--qualities", type=int, nargs="+", default=QUALITIES, help="of the adapter's part; the others stay"
    )
    cli.add_argument("--every", type=int, default=1, help="take every n-th image")
    cli.add_argument("--folder", type=Path, default=Path("runs/layers"))
    given = cli.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    files = sorted(given.kodak.glob("*.png"))[:: given.every]
    kodak = {path.stem: image_io.load(path).pixels for path in files}
    parts: dict[str, Callable[[], list[dict[str, Any]] | None]] = {
        "structure": lambda: compare_structure(kodak, given.shards, given.folder),
        "adapter": lambda: compare_adapter(kodak, given.shards, given.folder, given.qualities),
    }
    for part in given.only:
        if rows := parts[part]():
            save(part, rows)


if __name__ == "__main__":
    main()
