"""Convolutions, normalisations and the networks made of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from .zoo import FULL, HALF, Call, Case, case, hard, weight


def resnet18() -> nn.Module:
    network = pytest.importorskip("torchvision").models.resnet18()
    network.fc = nn.Identity()
    return network


@case()
def resnet18_in_training() -> Case:
    return hard(resnet18(), torch.randn(4, 3, 32, 32))


@case()
def resnet18_in_evaluation() -> Case:
    return hard(resnet18().eval(), torch.randn(4, 3, 32, 32))


@case()
def vgg() -> Case:
    layers = [
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, 8)),
    ]
    return hard(nn.Sequential(*layers), torch.randn(4, 3, 8, 8))


@case(dtypes=FULL + HALF)
def convolution_1d() -> Case:
    layers = (
        nn.Conv1d(8, 16, 5, stride=2, padding=3),
        nn.Tanh(),
        nn.Conv1d(16, 16, 3, dilation=2, padding=1, bias=False),
    )
    return hard(nn.Sequential(*layers), torch.randn(1, 8, 6))


@case(dtypes=FULL + HALF)
def convolution_2d() -> Case:
    layers = (
        nn.Conv2d(6, 16, (3, 2), stride=2, padding=(1, 2)),
        nn.Tanh(),
        nn.Conv2d(16, 12, 2, padding=(1, 0), dilation=(2, 1)),
    )
    return hard(nn.Sequential(*layers), torch.randn(1, 6, 3, 1))


@case()
def convolution_3d() -> Case:
    layers = (
        nn.Conv3d(4, 12, 3, padding=1, stride=(1, 2, 2)),
        nn.Tanh(),
        nn.Conv3d(12, 14, (1, 2, 1), dilation=(1, 2, 1), padding=(0, 1, 0), bias=False),
    )
    return hard(nn.Sequential(*layers), torch.randn(1, 4, 2, 3, 2))


@case()
def convolutions_of_many_positions() -> Case:
    layers = (
        *(nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 2)), nn.Tanh(), nn.Conv2d(6, 4, 3, dilation=(1, 2))),
        *(nn.Unflatten(2, (1, 2)), nn.Conv3d(4, 3, (1, 2, 3), padding=1, stride=(1, 1, 2), bias=False)),
        *(nn.Flatten(2), nn.Conv1d(3, 3, 3)),
    )
    return hard(nn.Sequential(*layers), torch.randn(2, 3, 7, 6))


@case()
def grouped_convolutions() -> Case:
    layers = (
        *(nn.Conv1d(4, 8, 3, groups=2, padding=1), nn.Tanh(), nn.Unflatten(2, (2, 4)), nn.Conv2d(8, 8, 2, groups=4)),
        *(nn.Tanh(), nn.Unflatten(2, (1, 1)), nn.Conv3d(8, 4, (1, 1, 2), groups=2)),
    )
    return hard(nn.Sequential(*layers), torch.randn(3, 4, 8))


@case()
def depthwise_and_pointwise_convolutions() -> Case:
    layers = (
        nn.Conv2d(8, 16, 3, groups=8, padding=1, bias=False),
        nn.Hardswish(),
        nn.Conv2d(16, 24, 1),
        nn.ReLU6(),
        nn.Conv2d(24, 24, 3, groups=24, stride=2, padding=1),
    )
    return hard(nn.Sequential(*layers), torch.randn(1, 8, 2, 1))


@case()
def padding_as_large_as_the_kernel() -> Case:
    layers = nn.Conv2d(4, 24, 3, padding=3, stride=3, dilation=2), nn.Tanh(), nn.Conv2d(24, 20, 1, padding=1, stride=3)
    return hard(nn.Sequential(*layers), torch.randn(1, 4, 2, 2))


@case()
def strides_that_leave_a_rest() -> Case:
    layers = nn.Conv2d(6, 16, 2, stride=3), nn.Tanh(), nn.Conv2d(16, 24, 1, stride=2)
    return hard(nn.Sequential(*layers), torch.randn(1, 6, 6, 7))


@case()
def padding_to_the_same_size() -> Case:
    layers = (
        *(nn.Conv2d(4, 16, (4, 3), padding="same"), nn.Tanh(), nn.Conv2d(16, 16, 2, padding="same", dilation=2)),
        *(nn.Tanh(), nn.Conv2d(16, 20, 2, padding="valid")),
    )
    return hard(nn.Sequential(*layers), torch.randn(1, 4, 2, 2))


@case()
def padding_with_values_of_the_image() -> Case:
    layers = (
        *(nn.Conv2d(6, 16, 3, padding=1, padding_mode="circular"), nn.Tanh()),
        *(nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"), nn.Tanh()),
        *(nn.Conv2d(16, 16, 3, padding=1, padding_mode="replicate"), nn.Tanh(), nn.Flatten(2)),
        nn.Conv1d(16, 16, 5, padding=2, padding_mode="circular"),
    )
    return hard(nn.Sequential(*layers), torch.randn(1, 6, 2, 2))


@case()
def convolutions_without_bias_and_with_a_frozen_one() -> Case:
    trunk = nn.Sequential(
        nn.Conv2d(4, 16, 3, bias=False), nn.Tanh(), nn.Conv2d(16, 16, 1), nn.Tanh(), nn.Conv2d(16, 12, 1)
    )
    trunk[2].bias.requires_grad_(False)
    trunk[4].weight.requires_grad_(False)
    return hard(trunk, torch.randn(2, 4, 3, 3))


@case()
def images_without_a_batch() -> Case:
    trunk = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1, stride=2), nn.Tanh(), nn.Conv2d(16, 10, 2))
    return hard(trunk, torch.randn(4, 3, 3))


@case()
def channels_last() -> Case:
    trunk = nn.Sequential(
        *(nn.Conv2d(4, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, (2, 1))),
        *(nn.ReLU(), nn.Conv2d(24, 24, 1, groups=2)),
    ).to(memory_format=torch.channels_last)
    return hard(trunk, torch.randn(1, 4, 2, 2).to(memory_format=torch.channels_last))


@case()
def convolution_of_an_input_that_is_not_contiguous() -> Case:
    trunk = Call(
        lambda m, x: m.second(m.first(x.transpose(1, 3)[:, :, ::2]).tanh().transpose(2, 3)),
        first=nn.Conv2d(6, 16, (1, 2)),
        second=nn.Conv2d(16, 12, (1, 2)),
    )
    return hard(trunk, torch.randn(1, 2, 4, 6))


@case()
def convolution_used_twice() -> Case:
    trunk = Call(
        lambda m, x: torch.cat(
            [m.conv(m.conv(x).relu()).flatten(1), m.conv(functional.avg_pool2d(x, 2)).flatten(1)], 1
        ),
        conv=nn.Conv2d(3, 3, 3, padding=1),
    )
    return hard(trunk, torch.randn(2, 3, 6, 6))


@case()
def convolution_weight_used_with_several_strides() -> Case:
    trunk = Call(
        lambda m, x: torch.cat(
            [functional.conv2d(x, m.w, m.b, dilation=rate, padding=rate, stride=rate).flatten(1) for rate in (1, 2, 3)],
            1,
        ),
        w=weight(4, 3, 3, 3),
        b=weight(4),
    )
    return hard(trunk, torch.randn(2, 3, 6, 6))


@case()
def standardised_convolution_weights() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        w = m.conv.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-3)
        return functional.conv2d(x, w, m.conv.bias, padding=1)

    return hard(Call(run, conv=nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 5, 5))


@case()
def weight_of_a_convolution_and_of_a_linear_layer() -> Case:
    trunk = Call(
        lambda m, x: (
            functional.conv2d(x, m.w).flatten(2) + functional.linear(x.movedim(1, -1), m.w.flatten(1)).mT.flatten(2)
        ),
        w=weight(4, 3, 1, 1),
    )
    return hard(trunk, torch.randn(2, 3, 4, 4))


@case()
def transposed_convolutions() -> Case:
    layers = (
        *(nn.ConvTranspose1d(3, 4, 3, stride=2, output_padding=1), nn.Tanh(), nn.Unflatten(2, (2, 5))),
        *(nn.ConvTranspose2d(4, 4, 3, groups=2, padding=1, bias=False), nn.Tanh(), nn.Unflatten(2, (1, 2))),
        *(nn.ConvTranspose3d(4, 2, (1, 2, 2), dilation=(1, 1, 2)),),
    )
    return hard(nn.Sequential(*layers), torch.randn(2, 3, 4))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)])
        self.middle = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(inplace=True))
        self.up = nn.ModuleList([nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(8, 4, 1)])
        self.out = nn.ModuleList([nn.Conv2d(12, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x).relu()
        second = self.down[1](functional.max_pool2d(first, 2)).relu()
        h = self.middle(functional.avg_pool2d(second, 2))
        h = self.out[0](torch.cat([self.up[0](h), second], 1)).relu()
        h = self.up[1](functional.interpolate(h, scale_factor=2, mode="bilinear"))
        return self.out[1](torch.cat([h, first], 1))


@case()
def unet() -> Case:
    """Dense outputs: the tasks' heads are convolutions, too."""
    trunk = UNet()
    heads = nn.ModuleDict({task: nn.Conv2d(4, channels, 1) for task, channels in (("a", 1), ("b", 3), ("c", 2))})
    images, classes = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))

    def compute() -> dict[str, Tensor]:
        features = trunk(images)
        normals = functional.normalize(heads["c"](features), dim=1)
        return {
            "a": heads["a"](features).abs().mean(),
            "b": functional.cross_entropy(heads["b"](features), classes),
            "c": 1 - (normals * images[:, :2]).sum(1).mean(),
        }

    return Case(nn.ModuleDict({"trunk": trunk, "heads": heads}), compute, list(trunk.parameters()))


@case()
def pyramid_with_one_head_for_all_levels() -> Case:
    """As in detection: the head's layers are read at several resolutions, by two tasks each."""
    trunk = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)])
    tower, box, label = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)
    images = torch.randn(2, 3, 6, 6)

    def compute() -> dict[str, Tensor]:
        fine = trunk[0](images).relu()
        levels = [tower(level).relu() for level in (fine, trunk[1](fine))]
        labels = torch.cat([label(level).flatten(2) for level in levels], 2)
        return {
            "a": torch.cat([box(level).flatten() for level in levels]).abs().mean(),
            "b": functional.cross_entropy(labels, torch.ones(labels.shape[0], labels.shape[2], dtype=torch.long)),
            "c": levels[1].square().mean(),
        }

    model = nn.ModuleDict({"trunk": trunk, "tower": tower, "box": box, "label": label})
    return Case(model, compute, [*trunk.parameters(), *tower.parameters()])


@case()
def batch_normalisation() -> Case:
    layers = (
        *(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Unflatten(1, (3, 4)), nn.BatchNorm1d(3)),
        *(nn.Unflatten(2, (2, 2)), nn.Conv2d(3, 4, 2, padding=1), nn.BatchNorm2d(4, momentum=None), nn.ReLU()),
        *(nn.Unflatten(2, (3, 1)), nn.BatchNorm3d(4, track_running_stats=False), nn.BatchNorm3d(4, affine=False)),
    )
    return hard(nn.Sequential(*layers), torch.randn(6, 5))


@case()
def batch_normalisation_in_evaluation() -> Case:
    trunk = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(2), nn.BatchNorm1d(4)).eval()
    with torch.no_grad():
        trunk[1].running_mean += 0.5
        trunk[1].running_var += 0.5
        trunk[1].weight.mul_(torch.randn(4))
    return hard(trunk, torch.randn(3, 2, 5, 5))


@case(dtypes=FULL + HALF)
def layer_normalisation() -> Case:
    layers = (
        *(nn.Linear(5, 12), nn.LayerNorm(12), nn.Unflatten(1, (3, 4)), nn.LayerNorm((3, 4)), nn.Tanh()),
        *(nn.LayerNorm(4, bias=False), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 5)),
    )
    return hard(nn.Sequential(*layers), torch.randn(6, 5))


@case()
def layer_normalisation_used_twice_and_with_frozen_parts() -> Case:
    trunk = Call(
        lambda m, x: m.weighted(m.biased(m.norm(m.layer(m.norm(x))))),
        norm=nn.LayerNorm(6),
        layer=nn.Linear(6, 6),
        weighted=nn.LayerNorm(6),
        biased=nn.LayerNorm(6),
    )
    trunk.weighted.bias.requires_grad_(False)
    trunk.biased.weight.requires_grad_(False)
    return hard(trunk, torch.randn(5, 6))


@case()
def other_normalisations() -> Case:
    layers = (
        *(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.Tanh()),
        *(nn.InstanceNorm2d(4), nn.LocalResponseNorm(2), nn.Flatten(), nn.RMSNorm(64), nn.Linear(64, 8)),
        *(nn.GroupNorm(4, 8), nn.Unflatten(1, (4, 2)), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)),
    )
    return hard(nn.Sequential(*layers), torch.randn(3, 2, 4, 4))


@case()
def rearranged_pixels() -> Case:
    layers = (
        *(nn.Conv2d(2, 8, 3, padding=1), nn.PixelShuffle(2), nn.Tanh(), nn.Conv2d(2, 3, 1), nn.PixelUnshuffle(4)),
        *(nn.AdaptiveAvgPool2d((2, 1)), nn.Upsample(scale_factor=2), nn.AdaptiveMaxPool2d(2), nn.Flatten(2)),
        *(nn.ConstantPad1d(1, 0.5), nn.ReflectionPad1d(1), nn.Softmax(2)),
    )
    return hard(nn.Sequential(*layers), torch.randn(2, 2, 4, 4))


@case()
def patches_by_unfolding() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        patches = m.layer(functional.unfold(x, 3, padding=1).mT).tanh()
        return functional.fold(patches.mT, (4, 4), 3, padding=1)

    trunk = Call(run, layer=nn.Linear(27, 18))
    return hard(trunk, torch.randn(2, 3, 4, 4))


@case()
def sampling_grid() -> Case:
    def run(m: Call, x: Tensor) -> Tensor:
        grid = functional.affine_grid(m.locate(x.flatten(1)).view(-1, 2, 3), list(x.shape))
        return m.conv(functional.grid_sample(x, grid, align_corners=False))

    return hard(Call(run, locate=nn.Linear(50, 6), conv=nn.Conv2d(2, 3, 3)), torch.randn(3, 2, 5, 5))
