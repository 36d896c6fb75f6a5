import copy
import io

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from ignite.handlers import Checkpoint, DiskSaver
from monai.handlers import CheckpointLoader
from neuroHarmonize import harmonizationLearn
from torch import nn

from custom.harmonization import SiteAffine, UnseenSite, fit_combat
from custom.networks.weights_digest import weights_digest


@pytest.fixture(scope="module")
def affine(study) -> SiteAffine:
    names = [f"f{i}" for i in range(8)]
    return fit_combat(study.x, study.site, study.covariates, subjects=study.subject, feature_names=names)


def harmonize(affine, x, site):
    return affine(torch.as_tensor(x), affine.index(site))


def test_rows_do_not_depend_on_each_other(study, affine):
    whole = harmonize(affine, study.x, study.site)
    order = np.random.default_rng(0).permutation(len(study.x))
    assert torch.equal(harmonize(affine, study.x[order], study.site[order]), whole[order])
    one_by_one = [harmonize(affine, study.x[i : i + 1], study.site[i : i + 1]) for i in range(len(study.x))]
    assert torch.equal(torch.cat(one_by_one), whole)
    for site in affine.sites:
        here = study.site == site
        assert torch.equal(harmonize(affine, study.x[here], study.site[here]), whole[torch.from_numpy(here)])


def test_without_covariates_it_is_the_library_s_own_result(study):
    affine = fit_combat(study.x, study.site, subjects=study.subject)
    expected = harmonizationLearn(study.x, pd.DataFrame({"SITE": study.site}))[1]
    np.testing.assert_allclose(harmonize(affine, study.x, study.site), expected, atol=1e-12)


def test_float32_features_lose_only_their_own_rounding(study, affine):
    exact, rounded = harmonize(affine, study.x, study.site), harmonize(affine, study.x.astype(np.float32), study.site)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 1.2e-6
    far = SiteAffine(1, ["A"])
    far.scale, far.shift = torch.tensor([[1 / 3]], dtype=torch.float64), torch.tensor([[-1e7 / 3]], dtype=torch.float64)
    # float32 knows 1e7 + 1, but a third of it only to 0.25
    assert far(torch.tensor([[1e7 + 1]]), torch.tensor([0])).item() == pytest.approx(1 / 3, abs=1e-6)


def test_reference_site_is_untouched(study):
    affine = fit_combat(study.x, study.site, study.covariates, subjects=study.subject, reference_site="S01")
    here = study.site == "S01"
    assert torch.equal(harmonize(affine, study.x[here], study.site[here]), torch.from_numpy(study.x[here]))


def test_sites_given_by_name_begin_as_identity():
    affine, x = SiteAffine(4, ["A", "B"]), torch.randn(5, 4)
    assert torch.equal(affine(x, affine.index(list("ABBAB"))), x)
    assert affine.origins == ["identity", "identity"]
    assert affine.count.tolist() == [0, 0]
    with pytest.raises(ValueError, match="twice"):
        SiteAffine(4, ["A", "A"])


def test_unseen_site_is_named_with_the_known_ones_and_the_remedy(affine):
    with pytest.raises(UnseenSite, match="'S77'.*S00, S01, S02.*--unseen_site identity"):
        affine.index(["S00", "S77"])
    # the library's apply raises IndexError or returns NaN here, and a plain rows[-1] would take the last site
    with pytest.raises((IndexError, RuntimeError)):
        affine(torch.zeros(1, 8), torch.tensor([-1]))


def test_state_goes_through_weights_only_and_into_a_module_with_other_sites(study, affine):
    buffer = io.BytesIO()
    torch.save(affine.state_dict(), buffer)
    buffer.seek(0)
    other = SiteAffine(8, ["X"])
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for name, value in affine.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert other.sites == ["S00", "S01", "S02"]
    assert other.covariates == ["age", "sex=M"]
    assert other.feature_names == [f"f{i}" for i in range(8)]
    assert torch.equal(harmonize(other, study.x, study.site), harmonize(affine, study.x, study.site))


def test_state_holds_nothing_per_subject(study, affine):
    tensors = affine.state_dict().values()
    assert sum(t.numel() * t.element_size() for t in tensors) < 2000
    assert b"sub00" not in bytes(affine.get_extra_state().tolist())
    assert all(t.shape[0] != len(study.x) for t in tensors)


def test_names_of_other_rows_are_refused(affine):
    renamed = copy.deepcopy(affine)
    renamed.scale = renamed.scale + 1
    state = affine.state_dict() | {"scale": renamed.scale}
    with pytest.raises(RuntimeError, match="other rows"):
        SiteAffine(8).load_state_dict(state)
    state = {name: value for name, value in affine.state_dict().items() if name != "_extra_state"}
    with pytest.raises(RuntimeError, match="are absent"):
        SiteAffine(8).load_state_dict(state, strict=False)
    with pytest.raises(RuntimeError, match="size mismatch"):
        SiteAffine(9).load_state_dict(affine.state_dict())


def test_checkpoint_of_ignite_and_loader_of_monai(tmp_path, affine):
    saver = Checkpoint({"model": nn.ModuleDict({"harmonizer": affine})}, DiskSaver(str(tmp_path), create_dir=False), n_saved=1)
    saver(Engine(lambda engine, batch: None))
    other = nn.ModuleDict({"harmonizer": SiteAffine(8)})
    (path,) = tmp_path.glob("*.pt")
    CheckpointLoader(str(path), {"model": other})(Engine(lambda engine, batch: None))
    assert torch.equal(other["harmonizer"].scale, affine.scale)
    assert other["harmonizer"].sites == affine.sites


def test_export_to_onnx_and_torch_export(tmp_path, study, affine):
    x, site = torch.from_numpy(study.x).float(), affine.index(study.site)
    expected = affine(x, site)
    batch = torch.export.Dim("batch")
    shapes = ({0: batch}, {0: batch})
    affine.eval()
    program = torch.export.export(affine, (x[:4], site[:4]), dynamic_shapes=shapes)
    assert torch.equal(program.module()(x, site), expected)
    path = tmp_path / "affine.onnx"
    torch.onnx.export(affine, (x[:4], site[:4]), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    feeds = dict(zip([i.name for i in session.get_inputs()], [x.numpy(), site.numpy()], strict=True))
    np.testing.assert_array_equal(session.run(None, feeds)[0], expected.numpy())


def test_digest_sees_every_weight():
    extractor = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = weights_digest(extractor)
    assert weights_digest(copy.deepcopy(extractor)) == before
    extractor[1].running_mean[1] += 1e-6
    assert weights_digest(extractor) != before
    layer = nn.Linear(3, 2)
    assert weights_digest(nn.ModuleDict({"a": layer})) != weights_digest(nn.ModuleDict({"b": layer}))
