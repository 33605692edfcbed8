"""What `encode`, `decode` and `preview` do with one file: plain settings that another process can be told, too.

settings --open(), once per process--> a session inside a function: Job -> row of the outcome
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import asdict, dataclass
from typing import Any

from priorcodec.batch.jobs import Job, Work
from priorcodec.batch.runner import bar
from priorcodec.config import DecodeConfig
from priorcodec.core.errors import ConfigError, PrecisionWarning, StreamError


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Images -> .gic files.

    quality: in levels; limit, bpp: wanted size in bytes or bits per pixel, the quality is searched then; say_smaller: say when
    the highest quality is smaller; background, statistics, refine, refine_metric: as of `Session.encode`; show_steps:
    a bar of the refinement's; skip: leave what is there and is what would be written; force: replace what is there and is not.
    """

    config: DecodeConfig
    quality: float = 3.0
    limit: int | None = None
    bpp: float | None = None
    say_smaller: bool = True
    background: str | None = None
    statistics: bool = False
    refine: int = 0
    refine_metric: str = "psnr"
    show_steps: bool = False
    skip: bool = False
    force: bool = False

    def open(self) -> Work:
        from priorcodec.core import rate_control
        from priorcodec.core.entropy.tables import QUALITY_STEPS
        from priorcodec.core.image import io as image_io
        from priorcodec.core.io import atomic
        from priorcodec.session import Session

        session = Session(self.config)
        session.refinement(self.refine, self.refine_metric)  # a wrong request ends here, before any file
        codec = session.codec
        byte = codec.quality_byte(self.quality)
        searched = self.limit is not None or self.bpp is not None

        def work(job: Job) -> dict[str, Any]:
            loaded = image_io.load(job.source, background=self.background, max_pixels=self.config.max_pixels)
            height, width = loaded.pixels.shape[:2]
            target = rate_control.target_bytes(self.limit, self.bpp, height, width) if searched else None
            if self.skip and job.target.exists():
                why = self._differs(job, (height, width), codec.id, None if searched else byte, target)
                if _stays(job, why, force=self.force):
                    return {"skipped": True}
            for note in loaded.notes:
                print(f"{job.source}: {note}", file=sys.stderr)
            with bar("refining", self.refine, shown=self.show_steps and self.refine > 0) as progress:
                refined = session.refinement(self.refine, self.refine_metric, progress=progress)
                if target is None:
                    encoded = codec.encode(loaded.pixels, self.quality, statistics=self.statistics, refined=refined)
                else:
                    found = codec.encode_to(loaded.pixels, target, statistics=self.statistics, refined=refined)
                    encoded, note = found.encoded, found.note()
                    if note and self.say_smaller:
                        print(f"{job.source}: {note}", file=sys.stderr)
            atomic.write(job.target, encoded.data)
            return {
                "bytes": len(encoded.data),
                "bpp": round(8 * len(encoded.data) / (height * width), 5),
                "quality": encoded.container.quality / QUALITY_STEPS,
                "width": width,
                "height": height,
                "symbols_sha256": encoded.symbols_sha256,
                **({"refinement": asdict(encoded.refinement)} if encoded.refinement else {}),
            }

        return work

    def _differs(self, job: Job, size: tuple[int, int], encoder_id: int, quality: int | None, most: int | None) -> str:
        """Why the target is not what coding the source would write, as far as can be told without coding it; empty if it may be.

        size: (height, width) of the source; quality: byte of the file, None for any; most: bytes, None for any number.
        """
        from priorcodec.core import container

        data = job.target.read_bytes()
        try:
            stream = container.unpack(data, max_pixels=2**64)
        except StreamError as error:
            return f"is no readable coded file ({error})"
        reasons = {
            "is of another encoder": stream.encoder_id != encoder_id,
            f"has quality byte {stream.quality}, not {quality}": quality not in (None, stream.quality),
            f"has {len(data)} bytes, more than {most}": most is not None and len(data) > most,
            "has statistics or lacks them": (stream.segment(container.STATISTICS) is not None) != self.statistics,
            "is of an image of another size": (stream.height, stream.width) != size,
            "is older than the image": job.target.stat().st_mtime < job.source.stat().st_mtime,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")


@dataclass(frozen=True, kw_only=True)
class Decode:
    """.gic files -> images.

    preview: by the auxiliary decoder alone; no_plugin: plugins to leave out; skip, force: as of `Encode`.
    """

    config: DecodeConfig
    preview: bool = False
    no_plugin: tuple[str, ...] = ()
    skip: bool = False
    force: bool = False

    @property
    def name(self) -> str:
        """Of the images, between the file's name and the suffix."""
        return "preview" if self.preview else self.config.backbone

    def open(self) -> Work:
        from priorcodec.core.image import io as image_io
        from priorcodec.registry import open_registry
        from priorcodec.session import Session

        registry = None if self.preview else open_registry(disabled=self.no_plugin)
        session = Session(self.config, registry=registry)
        read = session.preview_pixels if self.preview else session.decode_pixels

        def work(job: Job) -> dict[str, Any]:
            data = job.source.read_bytes()
            if self.skip and job.target.exists():
                same = image_io.note_of(job.target) == session.fingerprint(data, preview=self.preview)
                why = "" if same else "was not made of this file with these settings, as far as it says"
                if _stays(job, why, force=self.force):
                    return {"skipped": True}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", PrecisionWarning)
                pixels = read(data)
            for warning in caught:
                print(f"warning: {job.source}: {' '.join(str(warning.message).split())}", file=sys.stderr)
            image_io.save(pixels, job.target, note=session.fingerprint(data, preview=self.preview))
            return {"width": pixels.shape[1], "height": pixels.shape[0]}

        return work


def _stays(job: Job, why: str, *, force: bool) -> bool:
    """why: the target is not what would be written, empty if it is. Raises ConfigError: it is not, and may not be replaced."""
    if why and not force:
        raise ConfigError(f"{job.target} {why}: give --force to replace it, or another -o")
    return not why
