"""The hyperparameters that every member has besides its own. Imports only the standard library."""

from __future__ import annotations

from functools import cache

from .declaration import Choice, Flag, Formats, Hyperparameter, Limit, Member, Number, Rows, Seed

WEIGHT_DECAY = Number(
    "weight_decay",
    0.0,
    "coefficient of the weight decay; see ``decay``",
    may_be_scheduled=True,
    elsewhere={"keras": None, "optax": None},
)
MAX_GRAD_NORM = Limit(
    "max_grad_norm",
    None,
    "the largest 2-norm of the gradient over all groups; a larger gradient is scaled down to it. A number, a "
    'schedule, or ``"auto"``: 1.5 times the 0.9-quantile of the norms of the last 128 steps (after clipping; '
    "nothing is clipped in the first 8 steps). Clipping is part of the step; gradients are only read. "
    "``optimizer.grad_norm``, ``grad_norm_limit`` and ``clipped_steps`` report on it",
    may_be_scheduled=True,
    is_option=True,
    only=("torch", "numpy"),
)
L1 = Number(
    "l1",
    0.0,
    "coefficient of the L1 penalty, added to the gradient as ``l1 * sign(p)``",
    is_option=True,
    elsewhere={"optax": None},
)
DECAY = Choice(
    "decay",
    "l2",
    'the kind of weight decay. ``"l2"`` adds ``weight_decay * p`` to the gradient; ``"decoupled"`` multiplies the '
    'weight by ``1 - lr * weight_decay``, as PyTorch\'s AdamW does; ``"independent"`` multiplies it by ``1 - factor '
    "* weight_decay``, where factor is lr divided by the lr given at construction, as in Loshchilov and Hutter "
    '(2019); ``"corrected"`` by ``1 - factor * lr * weight_decay``, so that gradients of normalized layers do not grow '
    'towards the end of a schedule, as in AdamC (Defazio, 2025, arXiv:2506.02285); ``"cautious"`` as ``"decoupled"``, but '
    'only the elements that the update does not enlarge (Chen et al., 2025, arXiv:2510.12402); ``"update"``, only in '
    "members that scale the update of each tensor and in schedule-free ones, adds ``weight_decay * p`` to it before that",
    is_option=True,
    elsewhere={"keras": "decoupled"},
    choices=("l2", "decoupled", "independent", "corrected", "cautious"),
)
CAUTIOUS = Flag(
    "cautious",
    False,
    "set the elements of the update whose sign differs from the gradient's to 0, and divide the others by their share of "
    "the tensor's elements, at least 1/1000 (Liang et al., 2024, arXiv:2411.16085)",
    is_option=True,
)
MAXIMIZE = Flag("maximize", False, "maximize the objective", only=("torch", "numpy"))
ON_NONFINITE = Choice(
    "on_nonfinite",
    "propagate",
    'what to do if a gradient has a NaN or an infinity. ``"propagate"`` steps with it, as PyTorch does; ``"skip"`` '
    'skips the whole step and counts it in ``skipped_steps``; ``"raise"`` raises ``FloatingPointError``, which '
    "names the parameter, and changes nothing; on a GPU, the host waits for this",
    is_option=True,
    only=("torch", "numpy", "optax"),
    choices=("propagate", "skip", "raise"),
)
STATE = Formats(
    "state",
    "float32",
    'how the moments are stored: ``"float32"`` (float64 for float64 weights), ``"bfloat16"`` (2 bytes each; '
    'averages are rounded stochastically, so that they do not stall), ``"int8"`` or ``"int6"`` (1.03 or 0.78 bytes '
    "each: a code, and a float32 scale for each block of 128 in a row; the moments of parameters with fewer than two "
    "dimensions, rows shorter than 32 or fewer than 4096 elements stay in float32). Or a mapping from the names of moments to "
    'formats, such as ``{"exp_avg": "int8", "exp_avg_sq": "bfloat16"}``; moments without an entry are float32',
    is_option=True,
    only=("torch", "numpy", "keras", "optax"),
)
WEIGHTS = Choice(
    "weights",
    "nearest",
    'how bfloat16 and float16 weights are rounded. With ``"nearest"``, updates smaller than half the spacing of '
    'such numbers are lost, so training stalls at small rates, as in other libraries; ``"stochastic"`` is unbiased; '
    '``"split"`` stores the remaining bits in the state (2 more bytes per weight), so that training is that of '
    "float32 weights. Wider weights are not affected",
    is_option=True,
    elsewhere={"keras": "split"},
    only=("torch", "numpy", "keras", "optax"),
    choices=("nearest", "stochastic", "split"),
)
SEED = Seed(
    "seed",
    0,
    "seed of the stochastic rounding",
    is_option=True,
    elsewhere={"optax": None},
    only=("torch", "numpy", "keras", "optax"),
)
ROWS = Rows(
    "rows",
    None,
    "for parameters that are parts of larger tensors, split along the first dimension: for each parameter of the "
    "group None, or a pair (index of its first row in the whole tensor, number of rows of the whole tensor). Parts "
    "with the same name are stepped as the whole tensor would be, to the bit",
    is_option=True,
    only=("torch", "numpy"),
)
SHARED: tuple[Hyperparameter, ...] = (
    *(WEIGHT_DECAY, L1, DECAY, CAUTIOUS, MAXIMIZE, MAX_GRAD_NORM),
    *(ON_NONFINITE, STATE, WEIGHTS, SEED, ROWS),
)


@cache
def declared(member: Member) -> dict[str, Hyperparameter]:
    """All hyperparameters of a member by name: its own, then those that every member has."""
    own = {h.name: h for h in member.hyperparameters}
    return own | {h.name: h for h in SHARED if h.name not in own}


@cache
def defaults(member: Member, adapter: str) -> dict[str, object]:
    """The defaults of all hyperparameters that a member has in an adapter."""
    found = declared(member).values()
    return {h.name: h.default_in(adapter) for h in found if not h.only or adapter in h.only}


@cache
def schedulable(member: Member) -> tuple[str, ...]:
    """The names of the hyperparameters of a member that may be schedules."""
    return tuple(h.name for h in declared(member).values() if h.may_be_scheduled)
