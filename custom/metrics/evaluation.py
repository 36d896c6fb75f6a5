"""Predictions and baselines of one study -> ``metrics.json``; several folds -> one ``metrics.json``."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.splits import PARTS
from ..paths import written_whole
from ..versions import versions
from .aggregate import probabilities, read_predictions
from .baselines import Baseline, by_unit, label_of
from .bootstrap import auc_within, bootstrap, paired_difference
from .features import Unavailable

__all__ = ["evaluate", "evaluate_folds", "summarise_permutations"]

NETWORK = "network"
COPIED = ("study", "synthetic", "class_names", "split", "permuted", "subjects_known", "preprocessing")


def evaluate(
    predictions: str,
    datalist: dict,
    baselines: Mapping[str, Baseline],
    output_dir: str,
    ordinal: bool = True,
    n_bootstrap: int = 1000,
    seed: int = 0,
    unit: str = "subject",
    within: str | None = None,
) -> dict:
    """Judge the predictions of the test part beside baselines that are fitted on the training part.

    Args:
        predictions: path of ``predictions.csv``, one line per unit of the test part.
        datalist: as ``read_datalist`` returns it.
        baselines: name in the report -> baseline.
        output_dir: gets ``metrics.json`` and ``baseline_predictions.csv``.
        ordinal: whether the classes have an order (quadratic kappa).
        n_bootstrap: resamples of the subjects.
        seed: of the resamples.
        unit: column that names what a label belongs to; intervals are over subjects whatever the unit, over runs (the
            column ``scan``) where the split is within subjects.
        within: column of the datalist, such as the site: every model of two classes also gets ``auc_within_<column>``, see
            :func:`auc_within`.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: the predictions are not of exactly the test units with their labels.
    """
    network = read_predictions(predictions, unit)
    _check_test_units(network, datalist, unit, predictions)
    tables, unavailable = {NETWORK: network}, {}
    for name, baseline in baselines.items():
        try:
            fitted = baseline.fit(datalist["training"], datalist["class_names"], unit)
            tables[name] = fitted.predict_proba(datalist["test"])
        except Unavailable as error:
            unavailable[name] = str(error)
    study = {key: datalist.get(key) for key in COPIED} | {
        "unit": unit,
        "ordinal": ordinal,
        "subjects": _count_subjects(datalist, unit),
        "unavailable": unavailable,
        "within": within,
        "groups": _groups(datalist["test"], unit, within) if within else {},
    }
    return _write(Path(output_dir), study, tables, n_bootstrap, seed)


def evaluate_folds(fold_dirs: Sequence[str], output_dir: str, n_bootstrap: int = 1000, seed: int = 0) -> dict:
    """Pool what :func:`evaluate` wrote for the folds of one study.

    Every figure is the mean over the folds, subjects are resampled within folds. Of folds within subjects it is over all units,
    and runs are resampled over all folds. Writes ``predictions.csv``,
    ``baseline_predictions.csv`` (both with the column ``fold``) and ``metrics.json`` to ``output_dir``.

    Raises:
        ValueError: the folds are of different studies or labels, or share a test unit.
    """
    studies = [json.loads((Path(d) / "metrics.json").read_text()) for d in fold_dirs]
    study = studies[0]
    for directory, other in zip(fold_dirs, studies, strict=True):
        different = [k for k in (*COPIED, "unit", "ordinal", "within") if k != "split" and other.get(k) != study.get(k)]
        if different:
            raise ValueError(f"{directory}: {', '.join(different)} differ from {fold_dirs[0]}; pool folds of one study")
    unit = study["unit"]
    tables = {NETWORK: _stack([Path(d) / "predictions.csv" for d in fold_dirs], unit)}
    baselines = _stack([Path(d) / "baseline_predictions.csv" for d in fold_dirs], unit)
    tables |= {name: t.drop(columns="baseline") for name, t in baselines.groupby("baseline", sort=False)}
    twice = tables[NETWORK][unit][tables[NETWORK][unit].duplicated()]
    if len(twice):
        raise ValueError(f"{unit} {', '.join(twice[:5])} is in the test part of several folds; pool disjoint folds")
    study |= {"split": {"folds": [s["split"] for s in studies]}, "subjects": _pool_counts(studies)}
    study["groups"] = {name: group for s in studies for name, group in s["groups"].items()}
    output = Path(output_dir)
    _write_table(output / "predictions.csv", tables[NETWORK])
    return _write(output, study, tables, n_bootstrap, seed)


def summarise_permutations(run_dirs: Sequence[str], output_dir: str, figure: str = "auc") -> dict:
    """Collect the network's figure of several runs with permuted labels into ``output_dir/permutations.json``.

    Raises:
        ValueError: a run was not made with permuted labels, or the figure is undefined in it.
    """
    values, seeds = [], []
    for directory in run_dirs:
        run = json.loads((Path(directory) / "metrics.json").read_text())
        value = run["models"][NETWORK][figure]["value"]
        if run["permuted"] is None or value is None:
            raise ValueError(f"{directory}: labels not permuted, or {figure} undefined; use runs of `permute_labels`")
        values.append(value)
        seeds.append(run["permuted"])
    summary = {"figure": figure, "mean": sum(values) / len(values), "values": values, "seeds": seeds}
    _write_json(Path(output_dir) / "permutations.json", summary)
    return summary


def _write(output: Path, study: dict, tables: dict[str, pd.DataFrame], n: int, seed: int) -> dict:
    output.mkdir(parents=True, exist_ok=True)
    network, unit, names = tables[NETWORK], study["unit"], study["class_names"]
    folds = network["fold"].to_numpy() if "fold" in network else None
    aligned = {k: t.set_index(unit).loc[network[unit]].reset_index() for k, t in tables.items()}
    p = {k: probabilities(t) for k, t in aligned.items()}
    labels = network["label"].to_numpy()
    cluster = cluster_column(study["split"])
    # a fold that leaves a run out of every subject holds few runs, with one subject a single one: they are drawn over all folds
    strata = folds if cluster == "subject" else None
    options = {"folds": strata, "clusters": network[cluster].to_numpy(), "n": n, "seed": seed}
    models = {k: bootstrap(labels, p[k], names, study["ordinal"], **options) for k in p}
    if study["within"]:  # of two classes
        groups = [study["groups"][name] for name in network[unit]]
        for k, found in models.items():
            found[f"auc_within_{study['within']}"] = auc_within(labels, p[k][:, 1], groups, **options)
    differences = {k: paired_difference(p[NETWORK], p[k], labels, names, **options) for k in p if k != NETWORK}
    confusion = pd.crosstab(labels, p[NETWORK].argmax(1)).reindex(
        index=range(len(names)), columns=range(len(names)), fill_value=0
    )
    results = study | {
        "test_subjects": sorted(network["subject"].unique()),
        "n_folds": None if folds is None else len(set(folds)),
        "models": models,
        "differences": differences,
        "confusion": confusion.to_numpy().tolist(),
        "bootstrap": {"resamples": n, "seed": seed},
        "versions": versions(),
    }
    rows = [t.assign(baseline=k) for k, t in aligned.items() if k != NETWORK]
    columns = ["baseline", *(c for c in network.columns if all(c in r for r in rows))]
    _write_table(output / "baseline_predictions.csv", pd.concat(rows)[columns] if rows else pd.DataFrame(columns=columns))
    return _write_json(output / "metrics.json", results)


def cluster_column(split: dict) -> str:
    """Return the column of what is drawn as a whole: the subject, or the run where a subject is in several parts."""
    return "scan" if any(s.get("within_subjects") for s in split.get("folds", [split])) else "subject"


def _groups(rows: Sequence[dict], unit: str, column: str) -> dict[str, str]:
    """Return the one value that a unit's rows have in a column."""
    values = {name: {str(row.get(column)) for row in members} for name, members in by_unit(list(rows), unit).items()}
    odd = [name for name, found in values.items() if len(found) > 1 or found == {"None"}]
    if odd:
        raise ValueError(f"{unit} {', '.join(odd[:5])} has no '{column}', or several: no figure within it can be computed")
    return {name: found.pop() for name, found in values.items()}


def _check_test_units(network: pd.DataFrame, datalist: dict, unit: str, path: str) -> None:
    expected = {name: label_of(name, rows) for name, rows in by_unit(datalist["test"], unit).items()}
    got = dict(zip(network[unit], network["label"], strict=True))
    if len(got) != len(network):
        raise ValueError(f"{path}: a {unit} occurs twice; the table needs one line each, see `subject_table`")
    wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} {unit}s are not those of the test part or have another label, e.g. "
            f"{', '.join(wrong[:5])}; run the prediction again with this datalist"
        )
    for column in dict.fromkeys(("subject", cluster_column(datalist["split"]))):
        if column not in network:
            raise ValueError(f"{path}: no column {column!r} beside {unit!r}, over which the intervals are drawn")
    names = [f"p_{name}" for name in datalist["class_names"]]
    if [c for c in network.columns if c.startswith("p_")] != names:
        raise ValueError(f"{path}: the probability columns are not {names}; predict again with this datalist")


def _count_subjects(datalist: dict, unit: str) -> dict:
    counts = {}
    for part in PARTS:
        rows = datalist.get(part, [])
        labels = [label_of(name, members) for name, members in by_unit(rows, unit).items()] if rows else []
        tally = Counter(labels)
        classes = {name: tally[c] for c, name in enumerate(datalist["class_names"])}
        counts[part] = {"n": len({row["subject"] for row in rows}), "rows": len(rows), "classes": classes}
    return counts


def _pool_counts(studies: list[dict]) -> dict:
    """Test subjects add up over the folds; training and validation overlap, so the first fold stands for them."""
    tests = [s["subjects"]["test"] for s in studies]
    classes = {name: sum(t["classes"][name] for t in tests) for name in studies[0]["class_names"]}
    n = len({name for s in studies for name in s["test_subjects"]})  # several folds test the runs of one subject
    pooled = {"n": n, "rows": sum(t["rows"] for t in tests), "classes": classes}
    return studies[0]["subjects"] | {"test": pooled}


def _stack(paths: Sequence[Path], unit: str) -> pd.DataFrame:
    return pd.concat([read_predictions(p, unit).assign(fold=k) for k, p in enumerate(paths)], ignore_index=True)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False)


def _write_json(path: Path, results: dict) -> dict:
    """NaN, which JSON does not know, becomes null."""
    clean = _nan_to_null(results)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(clean, indent=1, allow_nan=False))
    return clean


def _nan_to_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _nan_to_null(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_null(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
