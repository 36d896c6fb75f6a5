"""Median seconds of two ways of doing a thing; machines are noisy, so the two take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["alternating"]


def alternating(one: Callable, other: Callable, repeats: int) -> tuple[float, float]:
    """Median seconds of two functions that take turns, after a turn each that does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        for function, times in zip((one, other), seconds, strict=True):
            start = time.perf_counter()
            function()
            if turn:
                times.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
