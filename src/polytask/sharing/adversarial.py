"""Adversarial shared-private models (ASP-MTL)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from polytask.sharing.discriminator import Adversary, Samples, gradient_reversal
from polytask.sharing.shared_private import SharedPrivate


class Adversarial(SharedPrivate):
    """Adversarial shared-private model, ASP-MTL: shared features that do not tell which task a row belongs to.

    Liu, Qiu and Huang, "Adversarial Multi-task Learning for Text Classification", ACL 2017,
    https://arxiv.org/abs/1704.05742. Task k sees `f_k = [s(x); p_k(x)]`, from an encoder s of all tasks and one of its
    own. The objective is

        sum_k L_k + λ L_adv + γ sum_k ‖S_kᵀ P_k‖²_F,
        L_adv = min over s of max over D of sum_k mean over the rows of task k of log D_k(s(x)),

    where the discriminator D guesses the task from the shared features, and the rows of S_k and P_k are the shared and
    the private features of task k's rows.

    The discriminator reads the features through a gradient reversal layer (Ganin et al., JMLR 2016), so that one
    backward pass serves both sides. The penalty `discriminator` is the discriminator's own cross-entropy, without λ:
    D minimises it at full strength, and the shared encoder receives its gradient times -λ. (In the paper λ stands
    before both sides; with optimisers like Adam, D's steps do not depend on it anyway.) The private encoders are not
    reached. With `private: false` this is the fully shared model with an adversary, as in DANN.

    What the adversary sees are the rows labelled for each task. It needs rows that differ between the tasks, such as
    one domain's texts for each: where every row of a step is labelled for all tasks, it takes no part in that step,
    and a warning says so once. Where only some rows are common to tasks, they are shown once for each of them.

    Means over each task's rows are summed over the tasks, as the losses are. The paper takes S_k and P_k as they are
    (`orthogonality_form: raw`), which suits its narrow LSTM features and 16 rows a step. With 256 ReLU features and 64
    rows the penalty begins at 1.7 million for γ = 0.01 and ends the learning (accuracy 0.74, hard sharing 0.91), so the
    default is its normalised form. (The official code of domain separation networks, Bousmalis et al., NeurIPS 2016,
    where the penalty comes from, scales rows to length 1 as well, after centring them.)

    Use it for several domains of one problem that have few labels each.

    Args:
        orthogonality: See `SharedPrivate`.
        discriminator_layers: See `SharedPrivate`; linear, as published.
    """

    def __init__(self, orthogonality: float = 0.01, discriminator_layers: int = 0, **options: Any) -> None:
        super().__init__(orthogonality=orthogonality, discriminator_layers=discriminator_layers, **options)

    def adversary(self, tasks: Sequence[str], width: int) -> Adversary:
        """See `SharedPrivate.adversary`."""
        return ReversedAdversary(tasks, width, self.discriminator_layers, self.strength, self.schedule)


class ReversedAdversary(Adversary):
    """A discriminator behind a gradient reversal layer."""

    def penalties(self, samples: Samples) -> tuple[dict[str, Tensor], Tensor]:
        """See `Adversary.penalties`."""
        scores = self.discriminator(gradient_reversal(samples.features, self.strength))
        losses = F.cross_entropy(scores, samples.labels, reduction="none")
        return {"discriminator": (losses * samples.weights).sum()}, scores
