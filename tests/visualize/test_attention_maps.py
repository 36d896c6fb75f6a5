from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from scipy.stats import spearmanr
from torch import nn

from custom.data.prepare_record import scale_path
from custom.errors import BadScan
from custom.networks.noise_level import NoiseLevels
from custom.networks.spatiotemporal_unet import SpatioTemporalDiffusionUNet
from custom.visualize.attention_maps import write_attention_maps

CPU, CLASSES, GRID, FRAMES, TIMESTEP = torch.device("cpu"), ["face", "house", "cat"], (10, 7, 1), 4, 60
BLOCKS = ("spatial_1", "temporal_1")
AFFINE = np.array([[-3.0, 0.1, 0, 20], [0.1, 3.2, 0.2, -9], [0, -0.2, 4.0, 4], [0, 0, 0, 1]])
BETAS = torch.linspace(1e-4, 0.02, 1000)
BRAIN = np.zeros(GRID, dtype=bool)
BRAIN[2:9, 1:6] = True


def levels() -> NoiseLevels:
    return NoiseLevels((1 - BETAS).cumprod(0))


def build() -> SpatioTemporalDiffusionUNet:
    """Weights large enough for attention that is not even."""
    torch.manual_seed(2)
    network = SpatioTemporalDiffusionUNet(
        2, 3, 6, channels=(8, 12), attention_levels=(False, True), num_heads=2, head_dim=4, norm_num_groups=4
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return network.eval()


class Reader(nn.Module):
    """Stands for a network that attends where its input is, and to the frame before; it remembers what it is given."""

    attention_blocks = BLOCKS

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(1)), []

    def attention(self, x: torch.Tensor, timesteps: torch.Tensor, class_labels: Any, blocks: Any) -> dict[str, torch.Tensor]:
        self.seen.append((x, timesteps, class_labels, blocks))
        frames = torch.eye(x.shape[1]).roll(1, 0)[None, None]
        return {"spatial_1": torch.stack([x, 3 * x], 2) + 9, "temporal_1": frames.repeat(1, 2, 1, 1)}


def write_run(
    folder: Path, name: str = "run-1", seed: int = 0, grid: tuple[int, ...] = GRID, affine: np.ndarray = AFFINE
) -> Path:
    """A run of noise in a brain, with air around it."""
    voxels = np.random.default_rng(seed).normal(size=(*grid, 12)).astype(np.float32)
    if grid == GRID:
        voxels[~BRAIN] = 0
    nib.save(nib.Nifti1Image(voxels, affine), folder / f"{name}.nii")
    return folder / f"{name}.nii"


def row(image: Path, label: int, start: int, subject: str = "sub-1") -> dict[str, Any]:
    return {"image": str(image), "label": label, "subject": subject, "scan": image.stem, "start": start, "frames": FRAMES}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Two runs; faces in both, houses in one, and rest."""
    one, two = write_run(folder), write_run(folder, "run-2", 1)
    return [row(one, 1, 4), row(one, 0, 0), row(one, -1, 8), row(two, 0, 6)]


def window(item: dict[str, Any]) -> np.ndarray:
    voxels = nib.load(item["image"]).get_fdata()[..., item["start"] : item["start"] + FRAMES]
    return np.moveaxis(voxels, -1, 0)


def explain(network: nn.Module, rows: list[dict], out: Path, seed: int = 10, **options: Any) -> dict:
    options = {"timestep": TIMESTEP, "blocks": BLOCKS, "seed": seed} | options
    entries = write_attention_maps(network, rows, CLASSES, str(out), CPU, levels(), **options)
    summary = json.loads((out / "maps.json").read_text())
    assert summary["maps"] == entries
    return summary


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict], dict]:
    """Folder, rows and maps.json of a network."""
    folder = tmp_path_factory.mktemp("attention")
    rows = rows_of(folder)
    return folder / "explain", rows, explain(build(), rows, folder / "explain")


def noisy(item: dict[str, Any], sign: int) -> torch.Tensor:
    a2 = float((1 - BETAS.double()).cumprod(0)[TIMESTEP])
    noise = torch.randn(1, FRAMES, *GRID, generator=torch.Generator().manual_seed(10))
    return a2**0.5 * torch.from_numpy(window(item)).float()[None] + sign * (1 - a2) ** 0.5 * noise


def test_the_map_of_a_class_is_the_mean_over_its_windows(explained: tuple[Path, list[dict], dict]):
    folder, rows, summary = explained
    network = build()
    for entry, members in zip(summary["maps"], ([rows[1], rows[3]], [rows[0]]), strict=True):
        inputs = torch.cat([noisy(item, sign) for item in members for sign in (1, -1)])
        found = network.attention(inputs, torch.tensor([TIMESTEP]))
        expected = np.where(BRAIN, found["spatial_1"].mean((0, 1, 2)), 0)
        image = nib.load(folder / entry["nifti"])
        np.testing.assert_allclose(image.get_fdata(), expected, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
        assert expected[BRAIN].std() > 1e-3
        table = pd.read_csv(folder / entry["time_csv"])
        assert list(table) == ["block", "frame", "attended", "weight"]
        weights = table.pivot(index="frame", columns="attended", values="weight").to_numpy()
        np.testing.assert_allclose(weights, found["temporal_1"].mean((0, 1)), rtol=1e-3)


def test_maps_json_tells_what_was_done(explained: tuple[Path, list[dict], dict]):
    folder, _, summary = explained
    assert summary["method"] == "Attention of the diffusion network"
    assert [(e["title"], e["label"], e["predicted"], e["windows"]) for e in summary["maps"]] == [
        ("sub-1 face", "face", "face", 2),
        ("sub-1 house", "house", "house", 1),
    ]
    for entry in summary["maps"]:
        assert -1 < entry["randomised_weights_correlation"] < 0.95
        for picture in ("png", "time_png"):
            assert imread(folder / entry[picture])[..., :3].std() > 0.01


def test_other_classes_are_compared(explained: tuple[Path, list[dict], dict], tmp_path: Path):
    folder, rows, summary = explained
    first, second = (nib.load(folder / entry["nifti"]).get_fdata()[BRAIN] for entry in summary["maps"])
    for entry in summary["maps"]:
        assert entry["other_classes_correlation"] == pytest.approx(spearmanr(first, second).statistic)
    (alone,) = explain(build(), rows[:1], tmp_path)["maps"]
    assert alone["other_classes_correlation"] is None


def test_opposite_noise_cancels_and_the_class_is_not_told(tmp_path: Path):
    """A network whose attention is its input gives back the mean over the frames of the signal that is left."""
    reader, rows = Reader(), rows_of(tmp_path)
    (entry,) = explain(reader, [rows[0]], tmp_path / "out")["maps"]
    a = float((1 - BETAS.double()).cumprod(0)[TIMESTEP]) ** 0.5
    found = nib.load(tmp_path / "out" / entry["nifti"]).get_fdata()
    np.testing.assert_allclose(found, np.where(BRAIN, 2 * a * window(rows[0]).mean(0) + 9, 0), rtol=1e-4)
    for x, timesteps, label, blocks in reader.seen:
        assert x.shape == (1, FRAMES, *GRID)
        assert (timesteps.tolist(), label, blocks) == ([TIMESTEP], None, BLOCKS)


def test_rows_of_the_table_are_the_frames_that_attend(tmp_path: Path):
    (entry,) = explain(Reader(), rows_of(tmp_path)[:1], tmp_path / "out")["maps"]
    table = pd.read_csv(tmp_path / "out" / entry["time_csv"])
    assert table.loc[table["weight"] == 1, ["frame", "attended"]].to_numpy().tolist() == [[0, 3], [1, 0], [2, 1], [3, 2]]


def test_each_subject_has_maps_on_its_own_grid(tmp_path: Path):
    small = write_run(tmp_path, "run-3", 2, (6, 5, 1), np.diag([2.0, 2, 2, 1]))
    entries = explain(build(), [row(small, 0, 0, "sub-2"), *rows_of(tmp_path)[:1]], tmp_path / "out")["maps"]
    assert [entry["title"] for entry in entries] == ["sub-1 house", "sub-2 face"]
    assert entries[1]["other_classes_correlation"] is None
    assert nib.load(tmp_path / "out" / entries[1]["nifti"]).shape == (6, 5, 1)


def test_a_map_is_drawn_on_the_mean_signal_where_it_is_kept(tmp_path: Path):
    rows = rows_of(tmp_path)[:1]
    (entry,) = explain(build(), rows, tmp_path / "without")["maps"]
    scale = np.random.default_rng(0).uniform(500, 1500, (*GRID, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(scale, AFFINE), scale_path(rows[0]["image"]))
    explain(build(), rows, tmp_path / "with")
    plain, drawn = (imread(tmp_path / folder / entry["png"]) for folder in ("without", "with"))
    assert np.abs(drawn - plain).mean() > 0.01


def test_volumes_have_maps_of_several_blocks(tmp_path: Path):
    torch.manual_seed(0)
    network = SpatioTemporalDiffusionUNet(
        3, 3, 6, (8, 8), attention_levels=(True, True), num_heads=2, head_dim=4, norm_num_groups=4
    )
    run = write_run(tmp_path, grid=(6, 5, 4))
    blocks = network.attention_blocks
    (entry,) = explain(network, [row(run, 0, 0)], tmp_path / "out", blocks=blocks)["maps"]
    inputs = torch.from_numpy(window(row(run, 0, 0))).float()[None]
    assert nib.load(tmp_path / "out" / entry["nifti"]).shape == inputs.shape[2:]
    table = pd.read_csv(tmp_path / "out" / entry["time_csv"])
    np.testing.assert_allclose(table.groupby(["block", "frame"])["weight"].sum(), 1, rtol=1e-5)
    assert sorted(set(table["block"])) == ["temporal_0", "temporal_1"]


def test_the_same_seed_gives_the_same_files_and_the_network_is_not_changed(tmp_path: Path):
    rows, network = rows_of(tmp_path)[:1], build()
    before = {name: value.clone() for name, value in network.named_parameters()}
    first, second, other = (explain(network, rows, tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first == second
    assert first["randomised_weights_correlation"] != other["randomised_weights_correlation"]
    torch.testing.assert_close(dict(network.named_parameters()), before, rtol=0, atol=0)


def test_windows_without_a_class_have_no_map(tmp_path: Path):
    with pytest.raises(ValueError, match="no window has a class"):
        explain(build(), [rows_of(tmp_path)[2]], tmp_path / "out")


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (("temporal_1",), "name no spatial one: the network has spatial_1, temporal_1"),
        (("spatial_1",), "name no temporal one"),
        (("spatial_0", "temporal_1"), "no block of attention 'spatial_0'"),
    ],
)
def test_blocks_that_are_not_there_are_refused(tmp_path: Path, blocks: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        explain(build(), rows_of(tmp_path), tmp_path / "out", blocks=blocks)


@pytest.mark.parametrize(("grid", "affine"), [((6, 5, 1), AFFINE), (GRID, np.diag([2.0, 2, 2, 1]))])
def test_a_subject_has_one_grid(tmp_path: Path, grid: tuple[int, ...], affine: np.ndarray):
    other = write_run(tmp_path, "run-3", 0, grid, affine)
    with pytest.raises(BadScan, match=r"run-3\.nii: its grid .* or its affine differs"):
        explain(build(), [*rows_of(tmp_path), row(other, 2, 2)], tmp_path / "out")


def test_an_empty_scan_is_refused(tmp_path: Path):
    nib.save(nib.Nifti1Image(np.zeros((*GRID, 12), np.float32), AFFINE), tmp_path / "empty.nii")
    with pytest.raises(BadScan, match=r"empty\.nii: its windows hold nothing but 0"):
        explain(build(), [row(tmp_path / "empty.nii", 0, 0)], tmp_path / "out")


def test_a_window_beyond_the_end_of_its_run_is_refused(tmp_path: Path):
    late = row(write_run(tmp_path), 0, 12 - FRAMES + 1)
    with pytest.raises(BadScan, match=rf"run-1\.nii: {FRAMES - 1} of the {FRAMES} frames from frame .* were measured"):
        explain(build(), [late], tmp_path / "out")
