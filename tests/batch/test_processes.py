"""Folder runs by several processes: the same outcome as by one, also when one of them is killed or somebody presses Ctrl-C."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from priorcodec.batch import runner
from priorcodec.batch.jobs import Job
from priorcodec.core import container
from priorcodec.core.errors import PriorCodecError
from priorcodec.core.image import io as image_io
from tests.batch.fake_tasks import Deadly, Fails, NeverReady, NoMemory, Prints
from tests.helpers import DEMO, quick


@pytest.fixture
def folder(tmp_path):
    """Four images, the third damaged, the last larger than its highest quality needs and of 16 bits."""
    (tmp_path / "in").mkdir()
    pixels = image_io.load(DEMO).pixels
    for i in (0, 1):
        image_io.save(pixels[40 * i : 40 * i + 60, : 70 + i], tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "2.png").write_bytes(b"no image")
    Image.fromarray(pixels[:50, :50, 0].astype(np.uint16) * 257).save(tmp_path / "in" / "3.png")
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(folder, command, count, *words):
    """-> (status, rows without their times, files, lines on stderr)."""
    out = folder / "out"
    status, text, errors = quick(command, folder / "in", "-o", out, "--workers", count, "--json", *words)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in json.loads(text)]
    files = contents(out)
    shutil.rmtree(out)
    return status, rows, files, sorted(errors.splitlines())


def test_encode_as_one_process_does(folder):
    words = ("--bpp", 9)
    one = run(folder, "encode", 1, *words)
    assert one[0] == 1 and len(one[1]) == 3 and "2.png" in str(one[3])
    assert any("highest quality" in line for line in one[3])
    assert run(folder, "encode", 2, *words) == one


@pytest.mark.slow
def test_decode_as_one_process_does(folder):
    assert quick("encode", folder / "in", "-o", folder / "gic", "-q", 1)[0] == 1
    shutil.rmtree(folder / "in")
    (folder / "gic").rename(folder / "in")
    (folder / "in" / "2.gic").write_bytes(b"no file")
    one = run(folder, "decode", 1, "--backbone", "toy")
    assert one[0] == 1 and len(one[2]) == 3
    assert run(folder, "decode", 2, "--backbone", "toy") == one


def test_a_setting_no_file_can_be_coded_with_is_one_line(folder):
    status, _, message = quick("encode", folder / "in", "-o", folder / "out", "--workers", 2, "-q", 12)
    assert status == 2 and message == "quality is 12, wanted a number from 0 to 11"
    assert quick("encode", folder / "in", "--workers", 0)[0] == 2


@pytest.mark.parametrize(
    "number, end",
    [
        (signal.SIGKILL, "was killed by SIGKILL"),
        (signal.SIGRTMIN + 2, f"was killed by signal {signal.SIGRTMIN + 2}"),
        (signal.SIGTERM, "ended with status 143"),
    ],
)
def test_a_killed_process_is_replaced_and_its_file_tried_once_more(tmp_path, capfd, number, end):
    jobs = [Job(source=tmp_path / name, target=tmp_path / "out" / name) for name in "abcdef"]
    outcome = runner.run_jobs(jobs, Deadly(once="b", always="d", signal=number), label="", workers=2)
    assert [Path(row["output"]).name for row in outcome.rows] == list("abcef")
    assert [job.target.read_text() for job in jobs if job.target.name != "d"] == list("abcef")
    ((source, reason),) = outcome.failures
    assert source.name == "d" and f"{end} again" in reason and "\n" not in reason
    assert os.getpid() not in {row["process"] for row in outcome.rows}
    said = capfd.readouterr().err
    assert said.count(f"{end}, trying once more") == said.count("\n") == 2


def test_a_run_whose_processes_never_get_ready_ends(tmp_path):
    jobs = [Job(source=tmp_path / str(i), target=tmp_path / "out" / str(i)) for i in range(50)]
    with pytest.raises(PriorCodecError, match="worker processes ended before their first file.*SIGKILL") as caught:
        runner.run_jobs(jobs, NeverReady(log=tmp_path / "log"), label="", workers=2)
    assert "\n" not in str(caught.value)
    assert 3 <= (tmp_path / "log").stat().st_size <= 4


def test_one_process_is_enough_when_no_second_one_gets_ready(tmp_path):
    jobs = [Job(source=tmp_path / str(i), target=tmp_path / "out" / str(i)) for i in range(50)]
    outcome = runner.run_jobs(jobs, NeverReady(log=tmp_path / "log", only_from=1), label="", workers=2)
    assert len(outcome.rows) == 50 and len({row["process"] for row in outcome.rows}) == 1
    assert (tmp_path / "log").stat().st_size <= 5


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_may_fail_in_any_way(tmp_path, workers):
    jobs = [Job(source=tmp_path / name, target=tmp_path / "out" / name) for name in ("memory", "torch", "bug", "fine")]
    outcome = runner.run_jobs(jobs, Fails(), label="", workers=workers)
    assert [Path(row["input"]).name for row in outcome.rows] == ["fine"]
    lines = [reason for _, reason in outcome.failures]
    assert all(source.name in line and "\n" not in line for (source, line) in outcome.failures)
    assert ["not enough memory" in line for line in lines] == [True, True, False]


def test_what_a_plugin_prints_goes_to_standard_error(tmp_path, capfd):
    """Standard output is the rows', which may be JSON."""
    jobs = [Job(source=tmp_path / name, target=tmp_path / name) for name in "ab"]
    runner.run_jobs(jobs, Prints(), label="", workers=2)
    out, said = capfd.readouterr()
    assert out == "" and "opening" in said and "working on a" in said


def test_an_unexpected_error_at_the_start_is_one_line(tmp_path):
    jobs = [Job(source=tmp_path / name, target=tmp_path / name) for name in "ab"]
    with pytest.raises(PriorCodecError, match="could not start: not enough memory"):
        runner.run_jobs(jobs, NoMemory(), label="", workers=2)


def many(folder, count):
    """A folder of `count` images that take a while."""
    folder.mkdir()
    image_io.save(image_io.load(DEMO).pixels, folder / "0.png")
    for i in range(1, count):
        os.link(folder / "0.png", folder / f"{i}.png")


def heeds_control_c():
    """A shell's background job ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(folder):
    """`encode FOLDER/in -o FOLDER/out` by two processes, in a process group of its own, when its first file is written."""
    words = ["encode", "in", "-o", "out", "-q", "1", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "priorcodec.cli", *words],
        cwd=folder, start_new_session=True, preexec_fn=heeds_control_c, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    while not list(folder.glob("out/*.gic")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    return process


def ends(group):
    """Whether all processes of the group end within a minute."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


SIGNAL_IN_A_CALLBACK = """
import os, signal, weakref
from priorcodec.batch import processes
signal.signal(signal.SIGTERM, processes._stop_worker)
class Lock: pass
lock = Lock()
kept = weakref.ref(lock, lambda _: os.kill(os.getpid(), signal.SIGTERM))
del lock
print("goes on")
"""


def test_a_signal_that_python_forgets_is_not_printed():
    """As during an import, whose locks are weak references with callbacks."""
    done = subprocess.run([sys.executable, "-c", SIGNAL_IN_A_CALLBACK], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


def test_control_c_stops_all_and_leaves_nothing_half_written(tmp_path):
    many(tmp_path / "in", 100)
    process = started(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    out, said = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "") and said == "stopped\n"
    assert ends(process.pid)
    files = contents(tmp_path / "out")
    assert 1 <= len(files) < 100
    assert all(name.endswith(".gic") and container.unpack(data).quality == 16 for name, data in files.items())


def test_sigterm_for_the_parent_stops_all(tmp_path):
    many(tmp_path / "in", 100)
    process = started(tmp_path)
    process.terminate()
    out, said = process.communicate(timeout=120)
    assert (process.returncode, out, said) == (143, "", "")
    assert ends(process.pid)
    files = contents(tmp_path / "out")
    assert 1 <= len(files) < 100
    assert all(name.endswith(".gic") and container.unpack(data).quality == 16 for name, data in files.items())


@pytest.mark.slow
def test_processes_whose_parent_is_killed_end_by_themselves(tmp_path):
    many(tmp_path / "in", 100)
    process = started(tmp_path)
    process.kill()
    process.communicate()
    assert ends(process.pid)
    assert len(contents(tmp_path / "out")) < 20
    assert all(container.unpack(data).quality == 16 for data in contents(tmp_path / "out").values())
