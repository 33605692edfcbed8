"""Blind pairs for the eye: original, left and right at equal bytes, sides at random.   python benchmarks/look.py make FOLDER

image, target rate ─anchor's nearest file─▶ bytes ─ours: largest file of at most these─▶ two decoded images ─crops─▶ sheet
FOLDER/pair-NN.png  one sheet: crops at 100% scale, no name, no rate      FOLDER/verdicts.csv  where verdicts are written
FOLDER/key.json     what stood left and right: not to be opened before every verdict is written

python benchmarks/look.py make looks --kodak kodak/ --aigc aigc/ --vvc vvc/
python benchmarks/look.py judge looks          asks for each sheet's verdict: l, r or e (no preference)
python benchmarks/look.py count looks          verdicts and key -> benchmarks/results/blind.json
python benchmarks/look.py count more --judge second --add      another judge's sheets, beside the verdicts that are there
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import coders
import numpy as np
import ours
import resultfile
from PIL import Image, ImageDraw

from priorcodec.core.errors import ConfigError, PriorCodecError
from priorcodec.core.image import io as image_io

SIDE, GAP, BAR = 320, 8, 24
CROPS = {
    "kodim04": ((110, 190), (192, 448)),  # a face; shoulder and knitted cloth
    "kodim15": ((320, 20), (20, 192)),  # a painted face; knitted cloth
    "kodim18": ((130, 100), (130, 330)),  # a face and a necklace; a dress
    "kodim05": ((256, 0), (256, 192)),  # riders; wheels
    "kodim20": ((100, 150), (420, 0)),  # letters on an airplane; sky
    "kodim10": ((100, 0), (100, 448)),  # numbers on a sail; water
    "kodim21": ((250, 0), (350, 192)),  # a lighthouse before the sky; rocks
    "kodim08": ((448, 160), (0, 150)),  # letters on a wall; roofs
    "kodim23": ((330, 60), (60, 150)),  # feathers; feathers before a blurred ground
    "aigc-03": ((363, 290), (600, 60)),  # a face; hair
    "aigc-05": ((350, 300), (620, 600)),  # an old face; cloth
    "aigc-13": ((250, 500), (560, 0)),  # a car; sky and clouds
    "kodim01": ((400, 0), (200, 190)),  # windows in a wall; a door
    "kodim03": ((80, 50), (420, 0)),  # letters on a cap; sky
    "kodim09": ((190, 280), (190, 20)),  # numbers on a sail; sky
    "kodim12": ((200, 40), (420, 180)),  # two faces; sand
    "kodim14": ((440, 190), (60, 60)),  # letters on a boat; faces
    "kodim17": ((130, 60), (180, 420)),  # a stone face; a golden ball
    "kodim24": ((370, 150), (60, 0)),  # a painted wall; a roof before the sky
    "aigc-04": ((370, 130), (280, 470)),  # a face; armor
    "aigc-06": ((330, 230), (640, 560)),  # a cat's eyes; fur before a flat ground
    "aigc-10": ((130, 10), (20, 190)),  # a face and a knitted scarf; cloth
    "aigc-14": ((300, 400), (0, 120)),  # hands; glass out of focus
    "aigc-22": ((360, 270), (480, 480)),  # a drawn face; small figures and lawn
}
"""Image -> top left corners (x, y) of its crops: faces, letters, and flat areas, chosen before any decoded image was seen."""
PAIRS = (("nano_pixel", "vvc"), ("nano_pixel", "preview"))
RATES = (0.03, 0.06, 0.12)
VERDICTS = {"l": "left", "r": "right", "e": "equal"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What one sheet shows."""

    image: str
    first: str
    second: str
    bpp: float


def blind_pairs(pairs: list[tuple[str, str]], rates: list[float], images: list[str], seed: int) -> list[Pair]:
    """Every image once per pair of codecs, the rates evenly shared out, in an order that gives nothing away."""
    chosen = [
        Pair(image=image, first=first, second=second, bpp=rates[(i + k) % len(rates)])
        for k, (first, second) in enumerate(pairs)
        for i, image in enumerate(images)
    ]
    random.Random(seed).shuffle(chosen)
    return chosen


def files(pair: Pair, pixels: np.ndarray, vvc: Path | None) -> tuple[bytes, bytes]:
    """Coded files of both codecs, the first's at most as large as the second's where the second is an anchor."""
    target = round(pair.bpp * pixels.shape[0] * pixels.shape[1] / 8)
    if pair.second not in coders.ANCHORS:
        data = ours.encode_at_most(pair.first, pixels, target)
        return data, data
    anchor = coders.anchor(pair.second, vvc=vvc)
    made = [anchor.encode(pixels, setting, pair.image) for setting in anchor.settings]
    second = min(made, key=lambda data: abs(math.log(len(data) / target)))
    return ours.encode_at_most(pair.first, pixels, len(second)), second


def decoded(codec: str, data: bytes) -> np.ndarray:
    coder = coders.anchor(codec) if codec in coders.ANCHORS else ours.coder(codec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x" + coder.suffix)
        path.write_bytes(data)
        return coder.decode(path)


def sheet(
    original: np.ndarray, left: np.ndarray, right: np.ndarray, corners: tuple[tuple[int, int], ...]
) -> Image.Image:
    """One row per crop: original, left, right."""
    size = (3 * SIDE + 2 * GAP, BAR + len(corners) * (SIDE + GAP) - GAP)
    page = Image.new("RGB", size, (32, 32, 32))
    draw = ImageDraw.Draw(page)
    for column, (name, pixels) in enumerate((("original", original), ("left", left), ("right", right))):
        draw.text((column * (SIDE + GAP) + 4, 6), name, fill=(230, 230, 230))
        for row, (x, y) in enumerate(corners):
            crop = Image.fromarray(pixels[y : y + SIDE, x : x + SIDE])
            page.paste(crop, (column * (SIDE + GAP), BAR + row * (SIDE + GAP)))
    return page


def make(args: argparse.Namespace) -> None:
    """Sheets, an empty verdict file, and the key."""
    if (args.folder / "key.json").exists():
        raise ConfigError(f"{args.folder} holds sheets already: take another folder")
    sets = {"kodim": (args.kodak, "kodak", ".png"), "aigc-": (args.aigc, "aigc", ".webp")}
    images = [name for name in CROPS if sets[name[:5]][0] is not None]
    args.folder.mkdir(parents=True, exist_ok=True)
    pairs = [(words.partition("/")[0], words.partition("/")[2]) for words in args.pairs]
    draw, key = random.Random(args.seed + 1), []
    for number, pair in enumerate(blind_pairs(pairs, args.rates, images, args.seed), 1):
        source, kind, suffix = sets[pair.image[:5]]
        pixels = image_io.load(source / f"{pair.image}{suffix}").pixels
        data = files(pair, pixels, args.vvc / kind if args.vvc else None)
        shown = [decoded(codec, part) for codec, part in zip((pair.first, pair.second), data, strict=True)]
        swapped = draw.random() < 0.5
        sheet(pixels, *(reversed(shown) if swapped else shown), CROPS[pair.image]).save(
            args.folder / f"pair-{number:02}.png"
        )
        left, right = (pair.second, pair.first) if swapped else (pair.first, pair.second)
        sizes = {"first_bytes": len(data[0]), "second_bytes": len(data[1]), "pixels": pixels.shape[0] * pixels.shape[1]}
        key.append({"sheet": f"pair-{number:02}", **vars(pair), **sizes, "left": left, "right": right})
        print(f"\r{number} of {len(images) * len(pairs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    _write_verdicts(args.folder, [{"sheet": row["sheet"], "verdict": "", "note": ""} for row in key])
    (args.folder / "key.json").write_text(json.dumps(key, indent=1) + "\n")


def judge(args: argparse.Namespace) -> None:
    """Ask for each verdict that is still missing."""
    rows = _verdicts(args.folder)
    for row in rows:
        if not row["verdict"]:
            print(args.folder / f"{row['sheet']}.png")
            while (answer := input("which is better? l, r, e (no preference), q to stop: ").strip().lower()) != "q":
                if answer in VERDICTS:
                    row["verdict"] = VERDICTS[answer]
                    break
            if answer == "q":
                break
            _write_verdicts(args.folder, rows)


def count(args: argparse.Namespace) -> Path:
    """Verdicts and key -> result file. Raises ConfigError while a verdict is missing, or counted already."""
    verdicts = {row["sheet"]: row for row in _verdicts(args.folder)}
    open_ = [sheet for sheet, row in verdicts.items() if row["verdict"] not in VERDICTS.values()]
    if open_:
        raise ConfigError(f"{', '.join(open_)}: no verdict; write left, right or equal in verdicts.csv, or use judge")
    earlier = args.results / f"{args.name}.json"
    rows = json.loads(earlier.read_text())["rows"] if args.add and earlier.exists() else []
    seen = {(_pair(row), row["judge"]) for row in rows}
    for entry in json.loads((args.folder / "key.json").read_text()):
        verdict = verdicts[entry["sheet"]]
        preferred = "equal" if verdict["verdict"] == "equal" else entry[verdict["verdict"]]
        rows.append({**entry, "judge": args.judge, "preferred": preferred, "note": verdict["note"]})
        if (_pair(entry), args.judge) in seen:
            raise ConfigError(f"judge {args.judge!r} has judged {entry['sheet']} already: name another with --judge")
    content = {"note": _note(rows), "summary": list(summary(rows)), "rows": rows}
    return resultfile.write(args.name, "blind", content, folder=args.results)


def _pair(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("image", "first", "second", "bpp"))


def _note(rows: list[dict[str, Any]]) -> str:
    """How many pairs and judges, and how often two judges of one pair agree."""
    judges, pairs = list(dict.fromkeys(row["judge"] for row in rows)), {}
    for row in rows:
        pairs.setdefault(_pair(row), []).append(row["preferred"])
    note = (
        f"{len(rows)} verdicts on {len(pairs)} pairs of crops at 100% scale and equal bytes, left and right at random, given "
        f"before the key was read, by {len(judges)} judge{'s' * (len(judges) > 1)}."
    )
    if twice := [found for found in pairs.values() if len(found) == 2]:
        agree = sum(a == b for a, b in twice)
        opposed = sum(a != b and "equal" not in (a, b) for a, b in twice)
        note += f" On {len(twice)} pairs that two saw, they agree on {agree} and prefer opposite sides on {opposed}."
    return note


def summary(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Counts of verdicts and of pairs, by pair of codecs and rate; a pair goes to the codec that more of its judges prefer.

    p: How likely pairs divide at least as unevenly where neither codec is better (sign test, two-sided, ties left out).
    """
    for a, b, bpp in sorted({(row["first"], row["second"], row["bpp"]) for row in rows}):
        part = [row for row in rows if (row["first"], row["second"], row["bpp"]) == (a, b, bpp)]
        preferred = [row["preferred"] for row in part]
        counts = {"first": preferred.count(a), "second": preferred.count(b), "equal": preferred.count("equal")}
        lead: Counter[str] = Counter()
        for row in part:
            lead[row["image"]] += (row["preferred"] == a) - (row["preferred"] == b)
        won, lost = (sum(sign * value > 0 for value in lead.values()) for sign in (1, -1))
        rate = mean(8 * row["first_bytes"] / row["pixels"] for row in part)
        found = {"a": a, "b": b, "bpp": bpp, "rate": round(rate, 4), "judges": len({row["judge"] for row in part})}
        pairs = {"pairs": len(lead), "pairs_first": won, "pairs_second": lost, "p": round(sign_test(won, lost), 3)}
        yield {**found, "verdicts": len(part), **counts, **pairs}


def sign_test(won: int, lost: int) -> float:
    """Two-sided p of as many or more on one side, of fair coins."""
    tail = sum(math.comb(won + lost, k) for k in range(max(won, lost), won + lost + 1)) / 2 ** (won + lost)
    return min(1.0, 2 * tail)


def _verdicts(folder: Path) -> list[dict[str, str]]:
    try:
        with (folder / "verdicts.csv").open(newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise ConfigError(f"{folder}: no verdicts.csv; make the sheets first") from error


def _write_verdicts(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "verdicts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["sheet", "verdict", "note"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = cli.add_subparsers(required=True)
    one = commands.add_parser("make", help="make the sheets")
    one.add_argument("folder", type=Path)
    one.add_argument("--kodak", type=Path, help="folder of the 24 Kodak images")
    one.add_argument("--aigc", type=Path, help="folder of the generated images")
    one.add_argument("--vvc", type=Path, help="folder of kodak/ and aigc/ with NAME-qpQP.266 bitstreams")
    one.add_argument("--pairs", nargs="+", default=["/".join(pair) for pair in PAIRS], help="OURS/OTHER")
    one.add_argument("--rates", nargs="+", type=float, default=list(RATES), metavar="BPP")
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=make)
    one = commands.add_parser("judge", help="write down verdicts, one sheet after the other")
    one.add_argument("folder", type=Path)
    one.set_defaults(run=judge)
    one = commands.add_parser("count", help="count the verdicts into a result file")
    one.add_argument("folder", type=Path)
    one.add_argument("--name", default="blind", help="results/NAME.json")
    one.add_argument("--judge", default="first", help="a name for who judged")
    one.add_argument("--add", action="store_true", help="keep the verdicts of other judges that NAME.json holds")
    one.add_argument("--results", type=Path, default=resultfile.RESULTS)
    one.set_defaults(run=count)
    args = cli.parse_args()
    try:
        if done := args.run(args):
            print(done)
    except PriorCodecError as error:
        sys.exit(f"look.py: {error}")


if __name__ == "__main__":
    main()
