"""Files damaged as discs, transfers and broken writers damage them, and what a reader makes of them."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from trust.faults import chain, in_child, limit_memory, limit_time, peak

FEWEST = 12  # mutated files of a reader
SPREAD = 24  # single bits flipped in a file that has checksums, from its beginning to its end
SECONDS = 20  # per file
MEMORY = 2 * 2**30  # bytes that a reader may ask for
PEAK = 300 * 2**20  # bytes that it may use


# ---- mutations


def flipped(rng: random.Random, blob: bytes, first: int = 2**30) -> bytes:
    """Flip one to eight bits, half of the time among the first bytes, where headers are."""
    changed = bytearray(blob)
    reach = min(len(blob), first if rng.random() < 0.5 else 400)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwritten(rng: random.Random, blob: bytes) -> bytes:
    """Put zeros, ones or noise in place of a piece."""
    start = rng.randrange(min(len(blob), 400 if rng.random() < 0.5 else len(blob)))
    length = min(rng.choice([1, 2, 4, 8, 512]), len(blob) - start)
    piece = rng.choice([bytes(length), b"\xff" * length, b"\x7f" * length, rng.randbytes(length)])
    return blob[:start] + piece + blob[start + length :]


def cut(rng: random.Random, blob: bytes) -> bytes:
    return blob[: rng.randrange(len(blob))]


def inside_gzip(rng: random.Random, blob: bytes) -> bytes:
    """Damage what was compressed, as a broken writer would."""
    return gzip.compress(rng.choice([flipped, overwritten, cut])(rng, gzip.decompress(blob)), 1)


def mutated(rng: random.Random, blob: bytes) -> tuple[str, bytes]:
    """Return a damaged copy and what was done to it."""
    kinds = [flipped, overwritten, cut] + ([inside_gzip] if blob[:2] == b"\x1f\x8b" else [])
    kind = rng.choice(kinds)
    return kind.__name__, kind(rng, blob)


def spread(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield copies in which one bit is flipped, at places from the first byte to the last."""
    for number in range(SPREAD):
        place = number * (len(blob) - 1) // (SPREAD - 1)
        yield "a bit flipped", blob[:place] + bytes([blob[place] ^ 1 << number % 8]) + blob[place + 1 :]


def copies(rng: random.Random, blobs: dict[Path, bytes], rounds: int, checksum: bool) -> Iterator[tuple[Path, str, bytes]]:
    """Yield damaged copies of files, what was done to each, and which file is to hold it."""
    for file in islice(cycle(blobs), rounds):
        yield file, *mutated(rng, blobs[file])
    if checksum:
        yield from ((file, *copy) for file, blob in blobs.items() for copy in spread(blob))


# ---- fuzzing


def fuzz(
    files: list[Path],
    rounds: int,
    seed: str,
    read: Callable[[Path], Any],
    judge: Callable[[Exception], bool],
    good: Any,
    checksum: bool = False,
) -> dict[str, Any]:
    """Damage files in turn and read each; return how often what happened. Runs in a process of its own.

    What is read with other values is a fault where the format has checksums, except of a copy that has its own.
    """
    counts, faults, before = Counter[str](), [], peak()
    blobs = {file: file.read_bytes() for file in files}
    limit_memory(MEMORY)
    for number, (file, kind, content) in enumerate(copies(random.Random(seed), blobs, rounds, checksum)):
        file.write_bytes(content)
        limit_time(SECONDS)
        try:
            outcome, fault = ("read as before", "") if read(file) == good else ("read with other values", "other values")
            fault = fault if checksum and kind != inside_gzip.__name__ else ""
        except Exception as error:
            fault = "" if judge(error) else chain(error)[-600:]
            outcome = "another error" if fault else "refused by documented error"
        limit_time(0)
        counts[outcome] += 1
        if fault:
            faults.append(f"{file.name}, round {number}, {kind}: {fault}")
            (file.parent / f"kept-{number}-{file.name}").write_bytes(content)
        file.write_bytes(blobs[file])
    return {"counts": counts, "faults": faults[:10], "more": peak() - before}


def check(work: Callable[[], dict[str, Any]], log: Path, of: str, record: Callable[..., None]) -> None:
    outcome = in_child(work, log)
    assert outcome.succeeded, f"signal {outcome.signal} (14: hung for {SECONDS} s) {outcome.error}"
    for what, times in outcome.result["counts"].items():
        record("truncated, overwritten or bit-flipped file", of, what, times)
    assert not outcome.result["faults"], "\n".join(outcome.result["faults"])
    assert outcome.result["more"] < PEAK, f"{outcome.result['more'] >> 20} MiB"
