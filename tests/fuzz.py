"""Fuzzing of `info` and `decode` up to the symbols; for people, not for pytest.

    python tests/fuzz.py --minutes 10              goes on where the last run stopped: counts in runs/fuzz/state.json
    python tests/fuzz.py --target info --minutes 2 --state runs/other
    python tests/fuzz.py --atheris                 coverage by atheris, where it is installed
seed file --spoil (bits, bytes, pieces, splices, numbers)--> body --check made to fit (mostly)--> info, every 20th decode
    of those decoded, three in four keep their frame and have a spoilt string of a fitting length: the entropy coder reads it
An input whose outcome was never seen before (the text of its refusal without numbers) joins the corpus of the run.
Anything but a StreamError in one line is a crash, kept beside the state. So is more than a second, or a pack that differs.
Exit status 1 when there is one. A hard crash of the process leaves its input in `now.bin`, which the next run reports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
import time
import zlib
from pathlib import Path

from priorcodec.core import container
from priorcodec.core.container import STRUCTURE, TEXTURE, Container, Segment
from priorcodec.core.errors import StreamError
from priorcodec.core.io import atomic

CORPUS = Path(__file__).parent / "corpus"
ENCODER = Path(__file__).parents[1] / "priorcodec" / "weights" / "encoder.safetensors"
NUMBERS = [0, 1, 127, 128, 16383, 16384, 65535, 2**26, 2**31, 2**32 - 1, 2**32, 2**60, 2**63]
NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{4,}\b|[0-9]+")  # in a refusal's text
DECODE_EVERY = 20  # decoding takes some hundred times as long


class Fuzz:
    """One run. folder: of its state; target: info, decode or all."""

    def __init__(self, folder: Path, target: str):
        self.folder, self.target = folder, target
        self.folder.mkdir(parents=True, exist_ok=True)
        state = folder / "state.json"
        old = json.loads(state.read_text()) if state.exists() else {}
        self.executions: dict[str, int] = {"info": 0, "decode": 0, **old.get("executions", {})}
        self.seconds: float = old.get("seconds", 0.0)
        self.outcomes: dict[str, int] = old.get("outcomes", {})
        self.crashes: int = old.get("crashes", 0)
        self.slowest: float = old.get("slowest_s", 0.0)
        self.runs: int = old.get("runs", 0) + 1
        self.dice = random.Random(self.runs)
        self.reader = self.tables = None
        if target != "info":
            from priorcodec.core.exact_reader import ExactReader
            from priorcodec.core.layers.semantic import SemanticTables

            self.reader, self.tables = ExactReader.load(ENCODER), SemanticTables()
        self.corpus = [path.read_bytes() for path in sorted(CORPUS.glob("*.gic"))]
        self.corpus += [path.read_bytes() for path in sorted(folder.glob("new-*.gic"))]
        self.seeds = [string for data in self.corpus if (string := string_of(data)) is not None]
        self.parts = [part for data in self.corpus for part in segments_of(data) if part.type in (STRUCTURE, TEXTURE)]
        if (folder / "now.bin").exists():
            self.crash((folder / "now.bin").read_bytes(), "the process died")
            (folder / "now.bin").unlink()

    def save(self) -> None:
        state = {
            "executions": self.executions, "total": sum(self.executions.values()), "seconds": round(self.seconds, 1),
            "crashes": self.crashes, "slowest_s": round(self.slowest, 3), "runs": self.runs, "corpus": len(self.corpus),
            "outcomes": dict(sorted(self.outcomes.items(), key=lambda item: -item[1])),
        }  # fmt: skip
        atomic.write(self.folder / "state.json", json.dumps(state, indent=2).encode())

    def crash(self, data: bytes, reason: str) -> None:
        self.crashes += 1
        path = self.folder / f"crash-{hashlib.sha256(data).hexdigest()[:12]}.bin"
        path.write_bytes(data)
        print(f"{path}: {reason}", file=sys.stderr)

    def one(self, data: bytes, decode: bool) -> None:
        """Run one input and count it."""
        kind = "decode" if decode else "info"
        if decode:  # compiled code: it may take the process with it
            (self.folder / "now.bin").write_bytes(data)
        started = time.process_time()
        try:
            outcome = self._decode(data) if decode else self._info(data)
        except StreamError as error:
            outcome = f"{kind}: {NUMBER.sub('#', str(error))}"
            if "\n" in str(error):
                self.crash(data, "two lines")
        except Exception as error:  # this is what is looked for
            outcome = f"{kind}: {type(error).__name__}"
            self.crash(data, f"{type(error).__name__}: {error}")
        taken = time.process_time() - started
        self.slowest = max(self.slowest, taken)
        if taken > 1:
            self.crash(data, f"{taken:.1f} s")
        self.executions[kind] += 1
        if outcome not in self.outcomes:
            self.corpus.append(data)
            (self.folder / f"new-{hashlib.sha256(data).hexdigest()[:12]}.gic").write_bytes(data)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def _info(self, data: bytes) -> str:
        container.describe(data)
        content = container.unpack(data)
        cut_to_latent = not content.segments and data[3] != container.VERSION  # written again without segments
        if container.pack(content) != data and not cut_to_latent:
            raise AssertionError("packing what was unpacked gives other bytes")
        return "info: fine"

    def _decode(self, data: bytes) -> str:
        reader, tables = self.reader, self.tables
        assert reader is not None and tables is not None
        content = reader.unpack(data, max_pixels=2**20)
        if {STRUCTURE, TEXTURE} & {part.type for part in content.segments}:
            tables.read(content, reader)
        if content.string is not None or "semantic" not in content.layers:
            reader.latent(content)
        return f"decode: fine, {', '.join(content.layers)}"

    def with_checksum(self, body: bytes) -> bytes:
        """With the checks made to fit, for decoding those of the encoder."""
        encoder_id = 0 if self.reader is None else self.reader.encoder_id
        if len(body) > 4:
            body = body[:4] + bytes([encoder_id & 0xFF]) + body[5:]
        for end in segment_ends(body):
            body = body[:end] + (zlib.crc32(body[:end]) ^ encoder_id).to_bytes(4, "little") + body[end + 4 :]
        return body + (zlib.crc32(body) ^ encoder_id).to_bytes(4, "little")

    def spoil(self, data: bytes) -> bytearray:
        dice, out = self.dice, bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 4, 8))):
            at = dice.randrange(len(out) + 1)
            match dice.randrange(8):
                case 0 if at < len(out):
                    out[at] ^= 1 << dice.randrange(8)
                case 1 if at < len(out):
                    out[at] = dice.randrange(256)
                case 2:
                    out[at:at] = dice.randbytes(dice.randrange(1, 9))
                case 3:
                    del out[at : at + dice.randrange(1, 17)]
                case 4:
                    other = dice.choice(self.corpus)
                    start = dice.randrange(len(other) + 1)
                    out[at : at + dice.randrange(32)] = other[start : start + dice.randrange(1, 65)]
                case 5:
                    out[at : at + dice.randrange(3)] = varint(dice.choice(NUMBERS))
                case 6:
                    place = min(dice.randrange(3, 12), len(out))  # the header, where one byte matters most
                    out[place : place + 1] = bytes([dice.randrange(256)])
                case _:
                    out[at:at] = out[max(0, at - dice.randrange(1, 33)) : at]
        return out

    def mutate(self, data: bytes) -> bytes:
        dice, out = self.dice, self.spoil(data[:-4])
        if dice.random() < 0.9 and len(out) > 5:  # past the first refusals
            out[:4] = b"GIC" + bytes([dice.choice((0x02, 0x02, 0x12, out[3]))])
        return bytes(out[:4096])

    def forge(self) -> bytes:
        """A file that is whole but for its string, which is long enough for its size."""
        dice, reader = self.dice, self.reader
        assert reader is not None
        height, width = dice.choice(((1, 1), (40, 48), (65, 33), (1, 200)))
        parts = {}
        if dice.random() < 0.4:  # layers: a seed's own, spoilt, or bytes by chance
            for part in dice.sample(self.parts, 2):
                parts[part.type] = (
                    bytes(self.spoil(part.data)) if dice.random() < 0.8 else dice.randbytes(dice.randrange(40))
                )
        layers = tuple(Segment(type=kind, data=parts[kind]) for kind in sorted(parts))
        out = self.spoil(dice.choice(self.seeds))
        longer = dice.choice((0, 0, 64, 512))
        out += dice.randbytes(longer) if dice.random() < 0.7 else bytes([dice.choice((0, 255))]) * longer
        if dice.random() < 0.9:  # a zero at the end is refused at once
            out += b"\x01"
        content = Container(
            encoder_id=reader.encoder_id, quality=dice.randrange(177), height=height, width=width,
            string=None if layers and dice.random() < 0.7 else bytes(out), segments=layers,
        )  # fmt: skip
        return container.pack(content)

    def next(self, decode: bool) -> bytes:
        if decode and self.dice.random() < 0.75:
            return self.forge()
        body = self.mutate(self.dice.choice(self.corpus))
        return self.with_checksum(body) if self.dice.random() < 0.95 else body + self.dice.randbytes(4)

    def go(self, minutes: float, until: float) -> None:
        began = saved = time.monotonic()
        spent, count = self.seconds, 0
        while (now := time.monotonic()) - began < 60 * minutes and sum(self.executions.values()) < until:
            for _ in range(100):
                count += 1
                decode = self.target == "decode" or self.target == "all" and count % DECODE_EVERY == 0
                self.one(self.next(decode), decode)
            if now - saved > 5:
                saved, self.seconds = now, spent + now - began
                self.save()
        self.seconds = spent + time.monotonic() - began
        (self.folder / "now.bin").unlink(missing_ok=True)
        self.save()


def string_of(data: bytes) -> bytes | None:
    """The entropy string of a file, if it is one."""
    try:
        return container.unpack(data).string
    except StreamError:
        return None


def segments_of(data: bytes) -> tuple[Segment, ...]:
    """The segments of a file, if it is one."""
    try:
        return container.unpack(data).segments
    except StreamError:
        return ()


def segment_ends(body: bytes) -> list[int]:
    """Where the checks of all segments but the last begin, as far as a file with segments can be read."""
    found: list[int] = []
    if len(body) < 6 or not body[3] & 0x10:
        return found
    try:
        _, at = read_varint(body, 6)
        _, at = read_varint(body, at)
        while True:
            length, at = read_varint(body, at + 1)
            if at + length + 4 > len(body):
                return found
            found.append(at + length)
            at += length + 4
    except IndexError:
        return found


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The value at a position, and where it ends. Raises IndexError."""
    value = shift = 0
    while True:
        value, shift, at = value | (data[at] & 0x7F) << shift, shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def varint(value: int) -> bytes:
    """Of any length, also beyond what a file may say."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def by_coverage(fuzz: Fuzz) -> None:
    """atheris (libFuzzer) chooses the inputs; it ends the process itself, so counts are kept every thousand inputs."""
    import atheris  # pyright: ignore[reportMissingImports]

    atheris.instrument_all()

    def test(data: bytes) -> None:
        fuzz.one(fuzz.with_checksum(data[:-4]), fuzz.target != "info")
        if sum(fuzz.executions.values()) % 1000 == 0:
            fuzz.save()

    atheris.Setup([sys.argv[0], str(fuzz.folder), str(CORPUS)], test)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="default 5, without a limit where --executions is given")
    parser.add_argument("--executions", type=int, help="stop when so many are done in all, earlier runs counted")
    parser.add_argument("--target", choices=["all", "info", "decode"], default="all")
    parser.add_argument("--state", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--atheris", action="store_true")
    given = parser.parse_args()
    fuzz = Fuzz(given.state, given.target)
    if given.atheris:
        by_coverage(fuzz)
    else:
        forever = float("inf")
        fuzz.go(given.minutes or (forever if given.executions else 5), given.executions or forever)
    print(
        f"{sum(fuzz.executions.values())} executions in {fuzz.seconds:.0f} s, {fuzz.crashes} crashes, {fuzz.executions}"
    )
    return 1 if fuzz.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
