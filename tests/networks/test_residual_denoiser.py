from __future__ import annotations

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from custom.networks.gaussian_denoiser import GaussianDenoiser
from custom.networks.noise_level import NoiseLevels
from custom.networks.residual_denoiser import ResidualDenoiser
from custom.networks.signal_scale import SignalScale
from custom.networks.spatiotemporal_unet import SpatioTemporalDiffusionUNet

GRID, FRAMES, CLASSES = (6, 5, 1), 3, 2
BRAIN = torch.arange(30).reshape(GRID) % 4 != 0
TIMESTEPS, LABELS = torch.tensor([20, 600]), torch.tensor([1, -1])


def draw(batch: int, seed: int) -> torch.Tensor:
    return torch.randn(batch, FRAMES, *GRID, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(woken: bool = True, gaussian: bool = True, seed: int = 0) -> ResidualDenoiser:
    """A fitted network in double precision; ``woken``, its learnt part says something."""
    torch.manual_seed(seed)
    levels = NoiseLevels(DDPMScheduler(1000).alphas_cumprod)
    unet = SpatioTemporalDiffusionUNet(
        2, CLASSES, FRAMES, channels=(8, 12), attention_levels=(False, True), num_heads=2, head_dim=4, norm_num_groups=4
    )
    closed = GaussianDenoiser(levels, CLASSES, GRID, FRAMES, rank=5) if gaussian else None
    network = ResidualDenoiser(SignalScale(GRID), unet, closed).double().eval()
    network.scale.fit(torch.stack([BRAIN * 900.0, BRAIN * 7.0])[None], torch.eye(4), 2.0)
    if network.gaussian is not None:
        network.gaussian.fit(draw(8, 3) * BRAIN, torch.arange(8) % CLASSES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * woken * torch.randn_like(parameter)
    return network


@pytest.fixture(scope="module")
def network() -> ResidualDenoiser:
    return build()


def test_untrained_it_is_the_closed_form():
    network = build(woken=False)
    found, closed = network(draw(2, 1), TIMESTEPS, LABELS), network.gaussian(draw(2, 1), TIMESTEPS, LABELS)
    assert torch.equal(found, closed)
    assert not torch.allclose(closed, network.gaussian(draw(2, 1), TIMESTEPS), atol=0.01)  # the label counts


def test_within_the_brain_the_learnt_part_is_added(network: ResidualDenoiser):
    x = draw(2, 1)
    added = network(x, TIMESTEPS, LABELS) - network.gaussian(x, TIMESTEPS, LABELS)
    learnt = network.unet(x, TIMESTEPS, LABELS)
    torch.testing.assert_close(added[..., BRAIN], learnt[..., BRAIN])
    assert not added[..., ~BRAIN].any()
    assert (learnt.abs() > 1e-3).all()


def test_outside_the_brain_the_sample_is_zero(network: ResidualDenoiser):
    x = draw(2, 1)
    sample = network.gaussian.levels.sample_and_noise(network(x, TIMESTEPS, LABELS), x, TIMESTEPS)[0]
    torch.testing.assert_close(sample[..., ~BRAIN], torch.zeros(2, FRAMES, 8).double(), rtol=0, atol=1e-6)


def test_without_a_closed_form_the_learnt_part_is_all():
    network = build(gaussian=False)
    assert torch.equal(network(draw(2, 1), TIMESTEPS, LABELS), network.unet(draw(2, 1), TIMESTEPS, LABELS))


def test_timestep_and_class_may_be_left_out(network: ResidualDenoiser):
    x = draw(2, 1)
    told = network(x, torch.zeros(2, dtype=torch.long), torch.full((2,), -1))
    torch.testing.assert_close(network(x), told)


def test_classes_and_features_are_those_of_the_learnt_part(network: ResidualDenoiser):
    assert network.num_classes == CLASSES
    features = network.features(draw(2, 1), TIMESTEPS, LABELS)
    assert features.shape == (2, FRAMES, 12, 3, 3, 1)
    assert torch.equal(features, network.unet.features(draw(2, 1), TIMESTEPS, LABELS))


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_its_weights_hold_what_was_fitted_too(network: ResidualDenoiser, frames: int):
    torch.manual_seed(7)
    other = build(seed=7)
    other.gaussian.fit(draw(8, 4), torch.arange(8) % CLASSES)
    other.load_state_dict(network.state_dict())
    x = draw(2, 1)[:, :frames]
    assert torch.equal(other(x, TIMESTEPS, LABELS), network(x, TIMESTEPS, LABELS))
    assert torch.equal(other.scale.to_signal(x), network.scale.to_signal(x))


def test_only_the_learnt_part_is_trained(network: ResidualDenoiser):
    assert all(name.startswith("unet.") for name, _ in network.named_parameters())
