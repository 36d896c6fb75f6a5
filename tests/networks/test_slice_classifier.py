from __future__ import annotations

import pytest
import torch

from custom.networks import BACKBONES, SliceClassifier

# torchvision's, without the classifier; a grey stem has two filters of three less
FEATURES = {
    "resnet18": 11_176_512 - 2 * 64 * 49,
    "resnet50": 23_508_032 - 2 * 64 * 49,
    "densenet121": 6_953_856 - 2 * 64 * 49,
    "efficientnet_b0": 4_007_548 - 2 * 32 * 9,
}
WIDTHS = {"resnet18": 512, "resnet50": 2048, "densenet121": 1024, "efficientnet_b0": 1280}


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("backbone", FEATURES)
def test_backbones_have_their_published_size(backbone: str):
    network = SliceClassifier(backbone, num_classes=4)
    assert parameters(network.backbone) == FEATURES[backbone]
    width = WIDTHS[backbone]
    assert parameters(network.head) == (width * 512 + 512) + (512 * 128 + 128) + (128 * 4 + 4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_logit_per_class_and_a_gradient_for_every_parameter(backbone: str):
    torch.manual_seed(0)
    network = SliceClassifier(backbone, num_classes=3, dropout=0.0)
    logits = network(torch.rand(3, 1, 40, 32))
    assert logits.shape == (3, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_backbone_that_is_none_is_refused():
    with pytest.raises(ValueError, match="backbone 'vgg16' is not one of .*resnet18"):
        SliceClassifier("vgg16")
