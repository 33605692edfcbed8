"""Writes the marked blocks of README.md and docs/ from benchmarks/results.   python benchmarks/readme.py [--check]

A block is everything between `<!-- table:NAME -->` and `<!-- end -->`. NAME is a result file, then a view of it:
    kodak/ours                  BD-rate of our codecs against every anchor
    kodak/bd or kodak/bd:avif   BD-rate of every codec against the file's first anchor, or against the one named
    kodak/points or kodak/points:avif,vvc        mean rate and metrics at every setting
    kodak/plot:stlpips_alex     a rate-distortion plot, written beside the results as SVG
    speed or speed:nano_unet,avif                times of a speed file
    portability                 which sets of portability.py agree
    mainjob                     the main job on real images
    full_size                   the large architectures with random weights
    adapter_size                what an adapter adds to them
    high_resolution             a large image in tiles against a small one
    refine, refine/low          what `encode --refine` is worth; at the lowest qualities
    retarget, ablation, silenced   what adapters alone can do (benchmarks/retarget.py)
    losses                      adapters with other weights of the loss terms, by quality
    rate                        how well and how fast a rate target is met
    trust                       promises, tries and failures (benchmarks/trust.py)
--check writes nothing, names what disagrees with its result file, and exits with 1 if anything does.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import resultfile

from priorcodec.evaluation import metrics
from priorcodec.evaluation.report import plot, tables

PAGES = ("README.md", "docs/adapters.md", "docs/decoding.md", "docs/encoding.md", "docs/training.md", "docs/trust.md")
BLOCK = re.compile(r"(<!-- table:(?P<name>\S+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)


def render(name: str, results: Path, root: Path) -> tuple[str, dict[Path, str]]:
    """Name of a block -> its Markdown, and the text of files it shows. Raises ValueError: no such view.

    A result file that is not there is said in the block, so that the README can name a measurement before it is made.
    """
    head, _, choice = name.partition(":")
    stem, _, view = head.partition("/")
    codecs = choice.split(",") if choice else ()
    path = results / f"{stem}.json"
    if not path.is_file():
        return f"Not measured yet: `benchmarks/README.md` says what writes `results/{path.name}`.\n", {}
    result: dict[str, Any] = json.loads(path.read_text())
    if result["kind"] == "mainjob":
        return _mainjob(result["summary"]), {}
    if result["kind"] == "full_size":
        return _full_size(result), {}
    if result["kind"] == "adapter_size":
        return _adapter_size(result), {}
    if result["kind"] == "high_resolution":
        return _high_resolution(result), {}
    if result["kind"] == "adapter":
        return _losses(result) if stem == "losses" else _adapter(result), {}
    if result["kind"] == "rate":
        return _rate(result), {}
    if result["kind"] == "trust":
        return _trust(result), {}
    if result["kind"] == "refine":
        return _refine_low(result) if view == "low" else _refine(result), {}
    if result["kind"] == "speed":
        return tables.speed_table(result, codecs).markdown() + "\n", {}
    if result["kind"] == "portability-sets":
        return tables.portability_table(result).markdown() + "\n", {}
    if view == "ours":
        return tables.ours_table(result).markdown() + "\n", {}
    if view == "bd":
        return tables.bd_table(result, choice or None).markdown() + "\n", {}
    if view == "points":
        return tables.points_table(result, codecs).markdown() + "\n", {}
    if view == "plot" and choice in result["metrics"]:
        about, series = result["metrics"][choice], plot.series_of(result, choice)
        drawn = plot.plot(series, title=about["title"], higher_is_better=about["higher_is_better"], unit=about["unit"])
        target = results / f"{stem}-{choice}.svg"
        text = f"![{about['title']} against bits per pixel]({target.relative_to(root).as_posix()})\n"
        return text, {target: plot.standalone(drawn, series)}
    if view == "plot" and choice in metrics.METRICS:
        return f"Not measured: {metrics.METRICS[choice].title} is not in `results/{path.name}`.\n", {}
    raise ValueError(
        f"table:{name}: no such view; use /ours, /bd, /points or /plot:METRIC with one of {', '.join(result['metrics'])}"
    )


def _mainjob(summary: dict[str, Any]) -> str:
    """Markdown table of what benchmarks/mainjob.py found."""
    bpp, speed = summary["mean_bpp_by_level"], summary["speed_768x512"]
    differ = sum(reader["files_that_differ"] for reader in summary["readers"])
    files = summary["images"] * len(bpp)
    rows = {
        "mean bpp at quality 0 to 7": ", ".join(f"{value:.4f}" for value in bpp),
        "images whose file grows with every level": (
            f"{summary['images_whose_size_rises_with_every_level']} of {summary['images']}"
        ),
        "bytes besides the two entropy strings": f"at most {summary['largest_overhead_bytes']}",
        "file size against estimated bits plus overhead": (
            f"mean {summary['mean_deviation_from_estimate']:+.2%}, worst {summary['largest_deviation_from_estimate']:.2%}"
        ),
        "files read differently with 1 or 2 threads, mkldnn on or off, in other processes": (
            f"{differ} of {files * len(summary['readers'])}"
        ),
        "768x512 on 2 cores: encode, preview, decode (median of 5)": (
            f"{speed['encode_seconds']:.2f} s, {speed['preview_seconds']:.2f} s, {speed['decode_seconds']:.2f} s"
        ),
        "peak memory of that process": f"{speed['peak_gib']:.2f} GiB",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]) + "\n"


def _full_size(result: dict[str, Any]) -> str:
    """Markdown table of what benchmarks/full_size.py found; a model that did not run says how it ended."""
    lines = ["| backbone | load | denoiser, one step | autoencoder | peak memory |", "|---|---:|---:|---:|---:|"]
    for row in result["rows"]:
        if "failed" in row:
            cells = [row["failed"], "", "", ""]
        else:
            times = [(row[f"{stage}_cpu_seconds"], row[f"{stage}_seconds"]) for stage in ("load", "denoise", "pixels")]
            cells = [*(f"{cpu:.1f} s ({wall:.0f} s)" for cpu, wall in times), f"{row['peak_bytes'] / 2**30:.2f} GiB"]
        lines.append(f"| {row['backbone']}, {row['dtype']} | {' | '.join(cells)} |")
    note = "Processor seconds, in brackets wall clock"
    return "\n".join([*lines, "", f"{note}{': ' + result['note'] if result['note'] else ''}."]) + "\n"


def _adapter_size(result: dict[str, Any]) -> str:
    """Markdown table of what benchmarks/adapter_size.py counted."""
    lines = ["| backbone | setting | parameters | share | one call | more per call | once per image |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for row in result["rows"]:
        size, setting = f"{row['size']}x{row['size']}", result["settings"][row["setting"]]
        told = ", ".join(f"{key} {value}" for key, value in setting.items())
        lines.append(
            f"| {row['backbone']} | {row['setting']} ({told}) | {row['total'] / 1e6:.1f} M | {row['share']:.1%} "
            f"| {row['call_gflop']:.0f} GFLOP at {size} | {row['extra_per_call']:+.1%} | {row['once_gflop']:.0f} GFLOP |"
        )
    return "\n".join(lines) + "\n"


def _high_resolution(result: dict[str, Any]) -> str:
    """Markdown table of what benchmarks/high_resolution.py measured: every size against the first."""
    first = {row["stage"]: row for row in reversed(result["rows"])}
    lines = [
        "| stage | size | tiles | CPU s per megapixel | against the smallest | peak memory | steps at borders | a border adds |"
    ]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in result["rows"]:
        ratio = row["cpu_seconds_per_mp"] / first[row["stage"]]["cpu_seconds_per_mp"]
        cells = ["", ""]
        if "step_ratio" in row:
            cells = [
                f"{row['step_ratio']:.3f}",
                f"{row['seam']:+.2f} levels where pixels differ by {row['variation']:.2f}",
            ]
        lines.append(
            f"| {row['stage']} | {row['size']}x{row['size']} | {row['tiles']} | {row['cpu_seconds_per_mp']:.2f} "
            f"| {ratio:.2f} | {row['peak_mib'] / 1024:.2f} GiB | {cells[0]} | {cells[1]} |"
        )
    threads, settings = result["rows"][0]["threads"], result["settings"]
    note = f"{settings['backbone']}, quality {settings['quality']:g}, {threads} thread{'s' if threads > 1 else ''}"
    return "\n".join([*lines, "", f"{note}; processor seconds over all threads."]) + "\n"


def _adapter(result: dict[str, Any]) -> str:
    """Markdown table of what benchmarks/retarget.py trained and measured."""
    levels = result["rows"][0]["levels"]
    told = [f"quality {level['quality']:.0f}" for level in levels]
    lines = [f"| | backbone | trained | share | steps | seconds | {' | '.join(told)} | BD-rate | decode |"]
    lines += ["|---|---|---:|---:|---:|---:|" + "---:|" * (len(levels) + 2)]
    for row in result["rows"]:
        values = [f"{level['stlpips_alex']:.3f}" for level in row["levels"]]
        rate = "no overlap" if row["bd_rate"] is None else f"{row['bd_rate']:+.1f}%"
        seconds = [level["decode_seconds"] for level in row["levels"] if "decode_seconds" in level]
        decode = f"{sum(seconds) / len(seconds):.2f} s" if seconds else "-"
        lines.append(
            f"| {row['row']} | {row['backbone']} | {row['trained'] / 1e6:.2f} M | {row['share']:.0%} | {row['steps']} "
            f"| {row['seconds']} | {' | '.join(values)} | {rate} | {decode} |"
        )
    rates = ", ".join(f"{level['bpp']:.4f}" for level in levels)
    note = f"ST-LPIPS (Alex) at {rates} bpp on {result['images']} images; BD-rate against the row with +0.0%; "
    note += "decode: processor seconds of one image, entropy decoding included."
    return "\n".join([*lines, "", note]) + "\n"


def _losses(result: dict[str, Any]) -> str:
    """Markdown table of adapters trained on with other weights of the loss terms."""
    lines = [
        "| quality | bpp | trained with | steps | GMSD | ST-LPIPS (Alex) | PSNR |",
        "|---:|---:|---|---:|---:|---:|---:|",
    ]
    for levels in zip(*(row["levels"] for row in result["rows"]), strict=True):
        for row, level in zip(result["rows"], levels, strict=True):
            lines.append(
                f"| {level['quality']:g} | {level['bpp']:.4f} | {row['row']} | {row['steps']} | {level['gmsd']:.4f} "
                f"| {level['stlpips_alex']:.4f} | {level['psnr']:.2f} |"
            )
    note = f"Of the backbone's image, means over {result['images']} images; "
    return "\n".join([*lines, "", f"{note}{result['minutes']:g} minutes from the shipped adapter."]) + "\n"


def _rate(result: dict[str, Any]) -> str:
    """Markdown table of what benchmarks/rate.py found."""
    lines = ["| target, bpp | within | below it | no such file | furthest below | time of one encode, median | worst |"]
    lines += ["|---:|---:|---:|---:|---:|---:|---:|"]
    for row in result["summary"]:
        reach = row["below"] + row["above"]
        lines.append(
            f"| {row['target_bpp']:g} | {row['hit']} of {row['images']} | {row['missed']} | {reach} "
            f"| {row['worst_under']:.1%} | {row['encodes_median']:.1f}x | {row['encodes_worst']:.1f}x |"
        )
    return "\n".join([*lines, "", f"Within {result['settings']['within']:.0%} below the target, whole files."]) + "\n"


def _trust(result: dict[str, Any]) -> str:
    """Markdown table of what benchmarks/trust.py counted; what nothing here could try says so."""
    lines = ["| promise | test | tries | failures |", "|---|---|---:|---:|"]
    for row in result["rows"]:
        tests = ", ".join(f"`{path}`" for path in row["test"].split())
        counts = (f"{row['tries']:,}", row["failures"]) if row["tries"] else ("not tried", "")
        lines.append(f"| {row['promise']} | {tests} | {counts[0]} | {counts[1]} |")
    return "\n".join(lines) + "\n"


def _refine(result: dict[str, Any]) -> str:
    """Markdown table of what benchmarks/refine.py found over all qualities."""
    settings = result["settings"]
    metrics = {"psnr": "PSNR of the preview"}
    if settings["backbone"]:
        metrics["stlpips_alex"] = f"ST-LPIPS (Alex) through {settings['backbone']}"
    heads = [
        "refined for",
        "R + λD",
        *(f"BD-rate, {title}" for title in metrics.values()),
        "steps",
        "time of a plain encode",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in result["summary"]:
        if row["target"] == "structure":
            continue
        rates = [row.get(f"bd_{metric}") for metric in metrics]
        told = ["-" if rate is None else f"{rate:+.1f}%" for rate in rates]
        lines.append(
            f"| {row['target']} | {row['cost_mean'] - 1:+.1%}, worst {row['cost_worst'] - 1:+.1%} | {' | '.join(told)} "
            f"| {row['steps']:.0f} | {row['encodes_median']:.0f}x |"
        )
    qualities = ", ".join(f"{quality:g}" for quality in settings["qualities"])
    note = f"{settings['images']} images, qualities {qualities}, `--refine {settings['steps']}`, "
    note += f"{settings['threads']} thread(s)"
    return "\n".join([*lines, "", f"{note}; against the plain files, negative is better."]) + "\n"


def _refine_low(result: dict[str, Any]) -> str:
    """Markdown table of the qualities that were refined for structure too."""
    low = {m["setting"] for m in result["means"] if m["codec"] == "structure"}
    lines = ["| quality | refined for | bpp | PSNR | GMSD |", "|---|---|---:|---:|---:|"]
    for m in result["means"]:
        if m["setting"] in low and m["codec"] in ("plain", "psnr", "structure"):
            name = {"plain": "nothing"}.get(m["codec"], m["codec"])
            lines.append(f"| {m['setting']} | {name} | {m['bpp']:.4f} | {m['psnr']:.2f} | {m['gmsd']:.4f} |")
    return "\n".join([*lines, "", f"Of the preview, means over {result['settings']['images']} images."]) + "\n"


def update(text: str, results: Path, root: Path) -> tuple[str, dict[Path, str], list[str]]:
    """README's text -> new text, files to write beside the results, names of the blocks that were out of date."""
    files: dict[Path, str] = {}
    stale: list[str] = []

    def one(match: re.Match[str]) -> str:
        body, more = render(match["name"], results, root)
        if match["body"].strip() != body.strip():
            stale.append(match["name"])
        stale.extend(p.name for p, content in more.items() if not p.is_file() or p.read_text() != content)
        files.update(more)
        return f"{match[1]}{body}{match[4]}"

    return BLOCK.sub(one, text), files, stale


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("--check", action="store_true")
    root = resultfile.RESULTS.parents[1]
    cli.add_argument(
        "--readme", type=Path, nargs="+", default=[root / page for page in PAGES], help="pages with blocks"
    )
    cli.add_argument("--results", type=Path, default=resultfile.RESULTS)
    args = cli.parse_args()
    stale: list[str] = []
    for page in args.readme:
        try:
            text, files, old = update(page.read_text(encoding="utf-8"), args.results, page.parent)
        except (ValueError, OSError) as error:
            sys.exit(f"readme.py: {error}")
        stale += old
        if args.check:
            continue
        for path, content in files.items():
            path.write_text(content)
        page.write_text(text, encoding="utf-8")
    if args.check:
        sys.exit(f"out of date, run python benchmarks/readme.py: {', '.join(stale)}" if stale else 0)
    print(f"{len(stale)} blocks and plots renewed" if stale else "nothing to renew")


if __name__ == "__main__":
    main()
