from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_cases import CASES, Paths, run_workflow

from custom.phantoms.oasis_slices import TARGETS, read_slices, write_slices

CASE = next(c for c in CASES if c.name.startswith("oasis"))


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    paths = Paths(tmp_path_factory.mktemp("slices"))
    write_slices(paths.data, n_heads=16, validation=0.25)
    return paths


def test_slices_are_framed_and_scaled(slices: Paths) -> None:
    rows = read_slices(f"{slices.data}/datalist.json", list(TARGETS))
    assert (len(rows["training"]), len(rows["validation"])) == (60, 20)
    assert not {r["subject"] for r in rows["training"]} & {r["subject"] for r in rows["validation"]}
    for row in rows["training"][:5]:
        image = nib.load(row["image"])
        assert image.shape == (64, 64, 1)
        np.testing.assert_allclose(image.header.get_zooms(), 2.25)
        assert 0 <= image.get_fdata().min() < image.get_fdata().max() <= 1


def test_growth_darkens_the_ventricles_and_thinning_the_rim(slices: Paths) -> None:
    rows = read_slices(f"{slices.data}/datalist.json", list(TARGETS))
    rows = [r for part in ("training", "validation") for r in rows[part]]
    targets = np.stack([r["label"] for r in rows])
    images = np.stack([nib.load(r["image"]).get_fdata()[..., 0] for r in rows])
    ventricles = (images[:, 24:40, 28:44] < 0.1).mean((1, 2))
    assert np.corrcoef(ventricles, targets[:, 0])[0, 1] > 0.6
    assert abs(np.corrcoef(targets.T)[0, 1]) < 0.7  # drawn independently


def test_a_head_does_not_depend_on_their_number(slices: Paths, tmp_path: Path) -> None:
    write_slices(str(tmp_path), n_heads=1, num_workers=1, validation=0.0)
    for path in (tmp_path / "images").iterdir():
        assert path.read_bytes() == (Path(slices.data) / "images" / path.name).read_bytes()


def test_other_targets_are_refused(slices: Paths) -> None:
    with pytest.raises(ValueError, match="targets"):
        read_slices(f"{slices.data}/datalist.json", ["CDR 0", "CDR above 0"])


def test_pretraining_then_linear_probe(slices: Paths, tmp_path: Path) -> None:
    """The backbone of the probe is the pre-trained one and stays so; only the head learns."""
    import torch

    run_workflow(CASE, "train", "pretrain", epochs=2, batch_size=16, learning_rate=1e-3, **slices.train)
    pretrained = torch.load(slices.models / "model.pt", weights_only=True)

    rows = json.loads((Path(slices.data) / "datalist.json").read_text())
    for part in ("training", "validation"):
        rows[part] = [{**r, "label": int(r["label"][0] > 0), "image": f"{slices.data}/{r['image']}"} for r in rows[part]]
    rows["class_names"] = ["CDR 0", "CDR above 0"]
    (tmp_path / "datalist.json").write_text(json.dumps(rows))
    paths = Paths(tmp_path)
    override = paths.train | {"dataset_dir": str(tmp_path), "initial_weights": str(slices.models / "model.pt")}
    run_workflow(CASE, "train", "linear_probe", "binary", epochs=2, batch_size=16, **override)
    probe = torch.load(paths.models / "last.pt", weights_only=True)["model"]
    backbone = {k: v for k, v in probe.items() if k.startswith("backbone.")}
    assert backbone
    assert all(torch.equal(v, pretrained[k]) for k, v in backbone.items())
    assert probe["head.0.num_batches_tracked"] > 0
