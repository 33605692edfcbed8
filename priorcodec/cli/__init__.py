"""The command line: `priorcodec encode | decode | preview | info | demo | backbones | adapters | plugins | check | eval |
report`.

Heavy imports wait inside the commands, so that `priorcodec --help` is quick. A user's mistake is one line and exit status 2;
a folder run that lost some files says which and exits with 1.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from priorcodec.core.errors import ConfigError, PriorCodecError

if TYPE_CHECKING:
    from priorcodec.batch.jobs import Outcome
    from priorcodec.batch.tasks import Decode
    from priorcodec.config import DecodeConfig

HUGE_PAGES = ("THP_MEM_ALLOC_ENABLE", "1")  # torch's, on the CPU: large images spend less time on fresh memory

app = typer.Typer(
    name="priorcodec",
    help="Code images into tiny files and decode them through diffusion models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Words = Annotated[list[str], typer.Argument(metavar="FILES... [KEY=VALUE...]", help="Files, folders and settings.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="File for one input, folder for several.")]
Backbone = Annotated[str | None, typer.Option(help="Which backbone decodes; see `priorcodec backbones`.")]
AdapterName = Annotated[str | None, typer.Option("--adapter", help="Adapter name or .safetensors file.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")]
Steps = Annotated[int | None, typer.Option(help="Calls of the denoiser, 1 to 8; default 1.")]
Blend = Annotated[
    float | None, typer.Option(help="How much of the backbone's image, the rest preview: 0 to 1; default 1.")
]
Renorm = Annotated[str | None, typer.Option(help="none, predicted or written: see docs/decoding.md.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON list instead of lines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]
Skip = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Leave outputs that are what this run would write; one that is not fails without --force. See docs/trust.md.",
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", min=1, help="Processes that share the files of a folder: docs/encoding.md.")
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", help="Refuse larger images, also by a header; default 67108864.")
]
Tile = Annotated[
    int | None, typer.Option(help="Work on tiles of this side in pixels; 0: never; default: what the memory asks for.")
]
NoPlugin = Annotated[list[str] | None, typer.Option("--no-plugin", help="Leave this plugin out; may be repeated.")]


@app.command()
def encode(
    words: Words,
    output: Output = None,
    quality: Annotated[
        float | None, typer.Option("-q", "--quality", help="0 (smallest file) to 7; fractions allowed; default 3.")
    ] = None,
    bpp: Annotated[float | None, typer.Option(help="Search the quality: bits per pixel, at or just under.")] = None,
    target_bytes: Annotated[int | None, typer.Option("--bytes", help="The same in bytes of the file.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="The same as a limit: much smaller is fine too.")] = None,
    background: Annotated[str | None, typer.Option(help="Color behind transparency: white, #rrggbb.")] = None,
    statistics: Annotated[bool, typer.Option("--statistics", help="Add 8 bytes for renorm=written.")] = False,
    refine: Annotated[int, typer.Option(help="Steps of latent optimization, 0 to 10000: slower, smaller, better.")] = 0,
    refine_for: Annotated[str, typer.Option(help="psnr or gmsd.")] = "psnr",
    device: Device = None,
    max_pixels: MaxPixels = None,
    tile: Tile = None,
    skip_existing: Skip = False,
    workers: Workers = 1,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Images -> .gic files. No diffusion model is loaded.

    --skip-existing keeps a file that is readable, of this encoder and quality (or not above the wanted size), has statistics if
    they are wanted and only then, the image's size, and is not older than the image. Only that: its pixels are not compared,
    nor can one tell whether it was refined.
    """
    from priorcodec.batch import runner
    from priorcodec.batch.tasks import Encode
    from priorcodec.core import container, rate_control

    inputs, settings = _split(words)
    options = {"--quality": quality, "--bpp": bpp, "--bytes": target_bytes, "--max-bytes": max_bytes}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"got {' and '.join(given)}, wanted at most one of {', '.join(options)}")
    limit = target_bytes if max_bytes is None else max_bytes
    if bpp is not None or limit is not None:
        rate_control.target_bytes(limit, bpp, 1, 1)
    if refine_for != "psnr" and not refine:
        raise ConfigError(f"got --refine-for {refine_for} without --refine: say how many steps")
    config = _config(settings, device=device, max_pixels=_text(max_pixels), tile=_text(tile))
    jobs = runner.plan(
        inputs,
        output,
        suffixes=runner.IMAGES,
        name=lambda path: path.stem + container.SUFFIX,
        force=force or skip_existing,
    )
    task = Encode(
        config=config,
        quality=3.0 if quality is None else quality,
        limit=limit,
        bpp=bpp,
        say_smaller=max_bytes is None,
        background=background,
        statistics=statistics,
        refine=refine,
        refine_metric=refine_for,
        show_steps=len(jobs) == 1,
        skip=skip_existing,
        force=force,
    )
    outcome = runner.run(jobs, task, workers=workers, label="encoding")
    _finish(outcome, as_json, "{input} -> {output}: {bytes} bytes, {bpp:.4f} bpp, quality {quality:g}")


@app.command()
def decode(
    words: Words,
    output: Output = None,
    backbone: Backbone = None,
    adapter: AdapterName = None,
    device: Device = None,
    dtype: Dtype = None,
    steps: Steps = None,
    renorm: Renorm = None,
    blend: Blend = None,
    no_plugin: NoPlugin = None,
    max_pixels: MaxPixels = None,
    tile: Tile = None,
    skip_existing: Skip = False,
    workers: Workers = 1,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """.gic files -> images, through a diffusion backbone.

    --skip-existing keeps a PNG that says it was made of this very file with these settings, backbone and adapter.
    """
    from priorcodec.batch.tasks import Decode

    inputs, settings = _split(words)
    options = {"backbone": backbone, "adapter": adapter, "device": device, "dtype": dtype, "renorm": renorm}
    options |= {
        "steps": _text(steps),
        "blend": _text(blend),
        "max_pixels": _text(max_pixels),
        "tile": _text(tile),
    }
    off = tuple(no_plugin or ())
    task = Decode(config=_config(settings, no_plugin=off, **options), no_plugin=off, skip=skip_existing, force=force)
    _images(inputs, output, task, workers=workers, as_json=as_json)


@app.command()
def preview(
    words: Words,
    output: Output = None,
    device: Device = None,
    max_pixels: MaxPixels = None,
    tile: Tile = None,
    skip_existing: Skip = False,
    workers: Workers = 1,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """.gic files -> images by the auxiliary decoder alone: no backbone, fast."""
    from priorcodec.batch.tasks import Decode

    inputs, settings = _split(words)
    config = _config(settings, device=device, max_pixels=_text(max_pixels), tile=_text(tile))
    task = Decode(config=config, preview=True, skip=skip_existing, force=force)
    _images(inputs, output, task, workers=workers, as_json=as_json)


@app.command()
def info(files: Annotated[list[Path], typer.Argument()], max_pixels: MaxPixels = None, as_json: Json = False) -> None:
    """Everything a .gic file says of itself."""
    from priorcodec.core import container
    from priorcodec.core.errors import StreamError

    most = container.MAX_PIXELS if max_pixels is None else max_pixels
    rows = []
    for path in files:
        try:
            rows.append({"file": str(path), **container.describe(path.read_bytes(), max_pixels=most)})
        except (OSError, StreamError) as error:
            raise StreamError(f"{path}: {error}") from error
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print("\n".join(f"{key:<16} {value}" for key, value in row.items()))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for files and images.")] = Path("demo-out"),
    image: Annotated[Path | None, typer.Option(help="Your own photograph instead of ours.")] = None,
    backbone: Annotated[str, typer.Option(help="Which backbone decodes.")] = "nano_unet",
) -> None:
    """Code one photograph at three qualities and show it beside JPEG, WebP and AVIF."""
    from priorcodec.demo import run

    run(output, image, backbone)


@app.command()
def backbones(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None,
    no_plugin: NoPlugin = None,
    as_json: Json = False,
) -> None:
    """Who can decode: size, latent, prediction, license, weights here or not, adapters known."""
    from priorcodec.cli import listing
    from priorcodec.registry import open_registry

    registry = open_registry(disabled=no_plugin or ())
    rows = listing.backbones(registry, name)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif name:
        print("\n".join(f"{key:<12} {value}" for key, value in rows[0].items()))
    else:
        listing.table(rows, ("name", "parameters", "latent", "prediction", "license", "weights", "adapters"))


@app.command()
def adapters(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE | push FILE OWNER/REPO]", help="Nothing: list all.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="push: to a new repository nobody else sees.")] = False,
    revision: Annotated[str, typer.Option(help="push: branch to push to.")] = "main",
    no_plugin: NoPlugin = None,
    as_json: Json = False,
) -> None:
    """List known adapters, explain one file (or OWNER/REPO/FILE@COMMIT), or push one with its card to the Hub."""
    from priorcodec.cli import listing
    from priorcodec.registry import open_registry

    if words and words[0] == "push":
        _push(words[1:], private=private, branch=revision, as_json=as_json)
        return
    if len(words or ()) > 1:
        raise ConfigError(f"got {' '.join(words or ())}, wanted one FILE to explain, or push FILE OWNER/REPO")
    registry = open_registry(disabled=no_plugin or ())
    if words:
        row = listing.explain(registry, words[0])
        print(json.dumps(row, indent=2) if as_json else listing.lines(row))
        return
    rows = listing.adapters(registry)
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        listing.table(rows, ("backbone", "name", "size", "encoder", "file", "sha256", "revision", "location"))


@app.command()
def plugins(no_plugin: NoPlugin = None, as_json: Json = False) -> None:
    """Which plugins were found, what they bring, and why one failed."""
    from priorcodec.cli import listing
    from priorcodec.registry import open_registry

    rows = listing.plugins(open_registry(disabled=no_plugin or ()))
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        listing.table(rows, ("name", "origin", "version", "backbones", "error"))


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A backbone, as `priorcodec backbones` lists them.")],
    tier: Annotated[int, typer.Option(min=0, max=2, help="0 plain data, 1 the tiny model, 2 the real weights.")] = 1,
    weights: Annotated[str | None, typer.Option(help="For tier 2: folder, file or Hub id.")] = None,
    as_json: Json = False,
) -> None:
    """Does a backbone keep the contract? Exit status 1 when a check fails."""
    from priorcodec import testing

    results = testing.check_backbone(name, tier=tier, weights=weights)
    text, good = testing.report(name, results, as_json=as_json)
    print(text)
    if not good:
        raise typer.Exit(1)


trainer = typer.Typer(help="Train an adapter for a backbone, or a new encoder.", no_args_is_help=True)
app.add_typer(trainer, name="train")
Settings = Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Settings; `docs/train.md` lists all.")]


@trainer.command(name="adapter")
def train_adapter(words: Settings) -> None:
    """backbone=NAME data=FOLDER,SHARD.tar run=FOLDER: the only part that is trained per backbone. Resumes a run it finds."""
    from priorcodec.training.adapter import train_adapter as train

    _trained(train, words)


@trainer.command(name="encoder")
def train_encoder(words: Settings) -> None:
    """data=FOLDER,SHARD.tar run=FOLDER: a new encoder, whose files no other decodes. Resumes a run it finds."""
    from priorcodec.training.encoder import train_encoder as train

    _trained(train, words)


@app.command(name="eval")
def evaluate_files(
    references: Annotated[Path, typer.Argument(help="Untouched image or folder of them.")],
    files: Annotated[list[Path], typer.Argument(help="Decoded images or coded files, or folders of them.")],
    metrics: Annotated[str, typer.Option(help="Names with commas between; default: all that can run here.")] = "",
    backbone: Annotated[str, typer.Option(help="Decodes .gic files; `preview` needs no backbone.")] = "preview",
    coded: Annotated[Path | None, typer.Option(help="Where the coded files of decoded images lie.")] = None,
    style: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write instead of printing.")] = None,
) -> None:
    """Score files against their references: bits per pixel of the whole file and quality of the image."""
    from priorcodec.core.io import atomic as disk
    from priorcodec.evaluation import evaluate
    from priorcodec.evaluation import metrics as scores

    names, missing = scores.available(metrics.split(",") if metrics else None)
    for line in missing:
        print(f"left out: {line}", file=sys.stderr)
    decoder = None if backbone == "preview" else backbone
    rows = evaluate.evaluate([references], files, names, backbone=decoder, coded=coded)
    text = evaluate.render(rows, style)
    if output is None:
        print(text, end="")
    else:
        disk.write(output, text.encode())


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(help="Result files of the benchmarks, or folders of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("report.html"),
    images: Annotated[Path | None, typer.Option(help="What `benchmarks/rd.py --keep` wrote.")] = None,
) -> None:
    """Result files -> one self-contained page: plots, tables, and a slider over the decoded images."""
    from priorcodec.evaluation import report as page

    page.build(results, output, images=images)
    print(f"{output}: {output.stat().st_size} bytes")


def main() -> None:
    """Entry point of the `priorcodec` command."""
    os.environ.setdefault(*HUGE_PAGES)
    try:
        app()
    except PriorCodecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except MemoryError:
        print("error: not enough memory for this image: use a smaller one", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _trained(train: Callable[[list[str]], Path | None], words: list[str]) -> None:
    """Run a training command; its progress is logged to stderr."""
    import logging

    handler = logging.StreamHandler()
    logger = logging.getLogger("priorcodec")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        result = train(words)
    finally:
        logger.removeHandler(handler)
    if result is not None:  # only the first process writes
        print(f"{result}: {result.stat().st_size} bytes")


def _push(words: Sequence[str], *, private: bool, branch: str, as_json: bool) -> None:
    """Refuses what is no adapter, writes its card if there is none, and says how to pin what was uploaded."""
    from dataclasses import asdict

    from priorcodec.adapters import card
    from priorcodec.registry import adapter_sources as places

    if len(words) != 2:
        raise ConfigError(f"got push {' '.join(words)}, wanted push FILE OWNER/REPO")
    file = Path(words[0])
    source = places.push(file, card.write(file), words[1], private=private, branch=branch)
    if as_json:
        print(json.dumps(asdict(source), indent=2))
        return
    print(f"commit   {source.revision}\nsha256   {source.sha256}")
    print(f"decode   adapter={source.location}@{source.revision}")
    print("plugin   " + repr(source).replace("'", '"'))


def _split(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files and folders apart from `key=value` settings; a word that names an existing file is a file."""
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    inputs = [Path(word) for word in words if word not in settings]
    if not inputs:
        raise ConfigError("no input: name at least one file or folder")
    return inputs, settings


def _config(settings: Sequence[str], *, no_plugin: Sequence[str] = (), **options: str | None) -> DecodeConfig:
    """Options of the command line and `key=value` words are the same settings; the words win."""
    from priorcodec.config import decode_config
    from priorcodec.registry import open_registry

    words = [f"{key}={value}" for key, value in options.items() if value is not None]
    names = open_registry(disabled=no_plugin).specs() if "backbone" in options else None
    return decode_config([*words, *settings], backbones=names)


def _images(inputs: list[Path], output: Path | None, task: Decode, *, workers: int, as_json: bool) -> None:
    """Files to images: `photo.gic` becomes `photo.NAME.png`, so that no original is ever in the way."""
    from priorcodec.batch import runner
    from priorcodec.core import container

    jobs = runner.plan(
        inputs,
        output,
        suffixes=[container.SUFFIX],
        name=lambda path: f"{path.stem}.{task.name}.png",
        force=task.force or task.skip,
    )
    _finish(runner.run(jobs, task, workers=workers, label="decoding"), as_json, "{input} -> {output}: {width}x{height}")


def _text(value: float | None) -> str | None:
    return None if value is None else str(value)


def _finish(outcome: Outcome, as_json: bool, line: str) -> None:
    if as_json:
        print(json.dumps(outcome.rows, indent=2))
    else:
        for row in outcome.rows:
            print("{input} -> {output}: there already".format(**row) if row.get("skipped") else line.format(**row))
    if outcome.failures:
        print(f"{len(outcome.failures)} of {len(outcome.failures) + len(outcome.rows)} files failed:", file=sys.stderr)
        for _, reason in outcome.failures:
            print(f"  {reason}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
