"""Exceptions and warnings of the package. The text of an error is one line: what was got, what was wanted, what to do."""

import sys
import warnings


class PriorCodecError(Exception):
    """Base class of all errors of this package; the command line prints the text and exits with status 2."""


class StreamError(PriorCodecError):
    """The bytes are not a readable .gic file of a version and encoder this installation knows."""


class ImageError(PriorCodecError):
    """An image cannot be read, or the caller must decide something: a background for transparency, or a larger size limit."""


class WeightsError(PriorCodecError):
    """A weight file is missing, damaged, of the wrong kind, or made for another backbone or encoder."""


class BackboneError(PriorCodecError):
    """There is no such backbone, or it does not keep the interface of `backbones.spec`."""


class ApiError(BackboneError):
    """A plugin was written for another version of the plugin interface."""


class AdapterError(PriorCodecError):
    """An adapter is missing, does not fit, or is attached twice."""


class ConfigError(PriorCodecError):
    """A setting does not exist or has an impossible value."""


class TrainingError(PriorCodecError):
    """A training run cannot start or continue."""


class PrecisionWarning(UserWarning):
    """An image was decoded in float32 because the requested precision overflowed."""


class DryRunWarning(UserWarning):
    """An image was decoded with an adapter of a dry run, through the backbone's tiny random model."""


class ImageWarning(UserWarning):
    """An image may not be what the caller meant: its values have another range, or its file is damaged."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out.

    On the CPU torch raises a plain RuntimeError that only its text tells apart; `torch.OutOfMemoryError` is one of its own.
    """
    texts = (
        "can't allocate memory",
        "DefaultCPUAllocator",
        "out of memory",
        "not enough memory",
        "failed to map segment",
    )
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError | ImportError) and any(text in str(error) for text in texts))
    )


def warn_caller(kind: type[Warning], text: str) -> None:
    """Warn at the line outside this package that called."""
    level, frame = 2, sys._getframe(1)
    while (
        frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __name__.partition(".")[0]
    ):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, kind, stacklevel=level)
