"""Kills folder runs at random moments and counts what is lost: python tests/batch/crash_driver.py FOLDER COMMAND KILLS SEED.

FOLDER/in: inputs; FOLDER/old, FOLDER/new: complete outputs of two settings, in place before. Every try starts with every
second output old and the others missing, runs COMMAND --force with the new settings in a forked process (imports take seconds,
a fork no time) and kills it. Then an old output must be old or new, and a missing one missing or new. Prints one JSON line.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from priorcodec import cli
from priorcodec.core.errors import PriorCodecError

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
OPTIONS = {
    "encode": (["-q", "1"], ["-q", "4"]),
    "preview": (["--layers", "latent"], []),  # which the note in the file says
    "decode": (["--backbone", "toy", "--steps", "2"], ["--backbone", "toy"]),
}


def child(words: list[str]) -> int:
    """-> process id of the command line with these words."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.argv = ["priorcodec", *words]
        status = 99
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        except PriorCodecError:
            status = 2
        finally:
            os._exit(status)
    return pid


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith(".part")}


def main(folder: Path, command: str, wanted: int, seed: int) -> dict:
    import priorcodec.core.codec  # noqa: F401  (before the forks)

    dice = random.Random(seed)
    out = folder / "out"
    source = str(folder / "in")
    old_words, new_words = ([command, source, *options, "-o"] for options in OPTIONS[command])
    for name, words in (("old", old_words), ("new", new_words)):
        started = time.monotonic()
        _, status = os.waitpid(child([*words, str(folder / name)]), 0)
        assert status == 0, f"{words} ended with {status}"
        whole = time.monotonic() - started
    old, new = contents(folder / "old"), contents(folder / "new")
    assert old.keys() == new.keys() and all(old[name] != new[name] for name in new)
    found = {"kills": 0, "tries": 0, "wrong": 0, "strange": 0, "between": 0}
    while found["kills"] < wanted and found["tries"] < 5 * wanted:
        found["tries"] += 1
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        for name in sorted(old)[::2]:
            (out / name).write_bytes(old[name])
        before = contents(out)
        pid = child([*new_words, str(out), "--force"])
        time.sleep(dice.uniform(0.02, 1.1) * whole)
        os.kill(pid, dice.choice(SIGNALS))
        _, status = os.waitpid(pid, 0)
        found["kills"] += status != 0
        after = contents(out)
        found["strange"] += len(after.keys() - new.keys())
        found["wrong"] += sum(after.get(n) not in (before.get(n), new[n]) for n in new)
        found["between"] += 0 < sum(after.get(n) == new[n] for n in new) < len(new)
    _, status = os.waitpid(child([*new_words, str(out), "--skip-existing", "--force"]), 0)
    found["finished"] = status == 0 and contents(out) == new
    found["left_at_the_end"] = len(list(out.iterdir())) - len(new)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
