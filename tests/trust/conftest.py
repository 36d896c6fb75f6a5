"""Options of the fault injection, and the table of what was injected."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROUNDS = 1
COLUMNS = ("fault", "into", "times", "outcome", "losses")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trust")
    group.addoption("--rounds", type=int, default=ROUNDS, help="kills per workflow; mutated files per reader (at least 12)")
    group.addoption("--fault-table", help="write what was injected, how often, and what happened: PATH.md and PATH.csv")


@pytest.fixture(scope="session")
def rounds(pytestconfig: pytest.Config) -> int:
    """How often a fault is injected; the option is not known where the tests are run from the repository's root."""
    return pytestconfig.getoption("--rounds", ROUNDS)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Note an injected fault and what happened; a test that fails has a row of its own in the table."""

    def note(fault: str, into: str, outcome: str, times: int = 1) -> None:
        request.node.user_properties.append(("fault", {"fault": fault, "into": into, "outcome": outcome, "times": times}))

    return note


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    path = config.getoption("--fault-table", None)
    if path:
        reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, []) if r.when == "call"]
        write_table(Path(path), reports)


def write_table(path: Path, reports: list[Any]) -> None:
    """Write the table, rows of one fault and outcome summed up."""
    times: Counter[tuple[str, str, str]] = Counter()
    losses: Counter[tuple[str, str, str]] = Counter()
    for report in reports:
        if report.failed:  # most tests note their fault last, and would not stand in the table at all
            key = (report.nodeid.split("::")[-1], "see the test", "FAILED")
            times[key], losses[key] = 1, 1
        for fault in (value for name, value in report.user_properties if name == "fault"):
            key = (fault["fault"], fault["into"], fault["outcome"])
            times[key] += fault["times"]
    rows = [(fault, into, n, outcome, losses[fault, into, outcome]) for (fault, into, outcome), n in sorted(times.items())]
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
