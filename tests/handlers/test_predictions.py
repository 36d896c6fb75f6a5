from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ignite import distributed as idist
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Activationsd

from custom.handlers import PredictionsTable, SubjectMetric
from custom.metrics import figures, read_predictions

CLASSES = ["healthy", "ill"]
# subject → label and the probability of illness of each of its slices
SLICES = {"0051": (1, [0.9, 0.2, 0.7]), "0052": (0, [0.1, 0.3]), "0053": (1, [0.4]), "0054": (0, [0.6, 0.7])}
VOTES = {"0051": 0.6, "0052": 0.2, "0053": 0.4, "0054": 0.65}


def items(labels: bool = True, slices: dict[str, tuple[int, list[float]]] = SLICES) -> list[dict]:
    """Images that hold the logits which the network is to put out."""
    rows = []
    for subject, (label, probabilities) in slices.items():
        for z, p in enumerate(probabilities):
            image = MetaTensor(torch.tensor([1 - p, p]).log(), meta={"filename_or_obj": f"{subject}_{z}.nii"})
            rows.append({"image": image, "subject": subject} | ({"label": label} if labels else {}))
    return rows


def evaluate(rows: list[dict], *handlers, runs: int = 1, **metrics) -> SupervisedEvaluator:
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(rows), batch_size=3),
        network=torch.nn.Identity(),
        postprocessing=Activationsd("pred", softmax=True),
        key_val_metric=metrics or None,
        val_handlers=list(handlers),
    )
    for epoch in range(1, runs + 1):
        evaluator.run(epoch)
    return evaluator


def table_of(path: Path, rows: list[dict], runs: int = 1) -> pd.DataFrame:
    evaluate(rows, PredictionsTable(str(path), CLASSES), runs=runs)
    return read_predictions(path)


def test_the_slices_of_a_subject_vote(tmp_path: Path):
    table = table_of(tmp_path / "deep" / "predictions.csv", items())
    assert table.columns.tolist() == ["subject", "label", "predicted", "predicted_class", "rows", "p_healthy", "p_ill"]
    assert table["subject"].tolist() == list(VOTES)
    assert table["label"].tolist() == [1, 0, 1, 0]
    assert table["predicted"].tolist() == [1, 0, 0, 1]
    assert table["predicted_class"].tolist() == ["ill", "healthy", "healthy", "ill"]
    assert table["rows"].tolist() == [3, 2, 1, 2]
    np.testing.assert_allclose(table["p_ill"], list(VOTES.values()), atol=1e-6)
    np.testing.assert_allclose(table["p_healthy"] + table["p_ill"], 1, atol=1e-6)


def test_without_labels_the_column_is_empty(tmp_path: Path):
    table = table_of(tmp_path / "predictions.csv", items(labels=False))
    assert table["label"].isna().all()
    assert table["predicted"].tolist() == [1, 0, 0, 1]


def test_a_second_run_writes_its_own_rows_only(tmp_path: Path):
    assert table_of(tmp_path / "predictions.csv", items(), runs=2)["rows"].tolist() == [3, 2, 1, 2]


@pytest.mark.parametrize("figure", ["auc", "balanced_accuracy", "log_loss"])
def test_a_metric_is_the_figure_of_the_votes(figure: str):
    evaluator = evaluate(items(), runs=2, value=SubjectMetric(figure, CLASSES))
    p = np.array(list(VOTES.values()))
    expected = figures([1, 0, 1, 0], np.stack([1 - p, p], 1), CLASSES)[figure]
    assert evaluator.state.metrics["value"] == pytest.approx(expected, abs=1e-6)
    if figure == "auc":
        assert expected == 0.5  # over slices it would be 0.667


def test_an_undefined_figure_selects_nothing():
    healthy = {subject: (0, slices) for subject, (_, slices) in SLICES.items()}
    with pytest.raises(ValueError, match=r"'auc' is undefined on these 4 subjects, whose labels are \[0\]: enlarge"):
        evaluate(items(slices=healthy), value=SubjectMetric("auc", CLASSES))


def test_nan_is_refused_and_the_subject_named(tmp_path: Path):
    rows = items(slices=SLICES | {"0053": (1, [float("nan")])})
    with pytest.raises(ValueError, match="NaN.*subject 0053"):
        table_of(tmp_path / "predictions.csv", rows)
    assert not (tmp_path / "predictions.csv").exists()
    with pytest.raises(ValueError, match="NaN.*subject 0053"):
        evaluate(rows, value=SubjectMetric("log_loss", CLASSES))


def test_a_subject_of_two_labels_is_refused():
    rows = items()
    rows[0]["label"] = 0
    with pytest.raises(ValueError, match="several values of 'label': 0051"):
        evaluate(rows, value=SubjectMetric("auc", CLASSES))


def test_another_number_of_classes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="zip()"):
        evaluate(items(), PredictionsTable(str(tmp_path / "predictions.csv"), ["a", "b", "c"]))


def test_another_unit_than_the_subject_votes_on_demand(tmp_path: Path):
    rows = [row | {"window": f"{row['subject']}-{i}"} for i, row in enumerate(items())]
    handler = PredictionsTable(str(tmp_path / "predictions.csv"), CLASSES, unit="window")
    evaluate(rows, handler)
    assert read_predictions(tmp_path / "predictions.csv", unit="window")["rows"].tolist() == [1] * 8


def test_an_image_that_two_processes_were_given_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Though another batch has rounded its probabilities otherwise."""
    again = lambda rows: [row | {"p_ill": row["p_ill"] + 1e-7} for row in rows]  # noqa: E731
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(idist, "all_gather", lambda rows: [rows, again(rows[:2])])
    handler = PredictionsTable(str(tmp_path / "predictions.csv"), CLASSES)
    handler.rows = [
        {"subject": s, "image": f"{s}_{z}", "p_healthy": 1 - p, "p_ill": p, "label": label}
        for s, (label, slices) in SLICES.items()
        for z, p in enumerate(slices)
    ]
    handler.write(evaluate(items()))
    assert read_predictions(handler.path)["rows"].tolist() == [3, 2, 1, 2]


def test_windows_of_one_scan_that_look_alike_all_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in one process: sure of two windows and sure of the contrary of one, the vote is two to one."""
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(idist, "all_gather", lambda rows: [rows[::2], rows[1::2]])
    handler = PredictionsTable(str(tmp_path / "predictions.csv"), CLASSES)
    sure = {"0001": (1, [1.0, 0.0, 1.0])}
    rows = [item | {"start": start} for item, start in zip(items(slices=sure), (0, 9, 18), strict=True)]
    for row in rows:
        row["image"].meta["filename_or_obj"] = "run.nii"
    evaluate(rows, handler)
    table = read_predictions(handler.path)
    assert table["rows"].tolist() == [3]
    np.testing.assert_allclose(table["p_ill"], 2 / 3)
