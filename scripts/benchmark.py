"""Speed of every stage as a ratio to the plain way: ``python scripts/benchmark.py [--only TEXT] [--repeats N]``.

The two ways of a row first have to compute the same, then take turns: machines are noisy, and the ratio of two turns that
follow each other is what counts.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import tempfile
from pathlib import Path

import fire
import torch
from benchmarks import ROWS, Result, Row, costs

WIDTHS = (8, 48, 31, 8, 8, 20, 10, 11)
HEAD = ("stage", "what", "plain way", "plain, s", "ours, s", "ratio (over turns)", "difference", "held, MiB")

LEGEND = """difference: of the results, relative to the largest value; of drawn windows that of their standard deviation, of
decoding that of the share decoded right; other: another network. held: plain → ours, activations kept for the backward
pass, or what a dataset keeps."""


def benchmark(only: str = "", repeats: int = 5) -> None:
    """Print the table.

    Args:
        only: part of a row's stage or name, or ``cost``; all rows by default.
        repeats: turns of each way; fewer of what takes long.

    Raises:
        ValueError: if no row is meant, or the two ways of one differ.
    """
    rows = [row for row in ROWS if only in f"{row.stage} {row.what}"]
    if not rows and only != "cost":
        raise ValueError(f"--only {only}: it is part of a row's name, or one of {', '.join({r.stage: 0 for r in ROWS})}, cost.")
    print(machine())
    if rows:
        print()
        _print(HEAD)
        _print(["-" * width for width in WIDTHS])
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            _print(_cells(row, row.measure(Path(folder), repeats)))
    if rows:
        print(f"\n{LEGEND}")
    if only in ("", "cost"):
        _print_costs()


def machine() -> str:
    """Name what the figures were measured on, and whether it had anything else to do."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    processor, cores = found[1] if found else platform.processor() or platform.machine(), os.cpu_count() or 1
    load = os.getloadavg()[0]
    busy = f"; UNDER LOAD: {load:.1f} processes already wanted these cores" if load > 0.5 * cores else ""
    threads = f"{torch.get_num_threads()} used, Python {platform.python_version()}, torch {torch.__version__}"
    return f"{datetime.date.today()}: {processor}, {platform.machine()}, {cores} cores, {threads}{busy}"


def _text(path: str) -> str:
    return Path(path).read_text() if Path(path).is_file() else ""


def _cells(row: Row, result: Result) -> list[str]:
    kept = "{:.0f} → {:.0f}".format(*(n / 2**20 for n in result.kept)) if result.kept else ""
    apart = f"{result.difference:.0e}" if row.tolerance < float("inf") else "other"
    turns = f" ({min(result.ratios):.3g}-{max(result.ratios):.3g})" if len(result.ratios) > 1 else " (one turn)"
    seconds = f"{result.plain:.3g}", f"{result.ours:.3g}"
    return [row.stage, row.what, row.plain_way, *seconds, f"{result.ratio:.3g}{turns}", apart, kept]


def _print_costs() -> None:
    print("\n| network, whole run | GFLOP | M parameters | published GFLOP | ratio |\n|---|---|---|---|---|")
    for name, gflop, parameters, published in costs():
        print(f"| {name} | {gflop:.1f} | {parameters:.2f} | {published:.0f} | {published / gflop:.0f} |")


def _print(cells: list[str] | tuple[str, ...]) -> None:
    print("|", " | ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)), "|", flush=True)


if __name__ == "__main__":
    fire.Fire(benchmark)
