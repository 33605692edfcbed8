"""One session used by eight threads, one folder read by four processes: the same bytes and images as alone."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from priorcodec import open_session
from priorcodec.core.image import io as image_io
from tests.helpers import DEMO

THREADS, PROCESSES = 8, 4


@pytest.fixture(scope="module")
def images():
    """Eight images of eight sizes, and their qualities."""
    photo = image_io.load(DEMO).pixels
    return [(photo[20 * i : 20 * i + 40 + 7 * i, 30 * i : 30 * i + 90 - 5 * i], i / 2) for i in range(8)]


@pytest.fixture(scope="module")
def alone(images):
    """What one thread makes of them: files, previews, images."""
    session = open_session("toy")
    files = [bytes(session.encode(image, quality=quality)) for image, quality in images]
    return files, [session.preview(data, output="np") for data in files], session.decode(files, output="np")


def same(found, wanted):
    return len(found) == len(wanted) and all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_one_session_in_eight_threads(images, alone, record_property):
    """Three kinds of work at once, in another order in each round; the session loads its parts while all of them wait for it."""
    session, rounds = open_session("toy"), 6
    work = {
        "encode": lambda i: bytes(session.encode(images[i][0], quality=images[i][1])),
        "preview": lambda i: session.preview(alone[0][i], output="np"),
        "decode": lambda i: session.decode(alone[0][i], output="np"),
    }
    jobs = [(kind, i) for kind in work for i in range(len(images))] * rounds
    np.random.default_rng(0).shuffle(jobs)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda job: (job, work[job[0]](int(job[1]))), jobs))
    wanted = dict(zip(work, alone, strict=True))
    wrong = [job for job, answer in found if not np.array_equal(answer, wanted[job[0]][int(job[1])])]
    record_property("tries", len(jobs))
    assert wrong == [] and len(found) == len(work) * len(images) * rounds


@pytest.mark.slow
def test_four_processes_on_one_folder(alone, tmp_path, record_property):
    files, _, shown = alone
    (tmp_path / "gic").mkdir()
    for i, data in enumerate(files):
        (tmp_path / "gic" / f"{i}.gic").write_bytes(data)
    command = [sys.executable, "-m", "priorcodec.cli", "decode", tmp_path / "gic", "--backbone", "toy", "--json", "-o"]
    apart = [subprocess.Popen([*command, tmp_path / f"png{i}"], stdout=subprocess.PIPE) for i in range(PROCESSES)]
    for process in apart:
        rows = json.loads(process.communicate()[0])
        assert process.returncode == 0 and len(rows) == len(files)
    for i in range(PROCESSES):
        assert same([image_io.load(tmp_path / f"png{i}" / f"{j}.toy.png").pixels for j in range(len(files))], shown)
    record_property("tries", PROCESSES * len(files))


@pytest.mark.slow
def test_four_processes_into_one_folder(alone, tmp_path, record_property):
    """They write over each other's files: every image is whole and right whoever was last."""
    files, _, shown = alone
    (tmp_path / "gic").mkdir()
    for i, data in enumerate(files):
        (tmp_path / "gic" / f"{i}.gic").write_bytes(data)
    command = [
        sys.executable,
        "-m",
        "priorcodec.cli",
        "decode",
        tmp_path / "gic",
        "--backbone",
        "toy",
        "--force",
        "-o",
        tmp_path / "png",
    ]
    together = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(PROCESSES)]
    assert [process.wait() for process in together] == [0] * PROCESSES
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == [f"{i}.toy.png" for i in range(len(files))]
    assert same([image_io.load(tmp_path / "png" / f"{i}.toy.png").pixels for i in range(len(files))], shown)
    record_property("tries", PROCESSES * len(files))
