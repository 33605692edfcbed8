"""A plain handler for this package's log messages, installed by the command line and in its worker processes."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from priorcodec.core.io.names import printable_lines

PACKAGE = "priorcodec"


class StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current `sys.stderr` of each message, so that the messages of one job can be captured."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        """Names of files and of members of archives come from anywhere: what no terminal should see is a question mark."""
        return printable_lines(super().format(record))

    @stream.setter
    def stream(self, value: Any) -> None:
        """Ignored: it is always the current `sys.stderr`."""


def log_to_stderr(level: int) -> None:
    """Show this package's messages from `level` up as plain lines on standard error.

    Warnings of Pillow's readers are not shown: our own lines say what is damaged.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(level)
    if not any(isinstance(handler, StderrHandler) for handler in logger.handlers):
        logger.addHandler(StderrHandler())


def level() -> int:
    """The level that is in force, to be passed on to a worker process."""
    return logging.getLogger(PACKAGE).getEffectiveLevel()
