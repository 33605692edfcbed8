"""The command `gic`, with numpy on one thread: sums of the size of an image take three times the processor time on two."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read once, when numpy is imported

from priorcodec_lite.command import run

if __name__ == "__main__":
    run()
