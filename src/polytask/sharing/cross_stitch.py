"""Cross-stitch units: linear combinations of the tasks' features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from polytask.encoders import FeatureShape
from polytask.errors import UserError
from polytask.sharing.columns import ColumnSharing
from polytask.sharing.exchange import ChannelExchange, Exchange, LinearExchange


class CrossStitch(ColumnSharing):
    """A network for each task; behind chosen stages each goes on with a learned combination of all tasks' features.

    Misra, Shrivastava, Gupta and Hebert, "Cross-stitch Networks for Multi-task Learning", CVPR 2016,
    https://arxiv.org/abs/1604.03539. Behind stage l, task i goes on with `x~_i = sum_j a_ij x_j`, with weights `a` of
    its own for each stage or for each channel. Large weights off the diagonal share, small ones keep apart.

    Different from the paper: the columns start from the encoder, not from networks that were trained on each task
    before; and the weights learn as fast as all else, where the paper gives them 100 to 1000 times the learning rate of
    its plain gradient descent (optimisers such as Adam scale each parameter's step by themselves).

    It costs as much as K networks. Take it for few tasks, when it is not known which stages they should share.

    Args:
        per: `"layer"`: one weight for each pair of tasks; `"channel"`: one for each pair and channel.
        options: See `ColumnSharing`.

    Raises:
        UserError: A parameter is out of its limits.
    """

    scheme = "cross_stitch"

    def __init__(self, per: Literal["layer", "channel"] = "layer", **options: Any) -> None:
        super().__init__(**options)
        if per not in ("layer", "channel"):
            raise UserError(f"'per' must be 'layer' or 'channel', but {per!r} was given.")
        self.per = per

    def exchange(self, shape: FeatureShape, tasks: Sequence[str]) -> Exchange:
        """See `ColumnSharing.exchange`."""
        if self.per == "channel":
            return ChannelExchange(tasks, shape.width, self.self_weight)
        return LinearExchange(tasks, 1, self.self_weight)
