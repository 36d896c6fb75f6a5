"""Which part of a network earns its keep: the same folds for every mode, figures beside parameters, operations and seconds.

    python scripts/ablation.py bundles/fmri_motor_task_classification <dataset_dir> <output_dir>

Further ``--key value`` pairs override the configuration of every training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
import pandas as pd
import torch
from cross_validate import cross_validate
from monai.bundle import ConfigParser

from custom.metrics import cost_of, paired_difference, probabilities, read_predictions, seconds_per_step
from custom.paths import written_whole

COLUMNS = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "auc", "pr_auc")


def ablation(
    bundle: str,
    dataset_dir: str,
    output_dir: str,
    overlays: Sequence[str] = ("cnn_only", "transformer_only"),
    n_splits: int = 5,
    fold_seed: int = 0,
    num_workers: int = 2,
    **override: Any,
) -> str:
    """Cross-validate ``train.json`` as it is and with each overlay, print and write the table; return its path.

    Args:
        bundle: the bundle's folder.
        dataset_dir: prepared dataset, with ``datalist.json``.
        output_dir: receives a folder of folds for every mode, ``ablation.csv`` and ``ablation.md``.
        overlays: the modes beside the default one.
        n_splits: number of folds, the same for every mode.
        fold_seed: of the split into folds.
        num_workers: trainings side by side, one thread each.
        override: keys of the configuration.
    """
    out = Path(output_dir)
    modes = {"default": [], **{name: [name] for name in overlays}}
    for mode, names in modes.items():
        cross_validate(
            bundle,
            dataset_dir,
            str(out / mode),
            names,
            n_splits=n_splits,
            fold_seed=fold_seed,
            num_workers=num_workers,
            **override,
        )
    rows = [_row(mode, names, bundle, out, override) for mode, names in modes.items()]
    table = pd.DataFrame(rows)
    with written_whole(out / "ablation.csv") as temporary:
        table.to_csv(temporary, index=False)
    with written_whole(out / "ablation.md") as temporary:
        temporary.write_text(_markdown(table))
    print(_markdown(table))
    return str(out / "ablation.md")


def _row(mode: str, overlays: Sequence[str], bundle: str, out: Path, override: dict[str, Any]) -> dict[str, Any]:
    metrics = json.loads((out / mode / "metrics.json").read_text())
    network, image, labels = _network_and_batch(bundle, overlays, out / mode / "fold0" / "datalist.json", override)
    cost = cost_of(network, image[:1])
    found: dict[str, Any] = {"mode": mode, "synthetic": metrics["synthetic"]}
    for name in COLUMNS:
        found |= {f"{name}_{part}": value for part, value in metrics["models"]["network"][name].items()}
    found |= {f"accuracy_difference_{part}": value for part, value in _difference(mode, out, metrics).items()}
    return found | {
        "parameters": cost.parameters,
        "gflop_per_window": cost.flop / 1e9,
        "seconds_per_step": seconds_per_step(network, (image,), labels, torch.nn.CrossEntropyLoss()),
        "batch_size": len(image),
    }


def _network_and_batch(
    bundle: str, overlays: Sequence[str], datalist: Path, override: dict[str, Any]
) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    parser = ConfigParser()
    parser.read_config([str(Path(bundle) / "configs" / f"{name}.json") for name in ("train", *overlays)])
    parser.update({**override, "datalist_path": str(datalist), "device": "$torch.device('cpu')"})
    batch = next(iter(parser.get_parsed_content("validate::dataloader")))
    return parser.get_parsed_content("network_def"), batch["image"].as_tensor(), batch["label"]


def _difference(mode: str, out: Path, metrics: dict[str, Any]) -> dict[str, float]:
    """Accuracy of a mode minus that of the default on the same units, with the interval over subjects."""
    tables = [read_predictions(out / name / "predictions.csv", metrics["unit"]) for name in (mode, "default")]
    one, other = tables[0], tables[1].set_index(metrics["unit"]).loc[tables[0][metrics["unit"]]].reset_index()
    options: dict[str, Any] = {"folds": one["fold"].to_numpy(), "clusters": one["subject"].to_numpy(), "names": ["accuracy"]}
    found = paired_difference(
        probabilities(one), probabilities(other), one["label"].to_numpy(), metrics["class_names"], **options
    )
    return found["accuracy"]


def _markdown(table: pd.DataFrame) -> str:
    lines = ["| mode | accuracy | minus default | macro F1 | MCC | parameters | GFLOP / window | s / step |", "|---" * 8 + "|"]
    for _, row in table.iterrows():
        figures = [_interval(row, name) for name in ("accuracy", "accuracy_difference", "macro_f1", "mcc")]
        costs = [f"{row['parameters']:,}", f"{row['gflop_per_window']:.3g}", f"{row['seconds_per_step']:.3g}"]
        lines.append("| " + " | ".join([str(row["mode"]), *figures, *costs]) + " |")
    source = "synthetic data" if table["synthetic"].all() else "the study"
    return "\n".join(
        [*lines, "", f"Figures with 95 % intervals over subjects, on {source}; one step is one batch on this CPU.", ""]
    )


def _interval(row: pd.Series, name: str) -> str:
    return f"{row[f'{name}_value']:.2f} ({row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f})"


def main() -> None:
    """Command line."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    fire.Fire(ablation)


if __name__ == "__main__":
    main()
