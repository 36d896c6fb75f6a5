from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from generation_cases import CLASSES, FRAMES, brain, data, process, write_samples, write_study

from custom.metrics.generation import comparable, compare_generation, evaluate_generation, generation_figures
from custom.metrics.window_set import WindowSet
from custom.metrics.window_statistics import compare_statistics, window_statistics


def unlabelled(windows: WindowSet) -> WindowSet:
    return WindowSet(windows.values, np.full(len(windows), -1), windows.runs)


def test_independent_draws_lie_at_the_ceiling():
    found = compare_generation(data(process(30, 3), process(30, 1), process(10, 2)))
    generated, ceiling = found["generated"], found["ceiling"]
    assert generated["windows"] == ceiling["windows"] == [120, 40]
    for name in ("mean_correlation", "variance_ratio_median", "lag1_mean", "fc_distance", "high_frequency_ratio"):
        assert generated[name] == pytest.approx(ceiling[name], abs=0.12), name
    assert ceiling["fc_distance"] < 0.15


def test_white_noise_is_far_below_the_ceiling():
    found = compare_generation(data(process(12, 3, ar=0, smooth=0, effect=0), process(12, 1), process(6, 2)))
    generated, ceiling = found["generated"], found["ceiling"]
    assert generated["fc_distance"] > 0.8 > 2 * ceiling["fc_distance"]
    assert generated["high_frequency_ratio"] > 2
    assert ceiling["high_frequency_ratio"] == pytest.approx(1, abs=0.1)
    assert generated["lag1_mean"] < ceiling["lag1_mean"] - 0.1


def test_ceiling_and_halves_are_comparisons_of_real_windows():
    train, test = process(3, 1), process(4, 2)
    found = compare_generation(data(process(5, 3), train, test))
    real = window_statistics(test.values, brain())
    ceiling = compare_statistics(window_statistics(train.values, brain()), real)
    assert {k: v for k, v in found["ceiling"].items() if k != "windows"} == pytest.approx(ceiling)
    runs = [window_statistics(test.at(test.runs == run).values, brain()) for run in ("run0", "run1")]
    # two runs: either half is a run, whichever is the first
    assert found["halves"]["fc_distance"] == pytest.approx(compare_statistics(*runs)["fc_distance"])
    assert found["halves"]["windows"] == [8, 8]


def test_compared_sets_have_the_generated_classes_in_equal_numbers():
    fake, train, test = comparable(data(process(6, 3).of([1, 2]), process(4, 1), process(2, 2)))
    assert fake.labels.tolist() == train.labels.tolist() == [1] * 4 + [2] * 4
    assert test.labels.tolist() == [1, 1, 2, 2]
    fake, train, test = comparable(data(unlabelled(process(2, 3)), process(4, 1), process(2, 2)))
    assert [len(s) for s in (fake, train, test)] == [8, 8, 8]
    with pytest.raises(ValueError, match=r"generated are the classes \[0\], held out \[1, 2\]"):
        comparable(data(process(2, 3).of([0]), test=process(2, 2).of([1, 2])))


def test_file_holds_every_part(tmp_path: Path):
    datalist = write_study(tmp_path, process(4, 1), process(2, 2))
    folder = write_samples(tmp_path / "samples", process(3, 3))
    found = evaluate_generation(str(folder), datalist, str(tmp_path / "out"), FRAMES, seed=5)
    assert json.loads((tmp_path / "out/generation.json").read_text()) == found
    assert found["training_runs"] == ["training"]
    assert found["windows"]["generated"] == dict.fromkeys(CLASSES, 3)
    assert (found["frames"], found["voxels"], found["synthetic_study"]) == (FRAMES, int(brain().sum()), True)
    assert found["memorisation"]["windows"]["samples"] == 12
    assert found["memorisation"]["frames"]["samples"] == 12 * FRAMES
    assert set(found["notes"]) >= {"statistics", "class_maps", "memorisation", "synthetic_training", "null"}
    again = evaluate_generation(str(folder), datalist, str(tmp_path / "again"), FRAMES, seed=5)
    assert again == found


def test_copies_of_training_windows_are_found(tmp_path: Path):
    train = process(4, 1)
    folder = write_samples(tmp_path / "samples", train)
    found = evaluate_generation(str(folder), write_study(tmp_path, train, process(2, 2)), str(tmp_path), FRAMES)
    assert found["memorisation"]["windows"]["verdict"] == "copies of training data"
    generated, ceiling = (found["statistics"][name] for name in ("generated", "ceiling"))
    assert generated.pop("windows") == ceiling.pop("windows") == [16, 8]
    assert generated == pytest.approx(ceiling)  # which is why statistics alone prove nothing


def test_parts_that_cannot_be_computed_say_why():
    found = generation_figures(data(unlabelled(process(2, 3))))
    assert "fewer than 2 classes" in found["class_maps"]["unavailable"]
    assert "fewer than 2 classes" in found["synthetic_training"]["unavailable"]
    assert found["windows"]["generated"] == {"no class": 8}
    one = generation_figures(data(process(2, 3), test=process(1, 2).of([2])))
    assert "one test window" in one["statistics"]["halves"]["unavailable"]
    assert "one test window" in one["memorisation"]["unavailable"]
    json.dumps([found, one], allow_nan=False)


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_a_collapsed_generator_gives_nulls_and_no_nan(frames: int):
    fake = process(2, 3)
    sets = [WindowSet(s.values[:, :frames], s.labels, s.runs) for s in (fake, process(4, 1), process(2, 2))]
    sets[0].values[:] = 0
    found = generation_figures(data(*sets))
    json.dumps(found, allow_nan=False)
    assert found["statistics"]["generated"]["mean_correlation"] is None
    assert found["class_maps"]["generated"]["correlation"]["value"] is None
    assert (found["statistics"]["ceiling"]["lag1_mean"] is None) == (frames == 1)
