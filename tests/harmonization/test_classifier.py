from __future__ import annotations

import pytest
import torch

from custom.harmonization import HarmonizedClassifier, SiteInput, UnseenSite
from custom.networks import SliceCNNLSTM
from custom.networks.weights_digest import weights_digest


@pytest.fixture
def network() -> HarmonizedClassifier:
    torch.manual_seed(0)
    extractor = SliceCNNLSTM(channels=(4, 6, 8), hidden=5, warm_up=2, chunk=8)
    network = HarmonizedClassifier(extractor, num_features=5, sites=("NYU", "UM_1", "UM_2")).eval()
    network.harmonizer.scale += torch.rand(3, 5)
    network.harmonizer.shift += torch.rand(3, 5)
    network.harmonizer.feature_digest = weights_digest(extractor)
    return network


IMAGE = torch.randn(3, 7, 9, 8, 4, generator=torch.Generator().manual_seed(1))
SITE = torch.tensor([0, 2, 0])


def test_is_extractor_map_and_head_in_a_row(network: HarmonizedClassifier):
    features = network.extractor.forward_features(IMAGE)
    expected = network.head(features * network.harmonizer.scale[SITE].float() + network.harmonizer.shift[SITE].float())
    torch.testing.assert_close(network(IMAGE, SITE), expected)


def test_every_scan_by_itself_gives_what_the_batch_gives(network: HarmonizedClassifier):
    alone = torch.cat([network(IMAGE[i : i + 1], SITE[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, network(IMAGE, SITE), atol=1e-6, rtol=0)


def test_evidence_of_the_frames_has_the_logits_as_its_mean(network: HarmonizedClassifier):
    assert network.evidence(IMAGE, SITE).shape == (3, 5, 2)
    torch.testing.assert_close(network.evidence(IMAGE, SITE).mean(1), network(IMAGE, SITE))


def test_state_goes_into_a_network_that_knows_no_site(network: HarmonizedClassifier, tmp_path):
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = HarmonizedClassifier(SliceCNNLSTM(channels=(4, 6, 8), hidden=5, warm_up=2), num_features=5).eval()
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert other.harmonizer.sites == ["NYU", "UM_1", "UM_2"]
    torch.testing.assert_close(other(IMAGE, SITE), network(IMAGE, SITE))


def test_harmonizer_of_another_extractor_is_refused(network: HarmonizedClassifier):
    state = network.state_dict()
    state["extractor.head.bias"] = state["extractor.head.bias"] + 1e-3
    with pytest.raises(ValueError, match="features of another extractor"):
        network.load_state_dict(state)


def test_sites_enter_by_name(network: HarmonizedClassifier):
    batch = {"image": IMAGE, "label": torch.zeros(3), "site": ["NYU", "UM_2", "NYU"], "frame_mask": torch.ones(3, 7).bool()}
    image, label, args, kwargs = SiteInput(network.harmonizer)(batch, "cpu")
    torch.testing.assert_close(network(image, *args, **kwargs), network(IMAGE, SITE))
    assert label is not None
    with pytest.raises(UnseenSite, match="'UM_3' is unknown"):
        SiteInput(network.harmonizer)(batch | {"site": ["NYU", "UM_3", "NYU"]}, "cpu")
