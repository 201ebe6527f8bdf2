"""Multinomial adversarial networks (MAN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from polytask.encoders.limits import at_least, one_of
from polytask.sharing.discriminator import Adversary, Samples, Schedule
from polytask.sharing.shared_private import SharedPrivate

Loss = Literal["nll", "l2"]


class MAN(SharedPrivate):
    """Multinomial adversarial network: shared features that are distributed alike for all tasks.

    Chen and Cardie, "Multinomial Adversarial Networks for Multi-Domain Text Classification", NAACL 2018,
    https://arxiv.org/abs/1802.05694. Task k sees `f_k = [s(x); p_k(x)]`. A discriminator gives each row a probability
    D_j for each of the K tasks. With the mean taken over task k's rows, the discriminator and the shared encoder s
    minimise

        nll:  J_D = sum_k mean -log D_k(s(x))                J_s = -J_D
        l2:   J_D = sum_k mean sum_j (D_j(s(x)) - 1[j=k])²   J_s = sum_k mean sum_j (D_j(s(x)) - 1/K)²

    and the objective of s is `sum_k L_k + λ J_s`. At the discriminator's optimum these minimise the divergence of the
    tasks' features from their mixture: sums of Jensen-Shannon divergences with `nll`, of χ² divergences with `l2`.

    Both sides learn in one backward pass: the penalty `discriminator` is J_D on detached features and reaches D alone,
    and `invariance` is λ J_s with D's weights held fixed and reaches s alone.

    What differs from the paper and its code: D learns in the same steps as the rest, not k = 5 steps before each of
    them on other batches; `discriminator_steps: k` comes near to it, in that s is given J_s in each k-th step only. The
    classifiers are the tasks' own heads, there one on all domains' features. D has no batch normalisation and no
    dropout. In `l2` its scores become probabilities through softmax, there through ReLU and division by their sum,
    which is undefined where no score is positive; the official code moreover compares with 1 and -1, and with 0 in
    J_s, where the paper has 1 and 0, and 1/K, which are used here. Unlabelled rows are not used.

    When to use it, and what the adversary sees: as for `adversarial`, which `nll` with a linear discriminator and
    `orthogonality: 0.01` is the same as.

    Args:
        loss: `nll` or `l2`, see above.
        discriminator_steps: The shared encoder is given J_s in each step of this number, so that the discriminator has
            more steps than its opponent.
        orthogonality: See `SharedPrivate`; none, as published.
        discriminator_layers: See `SharedPrivate`; one, as published.

    Raises:
        UserError: A parameter is out of its limits.
    """

    def __init__(
        self,
        loss: Loss = "nll",
        discriminator_steps: int = 1,
        orthogonality: float = 0.0,
        discriminator_layers: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(orthogonality=orthogonality, discriminator_layers=discriminator_layers, **options)
        one_of(get_args(Loss), loss=loss)
        at_least(1, discriminator_steps=discriminator_steps)
        self.loss = loss
        self.discriminator_steps = discriminator_steps

    def adversary(self, tasks: Sequence[str], width: int) -> Adversary:
        """See `SharedPrivate.adversary`."""
        return MultinomialAdversary(
            tasks,
            width,
            self.discriminator_layers,
            self.strength,
            self.schedule,
            loss=self.loss,
            steps=self.discriminator_steps,
        )


class MultinomialAdversary(Adversary):
    """A discriminator and its opponent with objectives of their own.

    Args:
        tasks: See `Adversary`.
        width: See `Adversary`.
        layers: See `Adversary`.
        strength: See `Adversary`.
        schedule: See `Adversary`.
        loss: Their form.
        steps: The opponent learns in each step of this number.
    """

    steps: Tensor

    def __init__(
        self,
        tasks: Sequence[str],
        width: int,
        layers: int,
        strength: float,
        schedule: Schedule,
        *,
        loss: Loss,
        steps: int,
    ) -> None:
        super().__init__(tasks, width, layers, strength, schedule)
        self._loss = loss
        self._every = steps
        self._last: float | None = None
        self.register_buffer("steps", torch.tensor(0))

    def set_progress(self, progress: float) -> None:
        """See `Trunk.set_progress`. Steps are counted by it: batches accumulated for one step have one progress."""
        super().set_progress(progress)
        if self._every > 1 and progress != self._last:
            self.steps += 1
        self._last = progress

    def penalties(self, samples: Samples) -> tuple[dict[str, Tensor], Tensor]:
        """See `Adversary.penalties`."""
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        scores = self.discriminator(samples.features.detach())
        opposed = functional_call(self.discriminator, fixed, (samples.features,))
        if self._loss == "nll":
            guessing = F.cross_entropy(scores, samples.labels, reduction="none")
            hiding = -F.cross_entropy(opposed, samples.labels, reduction="none")
        else:
            one_hot = F.one_hot(samples.labels, scores.shape[1])
            guessing = (scores.softmax(1) - one_hot).square().sum(1)
            hiding = (opposed.softmax(1) - 1 / scores.shape[1]).square().sum(1)
        strength = self.strength
        invariance = strength * (hiding * samples.weights).sum()
        if self._every > 1:
            # A product, so that the device is not waited for; where nobody counts steps, each one counts.
            invariance = invariance * (self.steps % self._every == 0)
        return {"discriminator": (guessing * samples.weights).sum(), "invariance": invariance}, scores
