"""Fit the texture layer's model and freeze everything: release.py CACHE FIT.npz MAPS.npz CLASSES.npz TRAIN.pt OUT.safetensors"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch

from priorcodec.core import shipped
from priorcodec.core.codec import Codec
from priorcodec.core.entropy.exact import LIMIT, ONE, WEIGHT_BITS
from priorcodec.core.entropy.fitting import REACH, fitted_row
from priorcodec.core.entropy.tables import table_set
from priorcodec.core.io import safetensors
from priorcodec.core.layers import structure, texture
from priorcodec.core.layers.renderer import TextureEncoder
from priorcodec.core.layers.semantic import INVERSE_BITS, KIND
from priorcodec.core.layers.texture import CHANNELS, INPUTS, STEP, STEPS, TABLES, TextureModel
from recipes.encoder2.release import pin

CROPS = 1200


def table_rows(counts: np.ndarray) -> list[np.ndarray]:
    return [fitted_row(count, texture.SCALE_MIN * 2 ** (i / 4)) for i, count in enumerate(counts)]


def model_inputs(values: list[np.ndarray], areas: list[np.ndarray]) -> np.ndarray:
    """What `TextureModel.walk` knows at the end, in float."""
    found = []
    for value, area in zip(values, areas, strict=True):
        size = np.array([int(a).bit_length() - 1 for a in area]) * 1.0
        found.append(np.concatenate([value, np.tile(value.mean(0), (len(value), 1)), size[:, None]], 1))
    return np.concatenate(found)


def ridge(a: np.ndarray, b: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    mean, target = a.mean(0), b.mean()
    gram = (a - mean).T @ (a - mean) + strength * len(a) * np.eye(a.shape[1])
    weight = np.linalg.solve(gram, (a - mean).T @ (b - target))
    return weight, float(target - mean @ weight)


def linear_tables(values: list[np.ndarray], areas: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Least squares for the mean of each channel, then for the logarithm of what is left."""
    rng = np.random.default_rng(0)
    step = STEPS[STEP] / ONE
    noisy = [value + rng.uniform(-step / 2, step / 2, value.shape) for value in values]
    inputs = model_inputs(noisy, areas)
    target = np.concatenate(values)
    tables = {f"{n}.weight": np.zeros((CHANNELS, INPUTS)) for n in ("mean", "scale")}
    tables |= {f"{n}.bias": np.zeros(CHANNELS) for n in ("mean", "scale")}
    for channel in range(CHANNELS):
        seen = np.array([*range(channel), *range(CHANNELS, CHANNELS + channel), INPUTS - 1])
        weight, bias = ridge(inputs[:, seen], target[:, channel], 1e-2)
        left = target[:, channel] - inputs[:, seen] @ weight - bias
        level = 4 * np.log2(np.hypot(left, step / np.sqrt(12)) / (STEPS[0] / ONE) / texture.SCALE_MIN)
        scale_weight, scale_bias = ridge(np.abs(inputs[:, seen]), level, 1e-1)
        expected = 4 * np.log2(np.exp(0.5 * np.log((left**2).mean())) / (STEPS[0] / ONE) / texture.SCALE_MIN)
        shift = expected - np.mean(np.abs(inputs[:, seen]) @ scale_weight + scale_bias)
        print(f"channel {channel}: std {target[:, channel].std():.2f}, left {left.std():.2f}, shift {shift:.2f}")
        tables["mean.weight"][channel, seen], tables["mean.bias"][channel] = weight, bias
        tables["scale.weight"][channel, seen], tables["scale.bias"][channel] = (
            scale_weight,
            scale_bias + min(shift, 2.5),
        )
    return {
        "mean.weight": np.round(tables["mean.weight"] * (1 << WEIGHT_BITS)).astype(np.int16),
        "mean.bias": np.round(tables["mean.bias"] * ONE * (1 << WEIGHT_BITS)).astype(np.int32),
        "scale.weight": np.clip(np.round(tables["scale.weight"] * (1 << WEIGHT_BITS)), -LIMIT, LIMIT).astype(np.int16),
        "scale.bias": np.round(tables["scale.bias"] * ONE * (1 << WEIGHT_BITS)).astype(np.int32),
    }


def texture_tables(values: list[np.ndarray], areas: list[np.ndarray]) -> dict[str, np.ndarray]:
    linear = linear_tables(values, areas)
    counts = np.zeros((TABLES, 2 * REACH + 1))
    tables = linear | table_set("t", table_rows(counts))

    def cost(some: list[np.ndarray], their: list[np.ndarray], count: bool) -> float:
        model, total = TextureModel(tables), 0
        for value, area in zip(some, their, strict=True):
            for step in range(2, 8) if count else (STEP,):
                target = np.round(value * ONE)

                def rounded(
                    channel: int, mean: np.ndarray, index: np.ndarray, step: int = step, target: np.ndarray = target
                ) -> np.ndarray:
                    symbols = np.round((target[:, channel] - mean) / STEPS[step]).astype(np.int64)
                    if count:
                        np.add.at(counts, (index, np.clip(symbols, -REACH, REACH) + REACH), 1)
                    return symbols

                if count:
                    model.walk(area, step, rounded)
                else:
                    total += len(model.encode(value, area, step))
        return total / len(some)

    held = len(values) // 10
    print("Gaussian tables:", cost(values[:held], areas[:held], False), "bytes a crop")
    cost(values[held:], areas[held:], True)
    tables = linear | table_set("t", table_rows(counts))
    print(
        "counted tables:",
        cost(values[:held], areas[:held], False),
        "bytes a crop;",
        np.mean([len(v) for v in values]),
        "regions",
    )
    return tables


def int8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of the renderer as int8 with a scale per output channel, everything else in half precision."""
    found: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if name.startswith("renderer.") and value.ndim == 4:
            scale = (value.abs().amax((1, 2, 3)) / 127).clamp_min(1e-8)
            found[name] = torch.round(value / scale[:, None, None, None]).clamp(-127, 127).to(torch.int8)
            found[f"{name}.scale"] = scale.float()
        else:
            found[name] = value.half()
    return found


def main() -> None:
    torch.set_num_threads(1)
    cache, fit_file, maps_file, classes_file, trained, target = map(Path, sys.argv[1:])
    fit, maps, classes, state = np.load(fit_file), np.load(maps_file), np.load(classes_file), torch.load(trained)
    steps = int(state.pop("steps"))
    codec = Codec()
    y = np.load(cache / "y.npy", mmap_mode="r")
    encoder = TextureEncoder(y.shape[1])
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")})
    values, areas = [], []
    with torch.inference_mode():
        for i in range(0, CROPS, 50):
            features = encoder(torch.from_numpy(y[i : i + 50].astype(np.float32))).permute(0, 2, 3, 1).numpy()
            for j, feature in enumerate(features, i):
                values.append(texture.measure(maps["labels"][j], fit["colors"][j], feature))
                areas.append(texture.areas(maps["labels"][j]))
    tables = {f"texture.{k}": v for k, v in texture_tables(values, areas).items()}
    inverse = codec.transforms.log_inverse.detach().double().exp().numpy()
    tables["classes.inverse"] = np.round(inverse * (1 << INVERSE_BITS)).astype(np.int32)
    scale = (1 << 14) / np.abs(classes["weight"]).max()
    tables["classes.weight"] = np.round(classes["weight"] * scale).astype(np.int16)
    tables["classes.bias"] = np.round(classes["bias"] * scale * 9 * ONE).astype(np.int64)
    tables["structure.start"] = maps["start"]
    assert maps["start"].shape == (structure.CONTEXTS, 2)
    tensors = {k: torch.from_numpy(v) for k, v in tables.items()} | int8(state)
    weight = torch.from_numpy(fit["segment_weight"]).half()
    tensors |= {"segment.weight": weight, "segment.bias": torch.from_numpy(fit["segment_bias"]).float()}
    data = safetensors.to_bytes(tensors, {"kind": KIND, "encoder_id": f"{codec.id:08x}", "steps": str(steps)})
    target.write_bytes(data)
    if target.parent == shipped.FOLDER:
        pin(target)
    print(target, len(data), hashlib.sha256(data).hexdigest())


if __name__ == "__main__":
    main()
