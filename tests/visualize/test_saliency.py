from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from monai.data import MetaTensor
from monai.transforms import Orientationd, ResizeWithPadOrCropd, Spacingd
from torch import nn

from custom.harmonization import HarmonizedClassifier, SiteAffine, UnseenSite
from custom.networks import SliceCNNLSTM
from custom.visualize.evidence import evidence_table, margin
from custom.visualize.explanation import randomised
from custom.visualize.report import write_report
from custom.visualize.saliency import integrated_gradients, write_saliency

CPU = torch.device("cpu")
CLASSES = ["control", "ASD"]
FRAMES, TR = 12, 1.5
BLOB = (9, 4, 2)
# x to the left, oblique, unequal voxels
AFFINE = np.array([[-2.0, 0.1, 0, 20], [0.1, 2.2, 0.2, -9], [0, -0.2, 3.0, 4], [0, 0, 0, 1]])


def small_network(seed: int = 0) -> HarmonizedClassifier:
    """Weights large enough for the LSTM to saturate, and a site that is not the identity."""
    torch.manual_seed(seed)
    network = HarmonizedClassifier(SliceCNNLSTM(channels=(4, 6, 8), hidden=5, chunk=20), 5, 2, ("A", "B"))
    with torch.no_grad():
        for parameter in network.extractor.lstm.parameters():
            parameter *= 3
        network.harmonizer.scale[1] = torch.linspace(0.5, 2, 5)
        network.harmonizer.shift[1] = torch.linspace(-1, 1, 5)
    return network.eval()


class Level(nn.Module):
    """Feature of a frame: how bright it is. The attribution of a voxel is known exactly."""

    def states(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3, 4))[..., None]

    def forward_features(self, image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.states(image).mean(1)


def level_network() -> HarmonizedClassifier:
    network = HarmonizedClassifier(Level(), 1, 2, ("A",))
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[0.0], [2.0]]))
        network.head.bias.copy_(torch.tensor([0.5, 0.0]))
    return network


def load(data: dict) -> dict:
    """Stands for LoadBOLDd: image and mask as (T, X, Y, Z) and (1, X, Y, Z)."""
    file = nib.load(data["image"])
    image = torch.from_numpy(np.moveaxis(file.get_fdata(dtype=np.float32), -1, 0))
    meta = {"filename_or_obj": data["image"], "repetition_time": TR}
    mask = (image[:1] != 0).to(torch.uint8)
    return data | {"image": MetaTensor(image, affine=file.affine, meta=meta), "mask": MetaTensor(mask, affine=file.affine)}


def drop_mask(data: dict) -> dict:
    return {key: value for key, value in data.items() if key != "mask"}


def zscore(data: dict) -> dict:
    image = data["image"]
    deviation = image - image.mean(0, keepdim=True)
    spread = image.std(0, keepdim=True)
    return data | {"image": torch.where(spread > 0, deviation / spread.clamp(min=1e-6), torch.zeros_like(image))}


SPATIAL = [
    Orientationd("image", axcodes="RAS", labels=None),
    Spacingd("image", pixdim=[2.5] * 3),
    ResizeWithPadOrCropd("image", spatial_size=[16, 12, 10]),
]


def scan(offset: float = 100.0) -> np.ndarray:
    """A brain (X, Y, Z, T) whose signal is the same everywhere but for a voxel that is ten times brighter."""
    array = np.zeros((14, 10, 6, FRAMES), dtype=np.float32)
    inside = array[2:-2, 2:-2, 1:-1]
    inside[:] = offset + np.random.default_rng(0).normal(0, 1, inside.shape)
    array[BLOB] *= 10
    return array


def write_scan(folder: Path, array: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(scan() if array is None else array, AFFINE), folder / "raw.nii")
    return folder / "raw.nii"


def explain(raw: Path, out: Path, network: HarmonizedClassifier, steps: list[Callable], **options) -> dict:
    scan = {"image": str(raw), "subject": "0050048", "site": network.harmonizer.sites[-1], "label": 1}
    given = {"num_steps": 4, "num_frames": 8} | options
    write_saliency(network, [scan], steps, CLASSES, str(out), CPU, **given)
    return json.loads((out / "maps.json").read_text())


def prepared(folder: Path) -> torch.Tensor:
    """The scan of a folder as the network sees it."""
    item = load({"image": str(folder / "raw.nii")})
    for step in [*SPATIAL, zscore]:
        item = step(item)
    return item["image"].as_tensor()


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Folder and maps.json of the small network on a z-scored scan."""
    folder = tmp_path_factory.mktemp("saliency")
    return folder, explain(write_scan(folder), folder / "explain", small_network(), [load, drop_mask, *SPATIAL, zscore])


def test_a_linear_function_is_attributed_exactly():
    image, weight = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    found = integrated_gradients(lambda x: (weight * x).sum() + 7, image, num_steps=1)
    torch.testing.assert_close(found, weight * image)


def test_a_polynomial_is_attributed_exactly_from_enough_points_on():
    image = torch.randn(3, 4, dtype=torch.float64)
    found = integrated_gradients(lambda x: (x**4).sum() + x[0, 0] * x[1, 1], image, num_steps=2)
    expected = image**4
    expected[0, 0] += image[0, 0] * image[1, 1] / 2
    expected[1, 1] += image[0, 0] * image[1, 1] / 2
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(integrated_gradients(lambda x: (x**4).sum(), image, num_steps=1), image**4)


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="positive"):
        integrated_gradients(torch.sum, torch.ones(2), num_steps=0)


def gap_of(network: HarmonizedClassifier, image: torch.Tensor, num_steps: int) -> float:
    site = network.harmonizer.index(["B"])

    def function(x: torch.Tensor) -> torch.Tensor:
        return margin(network(x[None], site)[0], 1)

    with torch.no_grad():
        difference = function(image) - function(torch.zeros_like(image))
    return float((integrated_gradients(function, image, num_steps).sum() - difference).abs() / difference.abs())


def test_attributions_add_up_to_the_difference_of_logits():
    network, image = small_network().double(), 2 * torch.randn(10, 6, 7, 3, dtype=torch.float64)
    assert gap_of(network, image, 64) < 1e-3
    assert gap_of(network, image, 1) > 0.004


def test_two_classes_and_three_have_a_margin():
    logits = torch.tensor([[1.0, 4.0, 2.0], [0.0, 0.0, 3.0]])
    torch.testing.assert_close(margin(logits, 1), torch.tensor([2.5, -1.5]))
    torch.testing.assert_close(margin(logits[:, :2], 0), torch.tensor([-3.0, 0.0]))


def test_a_map_lies_on_the_raw_grid(tmp_path: Path):
    raw = write_scan(tmp_path)
    (entry,) = explain(raw, tmp_path / "explain", level_network(), [load, drop_mask, *SPATIAL])["maps"]
    scan, found = nib.load(raw), nib.load(tmp_path / "explain" / entry["nifti"])
    assert nib.aff2axcodes(scan.affine) == ("L", "A", "S")
    assert found.shape == scan.shape[:3]
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-4)
    heat = found.get_fdata()
    assert heat.min() >= 0
    assert np.unravel_index(heat.argmax(), heat.shape) == BLOB


def test_the_map_is_the_sum_over_the_middle_frames(tmp_path: Path):
    """No change of the grid: a linear network's map is its weight times the scan, summed over the window."""
    raw = write_scan(tmp_path)
    (entry,) = explain(raw, tmp_path / "explain", level_network(), [load, drop_mask], num_frames=5)["maps"]
    scan = nib.load(raw).get_fdata()
    weight = 2 / (5 * scan[..., 0].size)
    found = nib.load(tmp_path / "explain" / entry["nifti"]).get_fdata()
    np.testing.assert_allclose(found, weight * np.abs(scan[..., 3:8]).sum(-1), rtol=1e-4)
    assert entry["frames"] == 5
    assert entry["completeness"]["relative_gap"] < 1e-5


def test_no_map_outside_the_brain(explained: tuple[Path, dict]):
    folder, summary = explained
    heat = nib.load(folder / "explain" / summary["maps"][0]["nifti"]).get_fdata()
    brain = nib.load(folder / "raw.nii").get_fdata()[..., 0] > 0
    assert heat[brain].max() > 0
    assert not heat[0].any()  # farther from the brain than one voxel of the prepared grid
    assert not heat[-1].any()


def test_maps_json_tells_what_was_done(explained: tuple[Path, dict]):
    folder, summary = explained
    (entry,) = summary["maps"]
    assert summary["method"] == "Integrated gradients"
    assert (entry["subject"], entry["source"], entry["label"], entry["frames"]) == ("0050048", "raw.nii", "ASD", 8)
    assert -1 < entry["randomised_weights_correlation"] < 0.99
    complete = entry["completeness"]
    gap = abs(complete["attributed"] / complete["logit_difference"] - 1)
    assert complete["relative_gap"] == pytest.approx(gap, rel=1e-6)
    assert gap < 0.05
    image, network = prepared(folder), small_network()
    middle = image[2:10]
    with torch.no_grad():
        at_scan, at_zero = network(torch.stack([middle, 0 * middle]), network.harmonizer.index(["B", "B"]))
    predicted = CLASSES.index(entry["predicted"])
    assert complete["logit_difference"] == pytest.approx(float(margin(at_scan - at_zero, predicted)), rel=1e-4)


def test_evidence_over_time_is_the_predictions(explained: tuple[Path, dict]):
    """Its mean over all frames, of which the map shows but some, is the scan's difference of logits."""
    folder, summary = explained
    (entry,) = summary["maps"]
    network = small_network()
    with torch.no_grad():
        logits = network(prepared(folder)[None], network.harmonizer.index(["B"]))[0]
    predicted = CLASSES.index(entry["predicted"])
    assert predicted == int(logits.argmax())
    table = pd.read_csv(folder / "explain" / entry["evidence_csv"])
    assert list(table) == ["frame", "seconds", "evidence", "cumulative_mean"]
    assert list(table["frame"]) == list(range(FRAMES // 2, FRAMES))  # half of a short scan is warm-up
    assert table["evidence"].mean() == pytest.approx(float(logits[predicted] - logits[1 - predicted]), rel=1e-4)
    assert table["cumulative_mean"].iloc[-1] == pytest.approx(table["evidence"].mean())
    np.testing.assert_allclose(table["seconds"], TR * np.arange(FRAMES // 2, FRAMES))
    assert imread(folder / "explain" / entry["evidence_png"])[..., :3].std() > 0.01


def test_without_a_repetition_time_only_frames_are_counted():
    table = evidence_table(torch.tensor([[0.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), 1, None)
    assert list(table) == ["frame", "evidence", "cumulative_mean"]
    assert table["cumulative_mean"].tolist() == [1, 2, 1]


def test_the_network_is_not_changed_and_the_control_keeps_the_harmonizer(tmp_path: Path):
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explain(write_scan(tmp_path), tmp_path / "explain", network, [load, drop_mask, *SPATIAL, zscore])
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert not any(module.training for module in network.modules())
    assert all(p.grad is None for p in network.parameters())
    twin = randomised(network, 1)
    kept = [name for name in before if name.startswith("harmonizer.") or name.endswith("_extra_state")]
    assert len(kept) > 5
    for name, value in twin.state_dict().items():
        assert torch.equal(value, before[name]) == (name in kept), name
    assert isinstance(twin.harmonizer, SiteAffine)
    assert twin.harmonizer.sites == ["A", "B"]


def test_the_same_seed_gives_the_same_files(tmp_path: Path):
    raw, steps = write_scan(tmp_path), [load, drop_mask, *SPATIAL, zscore]
    first, second, other = (
        explain(raw, tmp_path / name, small_network(), steps, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == second
    assert first["randomised_weights_correlation"] != other["randomised_weights_correlation"]


@pytest.mark.parametrize("offset", [100.0, 0.0])
def test_a_scan_with_holes_or_without_baseline_has_a_background(tmp_path: Path, monkeypatch, offset: float):
    """A detrended scan has its variation for a background: of a mean around 0 half the brain would count as outside."""
    array = scan(offset)
    inside = array[..., 0] != 0
    array[5, 5, 3], array[6, 5, 3, 4] = np.nan, np.nan
    seen = []
    monkeypatch.setattr("custom.visualize.maps._write_picture", lambda explanation, path: seen.append(explanation))
    steps = [load, drop_mask, lambda data: data | {"image": data["image"].nan_to_num()}]
    explain(write_scan(tmp_path, array), tmp_path / "explain", level_network(), steps)
    found = seen[0].background[0].numpy()
    inside[5, 5, 3] = False  # never measured
    np.testing.assert_array_equal(found > 0, inside)
    expected = np.nanmean(array[6, 5, 3]) if offset else np.nanstd(array[6, 5, 3])
    assert found[6, 5, 3] == pytest.approx(expected, rel=1e-4)


def test_an_unseen_site_is_refused(tmp_path: Path):
    scan = {"image": str(write_scan(tmp_path)), "subject": "1", "site": "Z"}
    with pytest.raises(UnseenSite, match="site 'Z' is unknown"):
        write_saliency(level_network(), [scan], [load, drop_mask], CLASSES, str(tmp_path), CPU)


def test_a_window_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="num_frames is 0"):
        explain(write_scan(tmp_path), tmp_path / "explain", level_network(), [load, drop_mask], num_frames=0)


def test_the_report_shows_map_and_evidence(explained: tuple[Path, dict], tmp_path: Path, write_evaluation):
    write_evaluation(tmp_path)
    shutil.copytree(explained[0] / "explain", tmp_path / "explain")
    page = Path(write_report(str(tmp_path))).read_text(encoding="utf-8")
    pictures = re.findall(r'<img alt="([^"]*of 0050048)" src="data:image/png;base64,([^"]{1000,})"', page)
    assert [alt for alt, _ in pictures] == ["Integrated gradients of 0050048", "course over time of 0050048"]
    assert pictures[0][1] != pictures[1][1]
