import copy
import json

import numpy as np
import pandas as pd
import pytest

from custom.metrics import Baseline, evaluate, evaluate_folds, permute_labels, summarise_permutations

NAMES = ["healthy", "ill"]
BASELINES = {"majority class": Baseline(), "age": Baseline(["Age"]), "nWBV": Baseline(["nWBV"])}


def study(first: int = 0) -> dict:
    rng = np.random.default_rng(first)
    rows = [{"image": f"{i}_{z}.nii", "subject": f"{i:04}", "label": i % 2} for i in range(60) for z in range(2)]
    age = rng.normal(size=60) + np.arange(60) % 2
    rows = [r | {"Age": age[int(r["subject"])]} for r in rows]
    test = [r for r in rows if first <= int(r["subject"]) < first + 20]
    rest = [r for r in rows if r not in test]
    return {
        "study": "phantom",
        "synthetic": True,
        "class_names": NAMES,
        "split": {"method": "KFold", "seed": 0, "digest": {"test": f"d{first}"}},
        "training": rest[:60],
        "validation": rest[60:],
        "test": test,
    }


def predictions(path, datalist: dict) -> str:
    labels = {r["subject"]: r["label"] for r in datalist["test"]}
    p = np.clip(0.5 + 0.3 * (np.array(list(labels.values())) - 0.5) + np.linspace(-0.3, 0.3, len(labels)), 0, 1)
    table = pd.DataFrame({"subject": list(labels), "label": list(labels.values()), "predicted": (p > 0.5).astype(int)})
    path.parent.mkdir(parents=True, exist_ok=True)
    table.assign(rows=2, p_healthy=1 - p, p_ill=p).to_csv(path, index=False)
    return str(path)


def run(folder, datalist: dict, **options) -> dict:
    path = predictions(folder / "predictions.csv", datalist)
    return evaluate(path, datalist, BASELINES, str(folder), n_bootstrap=50, **options)


def test_metrics_file_holds_what_is_returned(tmp_path):
    found = run(tmp_path, study())
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    assert list(found["models"]) == ["network", "majority class", "age"]
    assert found["unavailable"].keys() == {"nWBV"}
    assert found["differences"].keys() == {"majority class", "age"}
    assert found["models"]["majority class"]["auc"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["subjects"]["test"] == {"n": 20, "rows": 40, "classes": {"healthy": 10, "ill": 10}}
    assert np.sum(found["confusion"]) == 20
    assert found["synthetic"] is True
    assert found["permuted"] is None
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.json", "predictions.csv", "baseline_predictions.csv"}


def test_difference_is_network_minus_baseline(tmp_path):
    found = run(tmp_path, study())
    expected = found["models"]["network"]["auc"]["value"] - found["models"]["age"]["auc"]["value"]
    assert found["differences"]["age"]["auc"]["value"] == pytest.approx(expected)


def test_baseline_table_has_the_test_subjects(tmp_path):
    run(tmp_path, study())
    table = pd.read_csv(tmp_path / "baseline_predictions.csv", dtype={"subject": str})
    assert list(table.columns) == ["baseline", "subject", "label", "predicted", "rows", "p_healthy", "p_ill"]
    assert set(table["subject"]) == {f"{i:04}" for i in range(20)}
    assert len(table) == 40


def test_absent_class_becomes_null(tmp_path):
    datalist = study() | {"class_names": [*NAMES, "severe"]}
    path = predictions(tmp_path / "predictions.csv", datalist)
    pd.read_csv(path, dtype={"subject": str}).assign(p_severe=0.0).to_csv(path, index=False)
    found = evaluate(path, datalist, {}, str(tmp_path), n_bootstrap=10)
    assert found["models"]["network"]["recall_severe"] == {"value": None, "low": None, "high": None}
    assert "NaN" not in (tmp_path / "metrics.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[1:], "not those of the test part .* e.g. 0000"),
        (lambda t: t.assign(label=0), "another label, e.g. 0001"),
        (lambda t: t.replace({"subject": {"0003": "x"}}), "e.g. 0003, x"),
        (lambda t: pd.concat([t, t]), "occurs twice"),
        (lambda t: t.rename(columns={"p_ill": "p_sick"}), "probability columns"),
    ],
)
def test_other_predictions_are_refused(tmp_path, change, message):
    path = predictions(tmp_path / "predictions.csv", study())
    change(pd.read_csv(path, dtype={"subject": str})).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        evaluate(path, study(), BASELINES, str(tmp_path), n_bootstrap=10)


def test_baseline_of_a_column_that_some_subjects_lack_is_unavailable_and_says_whom(tmp_path):
    """In training or in test; one of a thousand without a value must not stop the evaluation."""
    for part, name in (("training", "0020"), ("test", "0000")):
        datalist = copy.deepcopy(study())
        datalist[part][0]["Age"] = datalist[part][1]["Age"] = None
        found = run(tmp_path / part, datalist)
        assert f"no 'Age' for {name}" in found["unavailable"]["age"]
        assert "age" not in found["models"]


def test_intervals_are_over_subjects_when_the_unit_is_a_block(tmp_path):
    datalist = study()
    for part in ("training", "validation", "test"):
        datalist[part] = [r | {"block": r["image"], "subject": r["subject"][:-1]} for r in datalist[part]]
    blocks = {r["block"]: r for r in datalist["test"]}
    table = pd.DataFrame(
        {"block": list(blocks), "subject": [r["subject"] for r in blocks.values()], "rows": 1}
        | {"label": [r["label"] for r in blocks.values()], "predicted": 0, "p_healthy": 0.6, "p_ill": 0.4}
    )
    table.to_csv(tmp_path / "predictions.csv", index=False)
    arguments = (str(tmp_path / "predictions.csv"), datalist, {"age": Baseline(["Age"])}, str(tmp_path))
    found = evaluate(*arguments, n_bootstrap=200, unit="block")
    # both subjects have as many blocks of either class, so whole subjects leave the accuracy where it is
    assert found["models"]["network"]["accuracy"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["subjects"]["test"]["n"] == 2
    assert found["subjects"]["test"]["classes"] == {"healthy": 20, "ill": 20}


def blocks(tmp_path, within_subjects: bool, runs: tuple[int, ...] = (0, 1), columns=("scan",)) -> tuple[str, dict]:
    """Two subjects with several runs of four blocks; in run 0 the network is always right, in the others never."""
    datalist = study()
    rows = [
        {"subject": s, "scan": f"{s}_{r}", "block": f"{s}_{r}_{k}", "label": k % 2, "image": f"{s}_{r}.nii"}
        for s in ("01", "02") for r in runs for k in range(4)
    ]  # fmt: skip
    right = np.array([row["scan"].endswith("_0") for row in rows])
    p = np.where(right == np.array([row["label"] == 1 for row in rows]), 0.9, 0.1)
    table = pd.DataFrame(rows)[["block", "subject", *columns, "label"]].assign(rows=1, predicted=0, p_healthy=1 - p, p_ill=p)
    tmp_path.mkdir(exist_ok=True)
    table.to_csv(tmp_path / "predictions.csv", index=False)
    split = datalist["split"] | ({"within_subjects": True} if within_subjects else {})
    training = [row | {"block": row["image"]} for row in datalist["training"]]
    return str(tmp_path / "predictions.csv"), datalist | {"split": split, "training": training, "validation": [], "test": rows}


@pytest.mark.parametrize(("within_subjects", "low"), [(False, 0.5), (True, 0.0)])
def test_runs_are_drawn_where_the_split_is_within_subjects(tmp_path, within_subjects, low):
    path, datalist = blocks(tmp_path, within_subjects)
    found = evaluate(path, datalist, {}, str(tmp_path), n_bootstrap=500, unit="block")["models"]["network"]["accuracy"]
    assert found == {"value": 0.5, "low": low, "high": 1 - low}  # either subject has a right and a wrong run


def test_a_split_within_subjects_needs_the_runs_in_the_predictions(tmp_path):
    path, datalist = blocks(tmp_path, True, columns=())
    with pytest.raises(ValueError, match="no column 'scan' beside 'block'"):
        evaluate(path, datalist, {}, str(tmp_path), n_bootstrap=10, unit="block")


def test_folds_within_subjects_count_a_subject_once_and_draw_runs(tmp_path):
    for fold in range(2):
        path, datalist = blocks(tmp_path / str(fold), True, runs=(fold,))
        evaluate(path, datalist, {}, str(tmp_path / str(fold)), n_bootstrap=10, unit="block")
    found = evaluate_folds([str(tmp_path / str(k)) for k in range(2)], str(tmp_path / "all"), n_bootstrap=50)
    assert found["subjects"]["test"]["n"] == 2
    assert found["subjects"]["test"]["rows"] == 16
    accuracy = found["models"]["network"]["accuracy"]
    assert accuracy["value"] == 0.5
    assert accuracy["low"] < 0.3 < 0.7 < accuracy["high"], "one run is right, the other wrong: either may be drawn"


def test_preprocessing_is_copied(tmp_path):
    assert run(tmp_path / "a", study() | {"preprocessing": ["CleanBOLDd"]})["preprocessing"] == ["CleanBOLDd"]
    assert run(tmp_path / "b", study())["preprocessing"] is None
    with pytest.raises(ValueError, match="b: preprocessing differ"):
        evaluate_folds([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "all"))


@pytest.mark.parametrize("figure", ["pr_auc", "kappa"])
def test_other_figures_can_be_permuted(tmp_path, figure):
    value = run(tmp_path, permute_labels(study(), 0))["models"]["network"][figure]["value"]
    assert summarise_permutations([str(tmp_path)], str(tmp_path), figure)["values"] == [value]


def test_folds_are_pooled(tmp_path):
    folds = [run(tmp_path / str(k), study(20 * k)) for k in range(3)]
    found = evaluate_folds([str(tmp_path / str(k)) for k in range(3)], str(tmp_path / "all"), n_bootstrap=50)
    mean = np.mean([f["models"]["age"]["auc"]["value"] for f in folds])
    assert found["models"]["age"]["auc"]["value"] == pytest.approx(mean)
    assert found["n_folds"] == 3
    assert found["subjects"]["test"]["n"] == 60
    assert [s["digest"]["test"] for s in found["split"]["folds"]] == ["d0", "d20", "d40"]
    pooled = pd.read_csv(tmp_path / "all" / "predictions.csv")
    assert pooled["fold"].value_counts().to_dict() == {0: 20, 1: 20, 2: 20}
    assert "fold" in pd.read_csv(tmp_path / "all" / "baseline_predictions.csv")


def test_folds_that_share_subjects_or_differ_are_refused(tmp_path):
    run(tmp_path / "a", study())
    run(tmp_path / "b", study() | {"study": "other"})
    with pytest.raises(ValueError, match="b: study differ"):
        evaluate_folds([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "all"))
    with pytest.raises(ValueError, match="0000, 0001.* several folds"):
        evaluate_folds([str(tmp_path / "a"), str(tmp_path / "a")], str(tmp_path / "all"))


def test_permutations_are_summarised(tmp_path):
    runs = [run(tmp_path / str(k), permute_labels(study(), k)) for k in range(3)]
    found = summarise_permutations([str(tmp_path / str(k)) for k in range(3)], str(tmp_path))
    assert found["seeds"] == [0, 1, 2]
    assert found["mean"] == pytest.approx(np.mean([r["models"]["network"]["auc"]["value"] for r in runs]))
    run(tmp_path / "plain", study())
    with pytest.raises(ValueError, match="plain: labels not permuted"):
        summarise_permutations([str(tmp_path / "plain")], str(tmp_path))


def with_sites(datalist: dict) -> dict:
    for part in ("training", "validation", "test"):
        datalist[part] = [r | {"site": f"S{int(r['subject']) % 3}"} for r in datalist[part]]
    return datalist


def test_figures_within_a_column(tmp_path):
    models = run(tmp_path, with_sites(study()), within="site")["models"]
    assert models["majority class"]["auc_within_site"]["value"] == 0.5
    assert 0.5 < models["network"]["auc_within_site"]["value"] <= 1
    folds = [run(tmp_path / str(k), with_sites(study(20 * k)), within="site") for k in range(2)]
    pooled = evaluate_folds([str(tmp_path / str(k)) for k in range(2)], str(tmp_path / "all"), n_bootstrap=50)
    assert len(pooled["groups"]) == 40
    found = [f["models"]["network"]["auc_within_site"]["value"] for f in [*folds, pooled]]
    assert min(found[:2]) <= found[2] <= max(found[:2])


def test_a_unit_without_the_column_is_named(tmp_path):
    datalist = with_sites(study())
    datalist["test"][0]["site"] = None
    with pytest.raises(ValueError, match=datalist["test"][0]["subject"]):
        run(tmp_path, datalist, within="site")


@pytest.mark.parametrize("name", ["predictions.csv", "baseline_predictions.csv"])
def test_a_table_is_written_whole_or_not_at_all(tmp_path, monkeypatch, name):
    folds = [str(tmp_path / str(k)) for k in range(2)]
    for k in range(2):
        run(tmp_path / str(k), study(20 * k))
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / name).write_text("earlier")
    real = pd.DataFrame.to_csv

    def full(table, path, **options):
        real(table, path, **options)
        if str(path).endswith(name) and ("baseline" in name) == ("baseline_" in str(path)):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="free some space"):
        evaluate_folds(folds, str(tmp_path / "all"), n_bootstrap=10)
    assert (tmp_path / "all" / name).read_text() == "earlier"
