"""Pillow plugin for .gic files: `import priorcodec.pillow`, then `Image.open("x.gic")` and `image.save("x.gic", quality=6)`.

`load` gives the preview, the image of the auxiliary decoder: no diffusion model is loaded, and a file looks the same in every
program. `priorcodec.open_session(...).decode` gives the backbone's image. Written after Pillow's "Writing your own image plugin".
"""

from __future__ import annotations

import functools
import io
import struct
from typing import IO, TYPE_CHECKING, Any

from PIL import Image, ImageFile

from priorcodec.core import container
from priorcodec.core.entropy.tables import QUALITY_STEPS
from priorcodec.core.errors import ConfigError, PriorCodecError, StreamError

if TYPE_CHECKING:
    from priorcodec.session import Session

FORMAT = "GIC"
HEAD = struct.Struct("<3sBBB")  # magic, version and flags, encoder, quality; then height and width
SAVE_OPTIONS = ("quality", "bpp", "max_bytes", "background", "statistics", "refine", "refine_metric")


class GicImageFile(ImageFile.ImageFile):
    """A .gic file: its size is read when it is opened, its pixels when they are first needed.

    `info["quality"]` is the quality in levels, 0 to 11.
    """

    format = FORMAT
    format_description = "PriorCodec"

    def _open(self) -> None:
        assert self.fp is not None
        head = io.BytesIO(self.fp.read(HEAD.size + 6))
        fixed = head.read(HEAD.size)
        if len(fixed) < HEAD.size or not _accept(fixed):
            raise SyntaxError("not a .gic file")  # Pillow then asks the next plugin
        _, version, _, quality = HEAD.unpack(fixed)
        if version & 0x0F != container.VERSION:
            raise SyntaxError(f"file version {version & 0x0F}, but this priorcodec reads version {container.VERSION}")
        height, width = _side(head), _side(head)
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


def _side(head: IO[bytes]) -> int:
    """A side in pixels, an unsigned LEB128 number. Raises SyntaxError: it is cut short or out of range."""
    value = 0
    for shift in range(0, 21, 7):
        byte = head.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80 and 1 <= value <= container.MAX_SIDE:
            return value
    raise SyntaxError("the header of the .gic file is damaged")


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """`image.save` with the keywords of `Session.encode`. Raises OSError, or ValueError for an impossible option."""
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
