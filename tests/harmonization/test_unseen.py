import copy

import pytest
import torch

from custom.harmonization import SiteAffine, UnseenSite, admit_sites, fit_combat


@pytest.fixture
def affine(study) -> SiteAffine:
    return fit_combat(study.x, study.site, subjects=study.subject)


def scans(study, site: str) -> torch.Tensor:
    return torch.from_numpy(study.x[study.site == site])


def test_error_is_the_default(affine):
    before = copy.deepcopy(affine.state_dict())
    with pytest.raises(UnseenSite, match="'NEW'"):
        admit_sites(affine, ["S00", "NEW"])
    admit_sites(affine, ["S00", "S02"])
    assert all(torch.equal(before[k], v) for k, v in affine.state_dict().items())


def test_identity_warns_and_changes_nothing(affine, caplog):
    admit_sites(affine, ["S00", "NEW", "NEW"], "identity")
    x = torch.randn(3, 8)
    assert torch.equal(affine(x, affine.index(["NEW"] * 3)), x)
    assert "site NEW are not harmonized" in caplog.text
    assert affine.origins[-1] == "identity"
    admit_sites(affine, [7, "7"], "identity")
    assert affine.sites[3:] == ["NEW", "7"]


def test_adapting_to_the_twin_of_a_training_site_gives_its_rows(study, affine, caplog):
    before = affine.scale.clone(), affine.shift.clone()
    x = torch.cat([scans(study, "S01"), scans(study, "S00")])
    admit_sites(affine, ["TWIN"] * 15 + ["S00"] * 12, "adapt", x)
    # the site effect takes its prior from its own features: the very numbers of the fit
    torch.testing.assert_close(affine.scale[-1], affine.scale[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(affine.shift[-1], affine.shift[1], rtol=0, atol=1e-12)
    assert torch.equal(affine.scale[:3], before[0])
    assert torch.equal(affine.shift[:3], before[1])
    assert affine.sites == ["S00", "S01", "S02", "TWIN"]
    assert affine.origins[-1] == "adapted"
    assert affine.count[-1] == 15
    assert "transductive" in caplog.text


def test_adapted_site_survives_the_state(study, affine):
    affine.adapt("TWIN", scans(study, "S01"))
    other = SiteAffine(8)
    other.load_state_dict(affine.state_dict())
    assert other.origins == ["fitted"] * 3 + ["adapted"]
    other.adapt("NEXT", scans(study, "S02"))
    torch.testing.assert_close(other.scale[-1], other.scale[2])


def test_feature_that_the_fit_or_the_new_site_holds_constant_is_passed_through(study):
    x = study.x.copy()
    x[study.site == "S00", 3] = 7.0
    affine = fit_combat(x, study.site, subjects=study.subject)
    assert affine.unadjusted == [3]
    new = scans(study, "S01").clone()
    new[:, 5] = 1.0
    affine.adapt("NEW", new)
    assert torch.equal(affine.scale[-1, [3, 5]], torch.ones(2, dtype=torch.float64))
    assert torch.equal(affine.shift[-1, [3, 5]], torch.zeros(2, dtype=torch.float64))
    assert (affine.scale[-1, [0, 1, 2, 4, 6, 7]] != 1).all()


def test_what_cannot_be_adapted_to_is_named(study, affine):
    x = scans(study, "S01")
    with pytest.raises(ValueError, match="NEW has 9 scans.*needs 10"):
        affine.adapt("NEW", x[:9])
    with pytest.raises(ValueError, match=r"shape \(n, 8\)"):
        affine.adapt("NEW", x[:, :7])
    with pytest.raises(ValueError, match="S01 is known"):
        affine.adapt("S01", x)
    with pytest.raises(ValueError, match="feature 2 of scan 4"):
        affine.adapt("NEW", x.index_put((torch.tensor(4), torch.tensor(2)), torch.tensor(torch.nan, dtype=x.dtype)))
    with pytest.raises(ValueError, match="not fitted"):
        SiteAffine(8).adapt("NEW", x)
    with pytest.raises(ValueError, match="'guess'"):
        admit_sites(affine, ["NEW"], "guess")
    assert affine.sites == ["S00", "S01", "S02"]
