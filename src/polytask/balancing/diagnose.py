"""What each mode of a Gramian method costs on the user's own model, and how near it comes to the exact one."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from polytask.balancing.balancer import Losses
from polytask.balancing.diagnosis import (
    EVERY,
    EXACT,
    FRACTION,
    OLD_WEIGHTS,
    PLAIN,
    SAMPLES,
    Diagnosis,
    Mode,
    recommendation,
)
from polytask.balancing.disjoint import Samples
from polytask.balancing.gradients import plan
from polytask.balancing.gramian_balancer import GramianBalancer
from polytask.balancing.matrix_free import MatrixFreeBalancer
from polytask.errors import UserError

TURN_SECONDS = 0.05


class HasLosses(Protocol):
    """A model that computes its losses itself."""

    def losses(self, batch: Any, /) -> Losses:
        """The tasks' losses."""


def diagnose(
    model: HasLosses | Callable[[Any], Losses],
    batch: Any,
    *,
    method: str | Callable[..., GramianBalancer] = "upgrad",
    shared: Iterable[nn.Parameter] | None = None,
    repeats: int = 5,
) -> Diagnosis:
    """Measure what each mode of a Gramian method costs on a model, and how near it comes to the exact one.

    A step is a forward and a backward pass, without an optimiser. The model is measured as it is: put it in training
    mode first, on the device to train on. Afterwards its parameters and buffers, their `.grad` and PyTorch's random
    state are as before; meanwhile there is a copy of them, from which each step starts, so that all modes see the same
    dropout. On CUDA the peak memory statistics are reset.

    Args:
        model: Has `losses(batch)`, or is itself called with the batch; gives the tasks' losses, by name or in order.
        batch: What the model takes. With `part(rows)` and `len`, it can be divided for `batch_fraction`; with
            `labelled`, the rows that are labelled for each task (None: all), it can be measured with `samples`.
        method: A Gramian method's name; or its class, or what makes it from options, for a method with parameters.
        shared: The parameters that the method applies to; None: those that the model, or else its `trunk`, calls
            shared, or without one those that more than one loss reaches.
        repeats: How often each mode takes its turn, of one step or, where steps are short, of several; the times are
            medians over the turns.

    Raises:
        UserError: The method is none whose modes can be compared, or it cannot run on this model.
    """
    if repeats < 1:
        raise UserError(f"repeats is {repeats}, but must be at least 1.")
    owner = getattr(model, "__self__", model)
    state = _State()
    try:
        name, make = _maker(method)
        compute = _losses_of(model)
        state.watch(owner, partial(compute, batch))
        first = compute(batch)
        names_them = owner if hasattr(owner, "shared_parameters") else getattr(owner, "trunk", None)
        named = getattr(names_them, "shared_parameters", None)
        if shared is None and named is not None:
            shared = [parameter for parameter in named() if parameter.requires_grad]
        chosen = None if shared is None else list(shared)
        planned = plan([loss for loss in first.values() if isinstance(loss, Tensor)], chosen)
        for parameter in (*planned.shared, *planned.plain, *(each for own in planned.own for each in own)):
            state.keep(parameter)
        parameters = sum(parameter.numel() for parameter in planned.shared)
        ghosts = sum(parameter.numel() for layer in planned.ghosts for parameter in layer.parameters)
        steps = _Steps(compute, batch, chosen, planned.shared, tuple(first), state)
        # They hold a graph, and with it memory.
        del first, planned
        rows = tuple(_measured(steps, make, repeats))
    finally:
        state.put_back()
    advice = recommendation(rows, len(steps.tasks), parameters)
    return Diagnosis(name, steps.tasks, parameters, ghosts / max(1, parameters), rows, advice)


@dataclass(frozen=True)
class _Way:
    """How a step is made.

    Attributes:
        name: The mode's name.
        options: The method's options; None: the sum of the losses, without a method.
        approximation: See `Mode`.
        untold: Why the first step's direction does not tell that of the others; empty: it does.
    """

    name: str
    options: Mapping[str, Any] | None
    approximation: str = ""
    untold: str = ""


_EXACT = _Way(EXACT, {})
_WAYS = (
    _Way(PLAIN, None, "nothing is balanced"),
    _EXACT,
    _Way("update='backward'", {"update": "backward"}),
    _Way(
        OLD_WEIGHTS,
        {"every": EVERY},
        f"the weights are up to {EVERY - 1} steps old",
        f"the time is the mean of {EVERY} steps, of which one measures. There its direction is the exact one; on the "
        "others it cannot be told from one batch.",
    ),
    _Way("on='features'", {"on": "features"}, "the weights come from the gradients for the shared features"),
    _Way("on='last'", {"on": "last"}, "the weights come from the gradients for the last shared layer alone"),
    _Way(
        f"batch_fraction={FRACTION}", {"batch_fraction": FRACTION}, f"the weights come from {FRACTION:.0%} of the batch"
    ),
)
_LEARNS = "the method changes from step to step, and all directions are those of its first one."
_WITH_SAMPLES = _Way(SAMPLES, {})
_MATRIX_FREE = _Way(
    "matrix_free=True",
    {"matrix_free": True},
    "the weights are learned from step to step, and lag behind",
    "the weights are learned over many steps, so that its direction cannot be told from one batch.",
)


class _State:
    """What forward and backward passes change, so that it can be put back."""

    def __init__(self) -> None:
        self._random = torch.get_rng_state()
        used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda_random = torch.cuda.get_rng_state_all() if used else []
        self._modules: dict[nn.Module, tuple[bool, dict[str, Tensor | None]]] = {}
        self._values: dict[Tensor, Tensor] = {}
        self._gradients: dict[Tensor, Tensor | None] = {}

    def watch(self, model: object, forward: Callable[[], object]) -> None:
        """Keep the state of a model; of one that is no module, that of all modules that a forward pass calls."""
        if isinstance(model, nn.Module):
            self._add(model)
            return
        handle = register_module_forward_pre_hook(lambda module, _: self._add(module))
        try:
            # The compiler would trace the hook.
            with torch.compiler.set_stance("force_eager"):
                forward()
        finally:
            handle.remove()
        self.reset()

    def _add(self, module: nn.Module) -> None:
        for each in module.modules():
            if each not in self._modules:
                self._modules[each] = each.training, dict(each._buffers)
                for parameter in each.parameters(recurse=False):
                    self.keep(parameter)
                for buffer in each.buffers(recurse=False):
                    self._values.setdefault(buffer, buffer.detach().clone())

    def keep(self, parameter: Tensor) -> None:
        """Keep a parameter and its gradient."""
        if parameter not in self._gradients:
            self._gradients[parameter] = parameter.grad
            self._values[parameter] = parameter.detach().clone()

    @torch.no_grad()
    def reset(self) -> None:
        """Put all back but the gradients, which are gone."""
        torch.set_rng_state(self._random)
        if self._cuda_random:
            torch.cuda.set_rng_state_all(self._cuda_random)
        for tensor, value in self._values.items():
            # Sparse tensors cannot be compared, and expanded ones cannot be written to.
            if tensor.layout != torch.strided or not torch.equal(tensor, value):
                tensor.copy_(value)
        for module, (training, buffers) in self._modules.items():
            module.training = training
            for name, buffer in buffers.items():
                if module._buffers[name] is not buffer:
                    module._buffers[name] = buffer
        for parameter in self._gradients:
            parameter.grad = None

    def put_back(self) -> None:
        """Put all back."""
        self.reset()
        for parameter, gradient in self._gradients.items():
            parameter.grad = gradient


@dataclass(frozen=True)
class _Steps:
    """Steps on a batch, each from the same state.

    Attributes:
        compute: Gives the losses on a batch.
        batch: The batch.
        shared: What `backward` is told to be shared.
        updated: The parameters that are.
        tasks: The tasks.
        state: Is put back before each step.
    """

    compute: Callable[[Any], dict[str, Tensor]]
    batch: Any
    shared: list[nn.Parameter] | None
    updated: tuple[Tensor, ...]
    tasks: tuple[str, ...]
    state: _State

    @property
    def devices(self) -> list[torch.device]:
        """The devices of the shared parameters."""
        return list(dict.fromkeys(parameter.device for parameter in self.updated)) or [torch.device("cpu")]

    @property
    def samples(self) -> Samples | None:
        """Which rows each task has; None where the batch does not say, or all have all."""
        labelled = getattr(self.batch, "labelled", {})
        rows = {task: labelled.get(task) for task in self.tasks}
        if all(each is None for each in rows.values()):
            return None
        everything = torch.arange(len(self.batch))
        return {task: everything if each is None else each for task, each in rows.items()}

    def _part(self) -> Any:
        """The first rows of the batch, and one of each task."""
        if not hasattr(self.batch, "part"):
            raise UserError("It needs a batch that can be divided, by `part(rows)`.")
        first = range(math.ceil(len(self.batch) * FRACTION))
        labelled = [int(row) for rows in (self.samples or {}).values() for row in rows[:1]]
        return self.batch.part(torch.tensor(sorted({*first, *labelled})))

    def step(self, way: _Way, make: Callable[..., GramianBalancer]) -> Callable[[], None]:
        """What makes a step, with a balancer of its own.

        Raises:
            UserError: The method or the batch does not allow it.
        """
        if way.options is None:
            return lambda: sum(self.compute(self.batch).values()).backward()  # type: ignore[union-attr]
        part = self._part() if "batch_fraction" in way.options else None
        samples = self.samples if way is _WITH_SAMPLES else None
        balancer = make(**way.options)
        balancer.prepare(self.tasks)

        def step() -> None:
            probe = None if part is None else self.compute(part)
            balancer.backward(self.compute(self.batch), self.shared, samples=samples, probe=probe)

        return step

    def seconds(self, step: Callable[[], None]) -> float:
        """How long a step takes."""
        self.state.reset()
        _settle(self.devices)
        start = time.perf_counter()
        step()
        _settle(self.devices)
        return time.perf_counter() - start


class _Turns:
    """A mode that takes its turns.

    Args:
        steps: Makes steps.
        way: The mode.
        make: Makes the method from options.
        exact: The exact update of the shared parameters; None: this mode's own is.

    Attributes:
        update: The exact update.
        direction: The first step's update against the exact one, as in `_compared`.
        peak: See `_peak_bytes`.

    Raises:
        UserError: The mode cannot run.
    """

    def __init__(
        self, steps: _Steps, way: _Way, make: Callable[..., GramianBalancer], exact: list[Tensor | None] | None = None
    ) -> None:
        self._steps = steps
        self._step = steps.step(way, make)
        steps.seconds(self._step)
        update = [parameter.grad for parameter in steps.updated]
        # Not one more for each mode: it is as large as what is shared.
        self.update = update if exact is None else exact
        self.direction = (None, None) if way.untold else _compared(update, self.update)
        del update
        steps.state.reset()

        def first() -> None:
            steps.step(way, make)()

        # With what the balancer keeps from step to step.
        self.peak = _peak_bytes(first, steps.devices)
        self._together = (way.options or {}).get("every", 1)
        self._seconds: list[float] = []

    def turn(self) -> None:
        """Take some steps: a short turn tells little on a machine that does other things too."""
        taken: list[float] = []
        while sum(taken) < TURN_SECONDS:
            taken += [self._steps.seconds(self._step) for _ in range(self._together)]
        self._seconds.append(statistics.mean(taken))

    @property
    def milliseconds(self) -> float:
        """The median of the turns, for one step."""
        return 1000 * statistics.median(self._seconds)


def _measured(steps: _Steps, make: Callable[..., GramianBalancer], repeats: int) -> Iterator[Mode]:
    """A row for each mode; one that cannot run says why."""
    ways = list(_WAYS)
    if steps.samples is not None:
        ways.append(_WITH_SAMPLES)
    made = make()
    if isinstance(made, MatrixFreeBalancer):
        ways.append(_MATRIX_FREE)
    learns = type(made).observe is not GramianBalancer.observe
    # The exact one first: without it there is nothing to compare with, so that its errors are the user's to mend.
    turns = {EXACT: _Turns(steps, _EXACT, make)}
    reasons = {}
    for way in ways:
        try:
            turns[way.name] = turns.get(way.name) or _Turns(steps, way, make, turns[EXACT].update)
        except UserError as error:
            reasons[way.name] = str(error)
        except torch.OutOfMemoryError:
            reasons[way.name] = "The device has not enough memory."
    for _ in range(repeats):
        for each in turns.values():
            each.turn()
    plain = turns[PLAIN].milliseconds
    for way in ways:
        if way.name in reasons:
            yield Mode(way.name, way.approximation, note=reasons[way.name])
            continue
        each = turns[way.name]
        ratio = each.milliseconds / plain
        peak = None if each.peak is None else each.peak / 2**20
        note = _LEARNS if learns and way is _EXACT else way.untold
        yield Mode(way.name, way.approximation, each.milliseconds, ratio, peak, *each.direction, note)


def _maker(method: str | Callable[..., GramianBalancer]) -> tuple[str, Callable[..., GramianBalancer]]:
    """The method's name, and what makes it from options.

    Raises:
        UserError: It is none whose modes can be compared.
    """
    # The package lists its methods after its modules have been imported.
    from polytask.balancing import create

    make: Callable[..., Any] = partial(create, method) if isinstance(method, str) else method
    made = make()
    name = type(made).__name__
    if not isinstance(made, GramianBalancer):
        level = getattr(made, "level", None)
        raise UserError(
            f"diagnose compares the modes of methods of the level 'gramian'. {name} is of the level '{level}' and has "
            "no such modes."
        )
    if made.batches > 1:
        raise UserError(f"{name} takes {made.batches} independent batches a step, and has no modes to compare.")
    return method if isinstance(method, str) else name, make


def _losses_of(model: HasLosses | Callable[[Any], Losses]) -> Callable[[Any], dict[str, Tensor]]:
    """A model's losses by task.

    Raises:
        UserError: It gives something else.
    """
    losses = getattr(model, "losses", None)
    # An attribute of this name can also be a collection of loss functions.
    compute: Any = losses if callable(losses) and not isinstance(losses, nn.Module) else model
    if not callable(compute):
        raise UserError(f"The model is {model!r}, but must have a method losses(batch), or be called with the batch.")

    def by_task(batch: Any) -> dict[str, Tensor]:
        found = compute(batch)
        if isinstance(found, Mapping):
            return dict(found)
        if isinstance(found, Sequence):
            return {str(index): loss for index, loss in enumerate(found)}
        raise UserError(
            f"The model gives {type(found).__name__}, but diagnose needs the tasks' losses, by task name or in order. "
            "Give it a function of the batch that computes them."
        )

    return by_task


def _settle(devices: Sequence[torch.device]) -> None:
    for device in devices:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)


def _peak_bytes(step: Callable[[], None], devices: Sequence[torch.device]) -> int | None:
    """The most that was allocated at once during a step, of what it allocates itself; None where nobody counts."""
    kinds = {device.type for device in devices}
    if kinds == {"cuda"}:
        _settle(devices)
        before = sum(torch.cuda.memory_allocated(device) for device in devices)
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        with _undisturbed():
            step()
        _settle(devices)
        return sum(torch.cuda.max_memory_allocated(device) for device in devices) - before
    if kinds != {"cpu"}:
        return None
    with _undisturbed(), torch.autograd.profiler.profile(profile_memory=True) as recorded:
        step()
    assert recorded.kineto_results is not None
    events = list(recorded.kineto_results.experimental_event_tree())
    changes = []
    while events:
        event = events.pop()
        events += event.children
        if event.name == "[memory]":
            changes.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    live: dict[int, int] = {}
    now = most = 0
    for _, address, size in sorted(changes, key=lambda change: change[0]):
        # What was there before the step does not count when it goes.
        now += size if size > 0 else -live.pop(address, 0)
        if size > 0:
            live[address] = size
        most = max(most, now)
    return most


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Python's garbage, which would be freed meanwhile, and the profiler from saying that there is no GPU."""
    name, collects = "KINETO_LOG_LEVEL", gc.isenabled()
    level = os.environ.get(name)
    gc.disable()
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if collects:
            gc.enable()
        if level is None:
            del os.environ[name]


def _compared(update: Sequence[Tensor | None], exact: Sequence[Tensor | None]) -> tuple[float | None, float | None]:
    """The cosine between two updates, and the ratio of their lengths; None where the exact one is 0."""
    between, square, exact_square = 0.0, 0.0, 0.0
    for one, other in zip(update, exact, strict=True):
        between += _product(one, other)
        square += _product(one, one)
        exact_square += _product(other, other)
    if not exact_square:
        return None, None
    cosine = max(-1.0, min(1.0, between / math.sqrt(square * exact_square))) if square else None
    return cosine, math.sqrt(square / exact_square)


def _product(one: Tensor | None, other: Tensor | None) -> float:
    if one is None or other is None:
        return 0.0
    return float(torch.dot(*(tensor.to_dense().double().flatten() for tensor in (one, other))))
