"""``report.html``: one self-contained page about one evaluation."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib.figure import Figure

from ..metrics.aggregate import read_predictions
from ..metrics.evaluation import NETWORK, cluster_column
from ..paths import written_whole
from .anomaly_report import anomaly_section
from .displays import calibration_curve, confusion_matrix, precision_recall_curves, probability_strips, roc_curves
from .generation_report import generation_section, volumes_section
from .history import read_scalars, training_history
from .report_parts import compared, data_uri, number, plain, read_json, signed

__all__ = ["write_report"]

FEW = 10  # test subjects of a class, from which on a bootstrap says something
UNITS = {"subject": "subjects", "scan": "runs"}
FIGURES = {
    "auc": "AUC",
    "auc_within_site": "AUC within site",
    "pr_auc": "PR-AUC",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "kappa": "κ",
    "quadratic_kappa": "quadratic κ",
    "mcc": "MCC",
    "ece": "ECE",
    "log_loss": "log loss",
}
TRANSDUCTIVE = {
    "CleanBOLDd": "detrending within the run",
    "TemporalZScored": "z-score within the run",
    "CentreRund": "run centring over the run's events",
}
CAPTIONS = {
    "roc": "ROC curves. The diagonal is chance. With folds: their mean, the network's folds thinly behind it.",
    "precision_recall": "Precision against recall; the right end of a curve is the share of the class.",
    "confusion": "Confusion matrix of the network: predictions, and their share of the true class.",
    "probabilities": "The network's probabilities, one point per prediction; the bar is the median.",
    "calibration": "Calibration of the network in bins of equally many predictions: on the diagonal, of those that "
    "were given 80 % eight in ten have the class. Below: how often each probability was given.",
    "history": "Training history, from the event files of this folder.",
}


def write_report(output_dir: str, summary_writer: Any = None) -> str:
    """Write ``report.html`` and its pictures; all content comes from ``output_dir``.

    Reads ``metrics.json``, ``predictions.csv``, ``baseline_predictions.csv`` and, where they are, the event files,
    ``permutations.json``, ``harmonization.json``, ``explain/maps.json``, ``explore/analysis.json``, and of the diffusion bundle
    ``volumes/metrics.json``, ``generation.json`` and ``anomalies.json``.

    Args:
        output_dir: folder of one evaluation.
        summary_writer: TensorBoard writer that gets the same pictures, or None.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: the folder holds no evaluation.
    """
    folder = Path(output_dir)
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(f"{folder}/metrics.json does not exist: run evaluate.json with this output_dir first")
    metrics = json.loads((folder / "metrics.json").read_text())
    pictures = {}
    for name, figure in _draw(folder, metrics).items():
        pictures[name] = {"uri": _save(figure, folder / f"{name}.png"), "caption": CAPTIONS[name]}
        if summary_writer is not None:
            summary_writer.add_figure(f"report/{name}", figure)
    page = _template().render(
        m=metrics,
        figures={key: name for key, name in FIGURES.items() if key in metrics["models"][NETWORK]},
        pictures=pictures,
        verdicts=[*_verdicts(metrics), *_too_few(metrics)],
        folds=metrics["split"].get("folds", [metrics["split"]]),
        drawn=UNITS[cluster_column(metrics["split"])],
        transductive=[TRANSDUCTIVE[step] for step in metrics.get("preprocessing") or [] if step in TRANSDUCTIVE],
        permutations=_permutations(folder, metrics),
        analysis=_analysis(folder / "explore", metrics),
        explain=_explanations(folder / "explain"),
        site_effects=_site_effects(folder),
        volumes=volumes_section(folder, metrics),
        generation=generation_section(folder),
        anomalies=anomaly_section(folder),
    )
    with written_whole(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return str(folder / "report.html")


def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"number": number, "signed": signed, "plain": plain, "share": lambda x: f"{x:.3g}"}
    return environment.get_template("report.html")


def _draw(folder: Path, metrics: dict) -> dict[str, Figure]:
    names, network = metrics["class_names"], read_predictions(folder / "predictions.csv", metrics["unit"])
    tables = {NETWORK: network} | _baselines(folder, metrics)
    found = {
        "roc": roc_curves(tables, names),
        "confusion": confusion_matrix(network, names),
        "probabilities": probability_strips(network, names),
        "calibration": calibration_curve(network, names),
        "precision_recall": precision_recall_curves(tables, names),
    }
    scalars = read_scalars(folder)
    return found | ({"history": training_history(scalars)} if scalars else {})


def _baselines(folder: Path, metrics: dict) -> dict[str, pd.DataFrame]:
    table = read_predictions(folder / "baseline_predictions.csv", metrics["unit"])
    return {name: part.reset_index(drop=True) for name, part in table.groupby("baseline", sort=False)}


def _save(figure: Figure, path: Path) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return data_uri(buffer.getvalue())


def _explanations(folder: Path) -> dict | None:
    """``maps.json`` with the pictures inlined; their paths are relative to its folder."""
    found = read_json(folder / "maps.json")
    if found is not None:
        for one in found["maps"]:
            pictures = [one[kind] for kind in ("png", "evidence_png", "time_png") if kind in one]
            one["uris"] = [data_uri((folder / name).read_bytes()) for name in pictures]
        # attention maps are of a class, not of a prediction
        found["attention"] = all("other_classes_correlation" in one for one in found["maps"])
        check = found["randomised_weights_correlation"]
        found["check"] = plain(check["mean"])
        if check["low"] is not None:
            found["check"] += f" ({plain(check['low'])} to {plain(check['high'])})"
    return found


def _site_effects(folder: Path) -> dict | None:
    """``harmonization.json`` with its picture."""
    found = read_json(folder / "harmonization.json")
    return found and found | {"uri": data_uri((folder / "harmonization.png").read_bytes())}


def _permutations(folder: Path, metrics: dict) -> dict | None:
    """``permutations.json`` with what the figure is by chance, where that is known."""
    found, counts = read_json(folder / "permutations.json"), list(metrics["subjects"]["test"]["classes"].values())
    present = sum(count > 0 for count in counts)
    chance = {
        "auc": 0.5,
        "balanced_accuracy": 1 / present,
        "pr_auc": counts[1] / sum(counts) if len(counts) == 2 else 1 / present,
        **dict.fromkeys(("kappa", "quadratic_kappa", "mcc"), 0.0),
    }
    return found and found | {"chance": chance.get(found["figure"])}


def _analysis(folder: Path, metrics: dict) -> dict | None:
    """``analysis.json`` with its pictures and the table of runs, and how many of its subjects are test subjects."""
    found = read_json(folder / "analysis.json")
    if found is None:
        return None
    pictures = [*((entry["png"], entry["map"]) for entry in found["maps"]), (found["time_courses"]["png"], "time courses")]
    pictures += [(found["tsnr"]["png"], "temporal SNR"), (found["runs"]["png"], "runs")]
    uris = [(data_uri((folder / png).read_bytes()), name) for png, name in pictures]
    runs = pd.read_csv(folder / found["runs"]["csv"], dtype={"scan": str, "subject": str})
    overlap = len(set(found["subjects"]) & set(metrics["test_subjects"]))
    return found | {"uris": uris, "table": runs.astype(object).where(runs.notna(), None), "overlap": overlap}


def _too_few(metrics: dict) -> list[str]:
    """A warning where resamples of the test subjects cannot vary enough."""
    if metrics["unit"] != "subject":
        return []
    count, name = min((n, name) for name, n in metrics["subjects"]["test"]["classes"].items())
    if count >= FEW:
        return []
    return [
        f"Only {count} test subjects are {name}: resamples of so few give intervals that are too narrow, of no width where the "
        "figure is perfect. Take none of the above for shown."
    ]


def _verdicts(metrics: dict) -> list[str]:
    """What the intervals say, in words: against chance and against every baseline."""
    auc, said = metrics["models"][NETWORK]["auc"], []
    if auc["value"] is not None and auc["low"] is None:
        said.append("One subject, or one run, was tested: there is no interval, and nothing can be said of others.")
    elif auc["value"] is not None:
        where = "above" if auc["low"] > 0.5 else "below" if auc["high"] < 0.5 else "around"
        chance = "which is chance: no skill is shown" if where == "around" else "which is chance"
        said.append(f"AUC of the network: {number(auc, True)}. The interval lies {where} 0.5, {chance}.")
    for name, difference in metrics["differences"].items():
        d = difference["auc"]
        if better := compared(d):
            said.append(f"The network is {better} “{name}”: AUC difference {signed(d)}.")
    return said
