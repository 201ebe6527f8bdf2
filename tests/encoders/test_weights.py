import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from polytask.encoders import VGG, ResNet, Timm
from polytask.encoders.weights import adapt_channels, load_weights, read_weights
from polytask.errors import UserError
from polytask.shapes import ImageShape

GREY, COLOUR = ImageShape(1, 64, 64), ImageShape(3, 64, 64)


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Torchvision's ResNet-18 with random weights and a classifier."""
    from torchvision import models

    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(models.resnet18(weights=None).state_dict(), file)
    return file


def fed_with(weights: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    from torchvision import models

    model = models.resnet18(weights=None)
    model.load_state_dict(weights)
    model.fc = nn.Identity()
    return model.eval()(image)


@pytest.mark.parametrize("wrapper", ["none", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_reads_weights_as_training_scripts_leave_them(tmp_path, wrapper, prefix):
    weights = {f"{prefix}layer.weight": torch.randn(2, 3)}
    torch.save(weights if wrapper == "none" else {wrapper: weights, "epoch": 3}, tmp_path / "weights.pth")
    found = read_weights(str(tmp_path / "weights.pth"))
    assert [*found] == ["layer.weight"]
    assert torch.equal(found["layer.weight"], weights[f"{prefix}layer.weight"])


def test_reads_safetensors(tmp_path):
    weights = {"layer.weight": torch.randn(2, 3)}
    save_file(weights, tmp_path / "weights.safetensors")
    assert torch.equal(read_weights(str(tmp_path / "weights.safetensors"))["layer.weight"], weights["layer.weight"])


def test_a_missing_file_says_what_pretrained_takes(tmp_path):
    with pytest.raises(
        UserError, match=r"no weights file '.*none.pth'. 'pretrained' takes true .*, false, or the path"
    ):
        ResNet(pretrained=str(tmp_path / "none.pth"))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_is_no_weights_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_weights(str(tmp_path / name))


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no weights: a mapping from names to tensors"):
        read_weights(str(tmp_path / "list.pth"))


def test_no_code_of_the_file_is_run(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_weights(str(tmp_path / "module.pth"))


def test_what_does_not_fit_is_told(caplog):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    weights = {
        "0.weight": torch.ones(2, 2),
        "0.bias": torch.ones(2),
        "9.weight": torch.ones(1),
        "fc.weight": torch.ones(1),
    }
    with caplog.at_level(logging.WARNING, "polytask"):
        load_weights(model, weights, "file.pth", ignored=("fc.",))
    assert torch.equal(model[0].weight, torch.ones(2, 2))
    lacks, beyond = [record.getMessage() for record in caplog.records]
    assert lacks == "'file.pth' lacks 2 of 4 tensors, which start at random: '1.bias', '1.weight'."
    assert beyond == "'file.pth' holds 1 more tensors than the encoder has a place for: '9.weight'."


def test_weights_of_another_network_are_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"Nothing in 'f' fits the encoder: it expects .*'0.bias'.* has 'conv.weight'"):
        load_weights(model, {"conv.weight": torch.ones(1)}, "f")
    with pytest.raises(UserError, match=r"'f' is for another network: its tensor '0.weight' is 5 x 2, .* 2 x 2"):
        load_weights(model, {"0.weight": torch.ones(5, 2), "0.bias": torch.ones(2)}, "f")


def test_a_grey_image_gives_what_the_same_image_in_colour_gives():
    kernel, grey = torch.randn(4, 3, 5, 5), torch.randn(2, 1, 9, 9)
    found = nn.functional.conv2d(grey, adapt_channels(kernel, 1))
    torch.testing.assert_close(found, nn.functional.conv2d(grey.expand(-1, 3, -1, -1), kernel))
    # More channels: a constant image keeps its response.
    five = adapt_channels(kernel.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1), 5)
    assert five.shape == (4, 5, 5, 5)
    torch.testing.assert_close(five.sum(dim=1), kernel.sum(dim=1))
    assert adapt_channels(kernel, 3) is kernel


def test_resnet_starts_from_a_file(resnet_file, caplog):
    image = torch.randn(2, 3, 64, 64)
    encoder = ResNet(pretrained=str(resnet_file), shape=COLOUR).eval()
    torch.testing.assert_close(encoder(image).values, fed_with(torch.load(resnet_file), image))
    grey = ResNet(pretrained=str(resnet_file), shape=GREY).eval()
    torch.testing.assert_close(
        grey(image[:, :1]).values,
        fed_with(torch.load(resnet_file), image[:, :1].expand(-1, 3, -1, -1)),
        rtol=1e-3,
        atol=1e-4,
    )
    assert not caplog.records


def test_a_small_stem_says_that_it_starts_at_random(resnet_file, caplog):
    with caplog.at_level(logging.WARNING, "polytask"):
        encoder = ResNet(pretrained=str(resnet_file), shape=ImageShape(3, 32, 32))
    (record,) = caplog.records
    assert "stem has a kernel of 7 x 7, the encoder's is 3 x 3: it starts at random" in record.getMessage()
    weights = torch.load(resnet_file)
    assert torch.equal(encoder.stages["layer1"].module[0].conv1.weight, weights["layer1.0.conv1.weight"])


def test_weights_of_another_depth_are_refused(resnet_file):
    with pytest.raises(UserError, match="is for another network: its tensor"):
        ResNet(50, pretrained=str(resnet_file), shape=COLOUR)


def test_vgg_starts_from_a_file(tmp_path, caplog):
    torch.manual_seed(1)
    weights = {f"features.{n}": v for n, v in vgg_features().state_dict().items()} | {
        "classifier.0.bias": torch.ones(1)
    }
    torch.save(weights, tmp_path / "vgg.pth")
    shape = ImageShape(1, 32, 32)
    encoder = VGG(11, batch_norm=False, pretrained=str(tmp_path / "vgg.pth"), shape=shape)
    first, last = encoder.stages["block1"].module[0], encoder.stages["block5"].module[2]
    torch.testing.assert_close(first.weight, weights["features.0.weight"].sum(dim=1, keepdim=True))
    assert torch.equal(last.weight, weights["features.18.weight"])
    assert not caplog.records


def vgg_features() -> nn.Module:
    from torchvision import models

    with torch.device("meta"):
        features = models.vgg11(weights=None).features
    features = features.to_empty(device="cpu")
    for parameter in features.parameters():
        nn.init.normal_(parameter)
    return features


def test_timm_starts_from_a_file(tmp_path, caplog):
    import timm

    torch.manual_seed(2)
    theirs = timm.create_model("mobilenetv3_small_050", num_classes=7)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    encoder = Timm("mobilenetv3_small_050", pretrained=str(tmp_path / "weights.safetensors"), shape=GREY).eval()
    theirs.reset_classifier(0)
    image = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(encoder(image).values, theirs.eval()(image.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)
    assert not [record for record in caplog.records if record.name == "polytask"]


def test_timm_tells_what_does_not_fit(tmp_path, caplog):
    import timm

    weights = timm.create_model("mobilenetv3_small_050").state_dict()
    del weights["conv_stem.weight"]
    torch.save({**weights, "extra": torch.ones(1)}, tmp_path / "weights.pth")
    with caplog.at_level(logging.WARNING, "polytask"):
        Timm("mobilenetv3_small_050", pretrained=str(tmp_path / "weights.pth"), shape=GREY)
    messages = " ".join(record.getMessage() for record in caplog.records if record.name == "polytask")
    assert "lacks 1 of 208 tensors, which start at random: 'conv_stem.weight'" in messages
    assert "holds 1 more tensors than the encoder has a place for: 'extra'" in messages
    with pytest.raises(UserError, match="does not fit the network: .*size mismatch"):
        Timm("mobilenetv3_small_075", pretrained=str(tmp_path / "weights.pth"), shape=GREY)
    torch.save({"extra": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"Nothing in '.*other.pth' fits the encoder"):
        Timm("mobilenetv3_small_050", pretrained=str(tmp_path / "other.pth"), shape=GREY)


def test_a_failed_download_says_to_give_a_path(monkeypatch):
    from torchvision import models

    def offline(*_, **__):
        raise OSError("name or service not known")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(
        UserError, match=r"'resnet18' could not be downloaded: name or service not known .*pytorch.org.* pre"
    ):
        ResNet(pretrained=True, shape=COLOUR)
    with pytest.raises(UserError, match=r"'mobilenetv3_small_100' could not be downloaded: .*pretrained: /path/to"):
        Timm("mobilenetv3_small_100", pretrained=True, shape=COLOUR)


def test_library_weights_are_loaded_when_they_can_be_had(monkeypatch, resnet_file):
    from torchvision import models

    weights = torch.load(resnet_file)
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda *_, **__: weights)
    image = torch.randn(1, 3, 64, 64)
    encoder = ResNet(pretrained=True, shape=COLOUR).eval()
    torch.testing.assert_close(encoder(image).values, fed_with(weights, image))
    assert encoder.for_reload({"depth": 18, "pretrained": True}) == {"depth": 18, "pretrained": False}
