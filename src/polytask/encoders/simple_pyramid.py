"""Maps of several resolutions from the tokens of a Vision Transformer."""

from __future__ import annotations

from torch import Tensor, nn

from polytask.features import Features, FeatureShape


class SimplePyramid(nn.Module):
    """Maps of the strides s/4, s/2, s and 2s from tokens that lie on a grid of stride s.

    Li, Mao, Girshick and He, "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022,
    https://arxiv.org/abs/2203.16527 (ViTDet): all maps come from the last tokens, by transposed convolutions and a
    pooling. A stride that would not be a whole number is left out.

    Args:
        tokens: The tokens' shape, with their grid.
    """

    def __init__(self, tokens: FeatureShape) -> None:
        super().__init__()
        assert tokens.grid is not None
        width, stride = tokens.width, tokens.stride
        self.grid, self.prefix = tokens.grid, tokens.prefix
        self.norm = nn.LayerNorm(width)
        half, quarter = max(1, width // 2), max(1, width // 4)
        levels: list[tuple[nn.Module, FeatureShape]] = []
        if stride % 4 == 0:
            twice = nn.Sequential(
                nn.ConvTranspose2d(width, half, 2, 2),
                nn.GroupNorm(1, half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, 2),
            )
            levels.append((twice, FeatureShape("map", quarter, stride // 4)))
        if stride % 2 == 0:
            levels.append((nn.ConvTranspose2d(width, half, 2, 2), FeatureShape("map", half, stride // 2)))
        levels.append((nn.Identity(), FeatureShape("map", width, stride)))
        if min(tokens.grid) > 1:
            levels.append((nn.MaxPool2d(2), FeatureShape("map", width, 2 * stride)))
        self.levels = nn.ModuleList(module for module, _ in levels)
        *finer, last = (shape for _, shape in levels)
        self.shape = FeatureShape("map", last.width, last.stride, tuple(finer))

    def forward(self, features: Features) -> Features:
        """Tokens `[B, T, D]` to maps."""
        tokens: Tensor = self.norm(features.values)[:, self.prefix :]
        maps = tokens.transpose(1, 2).reshape(len(tokens), -1, *self.grid)
        *finer, last = (level(maps) for level in self.levels)
        return Features(last, levels=tuple(finer))
