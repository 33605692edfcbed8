"""Finding training images: the files of folders and the members of tar shards, listed once per run in `run/images.json`.

The first process to come lists them while the others wait for its file lock, so that no collective operation waits for a disk.
Sizes come from the images' headers. The first images are also decoded, so that mistakes show before training starts.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from PIL import Image

from priorcodec.core.errors import ImageError, TrainingError
from priorcodec.core.image import io as image_io
from priorcodec.core.io import atomic

log = logging.getLogger(__name__)

INDEX, UNPACKED, LOCK = "images.json", "shards", ".images.lock"
SHARDS = (".tar", ".tar.gz", ".tgz")
DECODED = 512  # images that are decoded in full before training starts; damage in later ones shows when they are drawn
GZIP = b"\x1f\x8b"
NAMELESS = "image"  # errors get the name of the shard's member later


class Entry(NamedTuple):
    """One image. name: for messages; path: the file that holds it; offset, length: where, in bytes (length 0: the whole file);
    width, height: in pixels by its header."""

    name: str
    path: str
    offset: int
    length: int
    width: int
    height: int


def read(entry: Entry, *, background: str | None) -> np.ndarray:
    """Pixels of one image, sRGB uint8 (h, w, 3).

    Raises:
        ImageError: unreadable, damaged, or transparent without a background; the reason alone, without a name.
    """
    try:
        if entry.length:
            with open(entry.path, "rb") as shard:
                shard.seek(entry.offset)
                loaded = image_io.load(shard.read(entry.length), background=background, name=NAMELESS)
        else:
            loaded = image_io.load(entry.path, background=background, name=NAMELESS)
    except ImageError as error:
        raise ImageError(str(error).removeprefix(f"{NAMELESS}: ")) from error
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    if loaded.damaged:
        raise ImageError("; ".join(loaded.notes))
    return loaded.pixels


def require(sources: Sequence[str]) -> None:
    """Raises TrainingError: a source does not exist."""
    missing = [source for source in sources if not (os.path.isfile(source) or os.path.isdir(source))]
    if missing:
        raise TrainingError(f"data={missing[0]}: no such folder, image or tar shard")


def find(sources: Sequence[str], folder: Path, *, background: str | None) -> list[Entry]:
    """All images of `sources`, from the index in `folder` or listed now.

    Args:
        sources: images, folders and shards, each listed in sorted order.
        folder: run folder, for the index and unpacked .tar.gz shards; made if it is not there.
        background: as of `read`.

    Raises:
        TrainingError: a source that does not exist, or no image in any.
    """
    require(sources)
    folder.mkdir(parents=True, exist_ok=True)
    key = [[os.path.abspath(source) for source in sources], background]
    with FileLock(folder / LOCK):
        entries = _known(folder / INDEX, key)
        if entries is None:
            entries = _read_sizes([e for source in sources for e in _entries(Path(source), folder)], background)
            if not entries:
                wanted = ", ".join(sorted(image_io.SUFFIXES))
                raise TrainingError(f"data={','.join(sources)}: no image in it that can be read ({wanted})")
            files = {e.path: os.path.getsize(e.path) for e in entries if e.length}
            content = {"key": key, "shards": files, "images": entries}
            atomic.write(folder / INDEX, json.dumps(content).encode())
    return entries


def is_index(path: Path) -> bool:
    """Whether a file is a list of images as `find` writes it."""
    try:
        return json.loads(path.read_bytes()).keys() >= {"key", "shards", "images"}
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _known(index: Path, key: object) -> list[Entry] | None:
    """The list of an earlier run; None if it is of other data, damaged, or a shard has another size."""
    try:
        content = json.loads(index.read_bytes())
        if content["key"] != key:
            return None
        if all(os.path.getsize(path) == size for path, size in content["shards"].items()):
            return [Entry(str(n), str(p), *map(int, numbers)) for n, p, *numbers in content["images"]]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        log.warning("%s is damaged: listing the images again", index)
    return None


def _entries(source: Path, folder: Path) -> Iterator[Entry]:
    """Images of one source, without their sizes."""
    if not source.is_dir():
        yield from _members(source, folder) if source.name.lower().endswith(SHARDS) else [_whole(source)]
        return
    seen = set[str]()
    for place, folders, names in os.walk(source, followlinks=True, onerror=_unreadable):
        if os.path.realpath(place) in seen:  # a link to a folder above
            folders.clear()
            continue
        if place != str(source) and Path(place, LOCK).exists():  # what a training wrote: samples, unpacked shards
            if not os.path.samefile(place, folder):
                log.warning("left out: %s (a run folder)", place)
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders.sort()
        for path in (Path(place) / name for name in sorted(names)):
            # Left out: macOS's notes beside a file, and pipes. A dangling link is named when it is read.
            if path.name.startswith("._") or path.exists() and not path.is_file():
                continue
            if path.name.lower().endswith(SHARDS):
                yield from _members(path, folder)
            elif path.suffix.lower() in image_io.SUFFIXES:
                yield _whole(path)


def _unreadable(error: OSError) -> None:
    log.warning("left out: %s (%s)", error.filename, error.strerror)


def _whole(path: Path) -> Entry:
    return Entry(name=str(path), path=os.path.abspath(path), offset=0, length=0, width=0, height=0)


def _members(shard: Path, folder: Path) -> list[Entry]:
    """Images of a shard; none if it is damaged, which is logged."""
    found = []
    try:
        path = os.path.abspath(_unpacked(shard, folder))
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = Path(member.name)
                if (
                    member.isreg()
                    and not member.issparse()
                    and name.suffix.lower() in image_io.SUFFIXES
                    and name.name[:2] != "._"
                ):
                    found.append(Entry(f"{shard}/{member.name}", path, member.offset_data, member.size, 0, 0))
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        log.warning("left out: %s (damaged or no tar file: %s)", shard, str(error).partition("\n")[0])
        return []
    return found


def _unpacked(shard: Path, folder: Path) -> Path:
    """The shard itself, or the plain tar that its gzip file holds, kept in the run folder: gzip has no random access."""
    with shard.open("rb") as file:
        if file.read(2) != GZIP:
            return shard
    about = shard.stat()
    name = hashlib.sha256(f"{shard.absolute()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:16]
    target = folder / UNPACKED / f"{name}.tar"
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(".part")
    try:
        with gzip.open(shard) as packed, part.open("wb") as out:
            shutil.copyfileobj(packed, out, 2**20)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _read_sizes(entries: list[Entry], background: str | None) -> list[Entry]:
    """The entries with their sizes; unreadable ones are logged and left out."""

    def sized(i: int, entry: Entry) -> Entry | str:
        size = _header(entry)
        if i < DECODED or size is None:
            try:
                height, width = read(entry, background=background).shape[:2]
            except ImageError as error:
                return str(error)
            size = width, height
        return entry._replace(width=size[0], height=size[1])

    found = []
    with ThreadPoolExecutor(2) as pool:
        for entry, result in zip(entries, pool.map(sized, range(len(entries)), entries), strict=True):
            if isinstance(result, Entry):
                found.append(result)
            else:
                log.warning("left out: %s (%s)", entry.name, result)
    return found


def _header(entry: Entry) -> tuple[int, int] | None:
    """Width and height by the header; None if Pillow cannot tell."""
    try:
        with open(entry.path, "rb") as file:
            file.seek(entry.offset)
            data: Any = io.BytesIO(file.read(entry.length)) if entry.length else file
            with Image.open(data, formats=("PNG", "JPEG", "WEBP", "AVIF", "TIFF")) as image:
                return image.size
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return None
