"""Methods that need the Gramian of the task gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from polytask.balancing.absent import LastGradients, without_absent
from polytask.balancing.balancer import Balancer, Losses, Step
from polytask.balancing.batched import batched_gradients
from polytask.balancing.disjoint import Samples, disjoint_gradients
from polytask.balancing.features import last_layer, separate_backward, shared_features, weighted_backward
from polytask.balancing.gradients import (
    Plan,
    TaskGradients,
    checked,
    gramian_in_parts,
    plan,
    refuse_hooks_after_accumulation,
    task_gradients,
)
from polytask.balancing.precision import without_autocast
from polytask.balancing.weighting import Held, Normalize, Weighting
from polytask.balancing.workspace import Workspace
from polytask.errors import UserError, listing


class Measured(Protocol):
    """The gradients of K tasks, however they were measured."""

    def gramian(self) -> Tensor:
        """`[K, K]`."""

    def accumulate(self, weights: Tensor, own_weights: Tensor | None = None) -> None:
        """Add the weighted sum to `.grad`."""


class GramianBalancer(Balancer):
    """A method whose update is a weighted sum of the task gradients, with weights from their Gramian alone.

    Args:
        log_losses: See `Balancer`.
        normalize: Scale the weights so that they sum to 1 (`sum_to_one`) or to the number of tasks (`sum_to_k`). Papers
            differ in this, and the same learning rate then means different things.
        smoothing: Average the weights over the steps: this much of the old ones stays at each step.
        clip_task_norm: Scale down the gradient of each task that is longer than this; null: none.
        weight_heads: Whether the parameters of one task alone get their gradient times its weight too. The papers
            leave these as they are.
        every: Measure, and find new weights, at each n-th step only; the others cost one backward pass. Approximate.
        on: What gradients are taken for: all shared `parameters`; the shared `features`, which is approximate and costs
            one backward pass; or the parameters of the `last` shared layer, which is approximate too.
        batch_fraction: Measure on this share of a batch's samples, and apply the weights to all. Approximate. In a loop
            of your own, give `backward` the losses on a part of the batch as `probe`.
        update: Make the update of the tasks' `gradients` once these are measured; or by one more, ordinary `backward`
            pass, which lets other tools see it.
        memory_budget: The most memory for the tasks' gradients, in MiB. What does not fit is measured again when it is
            needed: more passes, the same result. Null: no limit.
        absent: What a task that is not in a step does: nothing (`skip`); or the gradient that it had when it was `last`
            there takes part in finding the weights and in the update of what is shared, with its weight, as if it were
            still its gradient. It gets old, and a task that never comes back has its say for ever. This keeps a
            gradient for each task in memory, K x P numbers, and measures whole gradients. A task that was never there
            is skipped.

    Attributes:
        losses: `[K]`, float64 on the CPU: the losses of the current step, as `weights` and `observe` may need them.
            None outside of a step.
    """

    level = "gramian"
    passes = "K"

    def __init__(
        self,
        *,
        log_losses: bool = False,
        normalize: Normalize = "none",
        smoothing: float = 0.0,
        clip_task_norm: float | None = None,
        weight_heads: bool = False,
        every: int = 1,
        on: Literal["parameters", "features", "last"] = "parameters",
        batch_fraction: float = 1.0,
        update: Literal["gradients", "backward"] = "gradients",
        memory_budget: float | None = None,
        absent: Literal["skip", "last"] = "skip",
    ) -> None:
        super().__init__(log_losses=log_losses)
        _check(clip_task_norm is None or clip_task_norm > 0, "clip_task_norm", clip_task_norm, "above 0, or null")
        _check(every >= 1, "every", every, "at least 1")
        _check(on in ("parameters", "features", "last"), "on", on, "'parameters', 'features' or 'last'")
        _check(0 < batch_fraction <= 1, "batch_fraction", batch_fraction, "above 0 and at most 1")
        _check(update in ("gradients", "backward"), "update", update, "'gradients' or 'backward'")
        _check(memory_budget is None or memory_budget > 0, "memory_budget", memory_budget, "above 0, or null")
        _check(absent in ("skip", "last"), "absent", absent, "'skip' or 'last'")
        self._weighting = Weighting(normalize, smoothing)
        self._held = Held(every)
        self._clip = clip_task_norm
        self._weight_heads = weight_heads
        self._on = on
        self.batch_fraction = batch_fraction
        self._update = update
        self._budget = None if memory_budget is None else int(memory_budget * 2**20)
        self._workspace = Workspace()
        self._heads: Tensor | None = None
        self.losses: Tensor | None = None
        self._absent = absent
        if absent == "last" and (
            changed := [option for option in self.changed_options() if option.split("=")[0] in _PARTIAL]
        ):
            raise UserError(
                "absent='last' measures the whole gradient of each task at each step, so that it does not go with "
                f"{listing(changed)}."
            )
        self._last_gradients = LastGradients() if absent == "last" else None

    def changed_options(self) -> list[str]:
        """The options about how gradients are measured that are not as they are by default, as `name=value`."""
        options = [
            ("clip_task_norm", self._clip, None),
            ("every", self._held.every, 1),
            ("on", self._on, "parameters"),
            ("batch_fraction", self.batch_fraction, 1.0),
            ("update", self._update, "gradients"),
            ("memory_budget", self._budget, None),
            ("smoothing", self._weighting.smoothing, 0.0),
            ("absent", self._absent, "skip"),
        ]
        return [f"{name}={value!r}" for name, value, default in options if value != default]

    @abstractmethod
    def weights(self, gramian: Tensor) -> Tensor:
        """The weights `[K]` of the task gradients, given the state, which stays as it is.

        Args:
            gramian: `[K, K]`, `G = J Jᵀ`; in `backward` float64 on the CPU, and finite.
        """

    def observe(self, gramian: Tensor, weights: Tensor) -> None:
        """Learn from a step, for methods that do: its Gramian, and the weights that `weights` gave for it."""

    def head_weights(self) -> Tensor | None:
        """`[K]`, what multiplies the gradients of the tasks' own parameters, not 0; None: nothing does."""
        return None

    def combine(self, jacobian: Tensor) -> Tensor:
        """The update `[P]` for the task gradients `[K, P]`."""
        return self.weights(jacobian @ jacobian.T) @ jacobian

    @torch.enable_grad()  # Scaling and logarithms are part of the graph, also under torch.no_grad().
    def backward(
        self,
        losses: Losses,
        shared: Iterable[nn.Parameter] | None = None,
        *,
        scaler: GradScaler | None = None,
        samples: Samples | None = None,
        probe: Losses | None = None,
    ) -> None:
        """See `Balancer.backward`.

        Raises:
            UserError: A loss or a gradient is not finite, or the method gave a weight that is not (both are known on
                the CPU anyway).
        """
        values = self._enter(losses)
        self._refuse_processes(values)
        chosen = None if shared is None else list(shared)
        given = self.present
        with without_autocast():
            try:
                if self._last_gradients is not None:
                    completed = self._last_gradients.complete(given, values, self._named(chosen), scaler)
                    self.present, values, samples = tuple(completed), list(completed.values()), None
                self._backward(values, chosen, scaler, samples, probe)
            finally:
                self.losses, self.present = None, given
        if self.last is not None and len(self.last.tasks) > len(given):
            self.last = without_absent(self.last, len(given))

    @staticmethod
    def _named(shared: Sequence[nn.Parameter] | None) -> tuple[Tensor, ...]:
        if not shared:
            raise UserError(
                "absent='last' needs the shared parameters by name, so that they are the same in each step: "
                "backward(losses, shared=trunk.parameters())."
            )
        return checked(shared)

    def _backward(
        self,
        values: list[Tensor],
        shared: Sequence[nn.Parameter] | None,
        scaler: GradScaler | None,
        samples: Samples | None,
        probe: Losses | None,
    ) -> None:
        scaled = values if scaler is None else [scaler.scale(value) for value in values]
        held = self._held.weights(self.present)
        planned = plan(scaled, shared, ghosts=held is None)
        if not planned.shared:
            task_gradients(planned, scaled).accumulate(values[0].new_ones(len(values)))
            self.last = Step(self.present, torch.stack(values).detach())
            return
        if held is not None:
            self._heads = self.head_weights()
            self._apply_by_backward(planned, scaled, held)
            self.last = Step(self.present, torch.stack(values).detach(), held)
            return
        if self.batch_fraction < 1:
            measured, gramian = None, self._on_probe(probe, shared)
        elif self._on == "last":
            measured, gramian = None, self._on_last(planned, scaled)
        else:
            if self._update == "gradients":
                refuse_hooks_after_accumulation(planned)
            found = self._measured(planned, scaled, samples)
            measured, gramian = (None, found) if isinstance(found, Tensor) else (found, found.gramian())
        known = self._on_cpu(gramian, values, scaler if self.batch_fraction == 1 else None)
        weights = self._solved(known, skips=scaler is not None and scaler.is_enabled())
        if measured is None:
            self._apply_by_backward(planned, scaled, weights)
        else:
            measured.accumulate(weights, self._own_weights(weights))
        self.last = Step(self.present, torch.stack(values).detach(), weights, known)

    def _on_probe(self, probe: Losses | None, shared: Sequence[Tensor] | None) -> Tensor:
        """The Gramian on a part of the batch."""
        if probe is None:
            raise UserError(
                "batch_fraction is below 1, so backward needs probe=, the tasks' losses on that share of the batch."
            )
        values = probe if isinstance(probe, Mapping) else dict(zip(self.present, probe, strict=False))
        missing = [task for task in self.present if task not in values]
        if missing:
            raise UserError(f"probe= has no loss of task {listing(missing)}.")
        part = [self._seen(values[task]) for task in self.present]
        return self._passed(plan(part, shared), part, others=False, keep_graph=True).gramian()

    def _on_last(self, planned: Plan, losses: list[Tensor]) -> Tensor:
        """The Gramian for the last shared layer."""
        narrow = plan(losses, last_layer(planned, losses), graph=planned.graph)
        return task_gradients(narrow, losses, self._workspace, others=False, keep_graph=True).gramian()

    def _measured(self, planned: Plan, losses: list[Tensor], samples: Samples | None) -> Measured | Tensor:
        """The tasks' gradients, or their Gramian alone where the update is to be made by a backward pass."""
        found: Measured | None = None
        by_backward = self._update == "backward"
        if self._on == "features":
            # One pass from the features cannot give what is shared and what is not different weights.
            by_backward = by_backward or bool(planned.plain)
            found = shared_features(planned, losses).measured(planned, losses, keep_graph=by_backward)
        elif samples is not None:
            found = disjoint_gradients(
                planned,
                losses,
                samples,
                self.present,
                self._workspace,
                others=not by_backward,
                keep_graph=by_backward,
            )
        if found is None:
            if self._budget is not None and planned.bytes_per_task() * len(losses) > self._budget:
                return gramian_in_parts(planned, losses, self._budget)
            found = self._passed(planned, losses, others=not by_backward, keep_graph=by_backward)
        return found.gramian() if by_backward else found

    def _passed(self, planned: Plan, losses: Sequence[Tensor], *, others: bool, keep_graph: bool) -> TaskGradients:
        return batched_gradients(
            planned, losses, self._workspace, others=others, keep_graph=keep_graph
        ) or task_gradients(planned, losses, self._workspace, others=others, keep_graph=keep_graph)

    def _on_cpu(self, gramian: Tensor, values: list[Tensor], scaler: GradScaler | None) -> Tensor:
        """The Gramian in float64; the losses come along, so that the device is waited for once."""
        count = len(values)
        scale = torch.ones((), device=values[0].device)
        rest = torch.stack([*values, scale if scaler is None else scaler.scale(scale)]).detach()
        dtype = torch.promote_types(gramian.dtype, rest.dtype)
        found = torch.cat([gramian.flatten().to(dtype), rest.to(gramian.device, dtype)]).cpu().double()
        self.losses = found[-1 - count : -1]
        # Only here: the scale's square can be too great for float32.
        return found[: -1 - count].view(count, count) / found[-1] ** 2

    def _apply_by_backward(self, planned: Plan, scaled: list[Tensor], weights: Tensor) -> None:
        own_weights = self._own_weights(weights)
        if planned.plain:
            separate_backward(planned, scaled, weights, own_weights)
        else:
            weighted_backward(scaled, weights, own_weights, planned.graph.crossings(planned.shared))

    def _own_weights(self, weights: Tensor) -> Tensor | None:
        return weights if self._weight_heads else self._heads

    def _solved(self, gramian: Tensor, skips: bool) -> Tensor:
        lengths = gramian.diagonal()
        if not lengths.isfinite().all():
            if skips:
                self._heads = self.head_weights()
                self._held.forget()
                # The scale was too great: the scaler has to see that, and leave this step out.
                return torch.full_like(lengths, torch.inf)
            bad = [task for task, length in zip(self.present, lengths.isfinite().tolist(), strict=True) if not length]
            raise UserError(
                f"The loss or the gradient of task {listing(bad)} is not finite. Look for extreme values in its target "
                "and inputs, or try a lower learning rate."
            )
        factors = None
        if self._clip is not None:
            factors = (self._clip / lengths.clamp(min=1e-300).sqrt()).clamp(max=1.0)
            gramian = factors.unsqueeze(1) * gramian * factors
        weights = self.weights(gramian)
        self._check_finite(weights)
        # Before the method learns from the step: the heads get the factors that the weights were made with.
        self._heads = self.head_weights()
        self.observe(gramian, weights)
        weights = weights if factors is None else factors * weights
        weights = self._weighting.apply(weights, self.present)
        self._held.keep(self.present, weights)
        return weights

    def _check_finite(self, weights: Tensor) -> None:
        if not weights.isfinite().all():
            bad = [task for task, fine in zip(self.present, weights.isfinite().tolist(), strict=True) if not fine]
            raise UserError(f"{type(self).__name__} gave task {listing(bad)} a weight that is not finite.")


def _check(fine: bool, name: str, value: Any, allowed: str) -> None:
    if not fine:
        raise UserError(f"{name} is {value!r}, but must be {allowed}.")


_PARTIAL = ("every", "on", "batch_fraction")
"""Options under which a step does not measure the gradients of all shared parameters on the whole batch."""
