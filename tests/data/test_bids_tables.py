from __future__ import annotations

import json
from pathlib import Path

import pytest

from custom.data.bids_tables import code_of, read_events, read_participants, trials_of


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# codes


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (3, "3"), (3.0, "3"), ("3.0", "3"), ("3", "3"), (" 03 ", "3"), ("3.", "3"), ("-1.000", "-1"),
        ("3.5", "3.5"), ("run3", "run3"), ("Left Leg", "Left Leg"),
    ],
)  # fmt: skip
def test_a_whole_number_is_written_in_one_way(value: object, code: str):
    assert code_of(value) == code


# events


def test_trials_in_order_of_onset(tmp_path: Path):
    file = write(tmp_path / "e.tsv", "onset\tduration\ttrial_type\tCorrect\n16\t2\t4.0\t1\n0.5\t2.0\tleft leg\tn/a\n")
    events = read_events(file)
    assert list(events.columns) == ["onset", "duration", "trial_type", "Correct"]
    assert events.to_numpy().tolist() == [[0.5, 2.0, "left leg", "n/a"], [16.0, 2.0, "4", "1"]]
    assert [(e.onset, e.duration, e.label, e.columns) for e in trials_of(events)] == [
        (0.5, 2.0, None, {"trial_type": "left leg"}),
        (16.0, 2.0, None, {"trial_type": "4"}),
    ]


def test_spreadsheets_leave_marks_that_change_nothing(tmp_path: Path):
    plain = write(tmp_path / "a.tsv", "onset\tduration\ttrial_type\n1\t2\tx\n3\t2\ty\n")
    marked = write(tmp_path / "b.tsv", "\ufeffonset \tduration\ttrial_type\r\n 1\t2\tx \r\n\r\n3\t2\ty\r\n\r\n")
    assert read_events(marked).equals(read_events(plain))


def test_a_row_without_a_trial_type_is_no_trial(tmp_path: Path):
    file = write(tmp_path / "e.tsv", "onset\tduration\ttrial_type\n1\t2\tx\nn/a\tn/a\tn/a\n5\tn/a\tn/a\n")
    assert read_events(file)["onset"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("n/a\t2\tx", r"line 3: onset is 'n/a', seconds are wanted"),
        ("1,5\t2\tx", r"line 3: onset is '1,5'"),
        ("inf\t2\tx", r"line 3: onset is 'inf'"),
        ("nan\t2\tx", r"line 3: onset is 'nan'"),
        ("1\tn/a\tx", r"line 3: duration is 'n/a'"),
        ("1\t\tx", r"line 3: duration is ''"),
        ("1\t-2\tx", r"line 3: the duration is -2 s"),
        ("1\t2\t", r"line 3: trial_type is empty"),
        ("1\t2", r"line 3: trial_type is empty"),
        ("\nn/a\t2\tx", r"line 4: onset is 'n/a'"),
        ("1\t2\tx\ty", r"no table of tab-separated values"),
    ],
)
def test_a_damaged_row_names_file_and_line(tmp_path: Path, row: str, message: str):
    file = write(tmp_path / "sub-01_events.tsv", f"onset\tduration\ttrial_type\n0\t2\tx\n{row}\n4\t2\tx\n")
    with pytest.raises(ValueError, match=rf"sub-01_events\.tsv.*{message}"):
        read_events(file)


@pytest.mark.parametrize(
    ("names", "absent"),
    [("onset\ttrial_type", "duration"), ("duration\ttrial_type", "onset"), ("onset\tduration", "trial_type"),
     ("onset,duration,trial_type", "onset")],
)  # fmt: skip
def test_a_missing_column_is_named(tmp_path: Path, names: str, absent: str):
    with pytest.raises(ValueError, match=rf"e\.tsv has no column \['{absent}'.*its columns are"):
        read_events(write(tmp_path / "e.tsv", f"{names}\n"))


def test_an_empty_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"e\.tsv is no table"):
        read_events(write(tmp_path / "e.tsv", ""))


def test_real_events(real_data: Path):
    """Of 80 rows of a learning run 30 are trials of the baseline task, without duration and type."""
    run = real_data / "openfmri/ds000002/sub-01/func/sub-01_task-deterministicclassification_run-01_events.tsv"
    events = read_events(run)
    assert len(events) == 50
    assert set(events["trial_type"]) == {"feedback"}
    assert events["duration"].unique().tolist() == [2.0]


# participants


def test_columns_of_a_subject(tmp_path: Path):
    file = write(
        tmp_path / "p.tsv",
        "participant_id\tage\tsex\tgroup\tscore\nsub-01\t24\tF\tcontrol\t1.5\n02\tn/a\tmale\tn/a\t2\nsub-03\t\tO\tpatient\tx\n",
    )
    people = read_participants(file)
    assert people == {
        "sub-01": {"age": 24, "sex": "F", "group": "control", "score": "1.5"},
        "sub-02": {"age": None, "sex": "M", "group": None, "score": "2"},
        "sub-03": {"age": None, "sex": "O", "group": "patient", "score": "x"},
    }
    assert json.loads(json.dumps(people, allow_nan=False)) == people


def test_a_list_of_subjects_alone(tmp_path: Path):
    assert read_participants(write(tmp_path / "p.tsv", "participant_id\nsub-1\nsub-2\n")) == {"sub-1": {}, "sub-2": {}}


def test_a_column_without_values_is_missing_everywhere(tmp_path: Path):
    file = write(tmp_path / "p.tsv", "participant_id\tage\nsub-1\tn/a\nsub-2\tn/a\n")
    assert read_participants(file) == {"sub-1": {"age": None}, "sub-2": {"age": None}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject\tage\n1\t2\n", r"has no column participant_id; its columns are \['subject', 'age'\]"),
        ("participant_id\tage\nsub-1\t2\nsub-1\t3\n", r"lists sub-1 twice"),
        ("participant_id\tage\nsub-1\t20\nsub-2\t89+\n", r"line 3: the age of sub-2 is '89\+', not a number"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=rf"p\.tsv.*{message}"):
        read_participants(write(tmp_path / "p.tsv", text))


def test_real_participants(real_data: Path):
    motor = read_participants(real_data / "somatotopy/ds004044/participants.tsv")
    assert len(motor) == 62
    assert motor["sub-01"] == {"age": 24, "sex": "F", "group": "control"}
    assert "sub-46" not in motor  # the folder's name of whom the table calls sub-19
    learning = read_participants(real_data / "openfmri/ds000011/participants.tsv")
    assert learning["sub-07"] == {"sex": "M", "age": 37}
