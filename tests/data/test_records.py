from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from custom.data import Record, Study


def test_a_record_cannot_be_changed():
    record = Record("OAS1_0001_MR1", "OAS1_0001", "raw/x.img", label=1)
    with pytest.raises(FrozenInstanceError):
        record.label = 0
    assert replace(record, label=0).label == 0


def test_without_a_label_there_is_none_and_no_default_class():
    assert Record("scan", "subject", "scan.nii").label is None


def test_a_study_is_real_and_its_subjects_known_unless_said_otherwise():
    study = Study("study", [], ["a", "b"])
    assert not study.synthetic
    assert study.subjects_known
    assert study.dropped == {}


def test_two_records_share_no_columns():
    assert Record("a", "a", "a").columns is not Record("b", "b", "b").columns
