"""Pillow plugin for .gic files: `import priorcodec.pillow`, then `Image.open("x.gic")` and `image.save("x.gic", quality=6)`.

`load` gives the preview, the image of the auxiliary decoder: no diffusion model is loaded, and a file looks the same in every
program. `priorcodec.open_session(...).decode` gives the backbone's image. Written after Pillow's "Writing your own image plugin".
"""

from __future__ import annotations

import functools
from typing import IO, TYPE_CHECKING, Any

from PIL import Image, ImageFile

from priorcodec.core import container
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.errors import ConfigError, PriorCodecError, StreamError

if TYPE_CHECKING:
    from priorcodec.session import Session

FORMAT = "GIC"
SAVE_OPTIONS = frozenset(
    ("quality", "bpp", "max_bytes", "background", "statistics", "layers", "residual", "roi", "refine", "refine_metric")
)


class GicImageFile(ImageFile.ImageFile):
    """A .gic file: its size is read when it is opened, its pixels when they are first needed.

    `info["quality"]` is the quality in levels, 0 to 11.
    """

    format = FORMAT
    format_description = "PriorCodec"

    def _open(self) -> None:
        assert self.fp is not None
        try:
            quality, height, width = container.peek(self.fp.read(container.HEAD_BYTES))
        except StreamError as error:
            raise SyntaxError(str(error)) from error  # Pillow then asks the next plugin
        self._size, self._mode = (width, height), "RGB"
        self.info["quality"] = quality / QUALITY_STEPS
        self.tile = [ImageFile._Tile("gic", (0, 0, *self.size), 0)]

    def verify(self) -> None:
        """Check the whole file without decoding it. Raises OSError: it is damaged, cut short or of another encoder."""
        if self.fp is None:
            raise RuntimeError("verify must be called directly after open")
        self.fp.seek(0)
        try:
            found = container.unpack(self.fp.read()).encoder_id
        except StreamError as error:
            raise OSError(str(error)) from error
        if found != _session().codec.id:
            raise OSError(f"the file is damaged, or of encoder {found:08x}, which is not this one")
        super().verify()

    def load_seek(self, pos: int) -> None:
        """Pillow's `ImageFile.Parser` keeps the whole file for an image that can seek."""
        assert self.fp is not None
        self.fp.seek(pos)


class GicDecoder(ImageFile.PyDecoder):
    """The whole file -> the preview's pixels."""

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:
        assert self.fd is not None
        try:
            preview = _session().preview(self.fd.read())
        except PriorCodecError as error:
            raise OSError(str(error)) from error
        self.set_as_raw(preview.tobytes())
        return -1, 0


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.MAGIC)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """`image.save`, with `SAVE_OPTIONS` as of `Session.encode`. Raises OSError, or ValueError for an impossible option."""
    options = {name: value for name, value in image.encoderinfo.items() if name in SAVE_OPTIONS}
    try:
        file.write(_session().encode(image, **options))
    except ConfigError as error:
        raise ValueError(str(error)) from error
    except PriorCodecError as error:
        raise OSError(f"cannot write mode {image.mode} as {FORMAT}: {error}") from error


@functools.cache
def _session() -> Session:
    from priorcodec.session import open_session

    return open_session()


Image.register_open(FORMAT, GicImageFile, _accept)
Image.register_decoder("gic", GicDecoder)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, container.SUFFIX)
