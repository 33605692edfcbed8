"""Every mistake of a caller ends in one of these: what was got, what was wanted, what to do."""


class PriorCodecError(Exception):
    """Base of all errors this package raises on purpose; the command line prints its text and exits with status 2."""


class StreamError(PriorCodecError):
    """The bytes are not a readable .gic file of a version and encoder this installation knows."""


class ImageError(PriorCodecError):
    """The image cannot be read, or needs a decision of the caller (alpha without a background, too large)."""


class WeightsError(PriorCodecError):
    """A weight file is missing, damaged, of the wrong kind, or made for another backbone or encoder."""


class BackboneError(PriorCodecError):
    """No such backbone, or a backbone that breaks the contract."""


class ApiError(BackboneError):
    """A plugin made for another version of the plugin interface."""


class AdapterError(PriorCodecError):
    """An adapter that does not fit, is attached twice, or is missing."""


class ConfigError(PriorCodecError):
    """A setting that does not exist or has an impossible value."""


class TrainingError(PriorCodecError):
    """A training run that must not go on."""


class PrecisionWarning(UserWarning):
    """An image was decoded in float32, because the wanted precision overflowed."""


class ImageWarning(UserWarning):
    """An image may not be what the caller means: values of another range, or a damaged file."""
