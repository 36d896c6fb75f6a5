"""Section of the report about planted anomalies, from ``anomalies.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .report_parts import compared, number, pictures, read_json, signed

__all__ = ["anomaly_section"]

CAPTIONS = {
    "anomaly_auc.png": "AUC by kind and size of the anomaly. The dotted line is chance.",
    "anomaly_examples.png": "One window per kind that has a place: a frame of it, what was planted, the maps of the scores.",
}
KINDS = {
    "drop_out": ("drop-out", "a ball of voxels loses its signal; radius in voxels"),
    "blob": ("blob", "a smooth bump is added to every frame; peak in z"),
    "spike": ("spike", "one frame jumps; by so many z"),
    "misregistration": ("misregistration", "one slice is shifted in a third of the frames; by so many voxels"),
    "wrong_category": ("wrong category", "the last frames come from a window of another class; share of the frames"),
}
POOLS = {
    "test kinds": "kinds not used for tuning",
    "test kinds of signal": "of these, without wrong category",
    "tuning kinds": "kinds used for tuning",
    "all kinds": "all kinds",
}
SCORES = {
    "PCA residual": "what the principal components of the training frames do not explain",
    "Mahalanobis": "distance from the training frames in units of their spread",
    "mean square": "mean square of the z-scored signal, the plainest score of all",
}


def anomaly_section(folder: Path) -> dict[str, Any] | None:
    """Return the tables, verdicts and pictures of ``anomalies.json``, ``None`` where it is not there."""
    found = read_json(folder / "anomalies.json")
    if found is None:
        return None
    scores = list(found["auc"])
    return {
        "found": found,
        "scores": scores,
        "first": scores[0],
        "pools": {POOLS[pool]: [found["pooled_auc"][score][pool] for score in scores] for pool in POOLS},
        "differences": {other: [pooled[pool] for pool in POOLS] for other, pooled in found["difference"].items()},
        "kinds": _kinds(found, "auc", scores),
        "located": [score for score in scores if score in found["localisation_auc"]],
        "localisation": _kinds(found, "localisation_auc", list(found["localisation_auc"])),
        "titles": {kind: _title(kind) for kind in found["sizes"]},
        "baselines": {score: text for score, text in SCORES.items() if score in scores},
        "tuned_on": " and ".join(_title(kind) for kind in found["tuning_kinds"]),
        "verdicts": _verdicts(found),
        "pictures": pictures(folder, CAPTIONS),
    }


def _title(kind: str) -> str:
    return KINDS[kind][0] if kind in KINDS else kind.replace("_", " ")


def _kinds(found: Mapping[str, Any], table: str, scores: list[str]) -> list[dict[str, Any]]:
    """Per kind its name, what it is, and for every size the intervals of the scores."""
    kinds = found[table][scores[0]] if scores else {}
    return [
        {
            "title": _title(kind),
            "gloss": KINDS[kind][1] if kind in KINDS else "",
            "tuning": kind in found["tuning_kinds"],
            "sizes": {
                f"{size} ({found['sizes'][kind][size]:.2g})": [found[table][score][kind][size] for score in scores]
                for size in kinds[kind]
            },
        }
        for kind in kinds
    ]


def _verdicts(found: Mapping[str, Any]) -> list[str]:
    """What the intervals say of the first score on kinds that it was not tuned on, in words."""
    first = next(iter(found["auc"]))
    auc = found["pooled_auc"][first]["test kinds"]
    said = [f"AUC of “{first}” on kinds not used for tuning: {number(auc, True)}; chance is 0.50."]
    for other, pools in found["difference"].items():
        difference = pools["test kinds"]
        if better := compared(difference):
            said.append(f"“{first}” is {better} “{other}”: AUC difference {signed(difference)}.")
    if auc["value"] is not None and auc["low"] is None:
        what = {"scan": "run"}.get(found["clusters"], found["clusters"])
        said.append(f"One {what} was tested: there is no interval, and no score can be called the better one.")
    return said
