# Written by `make members` from the declarations in adamas.rule.members. Change those.
"""The optimizers of the family for JAX, with the arguments, defaults and meaning of their namesakes in optax.

All have the same further options, which are keyword-only:

- ``weight_decay``: coefficient of the weight decay. ``decay_mode`` is its kind: ``"l2"`` adds ``weight_decay * p`` to the
  gradient; ``"decoupled"`` subtracts ``learning_rate * weight_decay * p`` from the weight; ``"independent"`` subtracts
  ``factor * weight_decay * p``, where factor is the schedule's, without the learning rate; ``"corrected"`` subtracts
  ``factor * learning_rate * weight_decay * p``; ``"cautious"`` does as ``"decoupled"`` where the update does not enlarge the
  weight; ``"update"``, only in lamb, lars and stableadamw, adds ``weight_decay * p`` to the update before it is scaled.
- ``cautious``: whether the elements of the update whose sign is not that of the gradient are left out, and the others divided
  by their share of the tensor's elements, at least 1/1000 (Liang et al., 2024, arXiv:2411.16085). Not in adamh, prodigy and
  the schedule-free functions.
- ``l1``: coefficient of a penalty, added to the gradient as ``l1 * sign(p)``.
- ``mask``: a tree of bools, or a function from the parameters to one, that selects the parameters with decay and penalty.
- ``state``: how the moments are stored, ``"float32"``, ``"bfloat16"``, ``"int8"`` or ``"int6"`` (see ``adamas.rule.formats``),
  or a mapping from the names of moments to formats: ``{"exp_avg": "int8"}``.
- ``weights``: how bfloat16 and float16 weights are rounded. ``"nearest"`` loses updates that are too small for the weight, as
  in optax; ``"stochastic"`` is unbiased; ``"split"`` stores the remaining bits in the state. With the last two, an update is
  the difference between the new weight and the old one, for ``apply_updates`` of ``adamas.optax``, optax or Flax. Updates have
  the dtype of the gradients (or of the weights, if that is wider). In 16 bits the difference is exact unless a weight changes
  its sign, or by more than a factor of 2; then it is rounded. In float32 it is always exact.
- ``seed``: seed of the stochastic rounding of ``state`` and ``weights``. The random numbers of a parameter depend on its path
  in the tree, and are those of ``adamas.torch`` for a parameter of that name.
- ``on_nonfinite``: what to do if a gradient has a NaN or an infinity. ``"propagate"`` steps with it, as optax does; ``"skip"``
  skips the whole step (the updates are 0 and the state does not change) and counts it in the state's ``skipped_steps``.
  ``"raise"``, which other adapters have, is refused: a compiled step cannot raise.

Learning rate, decay and β's are numbers, arrays whose values are known only when the program runs, or functions of the number
of steps done: schedules of ``adamas.schedules`` or of optax. ``optax.inject_hyperparams`` works with all of these functions;
with bfloat16 or float16 weights give it ``hyperparam_dtype=jnp.float32``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import optax

from ..rule.layout import State as StateOption
from ..rule.members import MEMBERS
from ..rule.options import Decay, Weights
from .options import Number, Scheduled
from .transformation import Tree, transformation

__all__ = [
    "adagrad",
    "adam",
    "adamax",
    "adamh",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "amsgrad",
    "lamb",
    "laprop",
    "lars",
    "lion",
    "mars",
    "nadam",
    "prodigy",
    "radam",
    "rmsprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "signum",
    "stableadamw",
]

EpsMode = Literal["torch", "hat"]
OnNonfinite = Literal["propagate", "skip"]
Mask: TypeAlias = Tree | Callable[[Tree], Tree] | None


def sgd(
    learning_rate: Scheduled,
    momentum: Number | None = None,
    nesterov: bool = False,
    *,
    dampening: Number = 0.0,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "l2",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""Gradient descent, with momentum (Polyak, 1964) or Nesterov's momentum (Sutskever et al., 2013).

    .. math:: m_t = \mu m_{t-1} + (1 - \tau) g_t, \qquad p_t = p_{t-1} - \eta m_t

    with :math:`m_1 = g_1`; Nesterov's step is :math:`\eta (g_t + \mu m_t)`. Without momentum, the only state is the
    step count.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.sgd(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.99

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        momentum: μ; 0 for none.
        nesterov: use Nesterov's momentum.
        dampening: τ.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["SGD"], locals())


def adagrad(
    learning_rate: Scheduled,
    initial_accumulator_value: Number = 0.1,
    eps: Number = 1e-7,
    *,
    lr_decay: Number = 0.0,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "l2",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""AdaGrad (Duchi, Hazan and Singer, 2011, figure 1): every gradient ever seen counts in the denominator.

    .. math:: v_t = v_{t-1} + g_t^2, \qquad p_t = p_{t-1} - \frac{\eta}{1 + (t-1) \gamma} \frac{g_t}{\sqrt{v_t + \epsilon}}

    Suits sparse features; its effective rate only decreases.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.adagrad(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        initial_accumulator_value: v₀.
        eps: ε.
        lr_decay: γ.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["Adagrad"], locals())


def lars(
    learning_rate: Scheduled,
    *,
    momentum: Number = 0.9,
    trust_coefficient: Number = 1e-3,
    eps: Number = 0.0,
    nesterov: bool = False,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "l2",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""LARS (You, Gitman and Ginsburg, 2017, arXiv:1708.03888, algorithm 1): momentum with a rate for each tensor.

    .. math::
        m_t = \mu m_{t-1} + \frac{c\, \|p_{t-1}\|}{\|g_t\| + \lambda \|p_{t-1}\| + \epsilon} (g_t + \lambda p_{t-1}),
            \qquad p_t = p_{t-1} - \eta m_t

    The norms are of each tensor; where one is 0, the ratio is 1. With ``decay="l2"``, the norm is of the sum :math:`g_t
    + \lambda p_{t-1}`, as in optax.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.lars(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        5.0

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        momentum: μ.
        trust_coefficient: c, the share of its norm that a tensor moves by at a rate of 1.
        eps: ε.
        nesterov: use Nesterov's momentum.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["LARS"], locals())


def lion(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.99,
    *,
    weight_decay: Scheduled = 1e-3,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""Lion (Chen et al., 2023, arXiv:2302.06675, algorithm 2): the sign of an interpolated momentum.

    .. math::
        u_t &= \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \qquad m_t = \beta_2 m_{t-1} + (1 - \beta_2)
            g_t \\
        p_t &= p_{t-1} - \eta u_t

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.lion(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.99899

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["Lion"], locals())


def rmsprop(
    learning_rate: Scheduled,
    decay: Number = 0.9,
    eps: Number = 1e-8,
    initial_scale: Number = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Number | None = None,
    *,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "l2",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""RMSprop (Tieleman and Hinton, 2012); centered as in Graves, 2013 (arXiv:1308.0850, equations 38 to 45).

    .. math:: v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \qquad p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t + \epsilon}}

    ``centered`` subtracts the square of the mean gradient from v; ``momentum`` averages the quotient.

    ``momentum`` averages before the learning rate is applied, as in PyTorch; optax averages after that, which differs
    if the rate changes.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.rmsprop(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.99684

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        decay: α, the decay of the moments.
        eps: ε.
        initial_scale: v₀.
        eps_in_sqrt: ε under the root; False adds it to the root, as in PyTorch.
        centered: divide by an estimate of the standard deviation.
        momentum: momentum of the quotient; 0 for none.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["RMSprop"], locals())


def schedule_free_sgd(
    learning_rate: Scheduled,
    warmup_steps: Number = 0.0,
    b1: Number = 0.9,
    *,
    weight_lr_power: Number = 2.0,
    r: Number = 0.0,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "update",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""Schedule-free gradient descent (Defazio et al., 2024, arXiv:2405.15682, equations 3 to 5): averages its steps.

    .. math::
        u_t &= g_t + \lambda y_t \\
        z_{t+1} &= z_t - \eta_t u_t, \qquad x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \qquad c_t = w_t / \textstyle\sum_{i
            \le t} w_i, \quad w_t = t^r (\max_{i \le t} \eta_i)^p \\
        y_{t+1} &= (1 - \beta_1) z_{t+1} + \beta_1 x_{t+1}

    :math:`\eta_t` is the learning rate with its warmup; a step with a rate of 0 changes no weight. The weight is
    :math:`y` while training, and :math:`x` for evaluation; the state contains their difference.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.schedule_free_sgd(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.99

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        warmup_steps: the number of steps over which the learning rate rises linearly from 0.
        b1: β₁: how close to x the gradients are taken.
        weight_lr_power: p, the power of the largest learning rate so far in the weights of the average x.
        r: r, the power of the step count in the weights of the average x.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["SGDScheduleFree"], locals())


def signum(
    learning_rate: Scheduled,
    beta: Number = 0.9,
    *,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""Signum (Bernstein et al., 2018, arXiv:1802.04434, algorithm 2): the sign of the momentum.

    .. math:: m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad p_t = p_{t-1} - \eta \operatorname{sign}(m_t)

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.signum(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        beta: β, the decay of the momentum; 0 for signSGD.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["Signum"], locals())


def adam(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    *,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "l2",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1): momentum, RMSprop and bias correction.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.adam(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        eps_root: added under the root, as in optax.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["Adam"], locals())


def amsgrad(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    *,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "l2",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""AMSGrad (Reddi, Kale and Kumar, 2018, arXiv:1904.09237): Adam that divides by the largest v so far.

    The maximum is taken of v as in the paper, and then corrected for bias; optax corrects first, unless
    ``bias_correction_nu=False``.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.amsgrad(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        eps_root: added under the root, as in optax.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["Adam"], {**locals(), "amsgrad": True})


def adamw(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    *,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled = 1e-4,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2): Adam with decoupled weight decay.

    .. math:: p_t = (1 - \eta \lambda) p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with λ for ``weight_decay``.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.adamw(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        eps_root: added under the root, as in optax.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["AdamW"], locals())


def adamax(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.999,
    eps: Number = 1e-8,
    *,
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "l2",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""Adamax (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 2): Adam with the infinity norm.

    .. math::
        v_t = \max(\beta_2 v_{t-1}, |g_t| + \epsilon), \qquad p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t} \frac{m_t}{v_t}

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.adamax(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε, added to the magnitude of the gradient as in PyTorch.
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["Adamax"], locals())


def adamh(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.95,
    eps: Number = 1e-8,
    keep_norm: bool = True,
    eps_root: Number = 0.0,
    *,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""AdamH (Wen et al., 2025, Hyperball Optimization): Adam that keeps the norm of each weight.

    .. math::
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}, \qquad q_t = p_{t-1} - \eta
            \frac{\|p_{t-1}\|}{\|u_t\|} u_t \\
        p_t &= \frac{\|p_{t-1}\|}{\|q_t\|} q_t

    The norms are of each tensor. A tensor of zeros, which has no direction, takes Adam's steps.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.adamh(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        5.0

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        keep_norm: False steps as Adam does, for biases, norms and embeddings.
        eps_root: added under the root, as in optax.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["AdamH"], locals())


def adopt(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.9999,
    eps: Number = 1e-6,
    *,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""ADOPT (Taniguchi et al., 2024, arXiv:2411.02853, algorithm 2): Adam that divides by the v of the step before.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \operatorname{clip}\left(\frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}, \pm
            (t-1)^{1/4}\right) \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad p_t = p_{t-1} - \eta m_t

    The first step only initializes :math:`v_1 = g_1^2`: apart from weight decay, it changes no weight.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.adopt(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        5.0

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε, the least denominator.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["ADOPT"], locals())


def lamb(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.999,
    eps: Number = 1e-6,
    eps_root: Number = 0.0,
    *,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "update",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""LAMB (You et al., 2020, arXiv:1904.00962, algorithm 2): AdamW whose step is relative to the weight of each tensor.

    .. math::
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda p_{t-1}, \qquad p_t =
            p_{t-1} - \eta \frac{\|p_{t-1}\|}{\|u_t\|} u_t

    The norms are of each tensor; where one is 0, the ratio is 1.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.lamb(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.995

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        eps_root: added under the root, as in optax.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["LAMB"], locals())


def laprop(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.999,
    eps: Number = 1e-15,
    eps_root: Number = 0.0,
    *,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""LaProp (Ziyin, Wang and Ueda, 2020, arXiv:2002.04839, algorithm 1): momentum after the division.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}, \qquad p_t = p_{t-1}
            - \eta \frac{m_t}{1 - \beta_1^t}

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.laprop(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        eps_root: added under the root, as in optax.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["LaProp"], locals())


def nadam(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    *,
    momentum_decay: Number = math.inf,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "l2",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""NAdam (Dozat, 2016, Incorporating Nesterov Momentum into Adam): Adam with Nesterov's momentum.

    .. math::
        \mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \psi}) \\
        p_t &= p_{t-1} - \eta \left( \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i} + \frac{(1 - \mu_t) g_t}{1 -
            \prod_{i=1}^t \mu_i} \right) / (\sqrt{v_t / (1 - \beta_2^t)} + \epsilon)

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.nadam(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.99853

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        eps_root: added under the root, as in optax.
        momentum_decay: ψ: 0.004 in PyTorch, 1 in Keras, and infinite in optax, where μ is β₁.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["NAdam"], locals())


def radam(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.999,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    *,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "l2",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""RAdam (Liu et al., 2020, arXiv:1908.03265, algorithm 2): Adam without a denominator until its variance is finite.

    .. math::
        \rho_\infty &= \tfrac{2}{1-\beta_2} - 1, \qquad \rho_t = \rho_\infty - \tfrac{2 t \beta_2^t}{1 - \beta_2^t} \\
        p_t &= p_{t-1} - \eta\, r_t \frac{m_t}{1 - \beta_1^t} \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon}
            \quad\text{once } \rho_t > 5, \text{ before that } p_{t-1} - \eta \frac{m_t}{1 - \beta_1^t}

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.radam(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.99

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        eps_root: added under the root, as in optax.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["RAdam"], locals())


def schedule_free_adamw(
    learning_rate: Scheduled,
    warmup_steps: Number = 0.0,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    *,
    weight_lr_power: Number = 2.0,
    r: Number = 0.0,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "update",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""Schedule-free AdamW (Defazio et al., 2024, arXiv:2405.15682, algorithm 1): AdamW that averages its steps.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad u_t = \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} +
            \lambda y_t \\
        z_{t+1} &= z_t - \eta_t u_t, \qquad x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \qquad c_t = w_t / \textstyle\sum_{i
            \le t} w_i, \quad w_t = t^r (\max_{i \le t} \eta_i)^p \\
        y_{t+1} &= (1 - \beta_1) z_{t+1} + \beta_1 x_{t+1}

    :math:`\eta_t` is the learning rate with its warmup; a step with a rate of 0 changes no weight. The weight is
    :math:`y` while training, and :math:`x` for evaluation; the state contains their difference.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.schedule_free_adamw(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        warmup_steps: the number of steps over which the learning rate rises linearly from 0.
        b1: β₁.
        b2: β₂.
        eps: ε.
        weight_lr_power: p, the power of the largest learning rate so far in the weights of the average x.
        r: r, the power of the step count in the weights of the average x.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["AdamWScheduleFree"], locals())


def stableadamw(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.99,
    eps: Number = 1e-6,
    *,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "update",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""StableAdamW (Wortsman et al., 2023, arXiv:2304.13013, algorithm 2): AdamW with shorter steps where v lags behind.

    .. math::
        \text{RMS}_t &= \sqrt{\operatorname{mean}\left(\frac{g_t^2}{\max(\hat v_t, \epsilon^2)}\right)}, \qquad \eta_t =
            \frac{\eta}{\max(1, \text{RMS}_t)} \\
        p_t &= (1 - \eta_t \lambda) p_{t-1} - \eta_t \frac{m_t / (1 - \beta_1^t)}{\sqrt{\hat v_t} + \epsilon}, \qquad
            \hat v_t = \frac{v_t}{1 - \beta_2^t}

    The mean is over each tensor.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.stableadamw(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["StableAdamW"], locals())


def ademamix(
    learning_rate: Scheduled,
    b1: Scheduled = 0.9,
    b2: Scheduled = 0.999,
    b3: Scheduled = 0.9999,
    alpha: Scheduled = 5.0,
    eps: Number = 1e-8,
    eps_root: Number = 0.0,
    *,
    alpha_warmup: Number = 0.0,
    beta3_warmup: Number = 0.0,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""AdEMAMix (Pagliardini et al., 2024, arXiv:2409.03137, algorithm 1): AdamW with a second, slow average.

    .. math:: p_t = p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t) + \alpha s_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.ademamix(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        b3: β₃.
        alpha: α, the share of s.
        eps: ε.
        eps_root: added under the root, as in optax.
        alpha_warmup: the number of steps over which α rises linearly from 0.
        beta3_warmup: the number of steps over which the decay of s rises from β₁ to β₃.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["AdEMAMix"], locals())


def mars(
    learning_rate: Scheduled,
    b1: Scheduled = 0.95,
    b2: Scheduled = 0.99,
    eps: Number = 1e-8,
    gamma: Number = 0.025,
    *,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""MARS-AdamW (Yuan et al., 2024, arXiv:2411.10438, algorithm 2): AdamW with gradients of reduced variance.

    .. math::
        c_t &= g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1}), \qquad \tilde c_t = \frac{c_t}{\max(1,
            \|c_t\|)} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \tilde c_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \tilde c_t^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    The norm is of each tensor; the gradient before the first step is 0, as in the authors' code.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.mars(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        gamma: γ, the strength of the correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["MARS"], locals())


def adan(
    learning_rate: Scheduled,
    b1: Scheduled = 0.98,
    b2: Scheduled = 0.92,
    b3: Scheduled = 0.99,
    eps: Number = 1e-8,
    eps_root: Number = 1e-8,
    *,
    eps_mode: EpsMode = "torch",
    bias_correction: bool = True,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""Adan (Xie et al., 2022, arXiv:2208.06677, algorithm 1): Nesterov's momentum by differences of gradients.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad d_t = \beta_2 d_{t-1} + (1 - \beta_2) (g_t - g_{t-1}) \\
        v_t &= \beta_3 v_{t-1} + (1 - \beta_3) (g_t + \beta_2 (g_t - g_{t-1}))^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t) + \beta_2 d_t / (1 - \beta_2^t)}{\sqrt{v_t / (1 - \beta_3^t)}
            + \epsilon}

    In the first step, :math:`g_0 = g_1`.

    ``optax.adan`` multiplies the differences of gradients by ``1 - b2`` where the paper and its authors' code, and this
    function, have ``b2``.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.adan(0.001)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.999

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        b3: β₃.
        eps: ε.
        eps_root: added under the root, as in optax.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["Adan"], locals())


def prodigy(
    learning_rate: Scheduled,
    *,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    estim_lr0: Number = 1e-6,
    estim_lr_coef: Number = 1.0,
    safeguard_warmup: bool = False,
    use_bias_correction: bool = True,
    growth_rate: Number = math.inf,
    weight_decay: Scheduled | None = None,
    decay_mode: Decay = "decoupled",
    cautious: bool = False,
    l1: Number | None = None,
    mask: Mask = None,
    state: StateOption = "float32",
    weights: Weights = "nearest",
    seed: int | None = None,
    on_nonfinite: OnNonfinite = "propagate",
) -> optax.GradientTransformation:
    r"""Prodigy (Mishchenko and Defazio, 2023, arXiv:2306.06101, algorithm 4): Adam that estimates its learning rate.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 g_t^2 \\
        r_t &= \sqrt{\beta_2} r_{t-1} + \tfrac{d_t}{d_0} \eta d_t \langle g_t, p_0 - p_{t-1} \rangle, \qquad s_t =
            \sqrt{\beta_2} s_{t-1} + \tfrac{d_t}{d_0} \eta d_t g_t, \qquad d_{t+1} = \max(d_t, c\, r_t / \|s_t\|_1) \\
        p_t &= p_{t-1} - \eta d_t \left( \frac{m_t}{\sqrt{v_t} + d_{t+1} \epsilon} + \lambda p_{t-1} \right)

    There is one d for all parameters of all groups, which share ``betas``, ``d0``, ``d_coef``, ``growth_rate`` and
    ``safeguard_warmup``; in ``s``, η and d are those of each step. It is the scalar ``d`` in the state of each
    parameter. :math:`d_{t+1}` is at most ``growth_rate`` times :math:`d_t`, except the first time that it grows.

    ``optax.contrib.prodigy`` has ``betas`` in place of ``b1`` and ``b2``, and ``beta3``, which is ``b2 ** 0.5`` here.

    Example:
        >>> import jax.numpy as jnp, adamas.optax
        >>> tx = adamas.optax.prodigy(1.0, estim_lr0=0.1)
        >>> x = jnp.array([5.0])
        >>> updates, state = tx.update(2 * x, tx.init(x), x)
        >>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)
        4.9

    Args:
        learning_rate: learning rate η; a number, an array or a function of the step.
        b1: β₁.
        b2: β₂.
        eps: ε.
        estim_lr0: d₁, the first estimate.
        estim_lr_coef: c, a factor of d, with which the learning rate is tuned.
        safeguard_warmup: leave η out of s; for a schedule with a warmup.
        use_bias_correction: multiply η by √(1 − β₂ᵗ) / (1 − β₁ᵗ).
        growth_rate: the largest factor by which d grows in a step, except the first time.
        weight_decay, decay_mode, cautious, l1, mask, state, weights, seed, on_nonfinite: see ``adamas.optax.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """
    return transformation(MEMBERS["Prodigy"], locals())
