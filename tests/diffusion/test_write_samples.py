"""Files of samples, against the exact network of Gaussian classes and the scale it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDIMScheduler
from nilearn.image import load_img, mean_img

from custom.diffusion.dpm_solver import DPMSolverScheduler
from custom.diffusion.write_samples import write_samples
from custom.metrics.window_set import read_samples
from custom.networks.signal_scale import SignalScale

from .gaussian_problem import SCHEDULE, GaussianProblem, small_problem

NAMES = ["face", "house", "scrambled pix"]
GRID, FRAMES, TR, STEPS = (3, 2, 2), 2, 2.5, 6
AFFINE = torch.tensor([[-3.5, 0, 0, 90], [0, 3.75, 0, -126], [0, 0, 3.75, -72], [0, 0, 0, 1]], dtype=torch.float64)
BRAIN = torch.arange(12).reshape(GRID) % 4 != 1


class ScaledProblem(GaussianProblem):
    """The exact network, with the scale of the runs it is thought to come from, and a memory of the labels it was asked for."""

    def __init__(self) -> None:
        problem = small_problem(len(NAMES), FRAMES, GRID)
        super().__init__(problem.means, (problem.axes * problem.variances) @ problem.axes.T)
        self.scale, self.asked = SignalScale(GRID), set[int]()
        mean = torch.linspace(700, 1100, 12).reshape(GRID) * BRAIN
        self.scale.fit(torch.stack([mean, mean / 50])[None], AFFINE, TR)

    def forward(self, x: torch.Tensor, timesteps=None, class_labels=None) -> torch.Tensor:
        self.asked |= {-1} if class_labels is None else set(class_labels.tolist())
        return super().forward(x, timesteps, class_labels)


def write(folder: Path, classes: Any = NAMES, per_class: int = 2, **options: Any) -> dict[str, Any]:
    options = {"network": ScaledProblem(), "scheduler": DPMSolverScheduler(**SCHEDULE, stochastic=True), **options}
    given = {"num_steps": STEPS, "frames": FRAMES, **options}
    return write_samples(class_names=NAMES, classes=classes, per_class=per_class, output_dir=str(folder), **given)


def z_of(folder: Path, sample: dict[str, Any]) -> np.ndarray:
    return np.load(folder / sample["z"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples of every class and of none, with films."""
    made = tmp_path_factory.mktemp("samples")
    write(made, [*NAMES, "unconditional"], seed=40, film=3)
    return made


@pytest.fixture(scope="module")
def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "samples.json").read_text())


def test_samples_json_lists_what_is_there(folder: Path, content: dict[str, Any]) -> None:
    stems = [f"{name}_000{i}" for name in ("face", "house", "scrambled-pix", "unconditional") for i in (0, 1)]
    assert content["samples"] == [
        {"image": f"{stem}.nii.gz", "z": f"z/{stem}.npy", "label": label, "seed": 40 + i}
        for i, (stem, label) in enumerate(zip(stems, [0, 0, 1, 1, 2, 2, -1, -1], strict=True))
    ]
    means = [f"{name}_mean.nii.gz" for name in ("face", "house", "scrambled-pix", "unconditional")]
    listed = [sample[kind] for sample in content["samples"] for kind in ("image", "z")]
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(found) == sorted([*listed, *means, "film.npy", "samples.json"])
    assert (content["num_steps"], content["scheduler"], content["guidance"]) == (STEPS, "DPMSolverScheduler", None)


def test_the_figures_read_the_same_windows(folder: Path, content: dict[str, Any]) -> None:
    windows = read_samples(folder, NAMES, FRAMES)
    assert windows.labels.tolist() == [0, 0, 1, 1, 2, 2, -1, -1]
    assert windows.runs.tolist() == [sample["z"] for sample in content["samples"]]
    np.testing.assert_array_equal(windows.values, np.stack([z_of(folder, s) for s in content["samples"]]))
    assert not windows.values[..., ~BRAIN.numpy()].any()
    assert windows.values[..., BRAIN.numpy()].all()


def test_what_is_returned_is_what_is_written(tmp_path: Path) -> None:
    returned = write(tmp_path, guidance=2.0, film=2)
    assert returned == json.loads((tmp_path / "samples.json").read_text())


def test_pictures_are_in_the_units_of_the_scanner(folder: Path, content: dict[str, Any]) -> None:
    mean = np.linspace(700, 1100, 12).reshape(GRID) * BRAIN.numpy()
    for sample in content["samples"]:
        picture, z = nib.load(folder / sample["image"]), z_of(folder, sample).astype(np.float64)
        signal = np.asarray(picture.dataobj)
        assert (picture.shape, picture.get_data_dtype()) == ((*GRID, FRAMES), np.float32)
        np.testing.assert_allclose(signal, np.moveaxis(mean + mean / 50 * z, 0, -1), rtol=1e-6)
        assert not signal[~BRAIN.numpy()].any()
        np.testing.assert_array_equal(picture.affine, AFFINE.numpy())
        assert picture.header.get_xyzt_units() == ("mm", "sec")
        assert picture.header.get_zooms() == (3.5, 3.75, 3.75, TR)


def test_nilearn_reads_them(folder: Path, content: dict[str, Any]) -> None:
    first, second = (str(folder / sample["image"]) for sample in content["samples"][2:4])
    assert load_img(first).shape == (*GRID, FRAMES)
    both = (mean_img(first).get_fdata() + mean_img(second).get_fdata()) / 2
    np.testing.assert_allclose(load_img(str(folder / "house_mean.nii.gz")).get_fdata(), both, rtol=1e-6)


def test_the_mean_of_a_class_is_a_volume(folder: Path, content: dict[str, Any]) -> None:
    mean = np.linspace(700, 1100, 12).reshape(GRID) * BRAIN.numpy()
    for k, name in enumerate(("face", "house", "scrambled-pix", "unconditional")):
        picture = nib.load(folder / f"{name}_mean.nii.gz")
        z = np.stack([z_of(folder, sample) for sample in content["samples"][2 * k : 2 * k + 2]]).astype(np.float64)
        assert picture.shape == GRID
        np.testing.assert_allclose(np.asarray(picture.dataobj), mean * (1 + z.mean((0, 1)) / 50), rtol=1e-6)
        np.testing.assert_array_equal(picture.affine, AFFINE.numpy())


def test_windows_of_one_frame_are_volumes(tmp_path: Path) -> None:
    network = ScaledProblem()
    network.means = network.means[:, :1]
    write(tmp_path, ["house"], 1, network=network, frames=1)
    picture = nib.load(tmp_path / "house_0000.nii.gz")
    assert picture.shape == GRID
    assert np.load(tmp_path / "z" / "house_0000.npy").shape == (1, *GRID)


def test_a_class_is_drawn_from_its_own_distribution(tmp_path: Path) -> None:
    network = ScaledProblem()
    write(tmp_path, ["scrambled pix", "face"], 200, network=network, batch_size=400, scheduler=DPMSolverScheduler(**SCHEDULE))
    windows = read_samples(tmp_path, NAMES, FRAMES)
    for label in (0, 2):
        mean, inside = windows.of([label]).values.mean(0), BRAIN.numpy()
        expected = network.means[label].numpy()
        np.testing.assert_allclose(mean[:, inside], expected[:, inside], atol=4 * (0.5 / 200) ** 0.5)
    assert (np.abs(network.means[0] - network.means[2]).numpy() > 0.5).any()
    assert network.asked == {0, 2}


@pytest.mark.parametrize(("wanted", "guidance", "asked"), [("unconditional", None, {-1}), ("house", 0.5, {-1, 1})])
def test_without_a_class_the_network_is_not_told_one(tmp_path: Path, wanted: str, guidance: float | None, asked: set) -> None:
    network = ScaledProblem()
    assert write(tmp_path, [wanted], 1, network=network, guidance=guidance)["guidance"] == guidance
    assert network.asked == asked


def test_of_no_class_is_no_guidance_at_all(tmp_path: Path) -> None:
    write(tmp_path / "none", ["unconditional"], 2)
    write(tmp_path / "zero", ["house"], 2, guidance=0.0)
    for i in range(2):
        none, zero = (np.load(tmp_path / f"{name}_000{i}.npy") for name in ("none/z/unconditional", "zero/z/house"))
        np.testing.assert_allclose(zero, none, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize(("classes", "per_class", "seed"), [(["house"], 3, 42), (["face", "house"], 1, 41), ("house", 1, 43)])
def test_a_seed_is_a_sample(
    folder: Path, content: dict[str, Any], tmp_path: Path, classes: Any, per_class: int, seed: int, batch_size: int
) -> None:
    """Whatever else is drawn with it: the module's samples of houses have the seeds 42 and 43."""
    known = {(sample["label"], sample["seed"]): z_of(folder, sample) for sample in content["samples"]}
    made = write(tmp_path, classes, per_class, seed=seed, batch_size=batch_size)["samples"]
    assert [sample["seed"] for sample in made] == list(range(seed, seed + len(made)))
    again = [sample for sample in made if (sample["label"], sample["seed"]) in known]
    assert again
    for sample in again:
        np.testing.assert_allclose(z_of(tmp_path, sample), known[sample["label"], sample["seed"]], atol=1e-5)


def test_seeds_make_a_difference(folder: Path, content: dict[str, Any]) -> None:
    first, second = (z_of(folder, sample) for sample in content["samples"][:2])
    assert np.abs(first - second).max() > 0.1


def test_a_class_given_twice_is_written_once(tmp_path: Path) -> None:
    made = write(tmp_path, ["house", "face", "house"], 1)
    assert [sample["label"] for sample in made["samples"]] == [1, 0]


def test_a_film_is_of_the_first_sample_of_every_class(folder: Path, content: dict[str, Any]) -> None:
    film = np.load(folder / content["film"]["z"])
    assert film.shape == (4, 3, FRAMES, *GRID)
    assert content["film"]["titles"] == ["face", "house", "scrambled-pix", "unconditional"]
    for strip, sample in zip(film, content["samples"][::2], strict=True):
        start = torch.randn(FRAMES, *GRID, generator=torch.Generator().manual_seed(sample["seed"]))
        np.testing.assert_array_equal(strip[0], (start * BRAIN).numpy())
        np.testing.assert_array_equal(strip[-1], z_of(folder, sample))


def test_without_a_film_there_is_none(tmp_path: Path) -> None:
    assert "film" not in write(tmp_path, ["face"], 1)
    assert not (tmp_path / "film.npy").exists()


def test_a_scheduler_of_monai_does_as_well(tmp_path: Path) -> None:
    ddim = DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False)
    network = ScaledProblem()
    made = write(tmp_path, ["face"], 2, scheduler=ddim, network=network)
    assert made["scheduler"] == "DDIMScheduler"
    assert network.evaluations == 2 * STEPS
    assert len(read_samples(tmp_path, NAMES, FRAMES)) == 2


def test_the_network_goes_on_as_it_was(tmp_path: Path) -> None:
    network = ScaledProblem().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    write(tmp_path, ["face"], 1, network=network)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("classes", "per_class", "message"),
    [
        (["face", "cat"], 1, r"1 samples of \['face', 'cat'\] are wanted; the network was trained on \['face', 'house'"),
        ("cat", 1, r"1 samples of \['cat'\]"),
        (["scrambled-pix"], 1, "'unconditional' is that of no class"),
        (NAMES, 0, "0 samples of .* --per_class of at least 1"),
        ([], 2, r"2 samples of \[\] are wanted"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, classes: Any, per_class: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "samples", classes, per_class)
    assert not (tmp_path / "samples").exists()


def test_samples_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    network = ScaledProblem()
    network.means[1] = torch.nan
    with pytest.raises(ValueError, match="are not finite"):
        write(tmp_path / "samples", ["face", "house"], 1, network=network)
    assert not (tmp_path / "samples").exists()
