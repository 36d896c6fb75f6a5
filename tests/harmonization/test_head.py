from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from custom.harmonization import HarmonizedClassifier, SiteAffine, apply_to_table, fit_head
from custom.harmonization.head import linear_head, logistic_ridge
from custom.networks import SliceCNNLSTM
from custom.networks.weights_digest import weights_digest


def features(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    return rng.normal(size=(n, 3)) * [1, 10, 0.1] + labels[:, None] * [1, 0, 0.05] + [0, 100, 5], labels


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_layer_is_the_standardised_regression(classes: int):
    x, _ = features()
    y = np.arange(40) % classes
    head = linear_head(x, y, classes)
    found = head(torch.from_numpy(x).float()).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, logistic_ridge().fit(x, y).predict_proba(x), atol=1e-4)


def test_a_class_without_training_subjects_is_an_error():
    x, _ = features()
    with pytest.raises(ValueError, match="all 2 classes"):
        linear_head(x, np.zeros(40, dtype=int), 2)


@pytest.fixture
def stages(tmp_path: Path) -> tuple[HarmonizedClassifier, dict[str, str]]:
    """What the stages before leave: site B's features are moved by 5, which the harmonizer undoes."""
    torch.manual_seed(0)
    network = HarmonizedClassifier(SliceCNNLSTM(channels=(2, 2, 2), hidden=3), num_features=3)
    x, y = features()
    site = np.where(np.arange(40) % 4 < 2, "A", "B")
    table = pd.DataFrame(x + 5 * (site == "B")[:, None], columns=["f0", "f1", "f2"])
    table = table.assign(subject=[f"{i:07d}" for i in range(40)], site=site, label=y)
    table["part"] = np.where(np.arange(40) < 28, "training", "validation")
    affine = SiteAffine(3, ("A", "B"))
    affine.shift[1] = -5
    affine.feature_digest = weights_digest(network.extractor)
    files = {"extractor": "extractor.pt", "harmonizer": "harmonizer.pt", "features": "features.csv", "path": "model.pt"}
    paths = {name: str(tmp_path / file) for name, file in files.items()}
    torch.save(network.extractor.state_dict(), paths["extractor"])
    Path(paths["extractor"]).with_suffix(".json").write_text(json.dumps({"seen_subjects": ["x"]}))
    torch.save(affine.state_dict(), paths["harmonizer"])
    table.to_csv(paths["features"], index=False)
    return network, paths


def test_head_is_fitted_on_harmonized_training_subjects(stages):
    network, paths = stages
    found = fit_head(network, **paths)
    x, y = features()
    expected = linear_head(x[:28], y[:28], 2)
    torch.testing.assert_close(network.head.weight, expected.weight, atol=1e-5, rtol=1e-4)
    assert found["raw"]["auc"] is not None
    assert 0 <= found["harmonized"]["auc_within_site"] <= 1


def test_saved_network_is_whole_and_knows_who_trained_it(stages):
    network, paths = stages
    found = fit_head(network, **paths)
    other = HarmonizedClassifier(SliceCNNLSTM(channels=(2, 2, 2), hidden=3), num_features=3)
    other.load_state_dict(torch.load(paths["path"], weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), network.state_dict().values(), strict=True))
    provenance = json.loads(Path(paths["path"]).with_suffix(".json").read_text())
    assert provenance["seen_subjects"] == ["x"]
    assert provenance["harmonization"]["sites"].keys() == {"A", "B"}
    assert provenance["harmonization"]["validation"] == found


def test_stage_that_has_not_run_is_named(stages):
    network, paths = stages
    Path(paths["harmonizer"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"harmonizer\.pt does not exist"):
        fit_head(network, **paths)


def test_harmonizer_of_another_extractor_is_refused(stages):
    network, paths = stages
    state = torch.load(paths["extractor"], weights_only=True)
    state["head.bias"] += 1
    torch.save(state, paths["extractor"])
    with pytest.raises(ValueError, match="another extractor"):
        fit_head(network, **paths)
    assert not Path(paths["path"]).exists()


def test_table_is_mapped_row_by_row():
    affine = SiteAffine(2, ("A", "B"))
    affine.scale[1], affine.shift[1] = 2, torch.tensor([1.0, -1.0])
    x = np.random.default_rng(0).normal(size=(4, 2))
    found = apply_to_table(affine, x, ["A", "B", "B", "A"])
    np.testing.assert_allclose(found[[0, 3]], x[[0, 3]])
    np.testing.assert_allclose(found[[1, 2]], 2 * x[[1, 2]] + [1, -1])


def test_extractor_that_is_not_the_one_told_of_is_refused(stages):
    """Beside it lies what another training tells, killed after it had written its weights."""
    network, paths = stages
    Path(paths["extractor"]).with_suffix(".json").write_text(json.dumps({"seen_subjects": ["x"], "weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"extractor\.pt is not the file that .*extractor\.json tells of"):
        fit_head(network, **paths)
    assert not Path(paths["path"]).exists()
