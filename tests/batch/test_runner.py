"""`list_jobs`: which inputs there are and where their outputs go. No image is read."""

import logging
import os
import sys
from pathlib import Path

import pytest

from priorcodec.batch import runner
from priorcodec.batch.jobs import STREAM, Job, as_error
from priorcodec.core.errors import ConfigError, ImageError, PriorCodecError, out_of_memory


def list_jobs(*inputs, output=None, force=False, **options):
    options = {"suffixes": runner.IMAGES, "ending": ".gic", "outputs": (".gic",)} | options
    return runner.list_jobs(inputs, output, force=force, **options)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "a.png", "b.PNG", "notes.txt", "._a.png", ".hidden"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.png").mkdir()
    (tmp_path / "d.png").symlink_to("nowhere")
    return tmp_path


def test_a_folder_and_what_it_holds_besides(folder, caplog):
    with caplog.at_level(logging.INFO, logger="priorcodec"):
        jobs = list_jobs(folder)
    targets = [(job.source.name, job.target.name) for job in jobs]
    assert targets == [("a.jpg", "a.jpg.gic"), ("a.png", "a.png.gic"), ("b.PNG", "b.gic"), ("d.png", "d.gic")]
    assert not any(job.problem for job in jobs)
    assert caplog.messages == [f"{folder}: passed over 3 other files (.hidden, .png, .txt) and 1 folder"]


def test_a_file_given_twice_is_done_once(folder):
    again = folder / ".." / folder.name / "a.png"
    assert [job.source.name for job in list_jobs(folder / "a.png", folder / "a.png", again)] == ["a.png"]


def test_inputs_that_share_an_output_fail_alone(folder):
    (folder / "e").mkdir()
    (folder / "e" / "a.png").write_bytes(b"")
    jobs = list_jobs(folder / "a.png", folder / "e" / "a.png", folder / "b.PNG", output=folder / "out")
    assert ["rename one of them" in job.problem for job in jobs] == [True, True, False]


@pytest.mark.parametrize("platform, names", [("linux", ["x.gic", "X.gic"]), ("darwin", ["x.jpg.gic", "X.png.gic"])])
def test_names_that_the_file_system_takes_for_one(folder, monkeypatch, platform, names):
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("x.jpg", "X.png"):
        (folder / name).write_bytes(b"")
    jobs = list_jobs(folder / "x.jpg", folder / "X.png")
    assert [job.target.name for job in jobs] == names and not any(job.problem for job in jobs)
    jobs = list_jobs(folder / "a.png", folder / "b.PNG", output=folder / "out")
    (folder / "e").mkdir()
    (folder / "e" / "A.PNG").write_bytes(b"")
    jobs = list_jobs(folder / "a.png", folder / "e" / "A.PNG", output=folder / "out")
    assert all("rename one of them" in job.problem for job in jobs) == (platform == "darwin")


def test_outputs_that_are_one_file_through_a_link_fail_alone(folder):
    for name in ("one", "other"):
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(b"")
    (folder / "a.gic").symlink_to(folder / "b.gic")
    jobs = list_jobs(folder / "a.png", folder / "b.PNG", force=True)
    assert ["rename one of them" in job.problem for job in jobs] == [True, True]
    (folder / "linked").symlink_to(folder / "one")
    jobs = list_jobs(folder / "one" / "a.png", folder / "linked" / "a.png", folder / "other" / "a.png")
    assert ["rename one of them" in job.problem for job in jobs] == [True, True, False]


def test_what_is_missing_fails_alone(folder):
    jobs = list_jobs(folder / "a.png", folder / "gone.png")
    assert [job.problem for job in jobs] == ["", f"{folder / 'gone.png'}: no such file or folder"]


def test_a_name_too_long_for_the_suffix_is_cut(folder):
    longs = [folder / ("x" * 250 + letter + ".png") for letter in "ab"]
    for long in longs:
        long.write_bytes(b"")
    jobs = list_jobs(folder / "a.png", *longs, ending=".nano_pixel.png", outputs=(".png",))
    assert not runner.run_jobs(jobs, Touch(), label="").failures
    names = [job.target.name for job in jobs]
    assert all((folder / name).exists() and name.endswith(".nano_pixel.png") for name in names)
    assert len(set(names)) == 3 and max(map(len, names)) == 255


def test_names_that_cannot_be_are_one_printable_line(folder):
    for name in ("y" * 300 + ".png", "a\nb.png", "a\0.png"):
        problem = list_jobs(folder / name)[0].problem
        assert problem.isprintable() and problem.endswith("no such file or folder")


class Touch:
    def open(self):
        def touch(job):
            job.target.touch()
            return {}

        return touch


@pytest.mark.parametrize("kind", ["itself", "symlink", "hard link", "symlink of the source"])
def test_no_input_is_ever_an_output(tmp_path, kind):
    photo, output = tmp_path / "photo.gic", tmp_path / "out.gic"
    photo.write_bytes(b"an image")
    source = photo
    if kind == "itself":
        output = photo
    elif kind == "symlink":
        output.symlink_to(photo)
    elif kind == "hard link":
        os.link(photo, output)
    else:
        source = tmp_path / "link.png"
        source.symlink_to(photo)
        output = photo
    (job,) = list_jobs(source, output=output, force=True)
    assert "is the input" in job.problem
    with pytest.raises(ConfigError, match="itself"):
        runner.run_jobs([job], Touch(), label="")
    assert photo.read_bytes() == b"an image"


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.bin", "a.jpg"])
def test_an_output_of_another_format_is_refused(folder, name):
    with pytest.raises(ConfigError, match=r"wanted a name ending in \.gic, or a folder"):
        list_jobs(folder / "b.PNG", output=folder / name, force=True)


def test_one_file_for_several_inputs_is_refused(folder):
    for inputs in ((folder,), (folder / "a.png", folder / "b.PNG")):
        for output in (folder / "x.gic", folder / "notes.txt"):
            with pytest.raises(ConfigError, match="wanted a folder"):
                list_jobs(*inputs, output=output)


def test_where_outputs_go(folder):
    (folder / "out.d").mkdir()
    source = folder / "b.PNG"
    for output, target in (
        (None, folder / "b.gic"),
        (folder / "new", folder / "new" / "b.gic"),
        (folder / "out.d", folder / "out.d" / "b.gic"),
        (folder / "x.gic", folder / "x.gic"),
        (Path("/dev/null"), Path("/dev/null")),
        (STREAM, STREAM),
    ):
        assert [job.target for job in list_jobs(source, output=output)] == [target]
    assert list_jobs(STREAM, output=STREAM)[0] == Job(source=STREAM, target=STREAM)
    for inputs in ((STREAM, source), (folder,)):
        with pytest.raises(ConfigError, match="standard"):
            list_jobs(*inputs, output=STREAM)


def test_existing_outputs_stop_a_run_before_it_begins(folder):
    (folder / "b.gic").write_bytes(b"")
    (folder / "d.gic").write_bytes(b"")
    with pytest.raises(ConfigError, match="b.gic and 1 other output exist already"):
        list_jobs(folder)
    assert len(list_jobs(folder, force=True)) == 4


@pytest.mark.parametrize(
    "error, text",
    [
        (ImageError("no image"), "a.png: no image"),
        (ImageError("cannot read a.png"), "cannot read a.png"),
        (MemoryError(), "a.png: not enough memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
            "a.png: not enough memory",
        ),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "a.png: not enough memory"),
        (PermissionError(13, "Permission denied", "a.png"), "a.png: Permission denied"),
        (OSError(36, "File name too long", "b.gic"), "a.png: b.gic: File name too long"),
        (KeyError("bug"), "a.png: unexpected KeyError: 'bug'"),
        (ValueError("two\nlines"), "a.png: unexpected ValueError: two lines"),
    ],
)
def test_any_exception_is_one_line_with_the_name(error, text):
    found = as_error(error, Path("a.png"))
    assert isinstance(found, PriorCodecError) and str(found).startswith(text) and "\n" not in str(found)
    assert out_of_memory(error) == ("not enough memory" in text)


def test_a_plugin_that_exits_ends_its_file_and_not_the_run(folder):
    class Exits:
        def open(self):
            def run(job):
                if job.source.name == "a.png":
                    raise SystemExit(0)
                return {}

            return run

    outcome = runner.run_jobs(list_jobs(folder / "a.png", folder / "b.PNG"), Exits(), label="")
    assert [Path(row["input"]).name for row in outcome.rows] == ["b.PNG"]
    assert "unexpected SystemExit" in outcome.failures[0][1]
