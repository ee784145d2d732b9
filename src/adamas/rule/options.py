# Written by `make members` from the declarations in adamas.rule.members. Change those.
"""The types of the options that optimizers have besides the arguments of their namesakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from ..schedules import Schedule
from .layout import State

Decay = Literal["l2", "decoupled", "independent", "corrected", "cautious", "update"]
Weights = Literal["nearest", "stochastic", "split"]


class WholeOptions(TypedDict, total=False):
    """Options of an optimizer as a whole.

    Attributes:
        watch: True keeps statistics of each tensor in the last 512 steps, computed in the same pass as the step, for
            ``optimizer.watch``: see ``adamas.step.watch.Watch``. Or a string: ``"every=10"`` watches one step in ten
            (but all steps in a CUDA graph), ``"keep=256"`` keeps 256 watched steps, ``"save"`` saves them in the state
            dict; several are separated by commas. Default: False.
        on_spike: what to do with a step that is far out of the usual: ``"skip"`` skips it, ``"clip"`` shortens it to the
            limit. ``optimizer.spikes`` counts such steps. Settings can follow, separated by commas. What is measured:
            ``"of=grad_norm"`` (the default), ``"of=loss"`` (given to ``step(loss=loss)``, or returned by a closure; with
            DTensors, the mean over the processes), ``"of=update_norm"`` (of the previous step; needs ``watch=True``) or
            ``"of=exact"`` (the update of this step, which is computed twice for this), or several joined by ``+``. The
            limit: ``"sigma=6"``, standard deviations above the mean of the last values, or ``"quantile=0.99"``, 1.5 times
            that quantile. The number of last values: ``"last=128"``, half of which must be known before anything is
            limited. Default: None.
    """

    watch: bool | str
    on_spike: str | None


class Options(WholeOptions, total=False):
    """Options that every optimizer of the family has; each can be set for a parameter group.

    Attributes:
        l1: coefficient of the L1 penalty, added to the gradient as ``l1 * sign(p)``. Default: 0.0.
        decay: the kind of weight decay. ``"l2"`` adds ``weight_decay * p`` to the gradient; ``"decoupled"`` multiplies
            the weight by ``1 - lr * weight_decay``, as PyTorch's AdamW does; ``"independent"`` multiplies it by ``1 -
            factor * weight_decay``, where factor is lr divided by the lr given at construction, as in Loshchilov and
            Hutter (2019); ``"corrected"`` by ``1 - factor * lr * weight_decay``, so that gradients of normalized layers
            do not grow towards the end of a schedule, as in AdamC (Defazio, 2025, arXiv:2506.02285); ``"cautious"`` as
            ``"decoupled"``, but only the elements that the update does not enlarge (Chen et al., 2025,
            arXiv:2510.12402); ``"update"``, only in members that scale the update of each tensor and in schedule-free
            ones, adds ``weight_decay * p`` to it before that. Default: the namesake's.
        cautious: set the elements of the update whose sign differs from the gradient's to 0, and divide the others by
            their share of the tensor's elements, at least 1/1000 (Liang et al., 2024, arXiv:2411.16085). Default:
            False.
        max_grad_norm: the largest 2-norm of the gradient over all groups; a larger gradient is scaled down to it. A
            number, a schedule, or ``"auto"``: 1.5 times the 0.9-quantile of the norms of the last 128 steps (after
            clipping; nothing is clipped in the first 8 steps). Clipping is part of the step; gradients are only read.
            ``optimizer.grad_norm``, ``grad_norm_limit`` and ``clipped_steps`` report on it. Default: None.
        on_nonfinite: what to do if a gradient has a NaN or an infinity. ``"propagate"`` steps with it, as PyTorch does;
            ``"skip"`` skips the whole step and counts it in ``skipped_steps``; ``"raise"`` raises
            ``FloatingPointError``, which names the parameter, and changes nothing; on a GPU, the host waits for this.
            Default: ``"propagate"``.
        state: how the moments are stored: ``"float32"`` (float64 for float64 weights), ``"bfloat16"`` (2 bytes each;
            averages are rounded stochastically, so that they do not stall), ``"int8"`` or ``"int6"`` (1.03 or 0.78
            bytes each: a code, and a float32 scale for each block of 128 in a row; the moments of parameters with fewer
            than two dimensions, rows shorter than 32 or fewer than 4096 elements stay in float32). Or a mapping from
            the names of moments to formats, such as ``{"exp_avg": "int8", "exp_avg_sq": "bfloat16"}``; moments without
            an entry are float32. Default: ``"float32"``.
        weights: how bfloat16 and float16 weights are rounded. With ``"nearest"``, updates smaller than half the spacing
            of such numbers are lost, so training stalls at small rates, as in other libraries; ``"stochastic"`` is
            unbiased; ``"split"`` stores the remaining bits in the state (2 more bytes per weight), so that training is
            that of float32 weights. Wider weights are not affected. Default: ``"nearest"``.
        seed: seed of the stochastic rounding. Default: 0.
        rows: for parameters that are parts of larger tensors, split along the first dimension: for each parameter of
            the group None, or a pair (index of its first row in the whole tensor, number of rows of the whole tensor).
            Parts with the same name are stepped as the whole tensor would be, to the bit. Default: None.
    """

    l1: float
    decay: Decay
    cautious: bool
    max_grad_norm: float | Schedule | Literal["auto"] | None
    on_nonfinite: Literal["propagate", "skip", "raise"]
    state: State
    weights: Weights
    seed: int
    rows: Sequence[tuple[int, int] | None] | None


class RootOptions(Options, total=False):
    """Those of ``Options``, and the options of Adagrad and of members like it.

    Attributes:
        eps_root: added under the root, as in optax. Default: 0.0.
    """

    eps_root: float


class MuonOptions(Options, total=False):
    """Those of ``Options``, and the options of Muon and of members like it.

    Attributes:
        betas: the decay of AdamW's moments, in groups of AdamW. Default: (0.9, 0.999).
        use_muon: whether a group has hidden matrices; False steps its parameters with AdamW. Default: True.
        stacks: whether the parameters of a group are stacks of matrices (of experts, for example), of shape (…, rows,
            columns), each of which is orthogonalized by itself. Default: False.
        ns_dtype: the dtype of the products of matrices: ``"float32"`` (float64 for float64 weights), ``"bfloat16"``, or
            ``"auto"``: bfloat16 on a GPU, and float32 elsewhere. Many CPUs have no instructions for products in
            bfloat16, and take twenty times as long for them. Default: ``"auto"``.
    """

    betas: tuple[float | Schedule, float | Schedule]
    use_muon: bool
    stacks: bool
    ns_dtype: Literal["auto", "float32", "bfloat16"]


class AdamOptions(Options, total=False):
    """Those of ``Options``, and the options of Adam and of members like it.

    Attributes:
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow). Default: the namesake's.
        bias_correction: False uses the moments without bias correction. Default: True.
        eps_root: added under the root, as in optax. Default: 0.0.
    """

    eps_mode: Literal["hat", "torch"]
    bias_correction: bool
    eps_root: float


class AdamaxOptions(Options, total=False):
    """Those of ``Options``, and the options of Adamax and of members like it.

    Attributes:
        bias_correction: False uses the moments without bias correction. Default: True.
    """

    bias_correction: bool


class AdEMAMixOptions(Options, total=False):
    """Those of ``Options``, and the options of AdEMAMix and of members like it.

    Attributes:
        alpha_warmup: the number of steps over which α rises linearly from 0. Default: 0.0.
        beta3_warmup: the number of steps over which the decay of s rises from β₁ to β₃. Default: 0.0.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow). Default: the namesake's.
        bias_correction: False uses the moments without bias correction. Default: True.
        eps_root: added under the root, as in optax. Default: 0.0.
    """

    alpha_warmup: float
    beta3_warmup: float
    eps_mode: Literal["hat", "torch"]
    bias_correction: bool
    eps_root: float
