"""Rate-distortion of any codecs on any images, from files on disk.   python benchmarks/rd.py NAME IMAGES...

    image ─process 1: encode─▶ file in the cache ─process 2: read, decode─▶ evaluate.score ─▶ results/NAME.json
                                                                        └▶ moments of all patches ─▶ distances of sets

A codec is one of coders.ANCHORS, `preview`, a backbone, or a backbone with settings (`nano_pixel:steps=4`); `avif:10,30`
replaces an anchor's settings. Every file and every score is cached under a hash of what it depends on, so a stopped run
goes on where it was; scores that results/NAME.json holds of the same bytes are taken from there. What cannot run here is
named in one line and left out. Example, all anchors on Kodak:
    python benchmarks/rd.py kodak kodak/ --codecs jpeg webp avif jxl hevc av1 vvc --vvc vvc/kodak
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import coders
import numpy as np
import resultfile
from known import FILE_DIGITS, HEAD, SCORERS, Known

from priorcodec.core.errors import PriorCodecError
from priorcodec.core.image import io as image_io
from priorcodec.core.io import atomic
from priorcodec.evaluation import bd_rate, evaluate, features, metrics

SECONDS = "decode_seconds"
VERSIONS = resultfile.versions("torch", "numpy", *SCORERS)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One file to make and to score.

    Attributes:
        path: the reference.
        pixels: hash of its pixels.
        keep: folder for decoded images by codec, setting and name.
        decoded: whether the decoded image stays in the cache, so that a later run can add metrics without decoding.
    """

    path: Path
    pixels: str
    codec: str
    setting: str
    vvc: Path | None
    cache: Path
    keep: Path | None = None
    decoded: bool = False

    def file(self) -> Path:
        coder = make(self.codec, self.vvc)
        key = _hash(self.pixels, coder.writer or (coder.name, coder.identity), self.setting)
        return self.cache / "files" / key[:2] / (key + coder.suffix)

    def decoded_key(self) -> tuple[str, str]:
        """The file's hash, and that of everything its decoded image and scores depend on."""
        coder, file = make(self.codec, self.vvc), hashlib.sha256(self.file().read_bytes()).hexdigest()[:FILE_DIGITS]
        return file, _hash(self.pixels, file, coder.name, coder.identity)


@cache
def make(codec: str, vvc: Path | None) -> coders.Coder:
    """A coder from its name on the command line, settings apart."""
    name = codec.partition(":")[0]
    if name in coders.ANCHORS:
        return coders.anchor(name, vvc=vvc)
    import ours

    return ours.coder(codec)


def encode(job: Job) -> None:
    """Process 1: reference -> coded file in the cache."""
    target = job.file()
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = image_io.load(job.path).pixels
        atomic.write(target, make(job.codec, job.vvc).encode(pixels, job.setting, job.path.stem))


def score(jobs: list[Job], names: list[str], sets: list[str]) -> list[dict[str, Any]]:
    """Process 2, all files of one image: coded file -> row. It knows nothing but the file and the reference.

    names: metrics of a row; sets: metrics of a set, whose part of each image goes into the cache.
    """
    reference, rows = image_io.load(jobs[0].path).pixels, []
    for name in sets:
        _measure(_moments(jobs[0].cache, jobs[0].pixels, name), name, reference)
    for job in jobs:
        try:
            rows.append(_row(job, reference, names, sets))
        except Exception as error:  # one file must not lose the hours spent on the others
            print(f"{job.codec} {job.setting} {job.path.stem}: {_line(error)}", file=sys.stderr)
    return rows


def _row(job: Job, reference: metrics.Pixels, names: list[str], sets: list[str]) -> dict[str, Any]:
    coder, (file, key) = make(job.codec, job.vvc), job.decoded_key()
    scores = _scores(job, key)
    known = json.loads(scores.read_text()) if scores.exists() else {}
    todo = [n for n in names if n not in known]
    kept = job.keep / coder.name / job.setting / f"{job.path.stem}.png" if job.keep else None
    wanted = [name for name in sets if not _moments(job.cache, key, name).exists()]
    if todo or wanted or (kept and not kept.exists()):
        image, seconds = _decoded(job, coder, key, fresh=SECONDS in todo)
        if SECONDS in todo:
            todo.remove(SECONDS)
            known[SECONDS] = seconds
        known |= evaluate.score(reference, image, job.file().stat().st_size, todo)
        scores.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(scores, json.dumps(known).encode())
        for name in wanted:
            _measure(_moments(job.cache, key, name), name, image)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            image_io.save(image, kept)
    values = {k: known[k] for k in ("bytes", "bpp", *names)}
    head = {"codec": coder.name, "setting": job.setting, "image": job.path.stem, "file": file}
    return {**head, **values}


def _decoded(job: Job, coder: coders.Coder, key: str, *, fresh: bool) -> tuple[metrics.Pixels, float]:
    """The decoded image, from the cache unless it must be decoded afresh, and processor seconds of decoding."""
    stored = job.cache / "decoded" / key[:2] / f"{key}.png"
    if stored.exists() and not fresh:
        return image_io.load(stored).pixels, 0.0
    started = time.process_time()
    image = coder.decode(job.file())
    seconds = round(time.process_time() - started, 6)
    if job.decoded:
        stored.parent.mkdir(parents=True, exist_ok=True)
        image_io.save(image, stored)
    return image, seconds


def _moments(cache: Path, key: str, name: str) -> Path:
    return cache / "moments" / key[:2] / f"{_hash(key, name, VERSIONS)}.npz"


def _measure(path: Path, name: str, image: metrics.Pixels) -> None:
    if not path.exists():
        found = metrics.SET_METRICS[name].measure(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        np.savez(out, count=found.count, total=found.total, products=found.products)
        atomic.write(path, out.getvalue())


def _measured(path: Path) -> features.Moments:
    with np.load(path) as file:
        return features.Moments(count=int(file["count"]), total=file["total"], products=file["products"])


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PriorCodecError) else f"{type(error).__name__}: {text}"


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def _start(threads: int) -> None:
    """First thing in every worker: a fixed number of threads, so that workers do not fight."""
    os.environ |= {"SVT_LOG": "1", "OMP_NUM_THREADS": str(threads)}
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _each(
    work: Callable[..., Any], calls: list[tuple[Any, ...]], workers: int, threads: int, label: str
) -> Iterable[Any]:
    """Run the calls in fresh processes and yield results as they come; an exception is one line and stops nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(threads,)) as pool:
        futures = {pool.submit(work, *call): call for call in calls}
        for done, future in enumerate(as_completed(futures), 1):
            try:
                yield future.result()
            except Exception as error:  # as above; a missing row is named in the result
                print(f"{label}: {_line(error)}", file=sys.stderr)
            print(f"\r{label} {done}/{len(calls)}", end="" if done < len(calls) else "\n", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("name", help="results/NAME.json")
    cli.add_argument("images", type=Path, nargs="+", help="references: files or folders")
    cli.add_argument("--codecs", nargs="+", default=["preview", "nano_pixel", "vvc", *coders.CLASSICAL])
    every = [*metrics.METRICS, *metrics.SET_METRICS]
    cli.add_argument("--metrics", nargs="+", default=every, choices=every)
    cli.add_argument(
        "--anchor", nargs="+", help="codecs that BD-rates are against; default those measured of vvc avif jxl"
    )
    cli.add_argument(
        "--between", nargs=2, type=float, metavar="BPP", help="BD-rates over this range of rates; default all of it"
    )
    cli.add_argument("--qualities", nargs="+", help="of our own codecs, default every level")
    cli.add_argument("--vvc", type=Path, help="folder of NAME-qpQP.266 bitstreams")
    cli.add_argument(
        "--seconds", action="store_true", help="processor seconds of decoding as well, file reading included"
    )
    cli.add_argument("--workers", type=int, default=1)
    cli.add_argument("--threads", type=int, default=1, help="per worker")
    cli.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "priorcodec" / "benchmarks")
    cli.add_argument("--keep", type=Path, help="folder for decoded images, for `priorcodec report --images`")
    cli.add_argument("--keep-only", nargs="+", default=[], help="names of the images to keep; default all")
    cli.add_argument("--decoded", action="store_true", help="keep every decoded image in the cache, for later metrics")
    cli.add_argument("--fresh", action="store_true", help="take no score from an earlier results/NAME.json")
    cli.add_argument("--results", type=Path, default=resultfile.RESULTS)
    return cli.parse_args()


def _coders(args: argparse.Namespace, lines: list[str]) -> dict[str, coders.Coder]:
    """Codec as given -> Coder, for those that run here; a line for each that does not."""
    found = {}
    for codec in args.codecs:
        try:
            coder = make(codec, args.vvc)
        except PriorCodecError as error:
            lines.append(resultfile.scrub(f"{codec}: {error}"))
            continue
        if coder.missing:
            lines.append(coder.missing)
        else:
            found[codec] = coder
    return found


def _jobs(args: argparse.Namespace, codec: str, coder: coders.Coder, path: Path, pixels: str) -> list[Job]:
    given = codec.partition(":")[2].split(",") if codec.partition(":")[0] in coders.ANCHORS and ":" in codec else None
    given = args.qualities if coder.ours else given
    keep = args.keep if args.keep and (not args.keep_only or path.stem in args.keep_only) else None
    every = {"path": path, "pixels": pixels, "codec": codec, "vvc": args.vvc, "cache": args.cache, "keep": keep,
             "decoded": args.decoded}  # fmt: skip
    return [Job(setting=setting, **every) for setting in given or coder.settings]


def _bd_rates(
    means: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    anchors: list[str] | None,
    higher: dict[str, bool],
    rates: tuple[float, float] | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """BD-rates against every anchor that was measured; a line for each that was not."""
    if find_spec("bjontegaard") is None:
        return [], ["BD-rate: no python module bjontegaard; install priorcodec[bench]"]
    measured = {m["codec"] for m in means}
    anchors = anchors or [anchor for anchor in ("vvc", "avif", "jxl") if anchor in measured]
    found = [
        entry
        for anchor in anchors
        if anchor in measured
        for entry in bd_rate.bd_table(means, anchor, higher, rates, rows)
    ]
    return found, [f"BD-rate against {anchor}: it was not measured" for anchor in anchors if anchor not in measured]


def _known_rows(
    args: argparse.Namespace, known: Known, jobs: list[Job], columns: list[str], sets: list[str]
) -> dict[Job, dict[str, Any]]:
    """Rows that an earlier result file holds of files with the same bytes; none where decoded images are to be kept.

    A row that lacks a metric goes into the cache, so that only that metric is measured.
    """
    rows = {}
    for job in jobs if not (args.fresh or args.keep or args.decoded) else ():
        coder, file = make(job.codec, job.vvc), job.decoded_key()[0]
        scores = known.scores(job.pixels, file, coder.name, coder.identity)
        if scores and all(c in scores for c in columns) and known.has_sets(coder.name, job.setting, sets):
            head = {"codec": coder.name, "setting": job.setting, "image": job.path.stem, "file": file}
            rows[job] = {**head, **{k: scores[k] for k in ("bytes", "bpp", *columns)}}
        elif scores:
            _into_cache(job, scores)
    return rows if not sets else _of_whole_sets(known, jobs, rows, sets)


def _of_whole_sets(
    known: Known, jobs: list[Job], rows: dict[Job, dict[str, Any]], sets: list[str]
) -> dict[Job, dict[str, Any]]:
    """Without the rows of codecs and settings whose distance over all images must be measured again."""
    kept: dict[Job, dict[str, Any]] = {}
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((make(job.codec, job.vvc).name, job.setting), []).append(job)
    for (codec, setting), group in groups.items():
        found = [rows[job] for job in group if job in rows]
        whole = len(found) == len(group)
        if whole and all(known.set_score(codec, setting, found, name) is not None for name in sets):
            kept |= {job: rows[job] for job in group}
            continue
        for job in group:
            if job in rows:
                _into_cache(job, {k: v for k, v in rows[job].items() if k not in HEAD})
    return kept


def _into_cache(job: Job, scores: dict[str, Any]) -> None:
    """Adds scores to those of this decoded file in the cache; what is there stays."""
    cached = _scores(job, job.decoded_key()[1])
    cached.parent.mkdir(parents=True, exist_ok=True)
    measured = json.loads(cached.read_text()) if cached.exists() else {}
    atomic.write(cached, json.dumps({**scores, **measured}).encode())


def _scores(job: Job, key: str) -> Path:
    """Where the scores of a decoded file are cached."""
    return job.cache / "scores" / key[:2] / f"{_hash(key, VERSIONS)}.json"


def _set_scores(known: Known, jobs: list[Job], rows: list[dict[str, Any]], name: str) -> float | None:
    """One distance over all images of a codec's setting; None if one of them is too small."""
    coder = make(jobs[0].codec, jobs[0].vvc)
    if (stored := known.set_score(coder.name, jobs[0].setting, rows, name)) is not None:
        return stored
    sides = ([j.pixels for j in jobs], [j.decoded_key()[1] for j in jobs])
    paths = [[_moments(jobs[0].cache, key, name) for key in side] for side in sides]
    references, images = ([_measured(path) for path in side] for side in paths)
    return round(metrics.SET_METRICS[name].distance(references, images), evaluate.DIGITS)


def run(args: argparse.Namespace) -> Path:
    names, lines = metrics.available(args.metrics)
    images = {p: image_io.load(p).pixels for p in evaluate.expand(args.images, evaluate.IMAGES)}
    sets = [n for n in names if n in metrics.SET_METRICS]
    for name in sets:
        if min(min(x.shape[:2]) for x in images.values()) < metrics.SET_METRICS[name].smallest:
            lines.append(f"{metrics.SET_METRICS[name].title}: an image is smaller than one patch")
    sets = [n for n in sets if not any(line.startswith(metrics.SET_METRICS[n].title) for line in lines)]
    names = [n for n in names if n in metrics.METRICS]
    hashes = {p: _hash(x.shape, hashlib.sha256(x.tobytes()).hexdigest()) for p, x in images.items()}
    found = _coders(args, lines)
    for line in lines:
        print(f"left out: {line}", file=sys.stderr)
    jobs = {p: [j for c, coder in found.items() for j in _jobs(args, c, coder, p, hashes[p])] for p in images}
    todo = [(j,) for js in jobs.values() for j in js if not j.file().exists()]
    if todo:
        list(_each(encode, todo, args.workers, args.threads, "encode"))
    columns = [*names, SECONDS] if args.seconds else names
    known = Known(args.results / f"{args.name}.json")
    made = [j for js in jobs.values() for j in js if j.file().exists()]
    stored = _known_rows(args, known, made, columns, sets)
    ready = [([j for j in js if j.file().exists() and j not in stored], columns, sets) for js in jobs.values()]
    rows = list(stored.values()) + [
        row for part in _each(score, [c for c in ready if c[0]], args.workers, args.threads, "score") for row in part
    ]
    means = [m for m in bd_rate.means(rows) if m["images"] == len(images)]
    done = Counter((r["codec"], r["setting"]) for r in rows)
    wanted = dict.fromkeys((found[j.codec].name, j.setting) for js in jobs.values() for j in js)
    failed = {key: len(images) - done[key] for key in wanted if done[key] < len(images)}
    lines += [f"{codec} {setting}: failed on {n} of {len(images)} images" for (codec, setting), n in failed.items()]
    if not means:
        raise PriorCodecError("nothing to report: no codec asked for ran on every image; the lines above say why")
    order = [c.name for c in found.values()]
    means.sort(key=lambda m: (order.index(m["codec"]), m["bpp"]))
    settings = {(m["codec"], m["setting"]): i for i, m in enumerate(means)}
    rows = [r for r in rows if (r["codec"], r["setting"]) in settings]
    for m in means:
        own = (m["codec"], m["setting"])
        for name in sets:
            part = [j for j in made if (found[j.codec].name, j.setting) == own]
            m[name] = _set_scores(known, part, [r for r in rows if (r["codec"], r["setting"]) == own], name)
    for p, x in images.items() if args.keep else ():
        if not args.keep_only or p.stem in args.keep_only:
            (args.keep / "original").mkdir(parents=True, exist_ok=True)
            image_io.save(x, args.keep / "original" / f"{p.stem}.png")
    every = {**metrics.METRICS, **metrics.SET_METRICS}
    shown = {n: m for n, m in every.items() if n in names or n in sets}
    shown = dict(sorted(shown.items(), key=lambda item: (not item[1].independent, item[0] != metrics.HEADLINE)))
    higher = {n: m.higher_is_better for n, m in shown.items()}
    gains, without = _bd_rates(means, rows, args.anchor, higher, tuple(args.between) if args.between else None)
    content = {
        "codecs": {c.name: c.title for c in found.values()},
        "ours": [c.name for c in found.values() if c.ours],
        "decoders": {c.name: resultfile.scrub(c.identity) for c in found.values()},
        "metrics": {n: {"title": m.title, "unit": m.unit, "higher_is_better": m.higher_is_better,
                        "independent": m.independent} for n, m in shown.items()},
        "left_out": lines + without,
        "between": args.between,
        "threads": args.threads,
        "bd_rate": gains,
        "means": means,
        "images": [{"name": p.stem, "height": x.shape[0], "width": x.shape[1], "sha256": hashes[p]}
                     for p, x in images.items()],
        "rows": sorted(rows, key=lambda r: (settings[r["codec"], r["setting"]], r["image"])),
    }  # fmt: skip
    return resultfile.write(args.name, "rd", content, folder=args.results)


if __name__ == "__main__":
    try:
        print(run(_arguments()))
    except PriorCodecError as error:
        sys.exit(f"rd.py: {error}")
