"""One thread for each process of the tests: their networks are tiny, and threads of a busy machine wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported, also in processes that tests start
