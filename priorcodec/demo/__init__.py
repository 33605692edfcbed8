"""`priorcodec demo`: one image at three qualities and as JPEG, WebP and AVIF of the nearest size, as a table and a montage."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec.core.image import io as image_io
from priorcodec.core.io import atomic
from priorcodec.evaluation import metrics
from priorcodec.session import open_session

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

IMAGE = Path(__file__).parent / "coffee.webp"
QUALITIES = (4.0, 6.0, 8.0)
CLASSICAL: dict[str, dict[str, Any]] = {
    "AVIF": {"format": "AVIF", "speed": 4},
    "WebP": {"format": "WEBP", "method": 6},
    "JPEG": {"format": "JPEG", "progressive": True, "optimize": True},
}
MONTAGE = "montage.png"
LABEL_HEIGHT, GAP = 34, 6


@dataclass(frozen=True, kw_only=True)
class CodedExample:
    """One decoded image of the table.

    Attributes:
        codec: Name shown above the image.
        size_bytes: Of the coded file; 0 for the original.
        pixels: The decoded image, uint8 (h, w, 3).
        encode_seconds: None where not measured.
        decode_seconds: None where not measured.
    """

    codec: str
    size_bytes: int
    pixels: np.ndarray
    encode_seconds: float | None = None
    decode_seconds: float | None = None


def run(output: Path, image: Path | None = None, backbone: str = "nano_pixel", *, replace: bool = False) -> None:
    """Write all files into the folder `output` and print the table.

    Args:
        output: Made if it does not exist.
        image: Instead of the example that comes with the package.
        backbone: What decodes.
        replace: Whether files of these names may be replaced.

    Raises:
        ImageError: The image cannot be read.
        ConfigError: A file exists.
        BackboneError, AdapterError, WeightsError: There is no such backbone, or its decoder is not complete.
        PriorCodecError: Another program wrote a file of these names meanwhile.
    """
    original, name = image_io.load(image or IMAGE).pixels, (image or IMAGE).stem
    stems = [f"{name}-q{quality:g}" for quality in QUALITIES]
    names = [f"{stem}{end}" for stem in stems for end in (".gic", "-preview.png", f"-{backbone}.png")]
    for file in (*names, MONTAGE):
        atomic.check_output(output / file, [image or IMAGE], replace=replace)
    session = open_session(backbone=backbone)
    session.adapter  # noqa: B018  loaded now, so that the table shows coding times only
    atomic.make_folder(output)
    rows: list[list[CodedExample]] = []
    for quality, stem in zip(QUALITIES, stems, strict=True):
        started = time.perf_counter()
        data = session.encode(original, quality=quality)
        encoded = time.perf_counter() - started
        atomic.write(output / f"{stem}.gic", data, replace=replace)
        row = [CodedExample(codec=f"original {original.shape[1]}x{original.shape[0]}", size_bytes=0, pixels=original)]
        for name, decode in (("preview", session.preview), (backbone, session.decode)):
            started = time.perf_counter()
            pixels = decode(output / f"{stem}.gic", output="np")
            seconds = time.perf_counter() - started
            image_io.save(pixels, output / f"{stem}-{name}.png", replace=replace)
            row.append(
                CodedExample(
                    codec=name, size_bytes=len(data), pixels=pixels, encode_seconds=encoded, decode_seconds=seconds
                )
            )
        row += [nearest(name, original, len(data)) for name in CLASSICAL]
        rows.append(row)
    _print_table(original, rows)
    image_io.save(montage(rows), output / MONTAGE, replace=replace)
    print(f"\nfiles and images in {output}, side by side in {output / MONTAGE}")


def nearest(codec: str, original: np.ndarray, wanted_bytes: int) -> CodedExample:
    """The classical codec at the quality setting that gives the nearest file size."""
    from PIL import Image

    image = Image.fromarray(original)

    def code(setting: int) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, quality=setting, **CLASSICAL[codec])
        return buffer.getvalue()

    low, high = 1, 95
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(code(middle)) <= wanted_bytes else (low, middle)
    data = min((code(low), code(high)), key=lambda candidate: abs(len(candidate) - wanted_bytes))
    return CodedExample(codec=codec, size_bytes=len(data), pixels=image_io.load(data).pixels)


def _print_table(original: np.ndarray, rows: list[list[CodedExample]]) -> None:
    print(f"{'codec':<12}{'bytes':>8}{'bpp':>8}{'PSNR dB':>9}{'MS-SSIM':>9}{'encode s':>10}{'decode s':>10}")
    for row in rows:
        for example in row[1:]:
            bpp = metrics.bpp(example.size_bytes, *original.shape[:2])
            scores = metrics.score(original, example.pixels, ["psnr", "msssim"])
            psnr, msssim = (
                f"{'-' if value is None else format(value, spec):>9}"
                for value, spec in ((scores["psnr"], ".2f"), (scores["msssim"], ".4f"))
            )
            times = "".join(
                f"{'-' if s is None else f'{s:.2f}':>10}" for s in (example.encode_seconds, example.decode_seconds)
            )
            print(f"{example.codec:<12}{example.size_bytes:>8}{bpp:>8.4f}{psnr}{msssim}{times}")
        print()


def montage(rows: list[list[CodedExample]]) -> np.ndarray:
    """Rows of images of one size with their names and sizes above -> uint8 (h, w, 3)."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    height, width = rows[0][0].pixels.shape[:2]
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (columns * (width + GAP), len(rows) * (height + LABEL_HEIGHT)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=22)
    for j, row in enumerate(rows):
        for i, example in enumerate(row):
            x, y = i * (width + GAP), j * (height + LABEL_HEIGHT)
            size = f", {example.size_bytes} bytes" if example.size_bytes else ""
            draw.text((x + 4, y + 4), f"{example.codec}{size}", fill="black", font=font)
            sheet.paste(_image(example.pixels), (x, y + LABEL_HEIGHT))
    return np.asarray(sheet)


def _image(pixels: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(pixels)
