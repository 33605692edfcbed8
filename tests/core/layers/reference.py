"""A second reader of the semantic layers, written from docs/format.md alone (sections 13 and 14)."""

import json

import numpy as np

from tests.core.entropy.reference import ENCODER, Coder, InvalidFile, Tables, read_pass

TYPES = {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "U16": np.uint16}
STEPS = (32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1024)


def tables():
    data = ENCODER.with_name("semantic.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if name.startswith(("structure.", "texture.", "classes.")):
            begin, end = (start + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[begin:end], np.dtype(TYPES[entry["dtype"]]).newbyteorder("<"))
            found[name] = values.astype(np.int64).reshape(entry["shape"])
    return found


def end(coder):
    if coder.state or coder.words:
        raise InvalidFile("more than its symbols")


def read_map(t, data, rows, columns):
    """Section 13."""
    coder, counts = Coder(data), t["structure.start"].tolist()

    def decision(context):
        zeros, ones = counts[context]
        f = min(max(65536 * ones // (zeros + ones), 32), 65504)
        bit = coder.entry([0, 65536 - f, 65536])
        counts[context][bit] += 16
        if sum(counts[context]) > 4080:
            counts[context] = [(count + 1) // 2 for count in counts[context]]
        return bit

    labels, used = {(0, 0): 0}, 1
    for r in range(rows):
        for c in range(columns):
            if (r, c) == (0, 0):
                continue
            w = labels[r, c - 1] if c else labels[r - 1, c]
            n = labels.get((r - 1, c), w)
            nw, ne = labels.get((r - 1, c - 1), n), labels.get((r - 1, c + 1), n)
            ww, nn = labels.get((r, c - 2), w), labels.get((r - 2, c), n)
            pairs = ((n, w), (nw, w), (nw, n), (ne, n), (ne, w), (ww, w), (nn, n), (ww, nw))
            pattern = sum((a == b) << i for i, (a, b) in enumerate(pairs))
            tried, label = [], None
            for i, v in enumerate((w, n, nw, ne)):
                if v not in tried:
                    if decision(256 * i + pattern):
                        label = v
                        break
                    tried.append(v)
            if label is None:
                old = [v for v in range(used) if v not in tried]
                if used < 32 and (not old or decision(1024 + used - 1)):
                    label, used = used, used + 1
                else:
                    k = len(old)
                    label = old[coder.entry([65536 * e // k for e in range(k + 1)]) if k > 1 else 0]
            labels[r, c] = label
    end(coder)
    return np.array([[labels[r, c] for c in range(columns)] for r in range(rows)])


def read_values(t, data, labels):
    """Section 14."""
    if not data or data[0] > 10:
        raise InvalidFile("step")
    coder, step, count = Coder(data[1:]), STEPS[data[0]], labels.max() + 1
    frequencies = Tables({k.removeprefix("texture."): v for k, v in t.items()}, "t", 0)
    u = np.zeros((count, 33), np.int64)
    u[:, 32] = [256 * int(np.log2((labels == r).sum())) for r in range(count)]
    for c in range(16):
        mean = (u @ t["texture.mean.weight"][c] + t["texture.mean.bias"][c] + 512) >> 10
        mean = np.clip(mean, -32767, 32767)
        level = (abs(u) @ t["texture.scale.weight"][c] + t["texture.scale.bias"][c] + 512) >> 10
        index = np.clip(((level + 128) >> 8) - 2 * data[0], 0, 23)
        symbols = np.array(read_pass(frequencies, coder, index.tolist()))
        u[:, c] = np.clip(mean + step * symbols, -32767, 32767)
        u[:, 16 + c] = u[:, c].sum() // count
    end(coder)
    return u[:, :16]


def derive(t, v, q, rows, columns):
    """Section 14, without a structure segment: v int64 (m, h, w) -> the class of every cell."""
    inverse = t["classes.inverse"]
    k = min(q // 16, len(inverse) - 2)
    p = q - 16 * k
    gain = (16 - p) * inverse[k] + p * inverse[k + 1]
    x = np.clip(v[:, :rows, :columns] * gain[:, None, None] // 65536, -1048576, 1048576)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    b = sum(x[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    return (np.einsum("gc,cij->gij", t["classes.weight"], b) + t["classes.bias"][:, None, None]).argmax(0)
