"""Hard parameter sharing: the tasks have the first stages in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polytask.encoders import Encoder
from polytask.sharing.sharing import Sharing, only_encoder
from polytask.sharing.tree import TreeTrunk


class Hard(Sharing):
    """Hard parameter sharing (Caruana, "Multitask Learning", Machine Learning 28, 1997).

    Task k sees `f_k = s_k(s(x))`: the first stages `s` are one set of parameters for all tasks, the others `s_k` are
    each task's own, started from the same values.

    Args:
        share_until: The last shared stage, by name, or the number of shared stages (negative: counted from the end).
            `None` shares the whole encoder (output sharing: only the heads differ), a stage in the middle shares the
            bottom alone, and 0 shares nothing: one network for each task.
    """

    def __init__(self, share_until: str | int | None = None) -> None:
        self.share_until = share_until

    def build(self, encoders: Mapping[str, Encoder], tasks: Sequence[str]) -> TreeTrunk:
        """See `Sharing.build`."""
        name, encoder = only_encoder(encoders)
        shared = encoder.depth_of(self.share_until)
        together, apart = [list(tasks)], [[task] for task in tasks]
        partitions = [together if depth < shared else apart for depth in range(len(encoder.stage_names))]
        return TreeTrunk(name, encoder, tasks, partitions)
