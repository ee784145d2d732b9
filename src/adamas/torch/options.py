"""What the optimizers take beside their namesakes' arguments, and the checks of every hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

from torch import Tensor
from torch.nn.parameter import is_lazy

from ..schedules import Schedule
from .storage import FORMATS, State, is_reduced

Decay = Literal["l2", "decoupled", "independent"]
Scheduled: TypeAlias = float | Tensor | Schedule  # a hyperparameter that may change with the step


class Options(TypedDict, total=False):
    """Options that every optimizer of the family has; each can be set for a parameter group.

    Attributes:
        l1: coefficient of the L1 penalty, added to the gradient as ``l1 * sign(p)``. Default 0.
        decay: what ``weight_decay`` means. ``"l2"`` adds ``weight_decay * p`` to the gradient; ``"decoupled"`` multiplies
            the weight by ``1 - lr * weight_decay`` (as PyTorch's AdamW does); ``"independent"`` multiplies it by
            ``1 - factor * weight_decay``, with the schedule's factor lr / (the lr given at construction) alone, as
            Loshchilov and Hutter (2019) have it. Default: the namesake's.
        max_grad_norm: the gradient is scaled so that its 2-norm over all groups is at most this: a number, a schedule, or
            ``"auto"``: 1.5 times the 0.9-quantile of the norms of the last 128 steps (as they were after clipping; nothing
            is clipped in the first 8 steps). It is measured and applied inside the step; ``.grad`` is not written.
            ``optimizer.grad_norm``, ``grad_norm_limit`` and ``clipped_steps`` tell of it. Default None.
        on_nonfinite: what to do when a gradient has a NaN or an infinity. ``"propagate"`` (default): what the arithmetic
            gives, as PyTorch does; ``"skip"``: the whole step is left undone and counted in ``skipped_steps``;
            ``"raise"``: ``FloatingPointError`` naming the parameter, and nothing is changed.
        state: how the moments are stored: ``"float32"`` (default; float64 for float64 weights), ``"bfloat16"`` (2 bytes
            each; averages are rounded stochastically, so that they do not stall) or ``"int8"`` (1.03 bytes each: a code,
            and a float32 scale for each block of 128 in a row; parameters with fewer than two dimensions, rows shorter
            than 32 or fewer than 4096 elements stay in float32). Or a format for each moment by its name in the state:
            ``{"exp_avg": "int8", "exp_avg_sq": "bfloat16"}``; what is not named is float32.
        weights: how bfloat16 and float16 weights are rounded. ``"nearest"`` (default): updates smaller than half the
            spacing of such numbers are lost, so training stalls at small rates, as with other libraries;
            ``"stochastic"``: right on average; ``"split"``: the bits that do not fit are kept beside the weight (2 more
            bytes), so that training is that of float32 weights. Wider weights are not affected.
        seed: of the stochastic rounding. Default 0.
        rows: for parameters that are parts of larger tensors, cut along the first dimension: for each parameter of the
            group None, or a pair (index of its first row in the whole tensor, rows of the whole tensor). With the same
            name, such parts are stepped as the whole tensor would be, to the bit. Default None.
    """

    l1: float
    decay: Decay
    max_grad_norm: float | Schedule | Literal["auto"] | None
    on_nonfinite: Literal["propagate", "skip", "raise"]
    state: State
    weights: Literal["nearest", "stochastic", "split"]
    seed: int
    rows: Sequence[tuple[int, int] | None] | None


class RootOptions(Options, total=False):
    """Options of those with a root in the denominator.

    Attributes:
        eps_root: added under the root, as optax has it. Default 0.
    """

    eps_root: float


class AdamOptions(Options, total=False):
    """Options of the members with Adam's two moments.

    Attributes:
        bias_correction: False leaves the moments as they are (the plain form of several texts). Default True.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow). Default: the namesake's.
        eps_root: added under the root, as optax has it. Default 0.
    """

    bias_correction: bool
    eps_mode: Literal["torch", "hat"]
    eps_root: float


class AdamaxOptions(Options, total=False):
    """Options of Adamax.

    Attributes:
        bias_correction: False leaves the first moment as it is. Default True.
    """

    bias_correction: bool


COMMON_DEFAULTS: dict[str, Any] = {
    "l1": 0.0,
    "max_grad_norm": None,
    "on_nonfinite": "propagate",
    "state": "float32",
    "weights": "nearest",
    "seed": 0,
    "rows": None,
}

_CHOICES = {
    "decay": ("l2", "decoupled", "independent"),
    "on_nonfinite": ("propagate", "skip", "raise"),
    "weights": ("nearest", "stochastic", "split"),
    "eps_mode": ("torch", "hat"),
}

# In PyTorch's words, which users and their tests may match.
_NOT_NEGATIVE = {
    "lr": "Invalid learning rate: {}",
    "eps": "Invalid epsilon value: {}",
    "weight_decay": "Invalid weight_decay value: {}",
    "momentum": "Invalid momentum value: {}",
    "lr_decay": "Invalid lr_decay value: {}",
    "initial_accumulator_value": "Invalid initial_accumulator_value value: {}",
    "alpha": "Invalid alpha value: {}",
    "momentum_decay": "Invalid momentum_decay value: {}",
    "l1": "Invalid l1 value: {}",
    "eps_root": "Invalid eps_root value: {}",
}


def as_number(value: Any) -> Any:
    """A one-element tensor as a Python number; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def check(group: dict[str, Any], optimizer: str, slots: Sequence[str | None]) -> None:
    """Raises if a hyperparameter of the group has a value that it cannot have, naming it and what it was given.

    ``slots`` are the names of the moments that the optimizer may have.

    Raises:
        ValueError: in PyTorch's words where PyTorch checks the same.
        RuntimeError: for combinations of ``foreach``, ``fused`` and ``differentiable`` that PyTorch refuses so.
    """
    lr, betas = group["lr"], group.get("betas")
    eager_foreach = group["foreach"] and not group.get("capturable")
    if isinstance(lr, Tensor):
        if eager_foreach and betas is not None and "amsgrad" in group:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        if lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
    for name, message in _NOT_NEGATIVE.items():
        if name in group and not as_number(group[name]) >= 0:
            raise ValueError(message.format(group[name]))
    if betas is not None:
        _check_betas(betas, eager_foreach)
    for name, choices in _CHOICES.items():
        if name in group and group[name] not in choices:
            raise ValueError(f"{name}={group[name]!r} is unknown: use one of {', '.join(map(repr, choices))}")
    limit = group["max_grad_norm"]
    if limit is not None and limit != "auto" and (isinstance(limit, str) or not limit > 0):
        raise ValueError(f'max_grad_norm must be above 0, "auto" or None, not {limit!r}')
    _check_state(group["state"], slots)
    if group.get("centered") and is_reduced(group["state"]):
        raise ValueError(
            f'centered=True needs state="float32", not {group["state"]!r}: the rounding of such moments exceeds the '
            "difference of square_avg and grad_avg² that it divides by, and single updates would be far too large"
        )
    if isinstance(group["seed"], bool) or not isinstance(group["seed"], int):
        raise ValueError(f"seed must be an int, not {group['seed']!r}")
    if group.get("nesterov") and (group["momentum"] <= 0 or group["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")
    if group["differentiable"]:
        if group.get("fused"):
            raise RuntimeError("`fused` does not support `differentiable`")
        raise ValueError(
            f"differentiable=True: adamas.torch.{optimizer} updates weights in place outside of autograd, so nothing can be "
            f"differentiated through its step; use torch.optim.{optimizer}(differentiable=True)"
        )
    if group.get("fused") and group["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def _check_state(state: Any, slots: Sequence[str | None]) -> None:
    if isinstance(state, Mapping):
        names = [name for name in slots if name is not None]
        if unknown := sorted(set(state) - set(names)):
            raise ValueError(f"state: there is no moment {unknown[0]!r}; the names are {', '.join(map(repr, names))}")
    for given in state.values() if isinstance(state, Mapping) else [state]:
        if given not in FORMATS:
            raise ValueError(f"state={given!r} is unknown: use one of {', '.join(map(repr, FORMATS))}")


def check_rows(rows: Any, params: list[Any]) -> None:
    """Raises if ``rows`` does not say where each of the parameters lies in its whole tensor."""
    if rows is None:
        return
    if len(rows) != len(params):
        raise ValueError(
            f"rows has {len(rows)} entries for {len(params)} parameters; give None for those that are whole"
        )
    for i, (entry, item) in enumerate(zip(rows, params, strict=True)):
        name, p = item if isinstance(item, tuple) else (i, item)
        if entry is None or not isinstance(p, Tensor):
            continue
        first, total = entry
        if p.ndim == 0 or not 0 <= first <= first + p.shape[0] <= total:
            raise ValueError(
                f"rows of parameter {name!r}: {entry!r} does not hold its {p.shape[0] if p.ndim else 'no'} rows; give "
                "(index of its first row, rows of the whole tensor)"
            )


def _check_betas(betas: Any, eager_foreach: bool) -> None:
    if len(betas) != 2:
        raise ValueError(f"betas must be a pair, not {betas!r}")
    for i, beta in enumerate(betas):
        if isinstance(beta, Tensor) and eager_foreach and all(isinstance(b, Tensor) for b in betas):
            raise ValueError(f"betas[{i}] as a Tensor is not supported for capturable=False and foreach=True")
        if isinstance(beta, Tensor) and beta.numel() != 1:
            raise ValueError(f"Tensor betas[{i}] must be 1-element")
        if not 0.0 <= as_number(beta) < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
    if isinstance(betas[0], Tensor) != isinstance(betas[1], Tensor):
        raise ValueError("betas must be either both floats or both Tensors")


def check_parameter(parameter: Any, name: str, group: dict[str, Any]) -> None:
    """Raises if the parameter cannot be optimized as the group asks."""
    if not isinstance(parameter, Tensor):
        return  # PyTorch says so itself
    if is_lazy(parameter) or not parameter.requires_grad:
        return  # has no values yet, or is never stepped
    if parameter.is_meta:
        raise ValueError(f"parameter {name} is on the meta device and has no values; materialise it first (to_empty)")
    if parameter.is_conj() or parameter.is_neg():
        raise ValueError(f"parameter {name} has a pending conjugation or sign; pass .resolve_conj().resolve_neg()")
    if parameter.is_complex() and is_reduced(group["state"]):
        raise ValueError(
            f'parameter {name} is complex, and there is no complex {group["state"]!r}: use state="float32" for its group'
        )
    if not (parameter.is_floating_point() or parameter.is_complex()):
        raise ValueError(
            f"parameter {name} has dtype {parameter.dtype}; only floating-point and complex ones can be optimized"
        )
