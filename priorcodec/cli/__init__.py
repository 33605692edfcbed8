"""The `priorcodec` command: one module per group of commands, gathered here.

Heavy imports stay inside the commands, so that `priorcodec --help` is quick. Every error is one line: exit status 2 for a
mistake, 1 for a run over several files in which some failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from priorcodec.cli import decode, encode, evaluate, export, layers, options, plugins, train
from priorcodec.core.errors import PriorCodecError, out_of_memory
from priorcodec.core.io.names import one_line, printable_lines

# Variables of the environment that are set unless it has them; read when libraries are loaded, so before any of them.
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}  # torch's, on the CPU: large images spend less time on fresh memory
# Numpy's and torch's threads take turns: who waits, sleeps.
WAITING = {"OPENBLAS_THREAD_TIMEOUT": "4", "OMP_WAIT_POLICY": "PASSIVE"}
ENVIRONMENT = HUGE_PAGES | WAITING

QUICK_EXIT = ("encode", "decode", "preview")  # commands that leave nothing to clean up once their output is flushed

COMPLETION = "_PRIORCODEC_COMPLETE"  # set by a shell that asks for completions, which click answers and then exits
STOPPED = 130  # exit status after Ctrl-C, as shells have it

app = typer.Typer(
    name="priorcodec",
    help="Encode images to tiny files and decode them through diffusion models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes longer to import than all the rest of the help
)


def _version(wanted: bool) -> None:
    if wanted:
        import priorcodec

        typer.echo(f"priorcodec {priorcodec.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
    verbose: options.Verbose = False,
) -> None:
    """Encode images to tiny files and decode them through diffusion models."""
    from priorcodec.batch import logs

    logs.log_to_stderr(logging.DEBUG if verbose else logging.INFO)
    with contextlib.suppress(AttributeError, ValueError):  # a file name may hold what the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


app.command()(encode.encode)
app.command()(decode.decode)
app.command()(decode.preview)
app.command()(decode.info)
app.command()(layers.regions)
app.command()(layers.edit)
app.add_typer(train.app, name="train")
app.command()(plugins.backbones)
app.add_typer(plugins.adapters, name="adapters")
app.command()(plugins.plugins)
app.command()(plugins.check)
app.command(name="eval")(evaluate.evaluate)
app.command()(evaluate.report)
app.command()(export.export)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for files and images.")] = Path("demo-out"),
    image: Annotated[Path | None, typer.Option(help="An image of your own instead of the example.")] = None,
    backbone: Annotated[str, typer.Option(help="Backbone that decodes.")] = "nano_pixel",
    force: options.Force = False,
    verbose: options.Verbose = False,
) -> None:
    """Encode one image at three qualities and compare it with JPEG, WebP and AVIF."""
    from priorcodec.demo import run

    run(output, image, backbone, replace=force)


def main() -> None:
    """Run the command of `sys.argv`; always ends in SystemExit with the status."""
    _ensure_stderr()
    _claim_stdout()
    if "" in sys.argv[1:]:  # as a path it would be the current folder
        _fail("error: got an empty word, perhaps a variable that is not set: leave it out, or give a value", 2)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    training = sys.argv[1:2] == ["train"]  # torch's threads alone, which are quicker awake
    for name, value in (HUGE_PAGES if training else ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    try:
        status = app(standalone_mode=False)
        with contextlib.suppress(AttributeError):  # the program was started without one
            sys.stdout.flush()
    except KeyboardInterrupt:
        _fail("stopped", STOPPED)
    except SystemExit as done:
        from priorcodec.batch.processes import TERMINATED

        # SIGTERM; click, where a shell asks for completions or the reader of our output has seen enough
        if done.code == TERMINATED or COMPLETION in os.environ or isinstance(done.__context__, BrokenPipeError):
            raise
        _fail(f"error: a plugin or a library tried to end the program (status {done.code})", 2)
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except Exception as error:
        line = _line(error)
        _drop_output()
        _fail(f"error: {line}" if line else "", getattr(error, "exit_code", 2))
    else:
        if status == STOPPED:  # what typer makes of Ctrl-C inside a command
            _fail("stopped", STOPPED)
        sys.exit(status if isinstance(status, int) else 0)


def run() -> None:
    """Entry point of the `priorcodec` command: `main`, without unloading torch's libraries at the end, which takes 0.7 s."""
    try:
        main()
    except SystemExit as done:
        if sys.argv[1:2] and sys.argv[1] in QUICK_EXIT and isinstance(done.code, int):
            # Streams that fail are left to Python's own exit.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                atexit._run_exitfuncs()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(done.code)
        raise


def _ensure_stderr() -> None:
    """Without standard error, the next file to be opened would take its number, and get what libraries print there."""
    if sys.stderr is None:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != 2:
            os.dup2(null, 2)
            os.close(null)
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _claim_stdout() -> None:
    """Standard output gets a number that nobody else knows: what libraries and child processes write to 1 goes to stderr."""
    try:
        if sys.stdout.fileno() != 1:
            return
        own = os.dup(1)
    except (AttributeError, OSError, ValueError):  # closed, or replaced by who called us
        return
    sys.stdout.flush()
    os.dup2(2, 1)
    before = sys.stdout
    sys.stdout = os.fdopen(own, "w", encoding=before.encoding, errors=before.errors)
    sys.stdout.reconfigure(line_buffering=bool(before.line_buffering))


def _drop_output() -> None:
    """Forget what standard output does not take: Python would try once more at its end, and complain."""
    try:
        sys.stdout.flush()
    except AttributeError:
        pass
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _line(error: Exception) -> str:
    """The line of any exception; the traceback of an unexpected one is a debug message."""
    if isinstance(error, PriorCodecError):
        return str(error)
    usage = getattr(error, "format_message", None)  # of an error of typer's parser
    if usage is not None:
        context: Any = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context.parent is not None:
            commands = " or ".join(context.command.commands)
            return f"{context.info_name} wants a command after it: {commands}; --help describes them"
        return usage()
    from priorcodec.batch.jobs import logger, reason

    if out_of_memory(error):
        return "not enough memory: use a smaller image, a smaller --tile or another --device"
    if isinstance(error, UnicodeEncodeError):
        return "a name or a setting has bytes that are not UTF-8: rename the file, or give other text"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    logger.debug("unexpected", exc_info=error)
    return f"unexpected {type(error).__name__}: {one_line(error)}; -v shows the traceback"


def _fail(line: str, status: int) -> None:
    if line:  # without a command the help has been printed
        print(printable_lines(line), file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    run()
