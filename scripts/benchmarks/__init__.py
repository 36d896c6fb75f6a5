"""What ``scripts/benchmark.py`` compares: a module per stage, a :py:class:`Row` per comparison."""

from . import cache, combat, load, preprocess, sample, start_up, step
from .cost import costs
from .row import Result, Row

__all__ = ["ROWS", "Result", "Row", "costs"]

ROWS: tuple[Row, ...] = (*load.ROWS, *preprocess.ROWS, *cache.ROWS, *step.ROWS, *sample.ROWS, *combat.ROWS, *start_up.ROWS)
