from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from generation_cases import CLASSES, FRAMES, GRID, brain, patterns, process, write_samples, write_study
from matplotlib.figure import Figure
from matplotlib.image import imread

from custom.metrics.memorisation import nearest_neighbour_ratio
from custom.metrics.window_set import WindowSet
from custom.metrics.window_statistics import window_statistics
from custom.visualize import generation
from custom.visualize.generation import (
    agreement_figure,
    class_map_figure,
    connectivity_figure,
    film_figure,
    ratio_figure,
    write_generation_pictures,
)


def panels(figure: Figure) -> list[np.ndarray]:
    """Return what the images show, rows from the top as they are stored."""
    return [ax.images[0].get_array() for ax in figure.axes if ax.images]


def titles(figure: Figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


# class maps


def test_class_maps_stand_above_each_other_on_one_scale_and_hide_what_is_outside():
    real, fake = patterns() * brain(), 0.5 * patterns() * brain()
    figure = class_map_figure(real, fake, CLASSES)
    shown = panels(figure)
    assert len(shown) == 8
    np.testing.assert_allclose(np.ma.filled(shown[2], 0), real[2, ..., 0].T)  # X to the right
    np.testing.assert_allclose(np.ma.filled(shown[6], 0), fake[2, ..., 0].T)
    assert all(ax.images[0].origin == "lower" for ax in figure.axes if ax.images)  # Y upwards
    assert len({ax.images[0].get_clim() for ax in figure.axes if ax.images}) == 1
    assert np.ma.getmaskarray(shown[0]).sum() == (~brain()).sum()
    assert figure.axes[-1].get_ylabel() == "class mean (z)"


def test_titles_tell_the_correlation_in_the_brain():
    real = patterns() * brain()
    fake = real.copy()
    fake[1] *= -1
    fake[2] = 0
    fake[:, 0] = 100  # outside the brain
    assert titles(class_map_figure(real, fake, CLASSES)) == [
        "face\nr = 1.00",
        "house\nr = -1.00",
        "cat\nr = undefined",
        "shoe\nr = 1.00",
    ]


def test_a_volume_is_shown_as_its_middle_slice():
    real = np.random.default_rng(0).normal(size=(2, 5, 4, 7))
    shown = panels(class_map_figure(real, real, ["a", "b"]))
    np.testing.assert_allclose(shown[1], real[1, ..., 3].T)


def test_maps_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="4 names"):
        class_map_figure(patterns()[:2], patterns()[:2], CLASSES)
    with pytest.raises(ValueError, match="generated maps"):
        class_map_figure(patterns(), patterns()[:, :5], CLASSES)


# film


@pytest.mark.parametrize(("steps", "expected"), [(3, [1, 2, 3]), (50, [1, 8, 15, 22, 29, 36, 43, 50])])
def test_film_has_first_and_last_step_and_at_most_eight(steps: int, expected: list[int]):
    film = np.random.default_rng(0).normal(size=(2, steps, 5, *GRID))
    figure = film_figure(film, ["face", "house"])
    assert titles(figure) == [f"step {k} of {steps}" for k in expected]
    shown = panels(figure)
    assert len(shown) == 2 * len(expected)
    np.testing.assert_allclose(shown[len(expected)], film[1, 0, 2, ..., 0].T)
    np.testing.assert_allclose(shown[-1], film[1, -1, 2, ..., 0].T)
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["face", "house", "z"]


def test_film_needs_a_title_per_sample():
    with pytest.raises(ValueError, match="1 titles"):
        film_figure(np.ones((2, 3, 4, *GRID)), ["face"])
    with pytest.raises(ValueError, match="N, steps, F"):
        film_figure(np.ones((2, 3, *GRID)), ["face", "house"])


# statistics


def test_connectivity_keeps_one_order_that_puts_alike_voxels_together():
    group = np.arange(12) % 2
    real = np.where(group[:, None] == group, 0.8, -0.2) + 0.2 * np.eye(12)
    fake = np.where(group[:, None] == group, 0.4, 0.1) + 0.5 * np.eye(12)
    figure = connectivity_figure({"real": real, "generated": fake})
    shown = panels(figure)
    assert shown[0][:6, :6].min() > 0.7
    assert shown[0][:6, 6:].max() < 0
    assert shown[1][:6, :6].min() > 0.3
    assert shown[1][:6, 6:].max() < 0.2
    assert titles(figure) == ["real", "generated\nr = 1.00"]


def test_agreement_shows_every_voxel_of_both_and_no_autocorrelation_of_short_windows():
    long = [window_statistics(process(3, seed).values, brain()) for seed in (2, 3, 1)]
    figure = agreement_figure(*long)
    assert len(figure.axes) == 2
    training, generated = figure.axes[0].collections
    np.testing.assert_allclose(generated.get_offsets(), np.c_[long[0].variance, long[1].variance])
    np.testing.assert_allclose(training.get_offsets(), np.c_[long[0].variance, long[2].variance])
    short = [window_statistics(process(3, seed).values[:, :2], brain()) for seed in (2, 3, 1)]
    assert len(agreement_figure(*short).axes) == 1


def test_histogram_is_of_shares_and_states_the_verdict():
    train = process(6, 1).values
    found = nearest_neighbour_ratio(train, train, process(3, 2).values, brain())
    (ax,) = ratio_figure(found).axes
    assert ax.get_title().endswith("copies of training data")
    assert sum(bar.get_height() for bar in ax.patches if hasattr(bar, "get_height")) == pytest.approx(1)
    (outline,) = (patch for patch in ax.patches if not hasattr(patch, "get_height"))
    assert outline.get_xy()[:, 1].max() == pytest.approx(1)  # all samples are copies, in the bin of 0
    assert ax.lines[0].get_xdata()[0] == found.reference_full_ratio.min()


# files


def study(folder: Path, fake: WindowSet, test: WindowSet, **changes) -> dict:
    write_samples(folder / "samples", fake, **changes)
    return write_study(folder, process(4, 1), test)


def test_all_pictures_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    films = []
    monkeypatch.setattr(generation, "film_figure", lambda film, names: films.append(film) or film_figure(film, names))
    fake = process(2, 3)
    datalist = study(tmp_path, fake, process(2, 2))
    listed = tmp_path / "samples/samples.json"
    np.save(tmp_path / "samples/z/film.npy", np.stack([fake.values[:2]] * 4, 1) + 1)  # not 0 outside the brain
    film = {"z": "z/film.npy", "titles": ["a", "b"]}
    listed.write_text(json.dumps(json.loads(listed.read_text()) | {"film": film}))
    found = write_generation_pictures(str(tmp_path / "samples"), datalist, str(tmp_path / "out"), FRAMES)
    assert set(found) == {"connectivity", "agreement", "class_maps", "neighbours", "film"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(found.values())
    for name in found.values():
        picture = imread(tmp_path / "out" / name)
        assert picture[..., :3].std() > 0.05
    assert ((films[0] != 0) == brain()).all()


def test_without_classes_or_with_one_block_the_rest_is_written(tmp_path: Path):
    fake = process(2, 3)
    datalist = study(tmp_path, WindowSet(fake.values, np.full(8, -1), fake.runs), process(1, 2).of([2]))
    found = write_generation_pictures(str(tmp_path / "samples"), datalist, str(tmp_path), FRAMES)
    assert set(found) == {"connectivity", "agreement"}
