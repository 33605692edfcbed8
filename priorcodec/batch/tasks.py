"""The work of `encode`, `decode` and `preview` on one file, as plain settings that can be sent to another process.

settings --open(), once per process--> a session inside a function: job -> row of the outcome
"""

from __future__ import annotations

import functools
import logging
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from priorcodec.batch.fingerprint import fingerprints
from priorcodec.batch.jobs import STREAM, Job, JobFn
from priorcodec.batch.runner import progress_bar
from priorcodec.config import DecodeConfig
from priorcodec.core.errors import ConfigError, DryRunWarning, PrecisionWarning, StreamError
from priorcodec.core.io.names import printable
from priorcodec.core.io.reading import standard_input
from priorcodec.core.rate_control import DEFAULT_QUALITY

if TYPE_CHECKING:
    from priorcodec.core.layers.settings import LayerConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Images -> .gic files.

    Attributes:
        config: Device, tile and largest number of pixels; the rest has no influence on the file.
        quality: In levels, 0 to 11; only without `max_bytes` and `bpp`.
        max_bytes: Largest size of a file in bytes; the quality is searched.
        bpp: The same in bits per pixel of the image.
        background: Color behind transparent parts, or None to refuse them.
        statistics: Whether to write the segment that `renorm=written` uses.
        layers: Names of the layers that are written.
        residual: How much of the residual is written, 0 to 10; None for all where there is one.
        roi: Regions of interest (x, y, width, height) in pixels.
        refine: Steps of latent refinement, 0 for none.
        refine_metric: What refinement improves: "psnr" or "gmsd".
        show_steps: Whether a progress bar shows the steps of the refinement.
        skip: Leave an output that is what would be written.
        force: Replace an output that is not.
    """

    config: DecodeConfig
    quality: float = DEFAULT_QUALITY
    max_bytes: int | None = None
    bpp: float | None = None
    background: str | None = None
    statistics: bool = False
    layers: tuple[str, ...] = ("latent",)
    residual: float | None = None
    roi: tuple[tuple[int, int, int, int], ...] = ()
    refine: int = 0
    refine_metric: str = "psnr"
    show_steps: bool = False
    skip: bool = False
    force: bool = False

    def open(self) -> JobFn:
        from priorcodec.core import rate_control
        from priorcodec.core.image import color
        from priorcodec.core.image import io as image_io
        from priorcodec.core.io import atomic
        from priorcodec.core.latent_refinement import RefineConfig
        from priorcodec.core.layers.settings import layer_config
        from priorcodec.session import Session

        session, layers = Session(self.config), layer_config(self.layers, self.residual, self.roi)
        codec = session.codec
        metric: Any = self.refine_metric
        RefineConfig(steps=self.refine or 1, metric=metric)  # wrong requests end here, before any file
        if self.refine:
            layers.check_refinable()
        if self.background is not None:
            color.parse_color(self.background)
        byte = codec.quality_byte(self.quality)
        searched = self.max_bytes is not None or self.bpp is not None
        fixed = not searched and "latent" in layers.layers  # the quality

        def encode(job: Job) -> dict[str, Any]:
            source = standard_input() if job.source == STREAM else job.source
            loaded = image_io.load(
                source, background=self.background, max_pixels=self.config.max_pixels, name=str(job.source)
            )
            size = loaded.pixels.shape[:2]
            if self.skip and job.target_exists():
                target = rate_control.target_bytes(self.max_bytes, self.bpp, *size) if searched else None
                why = self._differs(job, size, codec.id, byte if fixed else None, target, layers)
                if _is_skipped(job, why, force=self.force):
                    return {"skipped": True}
            for note in loaded.notes:
                logger.warning("%s: %s", printable(job.source), note)
            with progress_bar("refining", self.refine, shown=self.show_steps and self.refine > 0) as progress:
                encoded = session.encode(
                    loaded.pixels,
                    self.quality if fixed else None,
                    bpp=self.bpp,
                    max_bytes=self.max_bytes,
                    statistics=self.statistics,
                    layers=self.layers,
                    residual=self.residual,
                    roi=self.roi,
                    refine=self.refine,
                    refine_metric=metric,
                    progress=progress,
                )
            if encoded.note:
                logger.warning("%s: %s", printable(job.source), encoded.note)
            atomic.write(job.target, encoded, replace=self.force or job.may_exist)
            refinement = encoded.details.refinement
            return {
                "bytes": len(encoded),
                "bpp": round(encoded.bpp, 5),
                "quality": encoded.quality,
                "width": encoded.width,
                "height": encoded.height,
                "symbols_sha256": encoded.details.symbols_sha256,
                **({"refinement": asdict(refinement)} if refinement else {}),
            }

        return encode

    def _differs(
        self,
        job: Job,
        size: tuple[int, int],
        encoder_id: int,
        quality: int | None,
        max_bytes: int | None,
        layers: LayerConfig,
    ) -> str:
        """Why the target is not what encoding the source would write, as far as one can tell without encoding it, or "".

        Args:
            job: Whose target exists.
            size: (height, width) of the source in pixels.
            encoder_id: Of this encoder.
            quality: Quality byte that the file must have, None for any.
            max_bytes: Largest size of the file, None for any.
            layers: That the file must have.
        """
        from priorcodec.core import container
        from priorcodec.core.entropy.tables import QUALITY_STEPS

        data, residual = job.target.read_bytes(), layers.residual_settings(*size)
        start = b"" if residual is None else residual.pack()
        try:
            content = container.unpack(data, max_pixels=2**64)
        except StreamError as error:
            return f"is no readable coded file ({error})"
        older = job.source != STREAM and job.target.stat().st_mtime < job.source.stat().st_mtime
        reasons = {
            "is of another encoder": content.encoder_id != encoder_id,
            f"has quality {content.quality / QUALITY_STEPS:g}, not {(quality or 0) / QUALITY_STEPS:g}": quality
            not in (None, content.quality),
            f"has {len(data)} bytes, more than {max_bytes}": max_bytes is not None and len(data) > max_bytes,
            "has statistics or lacks them": (content.segment(container.STATISTICS) is not None) != self.statistics,
            f"has layers {', '.join(content.layers)}": set(content.layers) != set(layers.layers),
            "has another residual layer": not (content.segment(container.RESIDUAL) or b"").startswith(start),
            "is of an image of another size": (content.height, content.width) != size,
            "is older than the image": older,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")


@dataclass(frozen=True, kw_only=True)
class Decode:
    """.gic files -> images.

    Attributes:
        config: Settings of the decoder.
        preview: Whether an auxiliary decoder alone makes the image.
        perceptual: Which of them: the one trained to look like the original instead of the one for least error.
        no_plugin: Plugins to leave out.
        skip: Leave an output that is what would be written.
        force: Replace an output that is not.
    """

    config: DecodeConfig
    preview: bool = False
    perceptual: bool = False
    no_plugin: tuple[str, ...] = ()
    skip: bool = False
    force: bool = False

    @property
    def ending(self) -> str:
        """What replaces `.gic` in an output's name; it names the backbone, so that no original is ever in the way."""
        preview = "perceptual" if self.perceptual else "preview"
        return f".{preview if self.preview else self.config.backbone}.png"

    def open(self) -> JobFn:
        from priorcodec.core.image import io as image_io
        from priorcodec.registry import open_registry
        from priorcodec.session import Session

        registry = None if self.preview else open_registry(disabled=self.no_plugin)
        session = Session(self.config, registry=registry)
        session.codec  # noqa: B018  loaded before the first file
        if not self.preview:
            session.spec  # noqa: B018  a misspelled backbone is an error before the first file
            if self.config.blend > 0 and not self.skip:  # a run with nothing left to do loads no backbone
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", DryRunWarning)
                    session.adapter  # noqa: B018  a model that cannot be loaded ends the run, not every file in turn
                for warning in caught:
                    logger.warning("warning: %s", warning.message)
        preview = functools.partial(session.preview, perceptual=self.perceptual)
        decode_one = preview if self.preview else session.decode
        fingerprint = fingerprints(session, preview=self.preview, perceptual=self.perceptual)

        def decode(job: Job) -> dict[str, Any]:
            data = job.read()
            if self.skip and job.target_exists():
                same = image_io.note_of(job.target) == fingerprint(data)
                why = "" if same else "was not made of this file with these settings, as far as it says"
                if _is_skipped(job, why, force=self.force):
                    return {"skipped": True}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", PrecisionWarning)
                pixels = decode_one(data, output="np")
            for warning in caught:
                logger.warning("warning: %s: %s", printable(job.source), " ".join(str(warning.message).split()))
            note = "" if job.target == STREAM else fingerprint(data)
            image_io.save(pixels, job.target, note=note, replace=self.force or job.may_exist)
            return {"width": pixels.shape[1], "height": pixels.shape[0]}

        return decode


def _is_skipped(job: Job, why: str, *, force: bool) -> bool:
    """Whether the existing target stays.

    Args:
        job: Whose target exists.
        why: In what the target is not what would be written; empty if in nothing.
        force: Whether it may be replaced.

    Raises:
        ConfigError: It is not what would be written and may not be replaced.
    """
    if why and not force:
        raise ConfigError(f"{job.target} {why}: give --force to replace it, or another -o")
    return not why
