import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from polytask.encoders import CNN, VGG, ResNet
from polytask.errors import UserError
from polytask.shapes import ImageShape


def map_sizes(encoder, height: int, width: int, channels: int) -> list[tuple[int, ...]]:
    features, sizes = torch.randn(1, channels, height, width), []
    for name in encoder.stage_names:
        features = encoder.stages[name](features)
        sizes.append(tuple(features.values.shape[1:]))
    return sizes


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (ImageShape(1, 10, 10), [(32, 5, 5), (64, 5, 5), (64, 5, 5), (1600,)]),
        (ImageShape(3, 112, 112), [(32, 56, 56), (64, 28, 28), (128, 14, 14), (3200,)]),
        (ImageShape(3, 28, 9), [(32, 14, 4), (64, 14, 4), (64, 14, 4), (1280,)]),
        (ImageShape(1, 1, 1), [(32, 1, 1), (32, 1, 1), (32, 1, 1), (32,)]),
    ],
)
def test_cnn_halves_the_map_and_doubles_the_channels_while_it_is_large(shape, sizes):
    encoder = CNN(shape=shape).eval()
    assert encoder.stage_names == ("conv1", "conv2", "conv3", "pool")
    assert map_sizes(encoder, shape.height, shape.width, shape.channels) == sizes


def test_cnn_has_a_fully_connected_stage_when_asked():
    encoder = CNN(depth=1, hidden=7, shape=ImageShape(1, 10, 10))
    assert encoder.stage_names == ("conv1", "pool", "hidden")
    assert encoder.shape.width == 7


def test_cnn_learns_two_overlapping_digits():
    torch.manual_seed(0)
    scans = load_digits()
    digits, labels = torch.tensor(scans.images / 16).float(), torch.tensor(scans.target)
    pairs = torch.randint(1500, (1500, 2))
    tests = torch.randint(1500, len(digits), (500, 2))

    def overlapping(pairs: torch.Tensor) -> torch.Tensor:
        first, second = F.pad(digits[pairs[:, 0]], (0, 2, 0, 2)), F.pad(digits[pairs[:, 1]], (2, 0, 2, 0))
        return torch.maximum(first, second).unsqueeze(1) * 2 - 0.5

    encoder = CNN(shape=ImageShape(1, 10, 10))
    heads = nn.ModuleList(nn.Linear(encoder.shape.width, 10) for _ in range(2))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=2e-3)
    images, targets = overlapping(pairs), labels[pairs]
    for _ in range(2):
        for rows in torch.randperm(len(images)).split(32):
            features = encoder(images[rows]).values
            loss = sum(F.cross_entropy(head(features), targets[rows, task]) for task, head in enumerate(heads))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    encoder.eval()
    with torch.no_grad():
        features = encoder(overlapping(tests)).values
    for task, head in enumerate(heads):
        assert (head(features).argmax(dim=1) == labels[tests[:, task]]).float().mean() > 0.8


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_is_torchvisions(depth):
    from torchvision import models

    encoder = ResNet(depth, shape=ImageShape(3, 64, 64))
    theirs = models.get_model(f"resnet{depth}", weights=None)
    theirs.fc = nn.Identity()
    theirs.load_state_dict(torchvision_names(encoder))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder.eval()(images).values, theirs.eval()(images))
    assert encoder.stage_names == ("stem", "layer1", "layer2", "layer3", "layer4", "pool")


def torchvision_names(encoder: ResNet) -> dict[str, torch.Tensor]:
    """The encoder's weights as torchvision names them."""
    weights = {}
    for name, value in encoder.state_dict().items():
        _, stage, _, rest = name.split(".", 3)
        if stage == "stem":
            position, _, rest = rest.partition(".")
            stage = {"0": "conv1", "1": "bn1"}[position]
        weights[f"{stage}.{rest}"] = value
    return weights


@pytest.mark.parametrize(
    ("side", "stem", "kernel", "after"),
    [(32, "auto", 3, 32), (64, "auto", 7, 16), (64, "small", 3, 64), (32, "imagenet", 7, 8)],
)
def test_resnet_has_a_stem_that_suits_the_image(side, stem, kernel, after):
    encoder = ResNet(stem=stem, shape=ImageShape(2, side, side)).eval()
    module = encoder.stages["stem"].module
    assert module[0].weight.shape == (64, 2, kernel, kernel)
    assert map_sizes(encoder, side, side, 2)[0] == (64, after, after)


def test_vgg_is_torchvisions_convolutions():
    from torchvision import models

    encoder = VGG(11, shape=ImageShape(3, 32, 32)).eval()
    assert encoder.stage_names == ("block1", "block2", "block3", "block4", "block5", "pool")
    with torch.device("meta"):
        features = models.vgg11_bn(weights=None).features
    theirs = features.to_empty(device="cpu")
    theirs.load_state_dict(dict(zip(theirs.state_dict(), encoder.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encoder(images).values, theirs.eval()(images).mean(dim=(2, 3)))


def test_vgg_leaves_out_poolings_that_would_leave_nothing():
    encoder = VGG(11, batch_norm=False, shape=ImageShape(1, 10, 12)).eval()
    sizes = [size[1:] for size in map_sizes(encoder, 10, 12, 1)[:-1]]
    assert sizes == [(5, 6), (2, 3), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CNN(width=0), "'width' must be at least 1"),
        (lambda: CNN(grid=0), "'grid' must be at least 1"),
        (lambda: CNN(normalization="layer"), "'normalization' must be one of 'batch', 'group', 'none'"),
        (lambda: ResNet(20), "'depth' must be one of 18, 34, 50, 101, 152, but 20"),
        (lambda: ResNet(stem="tiny"), "'stem' must be one of 'auto', 'imagenet', 'small'"),
        (lambda: VGG(12), "'depth' must be one of 11, 13, 16, 19, but 12"),
    ],
)
def test_wrong_parameters_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
