# Written by `make members` from the declarations in adamas.rule.members. Change those.
"""The types of the options that optimizers take beside the arguments of their namesakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from ..schedules import Schedule
from .layout import State

Decay = Literal["l2", "decoupled", "independent"]
Weights = Literal["nearest", "stochastic", "split"]


class Options(TypedDict, total=False):
    """Options that every optimizer of the family has; each can be set for a parameter group.

    Attributes:
        l1: coefficient of the L1 penalty, added to the gradient as ``l1 * sign(p)``. Default: 0.0.
        decay: what ``weight_decay`` means. ``"l2"`` adds ``weight_decay * p`` to the gradient; ``"decoupled"``
            multiplies the weight by ``1 - lr * weight_decay`` (as PyTorch's AdamW does); ``"independent"`` multiplies
            it by ``1 - factor * weight_decay``, with the schedule's factor lr / (the lr given at construction) alone,
            as Loshchilov and Hutter (2019) have it. Default: the namesake's.
        max_grad_norm: the gradient is scaled so that its 2-norm over all groups is at most this: a number, a schedule,
            or ``"auto"``: 1.5 times the 0.9-quantile of the norms of the last 128 steps (as they were after clipping;
            nothing is clipped in the first 8 steps). It is measured and applied inside the step; gradients are not
            written. ``optimizer.grad_norm``, ``grad_norm_limit`` and ``clipped_steps`` report on it. Default: None.
        on_nonfinite: what to do when a gradient has a NaN or an infinity. ``"propagate"``: what the arithmetic gives,
            as PyTorch does; ``"skip"``: the whole step is left undone and counted in ``skipped_steps``; ``"raise"``:
            ``FloatingPointError`` naming the parameter, and nothing is changed. Default: ``"propagate"``.
        state: how the moments are stored: ``"float32"`` (float64 for float64 weights), ``"bfloat16"`` (2 bytes each;
            averages are rounded stochastically, so that they do not stall) or ``"int8"`` (1.03 bytes each: a code, and
            a float32 scale for each block of 128 in a row; parameters with fewer than two dimensions, rows shorter than
            32 or fewer than 4096 elements stay in float32). Or a format for each moment by its name in the state:
            ``{"exp_avg": "int8", "exp_avg_sq": "bfloat16"}``; what is not named is float32. Default: ``"float32"``.
        weights: how bfloat16 and float16 weights are rounded. ``"nearest"``: updates smaller than half the spacing of
            such numbers are lost, so training stalls at small rates, as with other libraries; ``"stochastic"``: right
            on average; ``"split"``: the bits that do not fit are kept beside the weight (2 more bytes), so that
            training is that of float32 weights. Wider weights are not affected. Default: ``"nearest"``.
        seed: of the stochastic rounding. Default: 0.
        rows: for parameters that are parts of larger tensors, cut along the first dimension: for each parameter of the
            group None, or a pair (index of its first row in the whole tensor, rows of the whole tensor). With the same
            name, such parts are stepped as the whole tensor would be, to the bit. Default: None.
    """

    l1: float
    decay: Decay
    max_grad_norm: float | Schedule | Literal["auto"] | None
    on_nonfinite: Literal["propagate", "skip", "raise"]
    state: State
    weights: Weights
    seed: int
    rows: Sequence[tuple[int, int] | None] | None


class RootOptions(Options, total=False):
    """Those of ``Options``, and the options of Adagrad and of members like it.

    Attributes:
        eps_root: added under the root, as optax has it. Default: 0.0.
    """

    eps_root: float


class AdamOptions(Options, total=False):
    """Those of ``Options``, and the options of Adam and of members like it.

    Attributes:
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow). Default: the namesake's.
        bias_correction: False leaves the moments as they are (the plain form of several texts). Default: True.
        eps_root: added under the root, as optax has it. Default: 0.0.
    """

    eps_mode: Literal["hat", "torch"]
    bias_correction: bool
    eps_root: float


class AdamaxOptions(Options, total=False):
    """Those of ``Options``, and the options of Adamax and of members like it.

    Attributes:
        bias_correction: False leaves the moments as they are (the plain form of several texts). Default: True.
    """

    bias_correction: bool


class AdEMAMixOptions(Options, total=False):
    """Those of ``Options``, and the options of AdEMAMix and of members like it.

    Attributes:
        alpha_warmup: the number of steps in which α rises from 0, linearly. Default: 0.0.
        beta3_warmup: the number of steps in which s comes to remember as long as β₃ says. Default: 0.0.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow). Default: the namesake's.
        bias_correction: False leaves the moments as they are (the plain form of several texts). Default: True.
        eps_root: added under the root, as optax has it. Default: 0.0.
    """

    alpha_warmup: float
    beta3_warmup: float
    eps_mode: Literal["hat", "torch"]
    bias_correction: bool
    eps_root: float
