"""One row of the table: a plain way of doing a thing and ours, which first have to agree and then take turns.

Machines are noisy and so are their neighbours: what counts is the ratio of two turns that follow each other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["Result", "Row", "Ways", "by", "difference"]

ROUNDING = 1e-5  # of the largest part: a gradient that is a sum of 0, such as of a key's bias, is nothing but rounding

TURN = 0.2  # seconds at least


class Ways(NamedTuple):
    """Two functions of no arguments that return the same, and the bytes that each keeps where that is what is gained."""

    plain: Callable[[], Any]
    ours: Callable[[], Any]
    kept: tuple[int, int] | None = None


class Result(NamedTuple):
    """Median seconds of both ways, the ratio of every turn, and how far their results lie apart."""

    plain: float
    ours: float
    ratios: list[float]
    difference: float
    kept: tuple[int, int] | None

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Row:
    """A comparison.

    Args:
        stage: the row's place in the table.
        name: what is done; ``{grid}`` in it is the size of that name.
        plain_is: what the plain way is, with sizes as well.
        ways: makes both ways, from a folder for their files and the sizes.
        size: keyword arguments of ``ways``.
        tolerance: largest difference of the results, see :py:func:`difference`; infinite where other arithmetic is the point.
        turns: at most so many, of what takes long.
    """

    stage: str
    name: str
    plain_is: str
    ways: Callable[..., Ways]
    size: Mapping[str, Any]
    tolerance: float
    turns: int = 1000

    @property
    def what(self) -> str:
        return self._with_sizes(self.name)

    @property
    def plain_way(self) -> str:
        return self._with_sizes(self.plain_is)

    def measure(self, folder: Path, repeats: int) -> Result:
        """Time both ways in turn.

        Args:
            folder: for the files of this row.
            repeats: turns of each way, after one that does not count.

        Raises:
            ValueError: if the results of the two ways differ.
        """
        torch.manual_seed(0)
        plain, ours, kept = self.ways(folder, **self.size)
        apart = difference(plain(), ours())
        if not apart <= self.tolerance:
            raise ValueError(f"{self.stage}, {self.what}: the two ways differ by {apart:.1e}, more than {self.tolerance:g}.")
        turns = [(_seconds(plain), _seconds(ours)) for _ in range(min(repeats, self.turns))]
        plain_s, ours_s = (statistics.median(way) for way in zip(*turns, strict=True))
        return Result(plain_s, ours_s, [one / other for one, other in turns], apart, kept)

    def _with_sizes(self, text: str) -> str:
        return text.format(**{key: by(size) if isinstance(size, tuple) else size for key, size in self.size.items()})


def difference(truth: Any, found: Any) -> float:
    """Return the largest difference of two arrays relative to the largest value; of two lists of arrays the worst part's.

    NaN is no small difference: it comes back as NaN.
    """
    ones, others = ([np.asarray(part, np.float64) for part in (v if isinstance(v, list) else [v])] for v in (truth, found))
    if [one.shape for one in ones] != [other.shape for other in others]:
        return float("inf")
    scales = [np.abs(one).max() for one in ones]
    least = ROUNDING * max(scales)
    gaps = [np.abs(one - other).max() for one, other in zip(ones, others, strict=True)]
    return float(np.max([gap / max(scale, least) if gap else gap for gap, scale in zip(gaps, scales, strict=True)]))


def by(sizes: Sequence[int]) -> str:
    """Return 64×64×36 for (64, 64, 36)."""
    return "×".join(map(str, sizes))


def _seconds(way: Callable[[], Any]) -> float:
    """Return the seconds of a call, of many in a row where one is short: a busy machine takes the core away for longer."""
    start, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < TURN or not calls:
        way()
        calls += 1
    return passed / calls
