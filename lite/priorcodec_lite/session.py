"""Public API, the part of `priorcodec.open_session` that needs no torch: encode, decode through the default backbone, preview."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priorcodec_lite.codec import Codec
from priorcodec_lite.core import checks, rate_control
from priorcodec_lite.core.container import MAX_PIXELS
from priorcodec_lite.core.errors import ConfigError, StreamError
from priorcodec_lite.core.io.reading import Data, read_file

if TYPE_CHECKING:
    import numpy as np

MODELS = Path(__file__).parent / "models"
RENORM = ("none", "written")
OUTPUTS = ("pil", "np")
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "layers": (("latent",), ["latent"], {"latent"}),
    "residual": (None,),
    "roi": ((), []),
    "refine": (0,),
    "refine_metric": ("psnr", "gmsd"),
    "progress": (None,),
}
"""Arguments of the whole package's `Session.encode` that need torch, and the values that need nothing."""


class Session:
    """Encodes and decodes with one set of settings; made by `open_session`. A context manager, as the whole package's.

    Args:
        codec: Graphs and tables.
        renorm: "none", or "written" to move images to the statistics in their files.
        max_pixels: Images and files with more are refused.
    """

    def __init__(self, codec: Codec, *, renorm: str, max_pixels: int):
        self.codec, self.renorm, self.max_pixels = codec, renorm, max_pixels

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.codec.graphs.free()

    def encode(
        self,
        image: Any,
        quality: float | None = None,
        *,
        bpp: float | None = None,
        max_bytes: int | None = None,
        background: str | None = None,
        statistics: bool = False,
        **unsupported: Any,
    ) -> bytes:
        """Encode one image. At most one of `quality`, `bpp` and `max_bytes` may be given; none means quality 6.

        Args:
            image: Path, bytes, open file, PIL image, or uint8 array (h, w), (h, w, 3) or (h, w, 4).
            quality: In levels, 0 (smallest file) to 11; fractions are allowed.
            bpp: Largest bits per pixel of the true size; the largest file within it is made.
            max_bytes: Largest size of the file in bytes; the largest file within it is made.
            background: Color behind transparency, such as "white" or "#rrggbb".
            statistics: Write the image's color statistics, which decoding with renorm="written" needs.
            unsupported: What else the whole package's `encode` takes, with the value that asks for nothing: the rest needs torch.

        Raises:
            ImageError: The image is unreadable, or transparent without a background.
            ConfigError: An impossible setting, or a target below the smallest file of this image.
        """
        quality = None if quality is None else checks.number("quality", quality)
        bpp = None if bpp is None else checks.number("bpp", bpp)
        max_bytes = None if max_bytes is None else checks.whole("max_bytes", max_bytes)
        checks.flag("statistics", statistics)
        if not (background is None or isinstance(background, str)):
            raise ConfigError(f"background={background!r}: wanted a color such as 'white' or '#rrggbb'")
        for name, value in unsupported.items():
            if name not in UNSUPPORTED:
                raise TypeError(f"encode() got an unexpected keyword argument {name!r}")
            if not any(value is known or type(value) is type(known) and value == known for known in UNSUPPORTED[name]):
                raise ConfigError(f"{name}={value!r} needs torch: pip install priorcodec, or leave it out")
        if sum(value is not None for value in (quality, bpp, max_bytes)) > 1:
            raise ConfigError(f"got quality={quality}, bpp={bpp}, max_bytes={max_bytes}, wanted at most one of them")
        from priorcodec_lite.core.image import io as image_io  # its decoders: decoding a file does not need them

        self.codec.graphs.preload("analysis", "hyper")
        pixels = image_io.from_any(image, background=background, max_pixels=self.max_pixels).pixels
        if bpp is None and max_bytes is None:
            level = rate_control.DEFAULT_QUALITY if quality is None else quality
            return self.codec.encode(pixels, level, statistics=statistics).data
        target = rate_control.target_bytes(max_bytes, bpp, *pixels.shape[:2])
        return self.codec.encode_to(pixels, target, statistics=statistics).data

    def decode(self, data: Data, *, output: str = "pil") -> Any:
        """Decode a file through the backbone, in its true size, in one step.

        Args:
            data: Bytes, path or binary file object of a .gic file.
            output: "pil" for a PIL image, "np" for uint8 (h, w, 3).

        Raises:
            StreamError: Damaged or foreign bytes, or renorm="written" for a file without statistics.
            WeightsError: The folder of graphs is not complete.
        """
        _check_output(output)
        self.codec.graphs.preload(*(name.removesuffix(".onnx") for name in self._decoder_graphs()))
        decoded = self.codec.decode(read_file(data), max_pixels=self.max_pixels)
        if self.renorm == "written" and decoded.statistics is None:
            raise StreamError(
                "renorm=written, but the file has no statistics: write it with `encode --statistics`, or decode with renorm=none"
            )
        return _converted(self.codec.pixels(decoded, renorm=self.renorm == "written"), output)

    def preview(self, data: Data, *, output: str = "pil", perceptual: bool = False) -> Any:
        """Decode a file with an auxiliary decoder, without a backbone.

        Args:
            data: As for `decode`.
            output: As for `decode`.
            perceptual: Use the decoder that was trained to look like the original, not the one for least error.

        Raises:
            StreamError: Damaged or foreign bytes.
        """
        _check_output(output)
        self.codec.graphs.preload("perceptual" if checks.flag("perceptual", perceptual) else "preview")
        decoded = self.codec.decode(read_file(data), max_pixels=self.max_pixels)
        return _converted(self.codec.preview_pixels(decoded, perceptual=perceptual), output)

    def _decoder_graphs(self) -> tuple[str, ...]:
        try:
            return self.codec.manifest["files"]["decoder.onnx"]["preview"], "decoder.onnx"
        except KeyError:
            raise ConfigError(f"{self.codec.graphs.folder} has no decoder: export one, or show the preview") from None


def open_session(
    models: str | os.PathLike[str] | None = None,
    *,
    renorm: str = "none",
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Session:
    """Open a session. Graphs are loaded when they are needed.

    Args:
        models: A folder as `priorcodec export` writes it; None for the default backbone's, which is in this package.
        renorm: "written" to move images to the statistics that are written in their files, or "none".
        threads: Of onnxruntime; None for as many as there are processors.
        max_pixels: Refuse images and files with more pixels.

    Raises:
        ConfigError: A setting has an impossible value.
        WeightsError: The folder is not complete.
    """
    if not (models is None or (isinstance(models, str | os.PathLike) and os.fspath(models))):
        raise ConfigError(f"models={models!r}: wanted a folder that `priorcodec export` wrote")
    if renorm not in RENORM:
        raise ConfigError(f"renorm={renorm}: wanted {', '.join(RENORM)}")
    if threads is not None and not 1 <= (threads := checks.whole("threads", threads)) <= 1024:
        raise ConfigError(f"threads={threads}: wanted 1 to 1024")
    if (max_pixels := checks.whole("max_pixels", max_pixels)) < 1:
        raise ConfigError(f"max_pixels={max_pixels}: wanted 1 or more")
    return Session(
        Codec(Path(MODELS if models is None else models), threads=threads), renorm=renorm, max_pixels=max_pixels
    )


def _check_output(output: str) -> None:
    if not isinstance(output, str) or output not in OUTPUTS:
        raise ConfigError(f"output={output!r}: wanted {', '.join(OUTPUTS)}")


def _converted(pixels: np.ndarray, output: str) -> Any:
    if output == "np":
        return pixels
    from PIL import Image

    return Image.fromarray(pixels)
