from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import densenet, efficientnet

from custom.networks import Simple3DCNN, SliceClassifier, load_initial_weights

HEAD = [f"head.{layer}.{name}" for layer in (1, 4, 7) for name in ("bias", "weight")]
State = dict[str, torch.Tensor]


def norm(name: str, width: int) -> State:
    values = {key: torch.rand(width) for key in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.{key}": value for key, value in values.items()} | {f"{name}.num_batches_tracked": torch.tensor(7)}


def torchvision_resnet18() -> State:
    """The names and shapes of torchvision's ``resnet18`` file, random values."""
    torch.manual_seed(0)
    state = {"conv1.weight": torch.rand(64, 3, 7, 7)} | norm("bn1", 64)
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            state |= {f"{name}.conv1.weight": torch.rand(width, before, 3, 3)} | norm(f"{name}.bn1", width)
            state |= {f"{name}.conv2.weight": torch.rand(width, width, 3, 3)} | norm(f"{name}.bn2", width)
            if before != width:
                state |= {f"{name}.downsample.0.weight": torch.rand(width, before, 1, 1)}
                state |= norm(f"{name}.downsample.1", width)
            before = width
    return state | {"fc.weight": torch.rand(1000, 512), "fc.bias": torch.rand(1000)}


def torchvision_densenet121(separator: str) -> State:
    """The names and shapes of torchvision's ``densenet121``: ``norm1`` in the module, ``norm.1`` in the file to download."""
    torch.manual_seed(0)
    state = {"features.conv0.weight": torch.rand(64, 3, 7, 7)} | norm("features.norm0", 64)
    width = 64
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            state |= norm(f"{name}.norm{separator}1", width) | norm(f"{name}.norm{separator}2", 128)
            state[f"{name}.conv{separator}1.weight"] = torch.rand(128, width, 1, 1)
            state[f"{name}.conv{separator}2.weight"] = torch.rand(32, 128, 3, 3)
            width += 32
        if block < 4:
            state |= norm(f"features.transition{block}.norm", width)
            state[f"features.transition{block}.conv.weight"] = torch.rand(width // 2, width, 1, 1)
            width //= 2
    state |= norm("features.norm5", width)
    return state | {"classifier.weight": torch.rand(1000, width), "classifier.bias": torch.rand(1000)}


def saved(path: Path, state: State) -> str:
    torch.save(state, path)
    return str(path)


def test_a_torchvision_resnet_file(tmp_path: Path):
    state = torchvision_resnet18()
    network = SliceClassifier("resnet18")
    head = network.head[1].weight.clone()
    assert load_initial_weights(network, saved(tmp_path / "resnet18.pth", state)) == HEAD
    own = network.backbone.state_dict()
    torch.testing.assert_close(own["conv1.weight"], state["conv1.weight"].sum(1, keepdim=True))
    for name, value in state.items():
        if name not in ("conv1.weight", "fc.weight", "fc.bias"):
            assert torch.equal(own[name], value), name
    assert torch.equal(network.head[1].weight, head)


def test_a_grey_picture_gives_what_three_equal_channels_gave(tmp_path: Path):
    state = torchvision_resnet18()
    grey, colour = SliceClassifier("resnet18").eval(), SliceClassifier("resnet18", in_channels=3).eval()
    for network in (grey, colour):
        load_initial_weights(network, saved(tmp_path / "resnet18.pth", state))
    assert torch.equal(colour.backbone.conv1.weight, state["conv1.weight"])
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(grey.backbone.conv1(image), colour.backbone.conv1(image.expand(1, 3, 32, 32)))


@pytest.mark.parametrize("separator", ["", "."])
def test_a_torchvision_densenet_file(tmp_path: Path, separator: str):
    state = torchvision_densenet121(separator)
    network = SliceClassifier("densenet121")
    assert load_initial_weights(network, saved(tmp_path / "densenet121.pth", state)) == HEAD
    own = network.backbone.state_dict()
    torch.testing.assert_close(own["features.conv0.weight"], state["features.conv0.weight"].sum(1, keepdim=True))
    deep = "features.denseblock3.denselayer20"
    assert torch.equal(own[f"{deep}.layers.conv2.weight"], state[f"{deep}.conv{separator}2.weight"])
    assert torch.equal(own[f"{deep}.layers.norm1.running_var"], state[f"{deep}.norm{separator}1.running_var"])
    assert torch.equal(own["features.transition2.conv.weight"], state["features.transition2.conv.weight"])


def test_densenet_goes_through_monais_download(monkeypatch: pytest.MonkeyPatch):
    state, urls = torchvision_densenet121("."), []

    def download(url: str, **arguments: object) -> State:
        urls.append(url)
        return dict(state)

    monkeypatch.setattr(densenet, "load_state_dict_from_url", download)
    network = SliceClassifier("densenet121")
    assert load_initial_weights(network, "imagenet") == HEAD
    assert len(urls) == 1
    assert "densenet121" in urls[0]
    torch.testing.assert_close(network.backbone.features.conv0.weight, state["features.conv0.weight"].sum(1, keepdim=True))


def test_efficientnet_goes_through_monais_download(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    published = efficientnet.EfficientNetBN("efficientnet-b0", pretrained=False).state_dict()
    monkeypatch.setattr(efficientnet.model_zoo, "load_url", lambda url, **arguments: dict(published))
    network = SliceClassifier("efficientnet_b0")
    assert load_initial_weights(network, "imagenet") == HEAD
    own = network.backbone.state_dict()
    torch.testing.assert_close(own["_conv_stem.weight"], published["_conv_stem.weight"].sum(1, keepdim=True))
    assert torch.equal(own["_conv_head.weight"], published["_conv_head.weight"])


@pytest.mark.parametrize("network", [SliceClassifier("resnet18"), Simple3DCNN(channels=(2, 4))], ids=["ResNet", "3D"])
def test_a_resnet_has_no_download_and_the_remedy_is_named(network: torch.nn.Module):
    with pytest.raises(ValueError, match="for a ResNet give the file of torchvision's state dict"):
        load_initial_weights(network, "imagenet")


def test_a_checkpoint_of_ours_with_other_classes(tmp_path: Path):
    trained = Simple3DCNN(channels=(2, 4), num_classes=4)
    network = Simple3DCNN(channels=(2, 4), num_classes=2)
    last = network.head[3].weight.clone()
    left = load_initial_weights(network, saved(tmp_path / "model.pt", trained.state_dict()))
    assert left == ["head.3.bias", "head.3.weight"]
    assert torch.equal(network.head[3].weight, last)
    for name, value in network.state_dict().items():
        if name not in left:
            assert torch.equal(value, trained.state_dict()[name]), name


def test_a_checkpoint_of_ours_with_the_same_classes_fits_whole(tmp_path: Path):
    trained, network = Simple3DCNN(channels=(2, 4)), Simple3DCNN(channels=(2, 4))
    assert load_initial_weights(network, saved(tmp_path / "model.pt", trained.state_dict())) == []
    torch.testing.assert_close(network.state_dict(), trained.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("state", "network"),
    [
        (Simple3DCNN(channels=(2, 4)).state_dict(), SliceClassifier("resnet18")),
        (Simple3DCNN(channels=(2, 4)).state_dict(), Simple3DCNN(channels=(3, 5))),
        (torchvision_resnet18(), SliceClassifier("resnet50")),
        (torchvision_resnet18(), SliceClassifier("densenet121")),
    ],
    ids=["3D in 2D", "narrow in wide", "ResNet18 in ResNet50", "ResNet in DenseNet"],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, state: State, network: torch.nn.Module):
    with pytest.raises(ValueError, match=r"other\.pt holds \d+ of the \d+ tensors of \w+: it belongs to another network"):
        load_initial_weights(network, saved(tmp_path / "other.pt", state))


def test_no_such_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="there are no weights at .*absent.pt: give a state dict's file, or 'imagenet'"):
        load_initial_weights(Simple3DCNN(channels=(2, 4)), str(tmp_path / "absent.pt"))
