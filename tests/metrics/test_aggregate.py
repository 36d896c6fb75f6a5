import numpy as np
import pandas as pd
import pytest

from custom.metrics import probabilities, read_predictions, subject_table


def rows(**changes) -> pd.DataFrame:
    columns = {
        "subject": ["b", "a", "b", "a", "b"],
        "label": [1, 0, 1, 0, 1],
        "p_healthy": [0.2, 0.4, 0.6, 0.8, 0.1],
        "p_ill": [0.8, 0.6, 0.4, 0.2, 0.9],
    }
    return pd.DataFrame(columns | changes)


def test_rows_vote_by_mean_probability():
    table = subject_table(rows())
    assert list(table.columns) == ["subject", "label", "predicted", "rows", "p_healthy", "p_ill"]
    assert table["subject"].tolist() == ["a", "b"]
    assert table["rows"].tolist() == [2, 3]
    assert table["predicted"].tolist() == [0, 1]
    assert table["label"].tolist() == [0, 1]
    np.testing.assert_allclose(probabilities(table), [[0.6, 0.4], [0.3, 0.7]])


def test_order_of_rows_does_not_matter():
    pd.testing.assert_frame_equal(subject_table(rows()), subject_table(rows().iloc[::-1]))


def test_without_labels():
    table = subject_table(rows().drop(columns="label"))
    assert table["label"].isna().all()
    assert table["predicted"].tolist() == [0, 1]


def test_two_labels_name_the_subject():
    with pytest.raises(ValueError, match="'label': b"):
        subject_table(rows(label=[1, 0, 0, 0, 1]))


@pytest.mark.parametrize("p", [[0.8, 0.6, np.nan, 0.2, 0.9], [0.8, 0.6, 3.0, 0.2, 0.9], [0.8, 0.6, 0.1, 0.2, 0.9]])
def test_no_probabilities_name_the_subject(p):
    with pytest.raises(ValueError, match="subject b"):
        subject_table(rows(p_ill=p))


def test_missing_column():
    with pytest.raises(ValueError, match="no column block"):
        subject_table(rows(), unit="block")


def test_unit_other_than_subject_keeps_the_subject():
    table = subject_table(rows(block=["s1b1", "s2b1", "s1b2", "s2b1", "s1b2"], label=[0, 1, 1, 1, 1]), unit="block")
    assert list(table.columns[:3]) == ["block", "subject", "label"]
    assert table["block"].tolist() == ["s1b1", "s1b2", "s2b1"]
    assert table["subject"].tolist() == ["b", "b", "a"]


def test_file_keeps_identifiers_and_probabilities(tmp_path):
    table = subject_table(rows(subject=["0051", "0007", "0051", "0007", "0051"]))
    table.to_csv(tmp_path / "predictions.csv", index=False)
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "predictions.csv"), table)
