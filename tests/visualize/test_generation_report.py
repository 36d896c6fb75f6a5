from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from custom.metrics.anomaly import POOLS
from custom.metrics.generation import generation_figures
from custom.metrics.window_set import GenerationData, WindowSet
from custom.visualize.report import write_report

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
KINDS = {"blob": {"small": 1, "large": 3}, "spike": {"small": 0.5, "large": 1.5}}
SCORES = ("dif<i>fusion", "PCA residual")


class Tables(HTMLParser):
    """Rows of the tables by their id, and all the text."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.text, self.tags, self.rows, self.pictures, self.cell = "", set(), [], 0, False
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.pictures += tag == "img"
        if tag == "table":
            self.rows = self.tables.setdefault(dict(attrs).get("id", ""), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True
        elif tag == "small":
            self.handle_data(" ")

    def handle_endtag(self, tag):
        self.cell &= tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.cell:
            self.rows[-1][-1] = re.sub(r"\s+", " ", self.rows[-1][-1] + data)

    def row(self, table: str, name: str) -> list[str]:
        """Cells of the row whose first cell starts with the name."""
        found = [row[1:] for row in self.tables[table] if row[0].startswith(name)]
        assert len(found) == 1, (table, name, found)
        return found[0]


@pytest.fixture
def report(tmp_path, write_evaluation, monkeypatch):
    """Function (name of a file → what it holds, JSON or PNG): the page of an evaluation with these files."""
    monkeypatch.setattr("custom.visualize.report._draw", lambda folder, metrics: {})  # ROC curves and the like take a second

    def make(files: dict, **changes) -> Tables:
        write_evaluation(tmp_path, **changes)
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return Tables(write_report(str(tmp_path)))

    return make


def interval(value, low=None, high=None) -> dict:
    return {"value": value, "low": low, "high": high}


@pytest.fixture(scope="module")
def generation() -> dict:
    """What is written of eight generated, eight training and four test windows of two classes; some figures are set."""
    rng, mask = np.random.default_rng(0), np.ones((5, 5, 1), bool)
    sets = [
        WindowSet(
            rng.normal(size=(n, 4, 5, 5, 1)).astype(np.float32), np.arange(n) % 2, np.array([f"{run}{k % 2}" for k in range(n)])
        )
        for n, run in ((8, "g"), (8, "t"), (4, "v"))
    ]
    figures = generation_figures(GenerationData(*sets, mask, ["a<i>", "b"]))
    figures |= {"study": "s", "synthetic_study": False, "training_runs": ["t0", "t1"], "test_runs": ["v0"]}
    figures["statistics"]["generated"] |= {"mean_correlation": 0.31, "lag1_mean": None, "variance_ratio_median": 0.92}
    figures["statistics"]["generated"] |= {"variance_ratio_q25": 0.81, "variance_ratio_q75": 1.23}
    figures["statistics"]["ceiling"]["mean_correlation"] = 0.62
    figures["statistics"]["halves"] = {"unavailable": "one test window has no halves"}
    for source, value in (("generated", 0.11), ("ceiling", 0.33)):
        figures["class_maps"][source] = {
            key: interval(value + k / 10, value - 0.05, value + 0.25)
            for k, key in enumerate(("correlation", "ssim", "specific_correlation"))
        }
    figures["class_maps"]["difference"]["ssim"] = interval(-0.22, -0.3, 0.1)
    figures["memorisation"]["windows"] |= {"verdict": "no sign of memorisation", "copies": 0, "expected_suspect_share": 0.2}
    figures["memorisation"]["frames"] |= {"verdict": "copies of training data", "copies": 7, "suspect_share": 0.44}
    training = figures["synthetic_training"]
    training["synthetic"] = {
        "frames": 32,
        "volume": {"accuracy": interval(0.41, 0.2, 0.6)},
        "block": {"accuracy": interval(0.42)},
    }
    training["real"] = {"frames": 36, "volume": {"accuracy": interval(0.71, 0.6, 0.8)}, "block": {"accuracy": interval(None)}}
    training["synthetic_minus_real"] = {"volume": interval(-0.3, -0.4, -0.2), "block": interval(0.05)}
    return figures


@pytest.fixture(scope="module")
def anomalies() -> dict:
    """``anomalies.json`` with figures that all differ."""
    count = iter(range(1, 1000))

    def figure() -> dict:
        value = next(count) / 100
        return interval(value, value - 0.01, value + 0.01)

    return {
        "windows": 8, "copies": 3, "clusters": "block", "sizes": KINDS, "tuning_kinds": ["blob"], "test_kinds": ["spike"],
        "pca_components": 17,
        "auc": {score: {kind: {size: figure() for size in sizes} for kind, sizes in KINDS.items()} for score in SCORES},
        "pooled_auc": {score: {pool: figure() for pool in POOLS} for score in SCORES},
        "difference": {SCORES[1]: {pool: figure() for pool in POOLS}},
        "localisation_auc": {SCORES[1]: {"blob": {"small": interval(0.66), "large": interval(0.77, 0.7, 0.8)}}},
        "false_alarms": dict(zip(SCORES, (0.125, 0.5), strict=True)),
        "detected": {score: {kind: {"small": 0.25, "large": 1.0} for kind in KINDS} for score in SCORES},
    }  # fmt: skip


def test_without_the_files_there_are_no_sections(report):
    page = report({"generation_film.png": PNG, "anomaly_auc.png": PNG, "samples/samples.json": {}})
    assert not any(title in page.text for title in ("Decoding per volume", "Generated windows", "Anomalies", "From noise"))
    assert set(page.tables) == {"models", "differences", "classes", "subjects"}
    assert page.pictures == 0


def volumes(folder: Path, write_evaluation) -> dict:
    write_evaluation(folder)
    return json.loads((folder / "metrics.json").read_text())


def test_volumes_stand_beside_blocks_and_chance(report, tmp_path, write_evaluation):
    found = volumes(tmp_path / "other", write_evaluation)
    network = found["models"]["network"]
    network |= {"accuracy": interval(0.61, 0.5, 0.7), "balanced_accuracy": interval(None), "auc": interval(0.64)}
    found["models"]["of volumes <u>only"] = found["models"].pop("motion", network)
    found["subjects"]["test"]["rows"] = 72
    page = report({"volumes/metrics.json": found})
    block = json.loads((tmp_path / "metrics.json").read_text())["models"]["network"]["accuracy"]
    text = f"{block['value']:.2f} {block['low']:.2f} to {block['high']:.2f}"
    assert page.row("volumes", "network") == [text, "0.61 0.50 to 0.70", "–", "0.64"]
    assert page.row("volumes", "of volumes <u>only")[0] == "–"
    assert page.row("volumes", "chance: guessing among 2 classes") == ["0.50"] * 4
    assert "72 in the test subjects" in page.text
    assert "95 % bootstrap interval; subjects are drawn" in page.text
    assert "u" not in page.tags


def test_chance_is_one_in_the_number_of_classes_and_one_run_has_no_interval(report, tmp_path, write_evaluation):
    found = volumes(tmp_path / "other", write_evaluation)
    found["class_names"] = ["a", "b", "c", "d"]
    page = report({"volumes/metrics.json": found})
    assert page.row("volumes", "chance: guessing among 4 classes") == ["0.25", "0.25", "0.25", "0.50"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for figures in [*metrics["models"].values(), *found["models"].values()]:
        for one in figures.values():
            one |= {"low": None, "high": None}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "volumes" / "metrics.json").write_text(json.dumps(found))
    page = Tables(write_report(str(tmp_path)))
    assert "A single test subject has no interval." in page.text
    assert " to " not in "".join(page.row("volumes", "network"))


def test_generated_windows_stand_beside_their_ceiling(report, generation):
    page = report({"generation.json": generation})
    assert "8 windows of 4 frames from the diffusion model, of the classes a<i>, b" in page.text
    assert "i" not in page.tags
    assert page.row("generation-statistics", "windows compared") == ["8 against 4", "8 against 4", "–", ""]
    assert page.row("generation-statistics", "mean map over all windows, correlation") == ["0.31", "0.62", "–", "1"]
    assert page.row("generation-statistics", "variance")[0] == "0.92 (0.81 to 1.23)"
    assert page.row("generation-statistics", "correlation of a frame with the next")[0] == "–"
    assert page.row("generation-class-maps", "structural similarity") == [
        *("0.21 0.06 to 0.36", "0.43 0.28 to 0.58", "−0.22 −0.30 to 0.10")
    ]
    single = generation["class_maps"]["classes"]["b"]["ceiling"]["specific_correlation"]
    assert page.row("generation-classes", "b")[5] == f"{single:.2f}".replace("-", "−")
    assert "correlation 0.31 with the held-out map; real training runs 0.53." in page.text


def test_copies_are_told(report, generation):
    page = report({"generation.json": generation})
    assert "no sign of memorisation (whole windows); copies of training data (single frames)" in page.text
    assert page.row("memorisation-frames", "copies")[0] == "7"
    assert page.row("memorisation-frames", "suspect share")[0] == "0.44"
    assert page.row("memorisation-windows", "suspect share")[1] == "0.20"
    median = generation["memorisation"]["windows"]["reference_distance"]["median"]
    assert page.row("memorisation-windows", "distance to the nearest training window")[1] == f"{median:.2f}"


def test_training_on_generated_windows(report, generation):
    page = report({"generation.json": generation})
    assert page.row("generation-training", "generated windows") == ["32", "0.41 0.20 to 0.60", "0.42"]
    assert page.row("generation-training", "real training windows") == ["36", "0.71 0.60 to 0.80", "–"]
    assert page.row("generation-training", "generated minus real") == ["–", "−0.30 −0.40 to −0.20", "+0.05"]
    assert page.row("generation-training", "chance: guessing among 2 classes") == ["–", "0.50", "0.50"]
    assert "Generated windows are worse than real ones: difference −0.30 (−0.40 to −0.20)." in page.text


def test_pictures_that_are_there_are_embedded(report, generation):
    page = report({"generation.json": generation, "generation_film.png": PNG, "generation_neighbours.png": PNG})
    assert page.pictures == 2
    assert "From noise to a window" in page.text
    assert "Mean map of every class, of held-out" not in page.text


def test_parts_that_are_unavailable_are_named_with_their_reason(report, generation):
    gone = {part: {"unavailable": f"no {part}"} for part in ("class_maps", "memorisation", "synthetic_training")}
    windows = {**generation["windows"], "generated": {"no class": 3}}
    page = report({"generation.json": {**generation, **gone, "windows": windows, "synthetic_study": True}}, synthetic=True)
    assert "class maps (no class_maps); nearness to training data (no memorisation); training on" in page.text
    assert "3 windows of 4 frames from the diffusion model, without a class" in page.text
    assert "“Real” in this section means: of the phantom study" in page.text
    assert not {"generation-class-maps", "memorisation-windows", "generation-training"} & set(page.tables)


def shown(found: dict) -> str:
    return f"{found['value']:.2f} {found['low']:.2f} to {found['high']:.2f}"


def test_anomalies_by_kind_size_and_pool(report, anomalies):
    page = report({"anomalies.json": anomalies, "anomaly_auc.png": PNG, "anomaly_examples.png": PNG})
    assert page.pictures == 2
    assert "i" not in page.tags
    assert "8 normal windows of the test subjects" in page.text
    assert "Kinds used for tuning (planted in other runs): blob." in page.text
    auc, pooled = anomalies["auc"], anomalies["pooled_auc"]
    kinds = page.tables["anomaly-kinds"]
    assert [row[0].split(":")[0] for row in kinds[1:]] == [
        *("blob (used for tuning)", "small (1)", "large (3)", "spike", "small (0.5)", "large (1.5)")
    ]
    assert kinds[6][1:] == [shown(auc[score]["spike"]["large"]) for score in SCORES]
    for pool, name in (("test kinds", "kinds not used"), ("tuning kinds", "kinds used"), ("test kinds of signal", "of these")):
        assert page.row("anomaly-pools", name) == [shown(pooled[score][pool]) for score in SCORES]
    differences = anomalies["difference"][SCORES[1]]
    assert page.row("anomaly-differences", "PCA residual")[0] == "+" + shown(differences["test kinds"])
    assert "“dif<i>fusion” is better than “PCA residual”: AUC difference +0.1" in page.text


def test_place_and_false_alarms_of_anomalies(report, anomalies):
    page = report({"anomalies.json": anomalies})
    assert page.pictures == 0
    assert page.tables["anomaly-places"] == [
        *(["AUC of voxels", "PCA residual"], ["blob, small (1)", "0.66"], ["blob, large (3)", "0.77 0.70 to 0.80"])
    ]
    assert page.row("anomaly-alarms", "dif<i>fusion") == ["12", "25 · 100", "25 · 100"]
    assert page.row("anomaly-alarms", "PCA residual")[0] == "50"
    assert "principal components (17)" in page.text


def test_one_block_of_anomalies_has_no_interval_and_no_winner(report, anomalies):
    def without(value):
        if not isinstance(value, dict):
            return value
        if set(value) == {"value", "low", "high"}:
            return interval(value["value"])
        return {key: without(part) for key, part in value.items()}

    page = report({"anomalies.json": {**without(anomalies), "clusters": "scan"}})
    assert "One run was tested: there is no interval, and no score can be called the better one." in page.text
    assert "better than “PCA residual”" not in page.text
    assert not any(" to " in cell for row in page.tables["anomaly-pools"] for cell in row[1:])


def test_attention_maps_are_of_a_class_and_tell_how_alike_they_are(report):
    one = {"subject": "s", "title": "s face", "label": "face", "predicted": "face", "png": "0.png", "time_png": "t.png"}
    check = {"mean": 0.1, "low": None, "high": None, "undefined": 0}
    maps = [{**one, "windows": 3, "other_classes_correlation": 0.93}, {**one, "windows": 1, "other_classes_correlation": None}]
    explained = {"method": "Attention of the diffusion network", "randomised_weights_correlation": check, "maps": maps}
    page = report({"explain/maps.json": explained, "explain/0.png": PNG, "explain/t.png": PNG})
    assert "s face: mean of 3 windows; correlation with the maps of the other classes 0.93" in page.text
    assert "s face: mean of 1 window; correlation with the maps of the other classes –" in page.text
    assert "attention knows no sign" in page.text
    assert "predicted face" not in page.text
