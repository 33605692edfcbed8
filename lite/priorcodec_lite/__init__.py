"""PriorCodec without torch: .gic files by numpy and onnxruntime.

import priorcodec_lite
session = priorcodec_lite.open_session()
data = session.encode("photo.png", quality=4)
image = session.decode(data)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from priorcodec_lite.session import Session, open_session

__all__ = ["Session", "__version__", "open_session"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from priorcodec_lite import session

    return getattr(session, name)
