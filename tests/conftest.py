"""For all tests: one thread for each process, since networks are tiny and threads of a busy machine wait for each other."""

import os
import subprocess

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is imported, also in processes that tests start


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 32 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
