"""What we compare: one Coder per codec, image -> bytes of a whole file -> image, or one line on why it cannot run.

Classical codecs come from Pillow and PyAV, VVC from ready bitstreams or vvencapp, learned ones from CompressAI. Video
codecs are fed BT.709 full range YUV 4:2:0, 10 bit, one frame.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from priorcodec.core.errors import ConfigError, ImageError
from priorcodec.evaluation import evaluate


@dataclass(frozen=True, kw_only=True)
class Coder:
    """One codec of a comparison.

    Attributes:
        name: as in result files.
        settings: from low to high rate.
        encode: (pixels, setting, the image's name) -> bytes of a whole file.
        decode: path of a file -> pixels.
        identity: whatever changes the decoded image of given bytes (versions, weight ids).
        writer: whatever changes the bytes, where that is something else: several decoders may share files.
        missing: why it cannot run, one line.
        ours: not an anchor.
    """

    name: str
    title: str
    suffix: str
    settings: tuple[str, ...]
    encode: Callable[[np.ndarray, str, str], bytes]
    decode: Callable[[Path], np.ndarray]
    identity: str
    writer: str = ""
    missing: str | None = None
    ours: bool = False


def _pillow(pixels: np.ndarray, setting: str, _: str, *, options: dict[str, Any]) -> bytes:
    if options["format"] == "JXL":
        import pillow_jxl  # pyright: ignore[reportMissingImports] # noqa: F401 (registers the format with Pillow)
    Image.fromarray(pixels).save(out := io.BytesIO(), quality=int(setting), **options)
    return out.getvalue()


def _video(pixels: np.ndarray, setting: str, _: str, *, codec: str, container: str, options: dict[str, str]) -> bytes:
    """One intra frame as a raw stream."""
    import av

    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        raise ImageError(f"the image is {width}x{height}, {codec} wants even sides: crop it or leave {codec} out")
    frame = _yuv(pixels)
    with _scheduling_kept(), av.open(out := io.BytesIO(), "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=1, options={**options, "crf": setting})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p10le", 1
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


@contextlib.contextmanager
def _scheduling_kept() -> Iterator[None]:
    """SVT-AV1 makes the calling thread a real-time one where it may, and all that it starts later."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def _vvc_folder(pixels: np.ndarray, setting: str, name: str, *, folder: Path) -> bytes:
    return (folder / f"{name}-qp{setting}.266").read_bytes()


def _vvenc(pixels: np.ndarray, setting: str, _: str) -> bytes:
    frame = _yuv(pixels)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.yuv"), Path(folder, "out.266")
        source.write_bytes(b"".join(_plane(p) for p in frame.planes))
        size = ["-s", f"{frame.width}x{frame.height}", "-c", "yuv420_10", "-f", "1", "--range", "full"]
        rate = ["--preset", "slow", "-q", setting, "--qpa", "0", "-t", "1"]
        subprocess.run(["vvencapp", "-i", source, *size, *rate, "-o", target], check=True, capture_output=True)
        return target.read_bytes()


def _yuv(pixels: np.ndarray) -> Any:
    import av

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.reformat(
        format="yuv420p10le", src_colorspace="ITU709", dst_colorspace="ITU709",
        src_color_range="JPEG", dst_color_range="JPEG",
    )  # fmt: skip


def _plane(plane: Any) -> bytes:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return np.ascontiguousarray(rows[:, : plane.width * 2]).tobytes()


COMPRESSAI = {"mbt2018-mean": ("mbt2018_mean", 8), "cheng2020-anchor": ("cheng2020_anchor", 6)}


@cache
def compressai_model(name: str, quality: int, pretrained: bool = True) -> Any:
    import torch
    from compressai import zoo  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    net = getattr(zoo, COMPRESSAI[name][0])(quality=quality, metric="mse", pretrained=pretrained).eval()
    net.update(force=True)
    return net


def _compressai_encode(pixels: np.ndarray, setting: str, _: str, *, name: str, pretrained: bool) -> bytes:
    """File: height, width u16, quality u8, rows and columns of the hyper-latent u8, length u32, two strings."""
    import torch

    from priorcodec.core.image import io as image_io

    x = (image_io.pad(image_io.to_tensor(pixels)) + 1) / 2
    with torch.no_grad():
        out = compressai_model(name, int(setting), pretrained).compress(x)
    (y,), (z,) = out["strings"]
    return struct.pack("<HHBBBI", *pixels.shape[:2], int(setting), *out["shape"], len(y)) + y + z


def _compressai_decode(path: Path, *, name: str, pretrained: bool) -> np.ndarray:
    import torch

    from priorcodec.core.image import io as image_io

    data = path.read_bytes()
    height, width, quality, rows, columns, length = struct.unpack("<HHBBBI", data[:11])
    with torch.no_grad():
        net = compressai_model(name, quality, pretrained)
        x = net.decompress([[data[11 : 11 + length]], [data[11 + length :]]], (rows, columns))["x_hat"]
    return image_io.to_pixels(image_io.crop(x * 2 - 1, height, width))


def _compressai_missing(name: str) -> str | None:
    if find_spec("compressai") is None:
        return f"{name}: no python module compressai; install priorcodec[zoo], then compressai with --no-deps"
    import torch

    try:
        from compressai.zoo.image import model_urls  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return f"{name}: CompressAI cannot be imported ({error}); install priorcodec[zoo]"
    urls = model_urls[name]["mse"].values()
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    lost = [url.rsplit("/", 1)[-1] for url in urls if not (folder / url.rsplit("/", 1)[-1]).is_file()]
    return f"{name}: {len(lost)} CompressAI weight files ({lost[0]}, ...) are not in torch's cache" if lost else None


def _versions(*packages: str) -> str:
    def one(package: str) -> str:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"{package} absent"

    return ", ".join(map(one, packages))


def _absent(title: str, module: str, package: str) -> str | None:
    return None if find_spec(module) else f"{title}: no python module {module}; pip install {package}"


PILLOW: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {  # title, settings, options of Image.save
    "avif": ("AVIF (speed 4)", ("1", "10", "20", "30", "40"), {"format": "AVIF", "speed": 4}),
    "jxl": ("JPEG XL (effort 7)", ("1", "5", "10", "20", "30"), {"format": "JXL", "effort": 7}),
    "webp": ("WebP (method 6)", ("0", "2", "5", "12", "25"), {"format": "WEBP", "method": 6}),
    "jpeg": (
        "JPEG (progressive)",
        ("1", "5", "10", "15", "20"),
        {"format": "JPEG", "progressive": True, "optimize": True},
    ),
}
X265 = {"preset": "slow", "x265-params": "info=0:keyint=1:log-level=none:pools=1:frame-threads=1"}
SVT = {"preset": "4", "svtav1-params": "lp=1:avif=1"}
CLASSICAL = (*PILLOW, "hevc", "av1")
ANCHORS = (*CLASSICAL, "vvc", *COMPRESSAI)


def anchor(name: str, *, vvc: Path | None = None) -> Coder:
    """One of ANCHORS. vvc: folder of NAME-qpQP.266 bitstreams; without it vvencapp is used when on the PATH."""
    read = evaluate.read
    if name in PILLOW:
        title, settings, options = PILLOW[name]
        plugin = name == "jxl"  # the one format that Pillow itself lacks
        made = _versions("pillow-jxl-plugin" if plugin else "pillow")
        return Coder(name=name, title=title, suffix=".jpg" if name == "jpeg" else f".{name}", settings=settings, decode=read,
                     encode=partial(_pillow, options=options), identity=made, writer=f"{made} {options}",
                     missing=_absent("JPEG XL", "pillow_jxl", "pillow-jxl-plugin") if plugin else None)  # fmt: skip
    if name == "hevc":
        return Coder(name=name, title="HEVC intra (x265 slow)", suffix=".265", settings=("51", "47", "43", "39", "35"),
                     encode=partial(_video, codec="libx265", container="hevc", options=X265), decode=read,
                     identity=_versions("av"), writer=f"{_versions('av')} {X265}",
                     missing=_absent("HEVC", "av", "av"))  # fmt: skip
    if name == "av1":
        return Coder(name=name, title="AV1 intra (SVT-AV1 preset 4)", suffix=".obu",
                     settings=("63", "57", "51", "45", "38"), decode=read, identity=_versions("av"),
                     encode=partial(_video, codec="libsvtav1", container="obu", options=SVT),
                     writer=f"{_versions('av')} {SVT}",
                     missing=_absent("AV1", "av", "av"))  # fmt: skip
    if name == "vvc":
        return _vvc(vvc, _absent("VVC", "av", "av"))
    if name in COMPRESSAI:
        return _compressai(name)
    raise ConfigError(f"no codec {name!r}; choose from {', '.join(ANCHORS)}")


def _vvc(folder: Path | None, av_missing: str | None) -> Coder:
    settings, encode, writer, missing = ("57", "52", "47", "42", "37", "32"), _vvenc, "vvencapp", av_missing
    if folder is not None:
        steps = sorted({int(p.stem.rsplit("-qp", 1)[1]) for p in folder.glob("*-qp*.266")}, reverse=True)
        settings, encode = tuple(map(str, steps)), partial(_vvc_folder, folder=folder)
        writer = _listing(folder)
        missing = missing or (None if steps else f"VVC: no NAME-qpQP.266 in {folder.name}")
    elif shutil.which("vvencapp") is None:
        missing = "VVC: no vvencapp on the PATH and no folder of bitstreams (--vvc FOLDER)"
    return Coder(name="vvc", title="VVC (VVenC slow)", suffix=".266", settings=settings, encode=encode,
                 decode=evaluate.read, identity=_versions("av"), writer=writer, missing=missing)  # fmt: skip


def _listing(folder: Path) -> str:
    """Changes when a bitstream of the folder does."""
    entries = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.glob("*-qp*.266"))
    return f"ready bitstreams {hashlib.sha256(repr(entries).encode()).hexdigest()}"


def _compressai(name: str, *, pretrained: bool = True) -> Coder:
    how = {"name": name, "pretrained": pretrained}
    return Coder(
        name=name, title=f"{name} (CompressAI)", suffix=".cai", identity=_versions("compressai"),
        settings=tuple(map(str, range(1, COMPRESSAI[name][1] + 1))), encode=partial(_compressai_encode, **how),
        decode=partial(_compressai_decode, **how), missing=_compressai_missing(name) if pretrained else None,
    )  # fmt: skip


def untrained(name: str) -> Coder:
    """A CompressAI model with random weights: good for times, not for rates."""
    return _compressai(name, pretrained=False)
