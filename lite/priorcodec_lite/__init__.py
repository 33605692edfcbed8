"""PriorCodec without torch: .gic files by numpy and onnxruntime.

import priorcodec_lite
session = priorcodec_lite.open_session()
data = session.encode("photo.png", quality=4)
image = session.decode(data)
"""

from priorcodec_lite.session import Session, open_session

__all__ = ["Session", "__version__", "open_session"]
__version__ = "0.1.0"
