import copy
from collections import Counter

import pytest

from custom.metrics import permute_labels


def study() -> dict:
    """Thirty subjects with two slices each; the run of subject i is i % 3."""
    rows = [
        {"image": f"{i}_{z}.nii", "subject": f"s{i}", "label": int(i < 10), "run": i % 3, "block": f"s{i}"}
        for i in range(30)
        for z in range(2)
    ]
    return {"class_names": ["a", "b"], "training": rows[:40], "validation": rows[40:50], "test": rows[50:]}


def unit_labels(datalist: dict, unit: str = "subject") -> dict:
    return {r[unit]: r["label"] for part in ("training", "validation", "test") for r in datalist[part]}


def test_keeps_the_multiset_and_one_label_per_unit():
    permuted = permute_labels(study(), seed=0)
    before, after = unit_labels(study()), unit_labels(permuted)
    assert Counter(after.values()) == Counter(before.values())
    assert after != before
    assert all(r["label"] == after[r["subject"]] for p in ("training", "validation", "test") for r in permuted[p])


def test_labels_cross_the_parts():
    positives = [sum(r["label"] for r in permute_labels(study(), seed)["test"]) for seed in range(5)]
    assert sum(r["label"] for r in study()["test"]) == 0
    assert max(positives) > 0


def test_original_is_unchanged_and_copy_is_marked():
    original = study()
    permuted = permute_labels(original, seed=7)
    assert original == study()
    assert permuted["permuted"] == 7
    assert permuted["class_names"] == ["a", "b"]


def test_seed_decides():
    assert permute_labels(study(), 1) == permute_labels(study(), 1) != permute_labels(study(), 2)


def test_order_of_rows_does_not_matter():
    turned = copy.deepcopy(study())
    turned["training"].reverse()
    assert unit_labels(permute_labels(turned, 0)) == unit_labels(permute_labels(study(), 0))


def test_within_keeps_the_multiset_of_each_group():
    permuted = permute_labels(study(), seed=0, unit="block", within="run")
    rows = [r for p in ("training", "validation", "test") for r in permuted[p]]
    original = [r for p in ("training", "validation", "test") for r in study()[p]]
    for run in range(3):
        assert Counter(r["label"] for r in rows if r["run"] == run) == Counter(r["label"] for r in original if r["run"] == run)


def test_unit_with_two_labels_is_refused():
    datalist = study()
    datalist["test"][0]["label"] = 1
    with pytest.raises(ValueError, match="s25 has several values of 'label'"):
        permute_labels(datalist, 0)


def test_missing_column_is_refused():
    with pytest.raises(ValueError, match="0_0.nii: no 'block2'"):
        permute_labels(study(), 0, unit="block2")
