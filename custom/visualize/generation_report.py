"""Sections of the report about the decoding of single volumes and about generated windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .report_parts import UNDEFINED, compared, number, pictures, plain, read_json, signed

__all__ = ["generation_section", "volumes_section"]

CAPTIONS = {
    "generation_class_maps.png": "Mean map of every class, of held-out windows above, of generated ones below; middle axial "
    "slice. r: their correlation over the whole brain.",
    "generation_film.png": "From noise to a window, left to right: the middle frame of samples at some of the steps.",
    "generation_connectivity.png": "Connectivity: which voxels rise and fall together, in the same order in all three.",
    "generation_agreement.png": "Every point is a voxel. On the dotted line, generated and held-out windows agree.",
    "generation_neighbours.png": "Single frames: distance to the nearest training frame over that to the nearest held-out one. "
    "Left of the dashed line frames are suspect only if they are also nearer to a training frame than all held-out ones.",
}
NO_BREAK = "\u00a0"
STATISTICS = {
    "mean_correlation": ("mean map over all windows, correlation", "1"),
    "mean_rmse": ("mean map over all windows, root mean square difference (z)", "0"),
    "variance": ("variance of a voxel over that of held-out windows, median (quartiles)", "1"),
    "lag1": ("correlation of a frame with the next (of held-out windows)", "equal"),
    "lag1_correlation": ("the same voxel by voxel, correlation with that of held-out windows", "1"),
    "fc_distance": ("connectivity, 1 − correlation with the held-out one", "0"),
    "high_frequency_ratio": ("fine spatial detail (power beyond half the finest), ratio to held-out windows", "1"),
}
CLASS_MAPS = {
    "correlation": "correlation",
    "ssim": "structural similarity (SSIM)",
    "specific_correlation": "specific: correlation after the mean of all classes was taken off",
}
TRAINED_ON = {"synthetic": "generated windows", "real": "real training windows", "synthetic_and_real": "both together"}
NEIGHBOURS = {
    "distance": "distance to the nearest training {unit} (z), median",
    "ratio": "nearest training over nearest held-out distance, among as many of both, median",
}


def volumes_section(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the accuracy of single volumes beside that of the evaluation itself, ``None`` without ``volumes/metrics.json``.

    Args:
        folder: of the evaluation.
        metrics: of the evaluation, one prediction per block.
    """
    found = read_json(folder / "volumes" / "metrics.json")
    if found is None:
        return None
    unknown = {"value": None, "low": None, "high": None}
    rows = {
        model: [
            metrics["models"].get(model, {}).get("accuracy", unknown),
            *(figures[key] for key in ("accuracy", "balanced_accuracy", "auc")),
        ]
        for model, figures in found["models"].items()
    }
    classes = len(found["class_names"])
    return {
        "rows": rows,
        "classes": classes,
        "chance": [1 / classes, 1 / classes, 1 / classes, 0.5],
        "volumes": found["subjects"]["test"]["rows"],
        "has_interval": any(interval["low"] is not None for row in rows.values() for interval in row),
    }


def generation_section(folder: Path) -> dict[str, Any] | None:
    """Return ``generation.json`` as rows of text, verdicts and pictures, ``None`` where it is not there."""
    found = read_json(folder / "generation.json")
    if found is None:
        return None
    parts = ("class_maps", "memorisation", "synthetic_training")
    known = {part: found[part] if "unavailable" not in found[part] else None for part in parts}
    titles = ("class maps", "nearness to training data", "training on generated windows")
    return {
        "found": found,
        "unavailable": {t: found[p]["unavailable"] for p, t in zip(parts, titles, strict=True) if known[p] is None},
        "windows": {source: sum(counts.values()) for source, counts in found["windows"].items()},
        "classes": [name for name in found["windows"]["generated"] if name != "no class"],
        "statistics": _statistics(found["statistics"]),
        "class_maps": known["class_maps"] and _class_maps(known["class_maps"]),
        "memorisation": known["memorisation"] and _memorisation(known["memorisation"]),
        "training": known["synthetic_training"] and _training(known["synthetic_training"], found["windows"]),
        "verdicts": _verdicts(known),
        "pictures": pictures(folder, CAPTIONS),
    }


def _statistics(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str], str]]:
    """Rows of name, text for generated, ceiling and halves, and the ideal."""
    sources = [found[name] for name in ("generated", "ceiling", "halves")]
    windows = [UNDEFINED if "unavailable" in s else f"{s['windows'][0]} against {s['windows'][1]}" for s in sources]
    rows = [(name, [_statistic(s, key) for s in sources], ideal) for key, (name, ideal) in STATISTICS.items()]
    return [("windows compared", windows, ""), *rows]


def _statistic(found: Mapping[str, Any], key: str) -> str:
    if "unavailable" in found:
        return UNDEFINED
    if key == "variance":
        median, q25, q75 = (found[f"variance_ratio_{end}"] for end in ("median", "q25", "q75"))
        return UNDEFINED if median is None else NO_BREAK.join(f"{plain(median)} ({plain(q25)} to {plain(q75)})".split())
    if key == "lag1":
        return UNDEFINED if found["lag1_mean"] is None else f"{plain(found['lag1_mean'])} ({plain(found['lag1_reference'])})"
    return plain(found[key])


def _class_maps(found: Mapping[str, Any]) -> dict[str, Any]:
    sources = ("generated", "ceiling")
    return {
        "rows": {
            name: [*(found[source][key] for source in sources), found["difference"][key]] for key, name in CLASS_MAPS.items()
        },
        "columns": [f"{name}: {source}" for name in ("correlation", "SSIM", "specific") for source in sources],
        "classes": {
            name: [plain(values[source][key]) for key in CLASS_MAPS for source in sources]
            for name, values in found["classes"].items()
        },
    }


def _memorisation(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table for whole windows, and one for single frames, each with its verdict."""
    tables = []
    for unit in ("window", "frame"):
        part = found[f"{unit}s"]
        medians = {
            name.format(unit=unit): [plain(part[key]["median"]), plain(part[f"reference_{key}"]["median"])]
            for key, name in NEIGHBOURS.items()
        }
        shares = {
            "copies: nearer than half of the smallest held-out distance": [str(part["copies"]), "0"],
            "share nearer than 95 % of the held-out ones": [plain(part["closer_share"]), "0.05"],
            "suspect share: nearer than every held-out one": [
                plain(part["suspect_share"]),
                plain(part["expected_suspect_share"]),
            ],
        }
        tables.append({"unit": unit, "samples": part["samples"], "verdict": part["verdict"], "rows": medians | shares})
    return tables


def _training(found: Mapping[str, Any], windows: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    classes = set.intersection(*(set(counts) for counts in windows.values())) - {"no class"}
    difference = found["synthetic_minus_real"]
    return {
        "rows": {
            name: [found[key]["frames"], *(found[key][level]["accuracy"] for level in ("volume", "block"))]
            for key, name in TRAINED_ON.items()
        },
        "difference": [difference[level] for level in ("volume", "block")],
        "classes": len(classes),
        "chance": 1 / len(classes),
    }


def _verdicts(known: Mapping[str, Any]) -> list[str]:
    """What the figures say, in words."""
    said = []
    if memorisation := known["memorisation"]:
        windows, frames = (memorisation[unit]["verdict"] for unit in ("windows", "frames"))
        said.append(f"Nearness to training data: {windows} (whole windows); {frames} (single frames).")
    if maps := known["class_maps"]:
        generated, ceiling = (number(maps[source]["specific_correlation"]) for source in ("generated", "ceiling"))
        said.append(
            f"What a class map has of its own: correlation {generated} with the held-out map; real training runs {ceiling}."
        )
    if training := known["synthetic_training"]:
        difference = training["synthetic_minus_real"]["volume"]
        fake, real = (number(training[source]["volume"]["accuracy"]) for source in ("synthetic", "real"))
        text = f"Accuracy on real volumes, trained on generated windows: {fake}; trained on real ones: {real}"
        verdict = compared(difference)
        verdict = f"Generated windows are {verdict} real ones" if verdict else "No interval is known"
        said.append(f"{text}. {verdict}: difference {signed(difference)}.")
    return said
