"""Result files of every kind but rate-distortion and speed -> tables; benchmarks/readme.py prints them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import views_layers

from priorcodec.evaluation.table import Table

Result = Mapping[str, Any]


def full_size(result: Result) -> Table:
    """What benchmarks/full_size.py found; a model that did not run says how it ended."""
    rows = []
    for row in result["rows"]:
        cells = [row.get("failed", ""), "", "", ""]
        if "failed" not in row:
            times = [(row[f"{stage}_cpu_seconds"], row[f"{stage}_seconds"]) for stage in ("load", "denoise", "pixels")]
            cells = [*(f"{cpu:.1f} s ({wall:.0f} s)" for cpu, wall in times), f"{row['peak_bytes'] / 2**30:.2f} GiB"]
        rows.append([f"{row['backbone']}, {row['dtype']}", *cells])
    note = f"Processor seconds, in brackets wall clock{': ' + result['note'] if result['note'] else ''}."
    heads = ["backbone", "load", "denoiser, one step", "autoencoder", "peak memory"]
    return Table(heads=heads, rows=rows, note=note)


def adapter_size(result: Result) -> Table:
    """What benchmarks/adapter_size.py counted."""
    rows = []
    for row in result["rows"]:
        settings = ", ".join(f"{key} {value}" for key, value in result["settings"][row["setting"]].items())
        once = f"{row['once_gflop']:.0f} GFLOP"
        call = f"{row['call_gflop']:.0f} GFLOP at {row['size']}x{row['size']}"
        cells = [f"{row['total'] / 1e6:.1f} M", f"{row['share']:.1%}", call, f"{row['extra_per_call']:+.1%}", once]
        rows.append([row["backbone"], f"{row['setting']} ({settings})", *cells])
    heads = ["backbone", "setting", "parameters", "share", "one call", "more per call", "once per image"]
    return Table(heads=heads, rows=rows, texts=2)


def rate(result: Result) -> Table:
    """What benchmarks/rate.py found."""
    rows = [
        [f"{row['target_bpp']:g}", f"{row['hit']} of {row['images']}", str(row["missed"]),
         str(row["below"] + row["above"]), f"{row['worst_under']:.1%}" if "worst_under" in row else "-",
         f"{row['encodes_median']:.1f}x",
         f"{row['encodes_worst']:.1f}x"]
        for row in result["summary"]
    ]  # fmt: skip
    heads = [
        "target, bpp",
        "within",
        "below it",
        "no such file",
        "furthest below",
        "time of one encode, median",
        "worst",
    ]
    note = f"Within {result['settings']['within']:.0%} below the target, whole files."
    return Table(heads=heads, rows=rows, note=note)


def trust(result: Result) -> Table:
    """What benchmarks/trust.py counted; what could not be tried here says so."""
    rows = []
    for row in result["rows"]:
        tests = ", ".join(f"`{path}`" for path in row["test"].split())
        counts = [f"{row['tries']:,}", str(row["failures"])] if row["tries"] else ["not tried", ""]
        rows.append([row["promise"], tests, *counts])
    return Table(heads=["promise", "test", "tries", "failures"], rows=rows, texts=2)


def refine(result: Result) -> Table:
    """What benchmarks/refine.py found over all qualities."""
    settings = result["settings"]
    shown = {"psnr": "PSNR of the preview"}
    if settings["backbone"]:
        shown["lite1_lpips"] = f"Lite1, LPIPS form through {settings['backbone']}"
    rows = []
    for row in result["summary"]:
        if row["target"] != "gmsd":
            gains = [row.get(f"bd_{metric}") for metric in shown]
            cost = f"{row['cost_mean'] - 1:+.1%}, worst {row['cost_worst'] - 1:+.1%}"
            cells = ["-" if gain is None else f"{gain:+.1f}%" for gain in gains]
            rows.append([row["target"], cost, *cells, f"{row['steps']:.0f}", f"{row['encodes_median']:.0f}x"])
    qualities = ", ".join(f"{quality:g}" for quality in settings["qualities"])
    note = f"{settings['images']} images, qualities {qualities}, `--refine {settings['steps']}`, "
    note += f"{settings['threads']} thread(s); against the plain files, negative is better."
    gains = [f"BD-rate, {title}" for title in shown.values()]
    return Table(heads=["refined for", "R + λD", *gains, "steps", "time of a plain encode"], rows=rows, note=note)


def blind(result: Result) -> Table:
    """Verdicts of benchmarks/look.py: how often each codec of a pair was preferred, by rate."""
    rows = []
    for row in result["summary"]:
        by_pair = f"{row['pairs_first']} : {row['pairs_second']}"
        ties = row["pairs"] - row["pairs_first"] - row["pairs_second"]
        verdicts = f"{row['first']} : {row['second']}, {row['equal']} equal"
        rows.append([f"{row['a']} against {row['b']}", f"{row['rate']:.3f}", str(row["pairs"]), f"{by_pair}, {ties} tied",
                     f"{row['p']:.2f}", str(row["judges"]), verdicts])  # fmt: skip
    heads = ["first against second", "mean bpp", "pairs", "pairs to first : second", "p", "judges", "verdicts"]
    note = (
        f"{result['note']} A pair goes to the codec that more of its judges prefer; p: sign test over pairs, two-sided."
    )
    return Table(heads=heads, rows=rows, note=note)


def adapter_runs(result: Result) -> Table:
    """What benchmarks/adapter_runs.py found."""
    heads = {
        "error": "absolute error", "lite1_lpips": "Lite1, LPIPS form", "lite1_dists": "Lite1, DISTS form",
        "lite0_lpips": "Lite0 †, LPIPS form", "lite0_dists": "Lite0 †, DISTS form", "vgg": "VGG †", "repetition": "repetition †",
    }  # fmt: skip
    rows = [[row["decoder"], *(f"{row[name]:.4f}" for name in heads)] for row in result["rows"]]
    note = f"Mean of {result['crops']} crops of training images, lower is better. † Was part of the training loss."
    return Table(heads=["decoder", *heads.values()], rows=rows, note=note)


def readers(result: Result) -> Table:
    """What benchmarks/readers.py found: the three readers."""
    rows = []
    for row in result["rows"]:
        difference = (
            ""
            if "against" not in row
            else (f"{row['largest_difference']} of 255 against {row['against']}, {row['images']} images")
        )
        time = f"{row['seconds']:.2f} s" + (f" ({row['cpu_seconds']:.2f} s)" if "cpu_seconds" in row else "")
        equal = f"{row['symbols_equal']} of {result['files']}"
        rows.append([row["reader"], equal, difference, time, f"{row['megabytes']:,.0f} MB"])
    lite = next(row for row in result["rows"] if "install_seconds" in row)
    note = (
        "Times are wall clock, in brackets processor seconds, of a whole command or a new browser, "
        f"on {result['machine']['cpus']} cores with a load of {result['load_average'][0]:g}. "
        f"The wheel of priorcodec-lite has {lite['wheel_megabytes']:.0f} MB and was installed with all it needs in "
        f"{lite['install_seconds']:.0f} s."
    )
    heads = ["reader", "golden files with equal symbols", "largest difference", "decode 768x512, cold", "to install"]
    return Table(heads=heads, rows=rows, note=note)


def networks(result: Result) -> Table:
    """What benchmarks/readers.py found: the float networks of a decode, by torch and by onnxruntime in turn."""
    rows = [
        [str(row["threads"]), row["by"], f"{row['seconds']:.2f} s", f"{row['cpu_seconds']:.2f} s"]
        for row in result["networks"]
    ]
    return Table(heads=["threads", "by", "wall clock", "processor time"], rows=rows, texts=2)


def phone(result: Result) -> Table:
    """What benchmarks/phone.py found."""
    rows = []
    for row in result["rows"]:
        size = f"{row['megabytes']:.1f} MB ({row['compressed_megabytes']:.1f} MB)"
        times = f"{row['load_cpu_seconds']:.2f} s + {row['run_cpu_seconds']:.2f} s"
        apart = f"{row['largest_difference']} of 255, {row['psnr_to_full_precision']:.1f} dB"
        apart = apart if row["largest_difference"] else "identical"
        lite1 = f"{row['lite1_lpips']:.4f}, {row['lite1_dists']:.4f}" if "lite1_lpips" in row else ""
        rows.append([row["runtime"], row["weights"], size, times, f"{row['peak_megabytes']:.0f} MB", apart, lite1])
    heads = ["runtime", "weights stored as", "to ship (compressed)", "load + run", "peak memory", "from full precision"]
    note = "Processor seconds of one thread of this machine, not of a phone."
    if "images" in result:
        means = f"means over {result['images']} images of {result['set']} at quality {result['quality']:g}"
        note += f" Lite1 (LPIPS and DISTS form, lower is better): {means}."
    return Table(heads=[*heads, "Lite1"], rows=rows, note=note, texts=2)


def phone_graphs(result: Result) -> Table:
    """What benchmarks/phone.py found of each graph."""
    rows = []
    for row in result["graphs"]:
        sizes = [f"{row['megabytes'][stored]:.1f} MB" for stored in ("half", "int8")]
        count = f"{row['multiplications']:.1f}" if "multiplications" in row else ""
        seconds = f"{row['run_cpu_seconds']['half']:.2f} s" if "run_cpu_seconds" in row else ""
        rows.append([row["graph"], *sizes, count, seconds])
    return Table(heads=["part", "half", "int8", "10^9 multiplications", "run, half"], rows=rows)


def high_resolution(result: Result) -> Table:
    """What benchmarks/high_resolution.py found: time and memory by size, and steps at the borders of tiles."""
    rows = []
    for row in result["rows"]:
        size, tiles = f"{row['size']}x{row['size']}", f"{row['tiles']} of {row['tile']}"
        seconds = [f"{row['cpu_seconds']:.1f} s", f"{row['cpu_seconds_per_mp']:.2f} s"]
        steps = f"{row['step_ratio']:.2f}" if "step_ratio" in row else ""
        rows.append([row["stage"], size, tiles, *seconds, f"{row['peak_mib']:,} MiB", steps])
    heads = ["stage", "image", "tiles", "processor time", "per megapixel", "peak memory", "steps at borders"]
    settings, threads = result["settings"], result["rows"][0]["threads"]
    note = (
        f"Through {settings['backbone']} at quality {settings['quality']:g}, {threads} thread(s), models loaded and warm. "
        "Steps at borders of tiles against those at lines beside them: 1 where no border shows."
    )
    return Table(heads=heads, rows=rows, note=note, texts=3)


VIEWS: Mapping[str, Callable[[Result], Table]] = {
    "full_size": full_size, "adapter_size": adapter_size, "rate": rate, "trust": trust, "refine": refine, "blind": blind,
    "adapter_runs": adapter_runs, "high_resolution": high_resolution,
    "readers": readers, "readers/networks": networks, "phone": phone, "phone/graphs": phone_graphs,
    **views_layers.VIEWS,
}  # fmt: skip
"""Kind of a result file, with a view where it has several -> its table."""
