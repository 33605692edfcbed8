"""How long the integer networks of encoder 2 take in numpy for one 768x512 image, one thread, random weights (no rANS).

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OPENBLAS_CORETYPE=Haswell python -m recipes.encoder2.decode_time
"""

from __future__ import annotations

import time

import numpy as np

from recipes.encoder2.transforms import Encoder2Config

H, W = 32, 48


def layer(columns: np.ndarray, weight: np.ndarray, low: float) -> np.ndarray:
    out = weight @ columns
    out *= 2.0**-10
    out += 0.5
    np.floor(out, out=out)
    return np.clip(out, low, 32767, out=out)


def taps(padded: np.ndarray, places: np.ndarray, offsets: list[int]) -> np.ndarray:
    """padded (c, (H + 2) * (W + 2)) -> (c * taps, positions): the neighbors of every place."""
    return np.concatenate([padded[:, places + o] for o in offsets])


def main() -> None:
    c, rng = Encoder2Config(), np.random.default_rng(0)
    stride = W + 2
    rows, columns = np.divmod(np.arange(H * W), W)
    inside = (rows + 1) * stride + columns + 1
    parity = [inside[(rows + columns) % 2 == p] for p in (0, 1)]
    all_taps = [i * stride + j for i in (-1, 0, 1) for j in (-1, 0, 1)]
    cross = [-stride, -1, 1, stride]
    weights, before = [], 0
    for channels in c.groups:
        for own in (0, 4 * channels):
            seen = 9 * before + own
            shapes = [(c.n, seen), (2 * c.n, 2 * c.n if seen else c.n), (2 * channels, 2 * c.n)]
            weights.append([rng.integers(-300, 300, s).astype(np.float64) for s in shapes])
        before += channels
    h_s = [
        rng.integers(-300, 300, s).astype(np.float64)
        for s in ((c.n, c.m_h), (4 * c.n, 9 * c.n), (4 * c.n, 9 * c.n), (c.n, c.n))
    ]
    best: dict[str, float] = {}
    for _ in range(5):
        start = time.process_time()
        a = layer(rng.integers(-500, 500, (c.m_h, 96)).astype(np.float64).reshape(c.m_h, -1), h_s[0], 0)
        h, w = 8, 12
        for k in (1, 2):
            padded = np.zeros((c.n, h + 2, w + 2))
            padded[:, 1:-1, 1:-1] = a.reshape(c.n, h, w)
            windows = [padded[:, i : i + h, j : j + w].reshape(c.n, -1) for i in range(3) for j in range(3)]
            a = layer(np.concatenate(windows), h_s[k], 0).reshape(c.n, 2, 2, h, w).transpose(0, 3, 1, 4, 2)
            h, w = 2 * h, 2 * w
            a = a.reshape(c.n, -1)
        phi = layer(a, h_s[3], 0)
        middle = time.process_time()
        values = np.zeros((c.m, (H + 2) * stride))
        wide_phi = np.zeros((c.n, (H + 2) * stride))
        wide_phi[:, inside] = phi
        before, at = 0, iter(weights)
        for channels in c.groups:
            for p in (0, 1):
                context, first, last = next(at)
                parts, inputs = [], [wide_phi[:, parity[p]]]
                if before:
                    parts.append(taps(values[:before], parity[p], all_taps))
                if p:
                    parts.append(taps(values[before : before + channels], parity[p], cross))
                if parts:
                    inputs.append(layer(np.concatenate(parts), context, -32767))
                out = layer(layer(np.concatenate(inputs), first, 0), last, -32767)
                values[before : before + channels, parity[p]] = out[:channels]
            before += channels
        end = time.process_time()
        for name, seconds in (("h_s", middle - start), ("passes", end - middle)):
            best[name] = min(best.get(name, 9.0), seconds)
    print({name: f"{1000 * seconds:.0f} ms" for name, seconds in best.items()})


if __name__ == "__main__":
    main()
