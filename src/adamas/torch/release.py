"""Steps in the backward pass: each parameter is stepped as soon as its gradient is complete, and the gradient is freed."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.nn.parameter import is_lazy

from ..rule.hyperparameters import shown
from ..step.clipping import GRAD_NORMS
from .accumulator import Accumulator
from .distributed import local_of
from .optimizer import Optimizer, given_names
from .releasable import check_group, refuse_ddp
from .single import Position, Single
from .tensors import TENSORS
from .worker import Worker

_ADDED = "accumulated"  # where the state of a parameter has the number of gradients that were added to its sum
_SHOWN = 20  # the most names of parameters in a message
_AGAIN = (
    "its gradient arrived for the {arrived} time before step(), and micro_batches={expected}. Likely causes: step() was not "
    "called after the last backward pass; micro_batches= is too low; several losses have a backward pass each (for the "
    "other network of a GAN, call requires_grad_(False) meanwhile); or the weight is used twice, or shared, under reentrant "
    "checkpointing, which gives its gradient in pieces (use_reentrant=False gives it whole)"
)


def release(
    optimizer: Optimizer,
    micro_batches: int = 1,
    *,
    accumulate: Literal["bfloat16"] | None = None,
    per_tensor: bool = False,
) -> Released:
    """Steps each parameter in the backward pass, as soon as its gradient is complete, and frees the gradient.

    So the gradients never exist all at once: in addition to the weights and the state, only the largest gradients need
    memory. The training loop stays the same. ``optimizer.step()`` steps the parameters that are left, and ends the step; until
    then, the learning rate and all other options keep their values. ``optimizer.zero_grad()`` finds nothing left to free.

    The bits are those of steps without ``release``, except for what is measured over all gradients, because these do not
    exist at the same time. It is measured for the gradient of each tensor instead:

    - ``max_grad_norm="auto"`` has a limit for each tensor, from the history of its own norms. It is not the limit of the
      global norm.
    - A number as ``max_grad_norm`` is a limit for each tensor too, which ``per_tensor=True`` confirms. It cannot limit the
      global norm, which is known only after all gradients, when the first of them are used and freed.
    - ``on_nonfinite="skip"`` skips the tensors with a gradient that is not finite, and steps the others. ``"raise"``
      raises in the backward pass.
    - ``optimizer.clipped_steps`` and ``skipped_steps`` count tensors. ``optimizer.grad_norm`` is the global norm, after
      ``step()``.

    A copy of the optimizer is not released.

    Args:
        optimizer: an optimizer of ``adamas.torch``.
        micro_batches: the number of backward passes in a step; parameters are stepped in the last one. With ``fully_shard``,
            it is the number of passes that reduce gradients: those with ``set_requires_gradient_sync(False)`` do not count.
        accumulate: how the gradients of the earlier passes are added up. None does so in ``.grad``, as usual; ``"bfloat16"``
            adds them up in 2 bytes per element, rounded stochastically, and frees them.
        per_tensor: confirms that a number as ``max_grad_norm`` is a limit for each tensor.

    Returns:
        A handle, whose ``remove()`` lets the optimizer step as usual again.

    Raises:
        RuntimeError: ``release`` was already called for the optimizer, or for another one with some of its parameters.
        TypeError: ``optimizer`` is not an optimizer of ``adamas.torch``, or ``micro_batches`` is not an int.
        ValueError: an option needs all gradients at once; the message names it.

    Example:
        >>> import torch, adamas.torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = adamas.torch.AdamW(model.parameters(), lr=1e-3)
        >>> handle = adamas.torch.release(optimizer)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> model.weight.grad is None  # the weight has been stepped
        True
        >>> optimizer.step()
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"release takes an optimizer of adamas.torch, not {type(optimizer).__name__}")
    if isinstance(micro_batches, bool) or not isinstance(micro_batches, int):
        raise TypeError(
            f"micro_batches must be an int, the number of backward passes of a step, not {shown(micro_batches)}"
        )
    if micro_batches < 1:
        raise ValueError(
            f"micro_batches must be 1 or more, the number of backward passes of a step, not {micro_batches}"
        )
    if accumulate not in (None, "bfloat16"):
        raise ValueError(f'accumulate must be None or "bfloat16", not {shown(accumulate)}')
    if optimizer._released is not None:
        raise RuntimeError("the optimizer is released already: call remove() on the handle of the first release before")
    if optimizer._on_spike is not None:
        raise ValueError(
            "an optimizer with on_spike= cannot be released: whether a step is a spike is known after the backward pass, when "
            "the first parameters have been stepped"
        )
    if optimizer._peers is not None and optimizer._peers.has_shares:
        raise ValueError(
            "an optimizer with process_group= cannot be released: its ranks have different parameters and decide together on "
            "each step, so one would wait for the others in the backward pass"
        )
    return Released(optimizer, micro_batches, accumulate is not None, per_tensor)


class Released:
    """An optimizer that steps in the backward pass. ``release`` makes one."""

    def __init__(self, optimizer: Optimizer, micro_batches: int, has_sums: bool, per_tensor: bool) -> None:
        # The optimizer has this object. Neither this nor the hooks keep the optimizer alive when nothing else uses it.
        self._whole = weakref.ref(optimizer)
        self._micro_batches, self._per_tensor = micro_batches, per_tensor
        self._has_sums = has_sums  # whether gradients of micro-batches are added up in sums of our own
        self._hooks: dict[Tensor, Any] = {}
        self._singles: dict[Tensor, Single] = {}
        self._positions: dict[Tensor, Position] = {}
        self._sums: dict[Tensor, Accumulator] = {}
        self._arrived: dict[Tensor, int] = {}  # how many gradients of each parameter have arrived for the coming step
        self._stepped: list[Single] = []  # the parameters that have made it
        self._failure: str | None = None  # why it cannot be completed
        self._worker = Worker(optimizer._homes)
        self._has_no_ddp = False
        for group in optimizer.param_groups:
            self.check_group(group)
        self.register()
        weakref.finalize(optimizer, _remove, self._hooks)
        optimizer._released = self
        # GradScaler then calls step, which refuses it, where it would silently leave step out.
        self._supported_scaling = vars(optimizer).get("_step_supports_amp_scaling")
        optimizer._step_supports_amp_scaling = True

    def remove(self) -> None:
        """Lets the optimizer step as usual again.

        Raises:
            RuntimeError: some parameters have been stepped, and ``step()`` has not been called yet.
        """
        optimizer = self._whole()
        if optimizer is None or optimizer._released is not self:
            return
        with optimizer._lock:
            self._check_complete("remove()")
            self.save()
            for p, total in self._sums.items():
                total.take(p)
            _remove(self._hooks)
            optimizer._released = None
            if self._supported_scaling is None:
                del optimizer._step_supports_amp_scaling
            else:
                optimizer._step_supports_amp_scaling = self._supported_scaling

    @property
    def _optimizer(self) -> Optimizer:
        optimizer = self._whole()
        assert optimizer is not None
        return optimizer

    @property
    def stepped(self) -> list[str]:
        """The names of the parameters that have been stepped since the last ``optimizer.step()``."""
        return [single.name for single in self._stepped]

    # ---- parameters

    def check_group(self, group: Mapping[str, Any]) -> None:
        """Raises ValueError if the parameters of the group cannot be stepped one after the other with its options."""
        check_group(self._optimizer._member, group, self._per_tensor, self._has_sums)

    def register(self) -> None:
        """Registers hooks for the parameters that have none yet and can have one."""
        named: Iterator[tuple[str, Any]] = self._optimizer._named_parameters()
        new = [(name, p) for name, p in named if p not in self._hooks and p.requires_grad and not is_lazy(p)]
        for name, p in new:
            for hook in (getattr(p, "_post_accumulate_grad_hooks", None) or {}).values():
                if isinstance(hook, _Hook) and hook.released() is not None:
                    raise RuntimeError(
                        f"parameter {name} is stepped by another released optimizer: call remove() on the handle of that "
                        "release before"
                    )
        for _, p in new:
            self._hooks[p] = p.register_post_accumulate_grad_hook(_Hook(self))

    def _single(self, p: Tensor) -> Single:
        if p not in self._singles:
            if p not in self._positions:
                self._find_positions()
            self._singles[p] = Single(self._optimizer, self._positions[p])
        return self._singles[p]

    def _find_positions(self) -> None:
        """Finds where each parameter is in the optimizer."""
        self._optimizer._expect_homes()
        self._positions = {}
        for i, group in enumerate(self._optimizer.param_groups):
            for j, p in enumerate(group["params"]):
                self._positions[p] = Position(i, j, len(self._positions))
        self._singles = {p: single for p, single in self._singles.items() if p in self._positions}
        for p, single in self._singles.items():
            if single.position != self._positions[p]:
                single.move(self._positions[p])

    # ---- the step

    def arrive(self, p: Tensor) -> None:
        """Called when a gradient is complete."""
        with self._optimizer._lock, torch.no_grad(), self._guarded():
            if not self._has_no_ddp and dist.is_available() and dist.is_initialized():
                refuse_ddp(self._optimizer._named_parameters())
                self._has_no_ddp = True
            self._arrived[p] = arrived = self._arrived.get(p, 0) + 1
            if arrived > self._micro_batches:
                name = self._single(p).name
                raise RuntimeError(
                    f"parameter {name}: " + _AGAIN.format(arrived=_ordinal(arrived), expected=self._micro_batches)
                )
            if arrived == self._micro_batches:
                self._step(p)
            elif self._has_sums:
                self._add_up(p)

    def _add_up(self, p: Any) -> None:
        """Adds the gradient of a parameter to its sum, and frees it."""
        whole, single = self._optimizer, self._single(p)
        if p.grad.layout != torch.strided:
            raise RuntimeError(
                f"accumulate= adds up dense gradients, and that of parameter {single.name} is {p.grad.layout}: use "
                "accumulate=None, or make it dense (for an embedding: sparse=False)"
            )
        TENSORS.check_gradient(local_of(p.grad), single.name, whole._member)
        if p not in self._sums:
            name = (given_names(single.param_groups[0]) or [str(single.position.among_all)])[0]
            seed, state = whole.param_groups[single.position.group]["seed"], whole.state.get(p, {})
            self._sums[p] = Accumulator(p, name, seed, float(state.get(_ADDED, 0.0)))
        self._sums[p].add(p, torch.get_num_threads())
        p.grad = None

    def finish(self, closure: Callable[[], float] | None) -> None:
        """Steps the parameters that are left, and ends the step: what ``optimizer.step()`` does."""
        whole = self._optimizer
        if closure is not None:
            raise RuntimeError(
                "a released optimizer takes no closure: it steps in the backward pass, so a closure would be evaluated after "
                "the step. Call backward() before step()"
            )
        with whole._lasting(), whole._lock, torch.no_grad(), self._guarded():
            self._refuse_scaling()
            if not self._arrived and whole._creates_state():
                return
            for p in self._left():
                self._step(p)
            self._worker.finish()
            if not self._stepped:
                self._begin()
            stepped, self._stepped, self._arrived = self._stepped, [], {}
            whole.grad_norm = _norm_over([single.grad_norm for single in stepped]) if whole._is_measured() else None
            whole.grad_norm_limit = _least([single.grad_norm_limit for single in stepped])
            self.register()
            whole._end_parts(stepped)

    def _left(self) -> list[Tensor]:
        """The parameters with a gradient or a sum of some."""
        params = [p for group in self._optimizer.param_groups for p in group["params"] if p.requires_grad]
        found = [p for p in params if p.grad is not None or (p in self._sums and not self._sums[p].is_empty)]
        stepped = {single.parameter: single for single in self._stepped}
        for p in found:
            if p in stepped:
                raise RuntimeError(
                    f"parameter {stepped[p].name} has been stepped in the backward pass, and has another gradient, which was "
                    "set after that"
                )
        return found

    def _begin(self) -> None:
        """Begins a step."""
        for group in self._optimizer.param_groups:
            self.check_group(group)
        self._find_positions()
        self._optimizer._begin_parts()

    def _step(self, p: Tensor) -> None:
        """Steps a parameter and frees its gradient."""
        if p.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("a released optimizer cannot step in a CUDA graph: capture the steps of one that is not")
        if not self._stepped:
            self._begin()
        single = self._single(p)
        single.follow()
        self._stepped.append(single)  # if this is interrupted, it may have been stepped
        try:
            if p in self._sums:
                self._sums[p].take(p)
            if self._optimizer._is_offloaded(self._optimizer.param_groups[single.position.group], p):
                self._worker.put(single)
                return
            single.step_now(torch.get_num_threads())
        except Exception:
            self._stepped.pop()
            raise
        p.grad = None

    def _refuse_scaling(self) -> None:
        """Raises RuntimeError if ``torch.amp.GradScaler`` has called ``step``."""
        if getattr(self._optimizer, "found_inf", None) is not None:
            vars(self._optimizer).update(grad_scale=None, found_inf=None)  # it removes them only after a step
            raise RuntimeError(
                "a released optimizer cannot be stepped by GradScaler: the gradients were scaled when they were used in the "
                "backward pass, and an overflow is known only after it. Use bfloat16, which needs no scaling"
            )

    # ---- steps that cannot be completed

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Remembers an error that comes when some parameters have been stepped and others have not."""
        self._refuse_after_failure()
        try:
            yield
        except BaseException as error:
            if self._stepped:
                self._failure = f"{type(error).__name__}: {error}"
            raise

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise RuntimeError(
                f"the last step was not completed: {_listed(self.stepped)} had been stepped when this was raised: "
                f"{self._failure}. Load the state of an earlier step (load_state_dict), and then its weights, to go on"
            )

    def _check_complete(self, what: str) -> None:
        """Raises RuntimeError unless all parameters have made the same steps. ``what`` is what asks for that."""
        self._refuse_after_failure()
        if self._stepped:
            raise RuntimeError(
                f"{what} between backward() and step(): {_listed(self.stepped)} have been stepped, and others have not. Call "
                "step() first"
            )

    def discard(self) -> None:
        """Forgets the gradients that have arrived, before they are dropped.

        Raises:
            RuntimeError: some parameters have been stepped, and ``step()`` has not been called yet.
        """
        with self._optimizer._lock:
            if self._failure is None:
                self._check_complete("zero_grad()")
                self._arrived = {}
                for total in self._sums.values():
                    total.clear()

    def restart(self) -> None:
        """Begins anew, with the present state of the optimizer and without the gradients that have arrived."""
        self._worker.clear()
        for p in self._arrived:
            p.grad = None
        self._singles, self._sums, self._arrived, self._stepped, self._failure = {}, {}, {}, [], None

    # ---- what the parameters count and remember

    def counted(self) -> tuple[int, int]:
        """How many tensors were clipped and skipped since ``save``."""
        return _added(single.counted() for single in [*self._singles.values()])  # another thread may add some

    def save(self) -> None:
        """Writes what the parameters have counted into the groups of the optimizer, and what they remember into its state.

        Raises:
            RuntimeError: some parameters have been stepped, and others have not.
        """
        self._check_complete("state_dict(), deepcopy or pickle")
        whole = self._optimizer
        whole._count_parts(*_added(single.report() for single in self._singles.values()))
        # All entries are there from the first step on, as torch.distributed.checkpoint loads only those that it finds.
        self._find_positions()
        for p, position in self._positions.items():
            if not (state := whole.state.get(p)):
                continue
            if whole.param_groups[position.group]["max_grad_norm"] == "auto":
                state[GRAD_NORMS] = self._single(p).remembered()
            if self._has_sums:
                added = self._sums[p].added if p in self._sums else state.get(_ADDED, 0.0)
                state[_ADDED] = torch.tensor(float(added), dtype=torch.float64, device="cpu")

    def sums(self) -> list[Tensor]:
        """The sums of gradients that micro-batches are added to."""
        return [total.total for total in self._sums.values()]

    def histories(self) -> list[tuple[dict[str, Any], bool]]:
        """What the device of the parameters keeps to decide by, as states: see ``adamas.step.memory``."""
        found = (single._decisions for single in self._singles.values())
        return [({GRAD_NORMS: decisions}, False) for decisions in found if decisions is not None]


class _Hook:
    """What is called when a gradient is complete."""

    def __init__(self, released: Released) -> None:
        self.released = weakref.ref(released)

    @_disable_dynamo
    def __call__(self, p: Tensor) -> None:
        released = self.released()
        if released is not None:
            released.arrive(p)


def _remove(hooks: dict[Tensor, Any]) -> None:
    for hook in hooks.values():
        hook.remove()
    hooks.clear()


def _added(counts: Iterator[tuple[int, int]]) -> tuple[int, int]:
    clipped, skipped = 0, 0
    for one, other in counts:
        clipped, skipped = clipped + one, skipped + other
    return clipped, skipped


def _norm_over(norms: Sequence[Any]) -> Any:
    """The norm over all parameters: a tensor if a device has one of theirs. The host does not wait for it."""
    there = [norm for norm in norms if isinstance(norm, Tensor)]
    here = math.hypot(*(norm for norm in norms if not isinstance(norm, Tensor)))
    if not there:
        return here
    return torch.linalg.vector_norm(torch.stack([*_gathered(there), there[0].new_tensor(here)]))


def _least(limits: Sequence[Any]) -> Any:
    """The lowest of the limits that there are, likewise; None if there are none."""
    there = [limit for limit in limits if isinstance(limit, Tensor)]
    here = min((limit for limit in limits if limit is not None and not isinstance(limit, Tensor)), default=None)
    if not there:
        return here
    lowest = torch.stack(_gathered(there)).min()
    return lowest if here is None else lowest.clamp(max=here)


def _gathered(numbers: Sequence[Tensor]) -> list[Tensor]:
    """The numbers on the device of the first."""
    return [number.to(numbers[0].device, non_blocking=True) for number in numbers]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"parameters {', '.join(names[:_SHOWN])}{more}"


def _ordinal(count: int) -> str:
    suffix = "th" if 10 <= count % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{suffix}"
