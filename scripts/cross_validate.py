"""Cross-validation of a bundle, and its leak detector: every fold is trained and tested by the bundle's own configs.

    python scripts/cross_validate.py bundles/<bundle> <dataset_dir> <output_dir> --overlays "['resnet18','binary']"

Further ``--key value`` pairs override the configuration of every training. The folds share the prepared images.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
import torch
from joblib import Parallel, delayed
from monai.bundle import ConfigWorkflow

from custom.data import PARTS, KFold, LeaveOneGroupOut, LeaveOneRunOut, read_datalist, split_again
from custom.data.splits import Split
from custom.metrics import evaluate_folds, probability_columns, read_predictions, summarise_permutations
from custom.paths import written_whole
from custom.visualize import write_report


def cross_validate(
    bundle: str,
    dataset_dir: str,
    output_dir: str,
    overlays: Sequence[str] = (),
    n_splits: int = 5,
    fold_seed: int = 0,
    stratify: Sequence[str] = ("label",),
    leave_out: str | None = None,
    within_subjects: bool = False,
    seeds: Sequence[int] = (0,),
    permutations: int = 0,
    num_workers: int = 2,
    **override: Any,
) -> str:
    """Train and test every fold, pool the test predictions, write the report; return its path.

    Args:
        bundle: the bundle's folder.
        dataset_dir: prepared dataset, with ``datalist.json``.
        output_dir: receives ``fold<k>/`` with the weights and figures of each fold, and the pooled figures and report.
        overlays: names of configs merged on ``train.json``.
        n_splits: number of folds.
        fold_seed: of the split into folds.
        stratify: columns of the datalist whose values (together) the folds share out evenly, such as site and label.
        leave_out: column of the datalist, such as the dataset: instead of ``n_splits`` folds, one fold for each of its values.
        within_subjects: the column tells runs of the same subjects apart, who then stand in every part.
        seeds: networks trained per fold; their probabilities are averaged.
        permutations: if above 0, the leak detector instead: so many trainings with labels permuted among subjects, one
            fold each, in turn; the mean figure must be at chance.
        num_workers: trainings side by side, one thread each.
        override: keys of the configuration.
    """
    out = Path(output_dir).resolve()
    configs = [str(Path(bundle) / "configs" / f"{name}.json") for name in ("train", *overlays)]
    source = Path(dataset_dir) / "datalist.json"
    if leave_out is None:
        splits: list[Split] = [
            KFold(n_splits=n_splits, fold=k, seed=fold_seed, stratify=list(stratify)) for k in range(n_splits)
        ]
    else:
        splits = _one_out(source, leave_out, within_subjects, fold_seed, stratify)
    lists = [out / f"fold{k}" / "datalist.json" for k in range(len(splits))]
    for split, path in zip(splits, lists, strict=True):
        split_again(source, split, path)
    if permutations:
        runs = [(lists[p % len(lists)], out / f"permutation{p}", {"permutation_seed": p}) for p in range(permutations)]
        configs.append(str(Path(bundle) / "configs" / "permuted_labels.json"))
    else:
        runs = [(path, path.parent, {}) for path in lists]
    jobs = [
        delayed(_train_and_predict)(configs, path, folder / f"seed{seed}", {"seed": seed, **more, **override})
        for path, folder, more in runs
        for seed in seeds
    ]
    Parallel(n_jobs=num_workers)(jobs)
    for path, folder, more in runs:
        _judge(configs, path, folder, [folder / f"seed{seed}" for seed in seeds], {**more, **override})
    folders = [str(folder) for _, folder, _ in runs]
    if permutations:
        return json.dumps(summarise_permutations(folders, str(out)))
    evaluate_folds(folders, str(out))
    return write_report(str(out))


def _one_out(source: Path, column: str, within_subjects: bool, seed: int, stratify: Sequence[str]) -> list[Split]:
    """Return the split that leaves out each value of a column in turn."""
    content = read_datalist(source)
    values = sorted({str(row.get(column)) for part in PARTS for row in content[part]})
    if within_subjects:
        return [LeaveOneRunOut(column=column, held_out=value) for value in values]
    return [LeaveOneGroupOut(column=column, held_out=value, seed=seed, stratify=list(stratify)) for value in values]


def _workflow(configs: Sequence[str], datalist: Path, folder: Path, override: dict[str, Any]) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=list(configs),
        workflow_type="train",
        logging_file=False,
        datalist_path=str(datalist),
        output_dir=str(folder),
        **{"ckpt_dir": str(folder), **override},
    )


def _train_and_predict(configs: Sequence[str], datalist: Path, folder: Path, override: dict[str, Any]) -> None:
    """Write ``predictions.csv`` of one fold and seed; what an earlier call with the same settings has finished stands.

    Raises:
        ValueError: if the folder holds a training with other settings.
    """
    settings = json.dumps({"configs": [Path(c).stem for c in configs], "split": _digest(datalist), **override}, sort_keys=True)
    record = folder / "settings.json"
    if record.is_file() and record.read_text() != settings:
        raise ValueError(f"{folder} holds a training with other settings: give another output_dir, or delete it.")
    if (folder / "predictions.csv").is_file():
        return
    with written_whole(record) as temporary:
        temporary.write_text(settings)
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    evaluate_config = str(Path(configs[0]).with_name("evaluate.json"))
    predict = {"run": ["$@validate::evaluator.run()"]}
    for files, more in (configs, {}), ([*configs, evaluate_config], predict):
        workflow = _workflow(files, datalist, folder, {**override, **more})
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def _digest(datalist: Path) -> dict[str, str]:
    return json.loads(datalist.read_text())["split"]["digest"]


def _judge(
    configs: Sequence[str], datalist: Path, folder: Path, seed_folders: Sequence[Path], override: dict[str, Any]
) -> None:
    """Average the seeds' probabilities and write the fold's figures beside the baselines."""
    tables = [read_predictions(f / "predictions.csv") for f in seed_folders]
    columns = probability_columns(tables[0])
    mean, unit = tables[0].copy(), tables[0].columns[0]  # what votes together comes first
    mean[columns] = sum(t.set_index(unit).loc[mean[unit], columns].to_numpy() for t in tables) / len(tables)
    mean["predicted"] = mean[columns].to_numpy().argmax(1)
    with written_whole(folder / "predictions.csv") as temporary:
        mean.drop(columns="predicted_class").to_csv(temporary, index=False)
    if (seed_folders[0] / "test_features.csv").is_file():  # a baseline may be made of the first network's features
        shutil.copy(seed_folders[0] / "test_features.csv", folder)
    evaluate_config = str(Path(configs[0]).with_name("evaluate.json"))
    workflow = _workflow([*configs, evaluate_config], datalist, folder, {**override, "ckpt_dir": str(seed_folders[0])})
    workflow.initialize()
    workflow.parser.get_parsed_content("figures")


def main() -> None:
    """Command line."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    fire.Fire(cross_validate)


if __name__ == "__main__":
    main()
