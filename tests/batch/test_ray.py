"""Folder runs on Ray, on this machine: files killed actors had are done by others, none is lost, none is done twice."""

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from priorcodec.batch import ray as ray_runner
from priorcodec.batch import runner
from priorcodec.batch.jobs import Job
from priorcodec.batch.tasks import Encode
from priorcodec.config import DecodeConfig
from priorcodec.core import container
from priorcodec.core.image import io as image_io
from tests.batch.fake_tasks import Deadly
from tests.helpers import DEMO

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", autouse=True)
def busy():
    """Ray's workers are nice to all other processes, so much that on a busy machine they never get anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="pip install 'priorcodec[ray]'")
    pytest.importorskip("ray.data", reason="pip install 'priorcodec[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2**27)
    yield ray
    ray.shutdown()


@pytest.fixture
def images(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = image_io.load(DEMO).pixels
    for i in range(200):
        image_io.save(pixels[i : i + 40 + i % 7, i : i + 48], tmp_path / "in" / f"{i:03}.png")
    return tmp_path


def plan(folder):
    return runner.list_jobs(
        [folder / "in"], folder / "out", suffixes=runner.IMAGES, ending=".gic", outputs=(".gic",), force=True
    )


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A task that appends a line to `log` for everything it has done."""

    task: Encode
    log: Path

    def open(self):
        work = self.task.open()

        def logged(job):
            row = work(job)
            with self.log.open("a") as log:
                log.write(
                    json.dumps({"file": job.target.name, "process": os.getpid(), "left": "skipped" in row}) + "\n"
                )
            return row

        return logged


def lines(log):
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_200_images_and_a_worker_killed_half_way(ray, images):
    log, killed = images / "log", []

    def kill_one():
        while len(lines(log)) < 100:
            time.sleep(0.02)
        killed.append(lines(log)[-1]["process"])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    task = Logged(task=Encode(config=DecodeConfig(), quality=1, skip=True), log=log)
    outcome = ray_runner.run_jobs(plan(images), task, workers=2)
    assert killed and not outcome.failures
    files = {path.name: path.read_bytes() for path in (images / "out").iterdir()}
    assert sorted(files) == [f"{i:03}.gic" for i in range(200)]
    assert [Path(row["output"]).name for row in outcome.rows] == sorted(files)
    assert all(container.unpack(data).quality == 16 for data in files.values())
    done = lines(log)
    after = {line["process"] for line in done[100:]} - {killed[0]}
    assert after, "nobody went on after the kill"
    times = collections.Counter(line["file"] for line in done if not line["left"])
    assert max(times.values()) == 1 and {line["file"] for line in done} == set(files)
    assert len(times) >= 199  # the file whose worker was killed between writing it and saying so is found there
    again = ray_runner.run_jobs(plan(images), task, workers=2)
    assert len(again.rows) == 200 and all(row["skipped"] for row in again.rows)
    assert {path.name: path.read_bytes() for path in (images / "out").iterdir()} == files


def test_a_file_that_kills_every_worker_is_reported_and_stops_no_other(ray, tmp_path):
    jobs = [Job(source=tmp_path / name, target=tmp_path / "out" / name) for name in "abcde"]
    outcome = ray_runner.run_jobs(jobs, Deadly(once="b", always="d"), workers=2)
    assert [Path(row["output"]).name for row in outcome.rows] == list("abce")
    assert [source.name for source, _ in outcome.failures] == ["d"]


def test_the_example_script(images):
    pytest.importorskip("ray.data", reason="pip install 'priorcodec[ray]'")
    for path in sorted((images / "in").iterdir())[5:]:
        path.unlink()
    (images / "in" / "bad.png").write_bytes(b"no image")

    def script(*words):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, ROOT / "examples" / "ray_folder.py", *words],
            cwd=images, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip

    done = script("encode", "in", "gic", "--quality", "1")
    assert done.returncode == 1 and "5 written, 0 up to date, 1 failed" in done.stdout, done.stderr
    assert "bad.png" in done.stderr.splitlines()[-1]
    done = script("decode", "gic", "png", "backbone=toy")
    assert done.returncode == 0 and "5 written, 0 up to date, 0 failed" in done.stdout, done.stderr
    assert "0 written, 5 up to date, 0 failed" in script("decode", "gic", "png", "backbone=toy").stdout
