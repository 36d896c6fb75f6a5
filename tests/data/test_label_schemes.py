from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from custom.bids import entities
from custom.data.bids_tables import read_events
from custom.data.label_schemes import LEARNING_TASKS, SCHEMES, NoStage, Run, stage_of, unit_of


def run_of(
    task: str, run: str | None, subject: str = "sub-01", session: str | None = None, trials: int = 2, **columns: list
) -> Run:
    events = pd.DataFrame({"onset": range(trials), "duration": 1.0, "trial_type": [f"t{i}" for i in range(trials)], **columns})
    return Run(subject, session, task, run, f"{subject}_{task}_events.tsv", events)


def codes_of(scheme: str, *runs: Run) -> list[str]:
    """One word per run: the code that all its trials share, or the reason for none."""
    words = []
    for run, codes in zip(runs, SCHEMES[scheme](runs), strict=True):
        if isinstance(codes, NoStage):
            words.append(codes.reason)
        else:
            assert len(codes) == len(run.events)
            assert len(set(codes)) == 1
            words.append(codes[0])
    return words


@pytest.fixture(scope="session")
def real_runs(real_data: Path) -> list[Run]:
    """Every run of the three learning studies, by its events' name."""
    runs = []
    for file in sorted((real_data / "openfmri").glob("*/sub-*/func/*_events.tsv")):
        parts = entities(file)
        dataset = file.parents[2].name
        runs.append(Run(f"{dataset}_{parts['sub']}", None, str(parts["task"]), parts.get("run"), str(file), read_events(file)))
    return runs


def test_the_trials_own_type():
    assert SCHEMES["trial_type"]([run_of("x", None, trials=3)]) == [["t0", "t1", "t2"]]


# task_run


@pytest.mark.parametrize(
    ("task", "stages"),
    [
        ("deterministicclassification", ["acquisition", "consolidation", None, None]),
        ("probabilisticclassification", ["acquisition", "consolidation", None, None]),
        ("weatherprediction", ["acquisition", "consolidation", None, None]),
        ("Singletaskweatherprediction", ["acquisition", "consolidation", None, None]),
        ("mixedeventrelatedprobe", ["acquisition", "transfer", None, None]),
        ("selectivestopsignaltask", ["acquisition", "consolidation", "transfer", None]),
        ("Dualtaskweatherprediction", ["transfer"] * 4),
        ("tonecounting", ["transfer"] * 4),
        ("reversalweatherprediction", ["reversal"] * 4),
        ("Classificationprobewithoutfeedback", [None] * 4),
        ("rest", [None] * 4),
    ],
)
def test_stage_of_task_and_run(task: str, stages: list[str | None]):
    assert [stage_of(task, run) for run in ("1", "2", "3", None)] == stages


def test_case_tells_nothing():
    assert stage_of("DualTaskWeatherPrediction", "1") == stage_of("dualtaskweatherprediction", "1") == "transfer"


def test_a_run_without_a_stage_says_its_task():
    assert codes_of("task_run", run_of("rest", None), run_of("weatherprediction", "3")) == [
        "task rest", "task weatherprediction, run 3"
    ]  # fmt: skip


def test_stages_of_the_real_names(real_runs: list[Run]):
    """8 subjects of ds000002, 7 of ds000011, 6 of ds000052: all that lies here."""
    assert Counter(codes_of("task_run", *real_runs)) == {
        "acquisition": 8 * 2 + 8 + 7 + 6,
        "consolidation": 8 * 2 + 7 + 6,
        "transfer": 8 + 7 * 2 + 7,
        "reversal": 6 * 2,
        "task Classificationprobewithoutfeedback": 7,
    }


# early_late


def test_run_1_is_early_and_run_2_late():
    runs = [run_of("weatherprediction", "1"), run_of("WeatherPrediction", "2")]
    assert codes_of("early_late", *runs) == ["early", "late"]


@pytest.mark.parametrize(
    "other",
    [
        run_of("weatherprediction", "2", subject="sub-02"),
        run_of("weatherprediction", "2", session="2"),
        run_of("reversalweatherprediction", "2"),
    ],
    ids=["subject", "session", "task"],
)
def test_a_run_whose_other_is_of_another_is_alone(other: Run):
    assert codes_of("early_late", run_of("weatherprediction", "1"), other) == [
        "task weatherprediction, run 1 without run 2",
        f"task {other.task}, run 2 without run 1",
    ]


@pytest.mark.parametrize(("task", "run"), [("tonecounting", None), ("tonecounting", "1"), ("weatherprediction", "3")])
def test_what_is_not_learnt_over_two_runs_has_no_phase(task: str, run: str | None):
    pair = [run_of("weatherprediction", "1"), run_of("weatherprediction", "2")]
    (_, _, reason) = codes_of("early_late", *pair, run_of(task, run))
    assert reason == f"task {task}{f', run {run}' if run else ''}"


def test_phases_of_the_real_names_are_balanced_in_every_subject_and_task(real_runs: list[Run]):
    codes = dict(zip([r.file for r in real_runs], codes_of("early_late", *real_runs), strict=True))
    labelled = [r for r in real_runs if codes[r.file] in ("early", "late")]
    assert len(labelled) == 2 * (8 * 2 + 7 * 2 + 6 * 2)
    assert {r.task.casefold() for r in labelled} == set(LEARNING_TASKS)
    by_task = Counter((r.subject, r.task, codes[r.file]) for r in labelled)
    assert set(by_task.values()) == {1}
    assert Counter(code for code in codes.values() if code not in ("early", "late")) == {
        "task mixedeventrelatedprobe, run 1": 8,
        "task mixedeventrelatedprobe, run 2": 8,
        "task tonecounting": 7,
        "task Classificationprobewithoutfeedback": 7,
    }


# learning_curve


def test_thirds_are_coded_by_what_was_right_in_them():
    correct = ["0", "1.000", "0", "1", "-1", "-1.000", *("1", "1", "1", "0", "n/a", "n/a"), *("1", "1", "1", "1", "0", "-1")]
    (codes,) = SCHEMES["learning_curve"]([run_of("x", "1", trials=18, Correct=correct)])
    assert codes == ["low"] * 6 + ["middle"] * 6 + ["high"] * 6


@pytest.mark.parametrize(("right", "code"), [(5, "low"), (6, "middle"), (7, "middle"), (8, "high"), (10, "high")])
def test_limits_of_the_codes(right: int, code: str):
    correct = (["1"] * right + ["0"] * (10 - right)) * 3
    (codes,) = SCHEMES["learning_curve"]([run_of("x", "1", trials=30, Correct=correct)])
    assert codes == [code] * 30


def test_a_number_of_trials_that_three_does_not_divide():
    (codes,) = SCHEMES["learning_curve"]([run_of("x", "1", trials=8, Correct=["0"] * 3 + ["1"] * 5)])
    assert codes == ["low"] * 3 + ["high"] * 5


def test_runs_that_do_not_tell_what_was_right():
    runs = [
        run_of("x", "1"),
        run_of("x", "2", trials=6, Correct=["1", "1", "-1", "n/a", "1", "1"]),
        run_of("x", "3", trials=0, Correct=[]),
    ]
    assert codes_of("learning_curve", *runs) == [
        "events without a column Correct", *["a third of the run without an answer"] * 2
    ]  # fmt: skip


def test_another_value_is_named():
    with pytest.raises(ValueError, match=r"sub-01_x_events\.tsv: Correct is 'yes'; 1 is correct"):
        SCHEMES["learning_curve"]([run_of("x", "1", Correct=["1", "yes"])])


def test_real_subjects_get_better_from_run_1_to_run_2(real_runs: list[Run]):
    shares = Counter()
    runs = [r for r in real_runs if r.task in LEARNING_TASKS and "Correct" in r.events]
    assert len(runs) == 8 * 2 * 2
    for run, codes in zip(runs, SCHEMES["learning_curve"](runs), strict=True):
        assert not isinstance(codes, NoStage)
        shares.update((run.run, code) for code in codes)
    assert shares["1", "low"] > 3 * shares["1", "high"]
    assert shares["2", "high"] > 4 * shares["2", "low"]


def test_the_unit_of_a_label_is_the_run_or_the_trial():
    units = {scheme: unit_of(scheme) for scheme in SCHEMES}
    assert units == {"trial_type": "block", "early_late": "scan", "task_run": "scan", "learning_curve": "block"}
    with pytest.raises(ValueError, match="scheme 'stage' is not one of trial_type"):
        unit_of("stage")
