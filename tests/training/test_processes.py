"""Real processes: killed and resumed, two at once, clocks that disagree."""

import json
import os
import random
import signal
import time

import pytest

from priorcodec.adapters import file as adapter_file
from priorcodec.core.weights import load_simulation
from priorcodec.training.adapter import train_adapter
from priorcodec.training.encoder import train_encoder
from tests.training import helpers
from tests.training.helpers import clocks_that_disagree, close, same, state


def kill_and_resume(words, folder, *, kills, steps, seed):
    """Start the run again and again, killing it `kills` times, at a random moment behind a random step; then let it end."""
    rng = random.Random(seed)
    done = 0
    while True:
        process = helpers.SERVER.Process(target=helpers.child, args=(words,))
        process.start()
        limit = sorted(rng.sample(range(steps), kills))[done] if done < kills else None
        while limit is not None and process.is_alive():
            log = folder / "log.jsonl"
            if log.exists() and len(log.read_text().splitlines()) >= limit:
                time.sleep(rng.random() * 0.05)
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        process.join(helpers.WAIT)
        if process.exitcode == 0:
            return done
        assert process.exitcode == -signal.SIGKILL
        done += 1
        if (folder / "checkpoint.pt").exists():
            state(folder)  # whole at any moment


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_resumes_to_the_same_weights(words, tmp_path, kills):
    steps, more = 4 * kills, "loss.adversarial=0.1"
    whole = helpers.SERVER.Process(target=helpers.child, args=(words("whole", f"steps={steps}", more),))
    whole.start()
    whole.join(helpers.WAIT)
    assert whole.exitcode == 0
    parts = words("parts", f"steps={steps}", more)
    assert kill_and_resume(parts, tmp_path / "parts", kills=kills, steps=steps, seed=kills) > 0
    one, two = (state(tmp_path / run) for run in ("whole", "parts"))
    assert same(one, two) and one["averaged"] == two["averaged"] == steps
    assert str(one["critic"]) == str(two["critic"]) and one["critic"]["step"] == steps
    steps_logged = [json.loads(line)["step"] for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert steps_logged == sorted(set(steps_logged)) and steps_logged[-1] == steps
    name = "toy.adapter.safetensors"
    one, two = (adapter_file.read(tmp_path / run / name).tensors for run in ("whole", "parts"))
    assert all(one[key].equal(two[key]) for key in one)


def test_two_processes_and_one_do_the_same_first_steps(words, tmp_path):
    more = ("steps=4", "lr=0.001", "loss.adversarial=0.1")
    train_adapter(words("one", *more))
    helpers.two_processes(words("two", *more))
    one, two = (state(tmp_path / run) for run in ("one", "two"))
    assert close(one, two)
    assert close({"model": one["critic"]["critic"]}, {"model": two["critic"]["critic"]})
    rows = [[json.loads(x) for x in (tmp_path / run / "log.jsonl").read_text().splitlines()] for run in ("one", "two")]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], abs=2e-4)
    train_adapter(words("parts", *more, "accumulate=2"))
    parts = state(tmp_path / "parts")
    assert close(one, parts) and close({"model": one["critic"]["critic"]}, {"model": parts["critic"]["critic"]})
    train_adapter(words("other", *more, "seed=1"))
    assert not close(one, state(tmp_path / "other"))


def test_encoder_in_one_and_two_processes(encoder_words, tmp_path, caplog):
    caplog.set_level("INFO")
    assert train_encoder(encoder_words("one", "steps=3")) == tmp_path / "one" / "encoder.safetensors"
    assert "does not decode files of any other" in caplog.text
    load_simulation(tmp_path / "one" / "encoder.safetensors")
    helpers.two_processes(encoder_words("two", "steps=3"), command="encoder")
    assert close(state(tmp_path / "one"), state(tmp_path / "two"))


def test_two_processes_whose_clocks_disagree_save_thirty_times_without_a_stall(words, world, tmp_path):
    """Whether to save is decided by the first process: each deciding for itself ends in a deadlock at the first checkpoint."""
    more = (
        "steps=32",
        "save_minutes=0.02",
        "log_every=10",
        "sample_every=10",
        f"samples={world / 'images'}",
        "batch=2",
    )
    helpers.two_processes(words("run", *more), prepare=clocks_that_disagree)
    assert len((tmp_path / "run" / "count").read_text()) >= 30
    assert state(tmp_path / "run")["step"] == 32
    assert {p.name for p in (tmp_path / "run" / "samples").iterdir()} == {f"00000{n}.png" for n in (10, 20, 30, 32)}


@pytest.mark.slow
def test_two_processes_save_by_a_real_clock(words, world, tmp_path):
    more = (
        "steps=1000000",
        "minutes=0.8",
        "save_minutes=0.02",
        "sample_every=50",
        f"samples={world / 'images'}",
        "batch=2",
    )
    helpers.two_processes(words("run", *more), prepare=helpers.count_checkpoints)
    assert state(tmp_path / "run")["minutes"] >= 0.8
    assert len((tmp_path / "run" / "count").read_text()) > 1
