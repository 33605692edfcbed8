"""What the semantic layers are worth.   python benchmarks/layers.py KODAK SHARD.tar... [--only PART...] [--folder OUT]

    sizes      bytes of files without a latent
    decoded    the same through the preview and two backbones, against latent files of the same size
    maps       regions that are written against those derived from the latent, by what they explain of ImageNet features
    beside     texture values beside a latent: their bytes, and what the preview gains where its regions get their mean color
    analysis   photograph or AI-generated, and nearest images, from texture values against decoded images
Each part replaces its own share of results/layers.json. Images for a contact sheet are written to OUT.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import resultfile
import torch

from priorcodec.core import container
from priorcodec.core.codec import Codec
from priorcodec.core.container import STRUCTURE, TEXTURE
from priorcodec.core.gradient_similarity import deviation
from priorcodec.core.image import io as image_io
from priorcodec.core.layers import texture
from priorcodec.core.layers.settings import LayerConfig
from priorcodec.core.statistics import TO_YCC
from priorcodec.evaluation import features
from priorcodec.session import Session, open_session
from priorcodec.training import sources

SEMANTIC = LayerConfig(layers=("semantic",))
BACKBONES = ("nano_pixel", "nano_dit")
PARTS = ("sizes", "decoded", "maps", "beside", "analysis")
QUALITIES = (0.0, 1.0, 2.0)
CROPS = 40  # of either kind, for the classifier
BESIDE, NEAREST = 4, 12  # images of those parts: every sixth, every second

Pixels = np.ndarray


def scores(reference: Pixels, image: Pixels) -> dict[str, float]:
    a, b = (image_io.to_tensor(x) for x in (reference, image))
    mse = float(np.square(reference.astype(np.float64) - image).mean())
    return {
        "lite1_lpips": round(features.feature_lpips(features.Lite1, reference, image), 5),
        "lite1_dists": round(features.feature_dists(features.Lite1, reference, image), 5),
        "gmsd": round(float(deviation(b, a)[0]), 5),
        "psnr": round(10 * np.log10(255**2 / mse), 3),
    }


def decoded(images: dict[str, Pixels], codec: Codec, out: Path) -> None:
    """A row per image, file and decoder: without a latent, and the largest latent file that is not larger, or the smallest."""
    sessions = {name: open_session(name) for name in BACKBONES}
    for name, pixels in images.items():
        alone, smallest = codec.encode(pixels, layers=SEMANTIC), codec.encode(pixels, 0)
        larger = len(alone.data) > len(smallest.data)
        latent = codec.encode_to(pixels, len(alone.data)).encoded if larger else smallest
        rows = []
        for kind, encoded in (("semantic", alone), ("latent", latent)):
            size = len(encoded.data)
            row = {"image": name, "file": kind, "bytes": size, "bpp": round(8 * size / pixels[..., 0].size, 6)}
            shown = {"preview": codec.preview(codec.decode(encoded.data), perceptual=True)}
            shown |= {backbone: session.decode(encoded.data, output="np") for backbone, session in sessions.items()}
            for decoder, image in shown.items():
                rows.append({**row, "decoder": decoder, **scores(pixels, image)})
                image_io.save(image, out / f"{name}.{kind}.{decoder}.png")
        save("decoded", rows)


def sizes(images: dict[str, Pixels], codec: Codec) -> list[dict[str, Any]]:
    """Bytes of every file without a latent, and of the smallest file with one."""
    rows = []
    for name, pixels in images.items():
        content, smallest = codec.encode(pixels, layers=SEMANTIC), codec.encode(pixels, 0)
        parts = {
            "structure": part_bytes(content.container, STRUCTURE),
            "texture": part_bytes(content.container, TEXTURE),
        }
        row = {"image": name, "bytes": len(content.data), "bpp": round(8 * len(content.data) / pixels[..., 0].size, 6)}
        rows.append(
            {**row, **parts, "regions": codec.regions(content.container).count, "latent_bytes": len(smallest.data)}
        )
    return rows


def part_bytes(content: container.Container, kind: int) -> int:
    return len(content.segment(kind) or b"")


def explained(labels: np.ndarray, maps: np.ndarray) -> float:
    """Share of the variance of maps (c, rows, columns) between the regions."""
    flat, values = labels.reshape(-1), maps.reshape(len(maps), -1)
    count = np.bincount(flat)
    means = np.stack([np.bincount(flat, v) / count for v in values])
    return 1 - float(np.square(values - means[:, flat]).sum() / np.square(values - values.mean(1, keepdims=True)).sum())


def maps(images: dict[str, Pixels], codec: Codec) -> list[dict[str, Any]]:
    """Regions against features of EfficientNet-Lite1 at stride 16, mean color, and edges."""
    rows = []
    for name, pixels in images.items():
        lite = features.network(features.Lite1)(pixels)[3][0].numpy()
        written = codec.encode(pixels, layers=SEMANTIC)
        found = {"written": codec.regions(written.container)}
        sizes = {"written": part_bytes(written.container, STRUCTURE)}
        for quality in (0, 3):
            found[f"derived at quality {quality}"] = codec.regions(codec.encode(pixels, quality).container)
        y = pixels @ np.array(TO_YCC[0])
        gy, gx = np.gradient(y)
        edge = np.hypot(gx, gy)
        for kind, regions in found.items():
            labels = regions.labels
            rows_, columns = (side // 16 for side in pixels.shape[:2])
            inside = labels[:rows_, :columns]
            color = (
                pixels[: 16 * rows_, : 16 * columns].reshape(rows_, 16, columns, 16, 3).mean((1, 3)).transpose(2, 0, 1)
            )
            whole = labels.repeat(16, 0).repeat(16, 1)[: pixels.shape[0], : pixels.shape[1]]
            border = np.zeros(whole.shape, bool)
            border[:, 1:] |= whole[:, 1:] != whole[:, :-1]
            border[1:] |= whole[1:] != whole[:-1]
            near = np.lib.stride_tricks.sliding_window_view(np.pad(border, 4), (9, 9)).any((2, 3))
            rows.append({
                "image": name, "map": kind, "regions": regions.count, "bytes": sizes.get(kind, 0),
                "lite1_explained": round(explained(inside, lite[:, :rows_, :columns]), 4),
                "color_explained": round(explained(inside, color), 4),
                "edge_ratio": round(float(edge[near].mean() / edge[~near].mean()), 4) if near.any() and not near.all() else 1.0,
            })  # fmt: skip
    return rows


def beside(images: dict[str, Pixels], codec: Codec) -> list[dict[str, Any]]:
    """Texture values beside a latent, with a written and with a derived map: what correcting the preview's colors brings."""
    rows = []
    for name, pixels in images.items():
        y = codec.analyze(pixels)
        own = codec.encode(pixels, layers=SEMANTIC).container
        for quality in QUALITIES:
            plain = codec.encode(pixels, quality)
            preview = codec.preview(codec.decode(plain.data), perceptual=True)
            base = {"image": name, "quality": quality, "latent_bytes": len(plain.data)}
            derived = codec.regions(plain.container).labels
            described = codec.semantic_networks.describe(pixels, y, labels=derived)
            segments = {
                "written map": own.segments,
                "derived map": codec.semantic_tables.write(*described, map_written=False),
            }
            rows.append({**base, "layer": "none", "bytes": len(plain.data), **scores(pixels, preview)})
            for kind, parts in segments.items():
                content = replace(plain.container, segments=parts)
                corrected = with_mean_colors(codec, content, preview)
                size = len(container.pack(content))
                rows.append({**base, "layer": kind, "bytes": size, **scores(pixels, corrected)})
            same = codec.encode_to(pixels, size).encoded
            rows.append(
                {
                    **base,
                    "layer": "larger latent",
                    "bytes": len(same.data),
                    **scores(pixels, codec.preview(codec.decode(same.data), perceptual=True)),
                }
            )
        print(name, flush=True)
    return rows


def with_mean_colors(codec: Codec, content: container.Container, preview: Pixels) -> Pixels:
    """A preview, every region moved to the mean color that the texture layer has for it."""
    regions = codec.regions(content)
    assert regions.values is not None
    height, width = preview.shape[:2]
    whole = regions.labels.repeat(16, 0).repeat(16, 1)[:height, :width].reshape(-1)
    flat = preview.reshape(-1, 3).astype(np.float64)
    count = np.bincount(whole, minlength=regions.count)
    now = np.stack([np.bincount(whole, flat[:, i], regions.count) / count for i in range(3)], 1)
    units = np.array(texture.UNIT[:3])
    wanted = (regions.values[:, :3] / texture.ONE * units + (128, 0, 0)) @ np.linalg.inv(np.array(TO_YCC)).T
    slack = texture.STEPS[texture.STEP] / texture.ONE / 2 * units @ np.abs(np.linalg.inv(np.array(TO_YCC))).T
    moved = np.sign(wanted - now) * np.maximum(np.abs(wanted - now) - slack, 0)  # only what the step cannot explain
    return np.clip(np.round(flat + moved[whole]), 0, 255).astype(np.uint8).reshape(preview.shape)


def stream_vector(codec: Codec, data: bytes) -> np.ndarray:
    """Of a file without a latent, nothing decoded: mean and spread of the regions' values by area, numbers and sizes."""
    content = codec.reader.unpack(data)
    found = codec.regions(content)
    assert found.values is not None
    share = texture.areas(found.labels) / found.labels.size
    values = found.values / texture.ONE
    mean = share @ values
    cells = content.height * content.width / 256
    sizes = [part_bytes(content, kind) / cells for kind in (STRUCTURE, TEXTURE)]
    return np.array([*mean, *np.sqrt(share @ np.square(values - mean)), found.count, *sizes])


def image_vector(image: Pixels) -> np.ndarray:
    """Mean and spread of EfficientNet-Lite1's features at stride 16."""
    maps_ = features.network(features.Lite1)(image)[3][0].flatten(1).numpy()
    return np.concatenate([maps_.mean(1), maps_.std(1)])


def accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Of a ridge classifier, both kinds weighing the same; its strength is chosen on five folds of the training set."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    train, test = (np.clip((x - mean) / std, -4, 4) for x in (train, test))
    folds = np.arange(len(train)) % 5

    def fitted(x: np.ndarray, t: np.ndarray, strength: float) -> np.ndarray:
        a = np.concatenate([x, np.ones((len(x), 1))], 1)
        return np.linalg.solve(a.T @ a + strength * np.eye(a.shape[1]), a.T @ (2.0 * t - 1))

    def right(w: np.ndarray, x: np.ndarray, t: np.ndarray) -> float:
        return float(((x @ w[:-1] + w[-1] > 0) == t).mean())

    def held_out(strength: float) -> float:
        return float(
            np.mean(
                [
                    right(
                        fitted(train[folds != k], labels[folds != k], strength), train[folds == k], labels[folds == k]
                    )
                    for k in range(5)
                ]
            )
        )

    best = max((1.0, 10.0, 100.0, 1000.0), key=held_out)
    return right(fitted(train, labels, best), test, truth)


def nearest(queries: np.ndarray, known: np.ndarray) -> float:
    """Share of the queries whose nearest known vector is the one of their own image."""
    mean, std = known.mean(0), known.std(0) + 1e-6
    a, b = (queries - mean) / std, (known - mean) / std
    return float((np.square(a[:, None] - b).sum(-1).argmin(1) == np.arange(len(a))).mean())


def analysis(images: dict[str, Pixels], shards: Sequence[str], codec: Codec, folder: Path) -> list[dict[str, Any]]:
    """AI-generated or photograph, learned on crops of training images; nearest image of a flipped, smaller crop."""
    entries = sources.find(shards, folder, background="white")
    rng = np.random.default_rng(4)
    vectors: dict[str, list[np.ndarray]] = {
        "texture values": [],
        "preview of the same file": [],
        "original": [],
    }
    labels = []
    for generated in (False, True):
        mine = [e for e in entries if ("aigc" in e.path) == generated and min(e.width, e.height) >= 256]
        for i in rng.permutation(len(mine))[:CROPS]:
            pixels = sources.read(mine[i], background="white")
            top, left = ((side - 256) // 2 for side in pixels.shape[:2])
            add_vectors(vectors, codec, np.ascontiguousarray(pixels[top : top + 256, left : left + 256]))
            labels.append(generated)
    order = rng.permutation(len(labels))
    truth, half = np.array(labels)[order], len(labels) * 2 // 3
    rows = []
    crops = [np.ascontiguousarray(pixels[32:-32, 32:-32][:, ::-1]) for pixels in images.values()]
    pairs = {kind: (list[np.ndarray](), list[np.ndarray]()) for kind in vectors}
    for some, at in ((images.values(), 0), (crops, 1)):
        found = {kind: pairs[kind][at] for kind in vectors}
        for pixels in some:
            add_vectors(found, codec, pixels)
    for kind, values in vectors.items():
        x = np.stack(values)[order]
        known, queries = (np.stack(v) for v in pairs[kind])
        rows.append({
            "from": kind, "numbers": x.shape[1], "crops": len(x), "tested": len(x) - half,
            "accuracy": round(accuracy(x[:half], truth[:half], x[half:], truth[half:]), 4),
            "images": len(known), "nearest_is_itself": round(nearest(queries, known), 4),
        })  # fmt: skip
    return rows


def add_vectors(vectors: dict[str, list[np.ndarray]], codec: Codec, pixels: Pixels) -> None:
    data = codec.encode(pixels, layers=SEMANTIC).data
    vectors["texture values"].append(stream_vector(codec, data))
    vectors["preview of the same file"].append(image_vector(codec.preview(codec.decode(data))))
    vectors["original"].append(image_vector(pixels))


def numbers(row: dict[str, Any]) -> list[str]:
    return [name for name, value in row.items() if isinstance(value, int | float)]


def means(result: dict[str, Any]) -> dict[str, Any]:
    """The mean of every number over images, for each kind of row."""
    keys = {
        "sizes": (),
        "decoded": ("file", "decoder"),
        "maps": ("map",),
        "beside": ("quality", "layer"),
    }
    out: dict[str, Any] = {}
    for part, names in keys.items():
        groups: dict[tuple, list[dict[str, Any]]] = {}
        for row in result.get(part, []):
            groups.setdefault(tuple(row[name] for name in names), []).append(row)
        out[f"{part}_means"] = [
            {**dict(zip(names, key, strict=True)), "images": len(rows)}
            | {
                name: round(float(np.mean([row[name] for row in rows])), 5)
                for name in numbers(rows[0])
                if name not in names
            }
            for key, rows in groups.items()
        ]
    return {key: value for key, value in out.items() if value}


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("kodak", type=Path)
    cli.add_argument("shards", nargs="+")
    cli.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=PARTS,
    )
    cli.add_argument("--folder", type=Path, default=Path("runs/layers"))
    given = cli.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    kodak = {path.stem: image_io.load(path).pixels for path in sorted(given.kodak.glob("*.png"))}
    codec = Session(open_session().config).codec
    # What is done early stands for all.
    spread = {name: kodak[name] for start in (0, 1, 2) for name in list(kodak)[start::3]}
    parts: dict[str, Callable[[], list[dict[str, Any]] | None]] = {
        "sizes": lambda: sizes(kodak, codec),
        "decoded": lambda: decoded(spread, codec, given.folder),
        "maps": lambda: maps(kodak, codec),
        "beside": lambda: beside(every(kodak, BESIDE), codec),
        "analysis": lambda: analysis(every(kodak, NEAREST), given.shards, codec, given.folder),
    }
    for part in given.only:
        save(part, None)
        rows = parts[part]()
        if rows:
            save(part, rows)


def every(images: dict[str, Pixels], count: int) -> dict[str, Pixels]:
    return dict(list(images.items())[:: max(1, len(images) // count)])


def save(part: str, rows: list[dict[str, Any]] | None) -> None:
    """Add rows to a part of the result file; None empties it."""
    path = resultfile.RESULTS / "layers.json"
    old = json.loads(path.read_text()) if path.is_file() else {}
    result = {key: old[key] for key in PARTS if key in old}
    result[part] = [] if rows is None else [*result.get(part, []), *rows]
    resultfile.write("layers", "layers", means(result) | {key: value for key, value in result.items() if value})


if __name__ == "__main__":
    main()
