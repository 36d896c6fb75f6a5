from __future__ import annotations

import json
from collections import defaultdict
from itertools import combinations

import pytest

from custom.data import PARTS, HoldOut, KFold, LeaveOneGroupOut, Record
from custom.data.splits import Split, column_of

SITES = "abc"
SPLITS = [
    HoldOut(),
    HoldOut(group="family"),
    KFold(fold=3),
    KFold(n_splits=3, group="family"),
    LeaveOneGroupOut(held_out="b"),
    LeaveOneGroupOut(group="family", held_out="b"),
]


def scans(num_subjects: int = 60) -> list[Record]:
    """One to three scans per subject, every third subject ill, two subjects per family, one site per family."""
    return [
        Record(
            name=f"s{i:02d}_MR{visit}",
            subject=f"s{i:02d}",
            image=f"s{i:02d}_MR{visit}.img",
            label=int(i % 3 == 0),
            columns={"family": f"f{i // 2}", "site": SITES[i // 6 % 3]},
        )
        for i in range(num_subjects)
        for visit in range(1, 2 + i % 3)
    ]


def by_part(records: list[Record], split: Split, column: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for record, part in zip(records, split.parts(records), strict=True):
        found[part].add(column_of(record, column))
    return found


@pytest.fixture(params=SPLITS, ids=lambda s: f"{type(s).__name__}-{s.group}")
def split(request: pytest.FixtureRequest) -> Split:
    return request.param


def test_every_scan_has_a_part_and_every_part_has_scans(split: Split):
    parts = split.parts(scans())
    assert len(parts) == len(scans())
    assert set(parts) == set(PARTS)


def test_parts_share_no_group_and_no_subject(split: Split):
    for column in ("subject", split.group):
        found = by_part(scans(), split, column)
        for a, b in combinations(PARTS, 2):
            assert not found[a] & found[b]


def test_the_same_seed_gives_the_same_parts_and_another_seed_others(split: Split):
    assert split.parts(scans()) == split.parts(scans())
    arguments = {k: v for k, v in split.describe().items() if k != "method"}
    other = type(split)(**{**arguments, "seed": 1})
    assert other.parts(scans()) != split.parts(scans())


def test_each_part_has_its_share_of_the_ill(split: Split):
    records = scans()
    ill = {r.subject for r in records if r.label == 1}
    for part, subjects in by_part(records, split, "subject").items():
        assert len(subjects & ill) / len(subjects) == pytest.approx(1 / 3, abs=0.1), part


def test_the_description_rebuilds_the_split(split: Split):
    described = json.loads(json.dumps(split.describe()))
    assert described.pop("method") == type(split).__name__
    assert type(split)(**described) == split


def test_rescans_stay_with_their_subject():
    records = scans()
    parts = dict(zip((r.name for r in records), HoldOut().parts(records), strict=True))
    for i in range(2, 60, 3):
        assert len({parts[f"s{i:02d}_MR{visit}"] for visit in (1, 2, 3)}) == 1


def test_fractions_are_those_of_the_subjects():
    sizes = {part: len(s) for part, s in by_part(scans(), HoldOut(test=0.25, validation=1 / 3), "subject").items()}
    assert sizes["test"] == pytest.approx(15, abs=2)
    assert sizes["validation"] == pytest.approx(15, abs=2)


def test_folds_test_every_subject_once():
    tested = [by_part(scans(), KFold(n_splits=5, fold=k), "subject")["test"] for k in range(5)]
    assert set.union(*tested) == {r.subject for r in scans()}
    assert sum(map(len, tested)) == 60


def test_leaving_a_site_out_tests_that_site_and_no_other():
    found = by_part(scans(), LeaveOneGroupOut(held_out="c"), "site")
    assert found["test"] == {"c"}
    assert found["training"] == found["validation"] == {"a", "b"}


def test_a_held_out_number_is_found_among_numbers_and_texts():
    for values in (range(4), "0123"):
        records = [Record(f"{i}", f"{i}", f"{i}", i // 4 % 2, {"run": values[i % 4]}) for i in range(24)]
        parts = LeaveOneGroupOut(column="run", held_out=2).parts(records)
        assert [r.name for r, part in zip(records, parts, strict=True) if part == "test"] == [str(i) for i in range(2, 24, 4)]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (HoldOut(group="scanner"), r"s00_MR1\.img \(subject s00\) has no 'scanner'"),
        (HoldOut(stratify="decade"), "has no 'decade'"),
        (LeaveOneGroupOut(column="scanner", held_out="x"), "has no 'scanner'"),
        (LeaveOneGroupOut(held_out="z"), r"'z' for 0 of 120 scans.*\['a', 'b', 'c'\]"),
        (KFold(n_splits=61), "cannot make 61 folds of 60 values of 'subject'"),
        (KFold(fold=5), "fold 5 is not one of 0 … 4"),
        (KFold(fold=-1), "fold -1"),
        (HoldOut(test=0.0), r"0.0 of the subjects is not in \(0, 0.5\]"),
        (HoldOut(validation=0.6), "0.6 of the subjects"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_split_is_refused(split: Split, message: str):
    with pytest.raises(ValueError, match=message):
        split.parts(scans())


def test_an_unlabelled_scan_cannot_be_stratified():
    with pytest.raises(ValueError, match="has no 'label'"):
        HoldOut().parts([*scans(), Record("new", "new", "new.img")])


def test_strata_that_are_too_small_for_the_folds_are_named():
    records = [Record(f"{i}", f"{i}", f"{i}.nii", i // 4 % 2, {"site": f"S{i % 4}"}) for i in range(40)]
    with pytest.raises(ValueError, match="no value of site and label has 5 scans.*stratify by less"):
        HoldOut(stratify=["site", "label"]).parts(records)
    assert set(HoldOut(stratify=["site"], test=0.25).parts(records)) == {"training", "validation", "test"}
