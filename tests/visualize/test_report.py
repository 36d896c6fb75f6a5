import base64
import json
import re
from html.parser import HTMLParser

import pytest
from torch.utils.tensorboard import SummaryWriter

from custom.metrics import summarise_permutations
from custom.visualize import write_report
from custom.visualize.report import _permutations, _too_few, _verdicts
from custom.visualize.report_parts import plain as as_text

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


class Page(HTMLParser):
    """Tags, links and the text of a page, as a browser sees them."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.links, self.tags, self.lines, self.body = [], set(), [], False
        with open(path, encoding="utf-8") as f:
            self.feed(f.read())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.body |= tag == "body"
        self.links += [value for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data):
        if self.body and data.strip():
            self.lines.append(re.sub(r"\s+", " ", data.strip()))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, write_evaluation):
    """Report of a real study with explanations and training history."""
    folder = tmp_path_factory.mktemp("plain")
    write_evaluation(folder)
    with SummaryWriter(str(folder)) as writer:
        for step in range(3):
            writer.add_scalar("train_loss", 1 / (step + 1), step)
        (folder / "explain").mkdir()
        (folder / "explain" / "0.png").write_bytes(PNG)
        check = {"mean": 0.12, "low": None, "high": None, "undefined": 0}
        one = {
            "subject": "<u>001",
            "title": "<u>001",
            "label": None,
            "predicted": "healthy",
            "png": "0.png",
            "nifti": "0.nii.gz",
        }
        maps = {"method": "Grad-CAM", "randomised_weights_correlation": check, "maps": [one]}
        (folder / "explain" / "maps.json").write_text(json.dumps(maps))
        path = write_report(str(folder), writer)
    return folder, Page(path), " ".join(Page(path).lines)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory, write_evaluation):
    """Report of a phantom with permuted labels, without subject identifiers."""
    folder = tmp_path_factory.mktemp("synthetic")
    write_evaluation(folder, synthetic=True, permuted=3, subjects_known=False)
    summarise_permutations([str(folder)], str(folder))
    return Page(write_report(str(folder)))


def test_synthetic_and_permuted_are_the_first_lines(synthetic):
    assert synthetic.lines[0].startswith("Synthetic data.")
    assert synthetic.lines[1].startswith("Permuted labels (seed 3)")


def test_unknown_subjects_and_leak_detector_are_told(synthetic):
    text = " ".join(synthetic.lines)
    assert "Subject unknown." in text
    assert "With permuted labels, 1 repeats: mean AUC" in text
    assert "Chance is 0.5; more" in text


def test_real_study_is_not_called_synthetic(plain):
    _, page, text = plain
    assert page.lines[0] == "a <script> & study"
    assert not any(word in text for word in ("Synthetic", "Permuted", "Subject unknown", "Leak detector"))


def test_self_contained(plain):
    _, page, _ = plain
    assert len(page.links) == 7
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe"} & page.tags


def test_names_are_escaped(plain):
    _, page, text = plain
    assert not {"script", "b", "i", "u"} & page.tags
    assert all(name in text for name in ("a <script> & study", "very <b>ill</b>", "age <i>", "<u>001"))


def test_says_what_a_reader_must_know(plain):
    folder, _, text = plain
    auc = json.loads((folder / "metrics.json").read_text())["models"]["network"]["auc"]
    for part in (
        *("Research use, not for diagnosis.", "majority class", "motion", "method HoldOut", "ab12" * 16, "monai 1.6.1"),
        *("000, 001, 002", "randomised weights: 0.12.", "true unknown, predicted healthy", "95 % bootstrap interval"),
        f"AUC of the network: {auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f}).",
    ):
        assert part in text


def test_pictures_lie_beside_the_page_and_in_tensorboard(plain):
    folder, _, _ = plain
    names = {"roc", "confusion", "probabilities", "calibration", "precision_recall", "history"}
    assert {p.stem for p in folder.glob("*.png")} == names
    events = b"".join(p.read_bytes() for p in folder.glob("*tfevents*"))
    assert all(f"report/{name}".encode() in events for name in names)


@pytest.fixture
def analysed(tmp_path, write_evaluation):
    """Function (subjects of the BOLD analysis, changes of metrics.json and of analysis.json): text of the report."""

    def text(subjects: list[str], metrics: dict, **changes) -> str:
        write_evaluation(tmp_path)
        metrics = json.loads((tmp_path / "metrics.json").read_text()) | metrics
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        folder = tmp_path / "explore"
        folder.mkdir(exist_ok=True)
        for name in ("t.png", "courses.png", "tsnr.png", "runs.png"):
            (folder / name).write_bytes(PNG)
        (folder / "runs.csv").write_text("scan,subject,frames,tsnr,fd_mm\nr<i>1,007,60,81.5,0.123\nr2,007,60,80.04,\n")
        peak = {"t": -7.25, "percent": -1.5, "mm": [1.0, 2.0, -3.5]}
        analysis = {
            "subjects": subjects, "one_space": True, "motion": None, "runs": {"csv": "runs.csv", "png": "runs.png", "n": 2},
            "tsnr": {"png": "tsnr.png", "median": 81.2}, "time_courses": {"png": "courses.png", "share_of_voxels": 0.01},
            "maps": [{"map": "hand <b>", "subjects": 5, "png": "t.png", "peak": peak}],
        } | changes  # fmt: skip
        (folder / "analysis.json").write_text(json.dumps(analysis))
        page = Page(write_report(str(tmp_path)))
        assert not {"b", "i"} & page.tags
        assert len(page.links) == 9
        return " ".join(page.lines)

    return text


def test_bold_analysis_of_training_subjects_and_steps_that_use_the_test_run(analysed):
    text = analysed(["t0", "t1"], {"preprocessing": ["LoadBOLDd", "CleanBOLDd", "TemporalZScored", "CentreRund"]})
    for part in (
        *(
            "Group maps of 2 subjects, 2 runs. None of them is a test subject.",
            "Median temporal SNR 81",
            "hand <b> 5 −7.2 −1.50",
        ),
        *(
            "1.0, 2.0, -3.5",
            "1 % of voxels of highest |t|, chosen on the same data",
            "r<i>1 007 60 81.50 0.12 r2 007 60 80.04 –",
        ),
        "Transductive: detrending within the run, z-score within the run, run centring over the run's events.",
        "95 % bootstrap interval over subjects",
    ):
        assert part in text
    assert not any(part in text for part in ("No common space", "framewise", "within subjects"))


def test_bold_analysis_of_test_subjects_in_different_spaces_and_a_split_within_subjects(analysed):
    split = {"method": "LeaveOneRunOut", "within_subjects": True}
    motion = {"median_mm": 0.153, "runs": 2}
    text = analysed(["t0", "001", "002"], {"split": split, "preprocessing": ["LoadBOLDd"]}, one_space=False, motion=motion)
    for part in (
        *("2 of them are test subjects too", "No common space.", "median framewise displacement 0.15 mm"),
        *("95 % bootstrap interval over runs", "The split is within subjects", "on the same resamples of the runs"),
    ):
        assert part in text
    assert "Transductive" not in text


@pytest.mark.parametrize(
    ("figure", "chance"), [("auc", 0.5), ("kappa", 0), ("mcc", 0), ("balanced_accuracy", 0.5), ("ece", None)]
)
def test_chance_is_that_of_the_permuted_figure(tmp_path, figure, chance):
    (tmp_path / "permutations.json").write_text(json.dumps({"figure": figure}))
    assert _permutations(tmp_path, {"subjects": {"test": {"classes": {"a": 30, "b": 10}}}})["chance"] == chance


def test_chance_of_a_rare_class_and_of_three(tmp_path):
    (tmp_path / "permutations.json").write_text(json.dumps({"figure": "pr_auc"}))
    for counts, chance in (({"a": 30, "b": 10}, 0.25), ({"a": 5, "b": 5, "c": 0, "d": 3}, 1 / 3)):
        assert _permutations(tmp_path, {"subjects": {"test": {"classes": counts}}})["chance"] == pytest.approx(chance)


def test_no_evaluation_in_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="run evaluate.json"):
        write_report(str(tmp_path))


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.6, 0.9, "above 0.5"), (0.2, 0.4, "below 0.5"), (0.4, 0.9, "no skill is shown")]
)
def test_verdict_against_chance(low, high, words):
    metrics = {"models": {"network": {"auc": {"value": 0.7, "low": low, "high": high}}}, "differences": {}}
    assert words in _verdicts(metrics)[0]


def test_verdict_against_baselines_and_undefined():
    null = {"value": None, "low": None, "high": None}
    values = {"a": (0.1, 0.01, 0.2), "b": (0.1, -0.1, 0.2), "c": (-0.1, -0.2, -0.05)}
    differences = {k: {"auc": dict(zip(("value", "low", "high"), v, strict=True))} for k, v in values.items()}
    metrics = {"models": {"network": {"auc": null}}, "differences": differences | {"d": {"auc": null}}}
    assert [re.search("is (.*) “", v).group(1) for v in _verdicts(metrics)] == [
        "better than",
        "not distinguishable from",
        "worse than",
    ]


def test_figures_of_a_few_subjects_are_told_to_show_nothing():
    metrics = {"unit": "subject", "subjects": {"test": {"classes": {"control": 10, "patient": 3}}}}
    assert _too_few(metrics)[0].startswith("Only 3 test subjects are patient")
    metrics["subjects"]["test"]["classes"]["patient"] = 10
    assert _too_few(metrics) == []
    assert _too_few({"unit": "block"}) == []


def test_undefined_is_a_dash_and_zero_has_no_sign():
    assert as_text(None) == "–"
    assert as_text(-0.001) == "0.00"
    assert as_text(-0.25) == "−0.25"
