from __future__ import annotations

import json

import numpy as np
import pytest

from custom.visualize.anomaly import auc_figure, example_figure, write_anomaly_pictures

KINDS = ["drop_out", "spike"]
NAMES = ["diffusion", "PCA residual"]


@pytest.fixture
def results() -> dict:
    auc = {
        name: {k: {s: {"value": 0.5 + 0.1 * j, "low": None, "high": None} for s in "ab"} for k in KINDS}
        for j, name in enumerate(NAMES)
    }
    auc["diffusion"]["spike"]["b"] = {"value": 0.9, "low": 0.8, "high": 0.95}
    return {"auc": auc, "sizes": {k: {"a": 1, "b": 2} for k in KINDS}, "tuning_kinds": ["drop_out"]}


@pytest.fixture
def examples() -> dict[str, np.ndarray]:
    window, truth = np.zeros((3, 5, 4, 2)), np.zeros((3, 5, 4, 2), bool)
    truth[2, 1:3, 1, 1] = True
    window[2, 1, 1, 1] = 7
    return {"blob/window": window, "blob/truth": truth, "blob/map/diffusion": 2 * window}


def test_a_panel_per_kind_with_the_values_and_intervals(results):
    axes = auc_figure(results, NAMES).axes
    assert [ax.get_title() for ax in axes] == ["drop out (tuning)", "spike (test)"]
    points, bars = axes[1].containers[0].lines[0], axes[1].containers[0].lines[2][0]
    np.testing.assert_allclose(points.get_ydata(), [0.5, 0.9])
    np.testing.assert_allclose(bars.get_segments()[1][:, 1], [0.8, 0.95])
    np.testing.assert_allclose(np.ptp(bars.get_segments()[0][:, 1]), 0)  # not known, not drawn


def test_examples_show_the_slice_and_frame_of_the_anomaly(examples):
    axes = example_figure(examples, NAMES).axes
    assert [ax.get_title() for ax in axes] == ["window, blob", "planted", "diffusion"]
    np.testing.assert_array_equal(axes[0].images[0].get_array(), examples["blob/window"][2, :, :, 1].T)
    np.testing.assert_array_equal(axes[1].images[0].get_array(), examples["blob/truth"][2, :, :, 1].T)
    np.testing.assert_array_equal(axes[2].images[0].get_array(), examples["blob/map/diffusion"][2, :, :, 1].T)


def test_pictures_are_written_and_unknown_scores_refused(results, examples, tmp_path):
    (tmp_path / "anomalies.json").write_text(json.dumps(results))
    np.savez(tmp_path / "anomaly_examples.npz", **examples)
    for path in write_anomaly_pictures(tmp_path):
        assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no score magic"):
        write_anomaly_pictures(tmp_path, ["magic"])
