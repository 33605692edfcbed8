"""From files on disk to rows: pairing by name, bytes, digits, decoders of other codecs, errors."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from priorcodec.core.errors import ConfigError, ImageError
from priorcodec.evaluation import evaluate, metrics


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("sea", "sea-2"):
        small = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
        image = Image.fromarray(small).resize((70, 50), Image.Resampling.BICUBIC)
        (tmp_path / "ref").mkdir(exist_ok=True)
        (tmp_path / "dec").mkdir(exist_ok=True)
        image.save(tmp_path / "ref" / f"{name}.png")
        image.save(tmp_path / "dec" / f"{name}-q20.webp", quality=20)
        image.save(tmp_path / "dec" / f"{name}-q50.jpg", quality=50)
    return tmp_path


def scored(references, files, names) -> list[evaluate.Row]:
    """Rows of files that can all be scored, in the order that the command prints."""
    rows = [row for _, row in evaluate.evaluate([references], [files], names)]
    assert not any(isinstance(row, Exception) for row in rows), rows
    return sorted(rows, key=lambda row: (row["image"], row["file"]))


def test_pairs_by_the_longest_name(folders):
    references = sorted((folders / "ref").iterdir())
    found = [(evaluate.reference_of(f, references).stem, f.name) for f in sorted((folders / "dec").iterdir())]
    assert sorted(found) == [
        ("sea", "sea-q20.webp"), ("sea", "sea-q50.jpg"), ("sea-2", "sea-2-q20.webp"), ("sea-2", "sea-2-q50.jpg"),
    ]  # fmt: skip


def test_one_and_one_belong_together(folders):
    (folders / "dec" / "sea-q20.webp").rename(folders / "x.webp")
    assert len(scored(folders / "ref" / "sea.png", folders / "x.webp", ["psnr"])) == 1


def test_a_stranger_is_refused_and_the_others_scored(folders):
    Image.new("RGB", (70, 50)).save(folders / "dec" / "seaside.png")
    results = {file.name: result for file, result in evaluate.evaluate([folders / "ref"], [folders / "dec"], ["psnr"])}
    refused = results.pop("seaside.png")
    assert isinstance(refused, ConfigError) and "seaside.png fits no reference" in str(refused)
    assert len(results) == 4 and all(isinstance(row, dict) for row in results.values())


def test_a_reference_is_read_once_for_all_its_files(folders, monkeypatch):
    loads, load = [], evaluate.image_io.load
    monkeypatch.setattr(evaluate.image_io, "load", lambda path, **options: loads.append(path) or load(path, **options))
    status, _, _ = command("eval", folders / "ref", folders / "dec", "--metrics", "psnr")
    assert status == 0
    assert [path.name for path in loads if path.parent.name == "ref"] == ["sea-2.png", "sea.png"]


def test_rows_and_mean(folders):
    rows = scored(folders / "ref", folders / "dec", ["psnr"])
    assert [r["bytes"] for r in rows] == [(folders / "dec" / r["file"]).stat().st_size for r in rows]
    for row in rows:
        assert row["bpp"] == round(8 * row["bytes"] / (70 * 50), 6)
        images = [
            np.array(Image.open(p).convert("RGB"))
            for p in (folders / "ref" / f"{row['image']}.png", folders / "dec" / row["file"])
        ]
        assert row["psnr"] == round(metrics.psnr(*images), 6)
    assert evaluate.mean(rows)["psnr"] == pytest.approx(sum(r["psnr"] for r in rows) / 4, abs=1e-6)


def test_the_three_formats_say_the_same(folders):
    rows = scored(folders / "ref", folders / "dec", ["psnr", "msssim"])
    data = json.loads(evaluate.render(rows, "json"))
    assert data["rows"] == rows and data["rows"][0]["msssim"] is None  # 50 pixels are too few for five scales
    lines = list(csv.DictReader(io.StringIO(evaluate.render(rows, "csv"))))
    assert [float(line["psnr"]) for line in lines] == [r["psnr"] for r in rows] + [data["mean"]["psnr"]]
    table = evaluate.render(rows, "table").splitlines()
    assert len(table) == 6 and f"{rows[0]['psnr']:.2f}" in table[1] and "MS-SSIM" in table[0]


def test_a_decoded_png_has_the_rate_of_its_coded_file(folders):
    image = Image.open(folders / "ref" / "sea.png")
    image.save(folders / "out.png")
    (row,) = scored(folders / "ref" / "sea.png", folders / "out.png", ["psnr"])
    assert (row["bytes"], row["bpp"], row["psnr"]) == (None, None, None)
    (folders / "out.gic").write_bytes(b"x" * 77)
    (row,) = scored(folders / "ref" / "sea.png", folders / "out.png", ["psnr"])
    assert row["bytes"] == 77


def test_other_sizes_name_the_file(folders):
    Image.new("RGB", (69, 50)).save(folders / "dec" / "sea-q1.png")
    status, _, _ = command("eval", folders / "ref", folders / "dec", "--metrics", "psnr")
    assert status == 1
    status, said, error = command(
        "eval", folders / "ref" / "sea.png", folders / "dec" / "sea-q1.png", "--metrics", "psnr"
    )
    assert status != 0 and said == "" and "sea-q1.png: image is 69x50, reference is 70x50" in error


@pytest.mark.parametrize(
    ("name", "text"), [("sea.266", "not a readable vvc stream"), ("sea.jxl", "not a readable JPEG XL")]
)
def test_damaged_streams_are_one_line(folders, name, text):
    pytest.importorskip("av")
    pytest.importorskip("pillow_jxl")
    (folders / name).write_bytes(b"no stream at all" * 20)
    with pytest.raises(ImageError, match=text):
        evaluate.read(folders / name)


def test_jpeg_xl_is_read(folders):
    pytest.importorskip("pillow_jxl")
    image = Image.open(folders / "ref" / "sea.png")
    image.save(folders / "sea.jxl", lossless=True)
    assert (evaluate.read(folders / "sea.jxl") == np.array(image)).all()


def test_empty_folder_and_no_folder(tmp_path):
    with pytest.raises(ConfigError, match="no image in"):
        evaluate.expand([tmp_path], {".png"})
    with pytest.raises(ConfigError, match="does not exist"):
        evaluate.expand([tmp_path / "nowhere"], {".png"})


def command(*words: object) -> tuple[int, str, str]:
    """Exit status, what was printed, and the one line of a user's mistake."""
    from typer.testing import CliRunner

    from priorcodec.cli import app

    done = CliRunner().invoke(app, [str(w) for w in words])
    return done.exit_code, done.stdout, str(done.exception or "")


def test_the_command_prints_what_evaluate_gives(folders):
    status, said, _ = command("eval", folders / "ref", folders / "dec", "--metrics", "psnr", "--format", "json")
    assert status == 0
    assert json.loads(said)["rows"] == scored(folders / "ref", folders / "dec", ["psnr"])
    status, said, _ = command("eval", folders / "ref", folders / "dec", "--metrics", "psnr", "-o", folders / "t.txt")
    assert (status, said) == (0, "") and (folders / "t.txt").read_text().startswith("image")


def test_the_command_takes_what_encode_takes_and_makes_the_outputs_folder(folders):
    with Image.open(folders / "ref" / "sea.png") as image:
        image.save(folders / "ref" / "lake.jfif", "JPEG")
        image.save(folders / "dec" / "lake.png")
    (folders / "ref" / "._sea.png").write_bytes(b"written by macOS beside a file")
    (folders / "ref" / "folder.png").mkdir()
    twice, table = [folders / "dec" / "lake.png"] * 2, folders / "new" / "t.csv"
    words = ["eval", folders / "ref", *twice, "--metrics", " psnr , gmsd", "--format", "csv", "-o", table]
    assert command(*words)[0] == 0
    rows = list(csv.DictReader(table.open()))
    assert [row["image"] for row in rows] == ["lake", "mean"] and set(rows[0]) >= {"psnr", "gmsd"}


def test_references_that_share_a_stem_are_told_apart_by_their_whole_names(folders):
    references = [folders / "ref" / name for name in ("a.png", "a.webp", "ab.png")]
    for name, wanted in (
        ("a.png.gic", "a.png"),
        ("a.webp.preview.png", "a.webp"),
        ("a.webp", "a.webp"),
        ("ab-q3.gic", "ab.png"),
    ):
        assert evaluate.reference_of(Path(name), references).name == wanted
    with pytest.raises(ConfigError, match="a.gic fits a.png and a.webp; name it a.png.gic or a.webp.gic"):
        evaluate.reference_of(Path("a.gic"), references)


def test_no_input_is_replaced_even_when_forced(folders):
    sizes = folders / "sizes.gic"
    sizes.write_bytes(b"coded")
    image, decoded = folders / "ref" / "sea.png", next((folders / "dec").iterdir())
    words = ["eval", image, decoded, "--metrics", "psnr", "--coded", sizes, "-o", sizes, "--force"]
    assert "the input" in command(*words)[2] and sizes.read_bytes() == b"coded"
    assert "does not exist" in command(*words[:6], folders / "nowhere")[2]
    (folders / "results").mkdir()
    (folders / "results" / "rd.json").write_text("{}")
    words = ["report", folders / "results", "-o", folders / "results" / "rd.json", "--force"]
    assert "the input" in command(*words)[2] and (folders / "results" / "rd.json").read_text() == "{}"


def test_the_command_refuses_in_one_line(folders):
    for words, text in (
        ([folders / "ref", folders / "nowhere"], "does not exist"),
        ([folders / "ref", folders / "dec", "--metrics", "psnr,vmaf"], "no metric 'vmaf'"),
        ([folders / "ref", folders / "dec", "--metrics", "psnr, lite1_frechet"], "lite1_frechet compares sets"),
    ):
        status, said, error = command("eval", *words)
        assert status != 0 and said == "" and text in error and "\n" not in error
