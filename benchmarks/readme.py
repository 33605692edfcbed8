"""Writes the marked blocks of README.md and docs/ from benchmarks/results.   python benchmarks/readme.py [--check]

A block is everything between `<!-- table:NAME -->` and `<!-- end -->`. NAME is a result file, then a view of it:
    quality:kodak               the main table: our codecs and anchors against VVC, under metrics nothing was trained on
    bd:kodak                    the same under every metric
    kodak/ours                  BD-rate of our codecs against every anchor
    kodak/points or kodak/points:avif,vvc        mean rate and metrics at every setting
    blind                       verdicts on blind pairs (benchmarks/look.py)
    speed or speed:nano_pixel,avif               times of a speed file
    full_size                   the large architectures with random weights
    adapter_size                what an adapter adds to them
    refine                      what `encode --refine` is worth
    high_resolution             large images: time, memory, and whether tiles show
    rate                        how well and how fast a rate target is met
    readers, readers/networks   torch, priorcodec-lite and JavaScript; torch against onnxruntime
    phone, phone/graphs         a decode on one thread, and what each graph of it costs (benchmarks/phone.py)
    adapter_runs                adapters of further training runs (benchmarks/adapter_runs.py)
    layers/sizes, layers/semantic, layers/maps, layers/beside, layers/analysis     the semantic layers (benchmarks/layers.py)
    layer_options/structure, layer_options/adapter, texture_training, texture_adapter     other layers and trainings
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
import views

from priorcodec.evaluation.report import tables
from priorcodec.evaluation.table import Table

PAGES = ("README.md", "docs")
"""Pages with blocks, relative to the project; of a folder every page below it."""
BLOCK = re.compile(r"(<!-- table:(?P<name>\S+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)


def render(name: str, results: Path) -> str:
    """Name of a block -> its Markdown. Raises ValueError: no such view.

    The block of a result file that does not exist says so: a page can name a measurement before it is made.
    """
    head, _, choice = name.partition(":")
    stem, _, view = head.partition("/")
    if stem in ("quality", "bd"):
        stem, view, choice = choice, stem, ""
    path = results / f"{stem}.json"
    if not path.is_file():
        return f"Not measured yet: `benchmarks/README.md` says what writes `results/{path.name}`.\n"
    return _table(json.loads(path.read_text()), view, choice, name).markdown() + "\n"


def _table(result: dict[str, Any], view: str, choice: str, name: str) -> Table:
    kind = f"{result['kind']}/{view}" if view else result["kind"]
    codecs = choice.split(",") if choice else ()
    if kind in views.VIEWS:
        return views.VIEWS[kind](result)
    if kind == "speed":
        return tables.speed_table(result, codecs)
    if kind == "rd/quality":
        return tables.quality_table(result)
    if kind == "rd/bd":
        return tables.bd_table(result, "vvc")
    if kind == "rd/ours":
        return tables.ours_table(result)
    if kind == "rd/points":
        return tables.points_table(result, codecs)
    raise ValueError(f"table:{name}: no such view of a {result['kind']} file; benchmarks/readme.py lists them")


def update(text: str, results: Path) -> tuple[str, list[str]]:
    """A page's text -> new text, names of the blocks that were out of date."""
    stale: list[str] = []

    def one(match: re.Match[str]) -> str:
        body = render(match["name"], results)
        if match["body"].strip() != body.strip():
            stale.append(match["name"])
        return f"{match[1]}{body}{match[4]}"

    return BLOCK.sub(one, text), stale


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
    pages = [p for given in args.readme for p in (sorted(given.rglob("*.md")) if given.is_dir() else [given])]
    for page in pages:
        try:
            text, old = update(page.read_text(encoding="utf-8"), args.results)
        except (ValueError, OSError) as error:
            sys.exit(f"readme.py: {error}")
        stale += old
        if not args.check:
            page.write_text(text, encoding="utf-8")
    if args.check:
        sys.exit(f"out of date, run python benchmarks/readme.py: {', '.join(stale)}" if stale else 0)
    print(f"{len(stale)} blocks renewed" if stale else "nothing to renew")


if __name__ == "__main__":
    main()
