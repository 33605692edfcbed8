"""The command `gic`: encode, decode, preview, info. Every error is one line and exit status 2, nothing half-written."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from priorcodec_lite import __version__
from priorcodec_lite.core import container
from priorcodec_lite.core.container import SUFFIX
from priorcodec_lite.core.errors import ConfigError, PriorCodecError
from priorcodec_lite.core.image import writing
from priorcodec_lite.core.io import atomic
from priorcodec_lite.core.io.names import as_compared, printable
from priorcodec_lite.core.io.reading import read_file, standard_input
from priorcodec_lite.session import RENORM, open_session

STREAM = atomic.STDOUT  # as an input, standard input


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 2 for a mistake, 1 if some of several files failed."""
    given = _parser().parse_args(arguments)
    failed = 0
    try:
        out, one = sys.stdout, partial(_info, max_pixels=given.max_pixels)
        if given.command != "info":
            session = open_session(
                given.models,
                renorm=getattr(given, "renorm", "none"),
                threads=given.threads,
                max_pixels=given.max_pixels,
            )
            work = {"encode": _encode, "decode": _decode, "preview": _decode}[given.command]
            targets = _targets(given.files, given.output, SUFFIX if given.command == "encode" else ".png", given.force)

            if STREAM in map(str, targets.values()):
                out = sys.stderr
                if sys.stdout is not None and sys.stdout.isatty():
                    raise ConfigError(
                        "standard output is a terminal, wanted a file or a pipe: give -o FILE, or pipe it"
                    )

            def one(source: Path) -> str:
                return work(session, source, targets[source], given)

        for source in dict.fromkeys(given.files) if given.command == "info" else targets:
            try:
                print(one(source), file=out)
            except (PriorCodecError, OSError) as error:
                if isinstance(error, OSError) and error.filename is None:  # standard output itself
                    raise
                failed += 1
                line = str(error) if isinstance(error, PriorCodecError) else f"{error.filename}: {error.strerror}"
                known = line.startswith(printable(source)) or len(given.files) == 1 and isinstance(error, ConfigError)
                print(line if known else f"{printable(source)}: {line}", file=sys.stderr)
    except PriorCodecError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if not failed else 2 if len(given.files) == 1 else 1


def run() -> None:
    """Entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name ends no run because a terminal cannot show it
    try:
        status = main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        status = 141  # whoever read it has seen enough
        if not isinstance(error, BrokenPipeError):
            print(f"cannot write to standard output: {error.strerror}", file=sys.stderr)
            status = 2
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left must not fail again at exit
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status = 130
    except MemoryError:
        print("not enough memory: use a smaller image", file=sys.stderr)
        status = 2
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    cli = argparse.ArgumentParser(prog="gic", description="Encode images to .gic files and decode them, without torch.")
    cli.add_argument("--version", action="version", version=f"priorcodec-lite {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("files", nargs="+", type=Path, metavar="FILE", help="- is standard input")
    common.add_argument("--max-pixels", type=int, default=container.MAX_PIXELS, help="refuse larger images")
    writes = argparse.ArgumentParser(add_help=False)
    writes.add_argument(
        "-o",
        "--output",
        type=Path,
        help="file, or folder for several, - for standard output; default: beside the input",
    )
    writes.add_argument("-f", "--force", action="store_true", help="replace files that exist")
    writes.add_argument("--models", type=Path, help="folder that `priorcodec export` wrote; default: the one in here")
    writes.add_argument("--threads", type=int, help="default: as many as there are processors")
    commands = cli.add_subparsers(dest="command", required=True)

    encode = commands.add_parser("encode", parents=[common, writes], help="images -> .gic files")
    size = encode.add_mutually_exclusive_group()
    size.add_argument("-q", "--quality", type=float, help="0 (smallest file) to 11; default 6")
    size.add_argument("--bpp", type=float, help="largest size in bits per pixel; the quality is searched")
    size.add_argument("--target-bytes", type=int, help="largest size in bytes; the quality is searched")
    encode.add_argument("--background", help="color behind transparent parts: white, #rrggbb")
    encode.add_argument("--statistics", action="store_true", help="write statistics for `decode --renorm written`")

    decode = commands.add_parser("decode", parents=[common, writes], help=".gic files -> images, through the backbone")
    decode.add_argument("--renorm", choices=RENORM, default="none", help="match color and contrast to statistics")
    preview = commands.add_parser(
        "preview", parents=[common, writes], help=".gic files -> previews, without the backbone"
    )
    preview.add_argument("--perceptual", action="store_true", help="the decoder trained to look like the original")
    commands.add_parser("info", parents=[common], help="what .gic files say")
    return cli


def _targets(files: Sequence[Path], output: Path | None, ending: str, force: bool) -> dict[Path, Path]:
    """Where each file goes: `-o` names a file by its suffix, as for `priorcodec`, and a folder otherwise.

    Raises ConfigError: two share a name, one is an input, or exists and is not to be replaced.
    """
    if nameless := [file for file in files if not file.name]:  # what an unset variable gives
        raise ConfigError(f"got {printable(nameless[0])}, wanted a file")
    suffixes = [SUFFIX] if ending == SUFFIX else [suffix for suffix in writing.SAVE if suffix]
    single, file = len(files) == 1, output is not None and _is_file(output, suffixes)
    if output is None:
        found = {file: file if _is_stream(file) else file.with_name(f"{file.stem}{ending}") for file in files}
    elif single and file:
        found = {files[0]: output}
    elif file:
        raise ConfigError(f"got -o {output} for {len(files)} files, wanted a folder")
    elif os.path.isfile(output) or single and output.suffix and not os.path.isdir(output):
        wanted = " or ".join(suffixes)
        raise ConfigError(f"cannot write {printable(output)}: wanted a name ending in {wanted}, or a folder")
    else:
        atomic.make_folder(output)
        found = {source: output / f"{'stdin' if _is_stream(source) else source.stem}{ending}" for source in files}
    places = [as_compared(os.path.abspath(target)) for target in found.values()]
    for target, place in zip(found.values(), places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"two inputs would be written to {target}: run the command once for each")
        atomic.check_output(target, files, replace=force, option="-f")
    return found


def _is_stream(path: Path) -> bool:
    return str(path) == STREAM


def _input(source: Path):
    """The path, or standard input as an open file."""
    return standard_input() if _is_stream(source) else source


def _is_file(output: Path, suffixes: Sequence[str]) -> bool:
    """Whether `-o` names a file to write; pipes and devices need no suffix."""
    if os.path.exists(output) and not os.path.isfile(output):
        return not os.path.isdir(output)
    return _is_stream(output) or output.suffix.lower() in suffixes


def _encode(session, source: Path, target: Path, given: argparse.Namespace) -> str:
    data = session.encode(
        _input(source),
        given.quality,
        bpp=given.bpp,
        max_bytes=given.target_bytes,
        background=given.background,
        statistics=given.statistics,
    )
    about = container.describe(data, max_pixels=given.max_pixels)
    atomic.make_folder(target.parent)
    atomic.write(target, data, replace=given.force)
    return f"{printable(source)} -> {printable(target)}: {len(data)} bytes, {about['bpp']:.4f} bpp, quality {about['quality']:g}"


def _decode(session, source: Path, target: Path, given: argparse.Namespace) -> str:
    if given.command == "decode":
        pixels = session.decode(_input(source), output="np")
    else:
        pixels = session.preview(_input(source), output="np", perceptual=given.perceptual)
    atomic.make_folder(target.parent)
    writing.save(pixels, target, replace=given.force)
    return f"{printable(source)} -> {printable(target)}: {pixels.shape[1]}x{pixels.shape[0]}"


def _info(source: Path, *, max_pixels: int) -> str:
    data = read_file(_input(source))
    rows = {"file": printable(source), **container.describe(data, max_pixels=max_pixels)}
    return "\n".join(f"{key:<16} {value}" for key, value in rows.items())
