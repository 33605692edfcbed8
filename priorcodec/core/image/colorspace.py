"""RGB color spaces given by numbers -> sRGB: CICP code points (ITU-T H.273) and PNG's gAMA and cHRM chunks.

samples ─curve─▶ linear light ─matrix, white point adapted (Bradford)─▶ linear sRGB ─IEC 61966-2-1─▶ 8-bit sRGB
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from priorcodec.core.errors import ImageError

Chromaticities = tuple[float, float, float, float, float, float, float, float]  # x, y of red, green, blue, white
D65 = (0.3127, 0.3290)
D50_XYZ = np.array([0.96422, 1.0, 0.82521])  # the white of ICC's connection space
BT709: Chromaticities = (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *D65)
PRIMARIES: dict[int, tuple[str, Chromaticities]] = {  # H.273, table 2
    1: ("BT.709", BT709),
    4: ("BT.470 M", (0.67, 0.33, 0.21, 0.71, 0.14, 0.08, 0.310, 0.316)),
    5: ("BT.601 625", (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *D65)),
    6: ("BT.601 525", (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *D65)),
    7: ("SMPTE 240M", (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *D65)),
    8: ("generic film", (0.681, 0.319, 0.243, 0.692, 0.145, 0.049, 0.310, 0.316)),
    9: ("BT.2020", (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65)),
    10: ("XYZ", (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1 / 3, 1 / 3)),
    11: ("DCI-P3", (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351)),
    12: ("Display P3", (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *D65)),
    22: ("EBU 3213", (0.630, 0.340, 0.295, 0.605, 0.155, 0.077, *D65)),
}
# H.273, table 3. Video's camera curves (BT.709 and its like) are shown by all browsers with sRGB's curve.
SRGB_LIKE = {1, 2, 6, 11, 12, 13, 14, 15}
TRANSFERS: dict[int, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    4: ("gamma 2.2", lambda v: v**2.2),
    5: ("gamma 2.8", lambda v: v**2.8),
    7: ("SMPTE 240M", lambda v: np.where(v < 0.0913, v / 4, ((v + 0.1115) / 1.1115) ** (1 / 0.45))),
    8: ("linear", lambda v: v),
    9: ("logarithmic", lambda v: np.where(v > 0, 10 ** (2 * (v - 1)), 0)),
    10: ("logarithmic", lambda v: np.where(v > 0, 10 ** (2.5 * (v - 1)), 0)),
    17: ("SMPTE 428", lambda v: 52.37 / 48 * v**2.6),
}
HDR = {16: "PQ", 18: "HLG"}
SAME_GAMMA = 0.05  # relative; libpng's PNG_GAMMA_THRESHOLD: below it a difference cannot be seen
SAME_PLACE = 0.002  # of chromaticities: encoders round them


@dataclass(frozen=True, kw_only=True, eq=False)
class RgbSpace:
    """An RGB (or gray) color space.

    Attributes:
        name: For the note that colors were converted.
        curves: One (or three) float32 tables of 65,536 entries: 16-bit sample -> linear light in [0, 1].
        matrix: (3, 3), linear RGB -> linear sRGB, or None where both have the same primaries.
    """

    name: str
    curves: tuple[np.ndarray, ...]
    matrix: np.ndarray | None = None


def from_cicp(primaries: int, transfer: int, notes: list[str]) -> RgbSpace | None:
    """The space of two code points of ITU-T H.273; None if it is sRGB.

    Args:
        primaries: ColourPrimaries; 2 (unspecified) is taken as BT.709.
        transfer: TransferCharacteristics; 2 (unspecified) is taken as sRGB.
        notes: Gets a phrase about a code point that is not known.

    Raises:
        ImageError: A high dynamic range transfer (PQ or HLG).
    """
    if transfer in HDR:
        raise ImageError(
            f"high dynamic range ({HDR[transfer]}, CICP {primaries}/{transfer}) is not supported: "
            "convert the image to SDR first"
        )
    for what, code, known in (
        ("primaries", primaries, {2, *PRIMARIES}),
        ("transfer", transfer, {*SRGB_LIKE, *TRANSFERS}),
    ):
        if code not in known:
            notes.append(f"unknown CICP {what} {code} taken as sRGB's")
    name, chromaticities = PRIMARIES.get(primaries, PRIMARIES[1])
    curve_name, curve = TRANSFERS.get(transfer, ("", srgb_to_linear))
    if chromaticities == BT709 and not curve_name:
        return None
    return RgbSpace(
        name=f"{name} {curve_name}".strip(),
        curves=(table(curve),),
        matrix=None if chromaticities == BT709 else to_linear_srgb(chromaticities),
    )


def from_gamma(gamma: float | None, chromaticities: Chromaticities | None) -> RgbSpace | None:
    """The space of PNG's gAMA and cHRM chunks (PNG, third edition, 11.3.2); None if it is sRGB or close to it.

    Args:
        gamma: Exponent of encoding (0.45455 for a display of 2.2), or None: sRGB's curve.
        chromaticities: Chromaticities, or None: BT.709.

    Raises:
        ValueError: Chromaticities that span no colors.
    """
    curved = gamma is not None and abs(gamma * 2.2 - 1) > SAME_GAMMA
    moved = (
        chromaticities is not None and max(abs(a - b) for a, b in zip(chromaticities, BT709, strict=True)) > SAME_PLACE
    )
    if not curved and not moved:
        return None
    matrix = to_linear_srgb(chromaticities) if moved and chromaticities is not None else None
    words = (f"gamma {gamma:.4g}" if curved else "", "other primaries" if moved else "")
    return RgbSpace(
        name=" and ".join(filter(None, words)),
        curves=(table(lambda v: v ** (1 / gamma)) if gamma is not None and curved else table(srgb_to_linear),),
        matrix=matrix,
    )


def to_srgb(samples: np.ndarray, space: RgbSpace) -> np.ndarray:
    """uint8 or uint16 (h, w, 1 or 3) -> uint8 sRGB (h, w, 3), in bands of rows so that little memory is needed."""
    height, width, channels = samples.shape
    encode = _encode_table()
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, 2**18 // width)
    for top in range(0, height, rows):
        part = samples[top : top + rows]
        index = part.astype(np.uint16) * np.uint16(257) if part.dtype == np.uint8 else part
        linear = np.stack([space.curves[c % len(space.curves)][index[..., c % channels]] for c in range(3)], -1)
        if space.matrix is not None:
            linear = linear @ space.matrix.T.astype(np.float32)
        out[top : top + rows] = encode[np.rint(linear.clip(0, 1) * 65535).astype(np.uint16)]
    return out


def table(curve: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A curve over [0, 1] -> its values at all 16-bit samples, float32 (65536,), clipped to [0, 1]."""
    return np.asarray(curve(np.arange(65536) / 65535.0), np.float64).clip(0, 1).astype(np.float32)


def srgb_to_linear(v: np.ndarray) -> np.ndarray:
    """sRGB's curve (IEC 61966-2-1), [0, 1] -> linear light."""
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


@functools.cache
def _encode_table() -> np.ndarray:
    """16-bit linear light -> 8-bit sRGB."""
    v = np.arange(65536) / 65535.0
    return np.rint(255 * np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055)).astype(np.uint8)


def to_linear_srgb(chromaticities: Chromaticities) -> np.ndarray:
    """(3, 3): linear RGB with these primaries -> linear sRGB.

    Raises:
        ValueError: Chromaticities that span no colors.
    """
    return np.linalg.inv(_to_d50(BT709)) @ _to_d50(chromaticities)


def from_d50(colorants: np.ndarray) -> np.ndarray:
    """(3, 3): linear RGB whose columns are D50-adapted XYZ (as in ICC profiles) -> linear sRGB."""
    return np.linalg.inv(_to_d50(BT709)) @ colorants


def _to_d50(chromaticities: Chromaticities) -> np.ndarray:
    """(3, 3): linear RGB -> XYZ adapted to D50 by Bradford's method."""
    try:
        xyz = np.array(
            [[x / y, 1, (1 - x - y) / y] for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True)]
        ).T
    except ZeroDivisionError:  # H.273's XYZ has primaries on the line y = 0
        xyz = np.array([[x, y, 1 - x - y] for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True)]).T
        xyz[:, 3] /= max(chromaticities[7], 1e-9)
    try:
        colors = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    except np.linalg.LinAlgError as error:
        raise ValueError("its primaries lie on a line") from error
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gains = (bradford @ D50_XYZ) / (bradford @ xyz[:, 3])
    return np.linalg.inv(bradford) @ np.diag(gains) @ bradford @ colors
