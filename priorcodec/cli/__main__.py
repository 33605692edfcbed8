"""`python -m priorcodec.cli`: the same as the `priorcodec` command."""

from priorcodec.cli import run

run()
