# Written by `make members` from the declarations in adamas.rule.members. Change those.
"""The optimizers of the family for Keras, with the arguments, defaults and meaning of their namesakes in Keras.

``clipnorm``, ``clipvalue``, ``global_clipnorm``, ``use_ema``, ``ema_momentum``, ``ema_overwrite_frequency``,
``loss_scale_factor``, ``gradient_accumulation_steps`` and ``name`` are Keras's own: see ``keras.optimizers.Optimizer``. All
optimizers also have these options:

- ``weight_decay``: coefficient of the weight decay. ``decay`` is its kind: ``"decoupled"``, as in Keras, subtracts
  ``learning_rate * weight_decay * p`` from the weight; ``"l2"`` adds ``weight_decay * p`` to the gradient; ``"independent"``
  subtracts ``factor * weight_decay * p``, where factor is the schedule's, without the learning rate; ``"corrected"`` subtracts
  ``factor * learning_rate * weight_decay * p``; ``"cautious"`` does as ``"decoupled"`` where the update does not enlarge the
  weight; ``"update"``, only in Lamb, LARS and StableAdamW, adds ``weight_decay * p`` to the update before it is scaled.
- ``cautious``: whether the elements of the update whose sign is not that of the gradient are left out, and the others divided
  by their share of the tensor's elements, at least 1/1000 (Liang et al., 2024, arXiv:2411.16085). Not in AdamH and Prodigy.
- ``l1``: coefficient of a penalty, added to the gradient as ``l1 * sign(p)``. Variables that are excluded from weight decay
  (``exclude_from_weight_decay``) do not have it.
- ``state``: how the moments are stored, ``"float32"``, ``"bfloat16"``, ``"int8"`` or ``"int6"`` (see ``adamas.rule.formats``),
  or a mapping from the names of moments to formats: ``{"exp_avg": "int8"}``.
- ``weights``: how bfloat16 and float16 variables are rounded. ``"split"`` stores the low bits in the state, so that they train
  exactly as in float32; ``"stochastic"`` rounds up or down at random, without bias; ``"nearest"`` loses updates that are
  smaller than half the spacing of the numbers.
- ``seed``: seed of the stochastic rounding of ``state`` and ``weights``. The random numbers of a variable depend on its
  position.

A learning rate may be a schedule of ``adamas.schedules`` or of Keras. Both count optimizer steps, even if gradients are
accumulated. All arithmetic is in float32, or in float64 for float64 variables.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import keras

from ..rule.layout import State
from ..rule.members import MEMBERS
from ..rule.options import Decay, Weights
from .optimizer import Optimizer, Rate

__all__ = [
    "ADOPT",
    "LARS",
    "MARS",
    "SGD",
    "AdEMAMix",
    "Adagrad",
    "Adam",
    "AdamH",
    "AdamW",
    "Adamax",
    "Adan",
    "LaProp",
    "Lamb",
    "Lion",
    "Nadam",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Signum",
    "StableAdamW",
]

EpsMode: TypeAlias = Literal["hat", "torch"]
RootMode: TypeAlias = Literal["root", "torch"]

_registered = keras.saving.register_keras_serializable("adamas")


@_registered
class SGD(Optimizer):
    r"""Gradient descent, with momentum (Polyak, 1964) or Nesterov's momentum (Sutskever et al., 2013).

    .. math:: m_t = \mu m_{t-1} + (1 - \tau) g_t, \qquad p_t = p_{t-1} - \eta m_t

    with :math:`m_1 = g_1`; Nesterov's step is :math:`\eta (g_t + \mu m_t)`. Without momentum, the only state is the
    step count.

    The velocity of ``keras.optimizers.SGD`` includes the learning rate. At a constant rate the steps are the same; if
    the rate changes, the whole step has the new rate at once here, as in PyTorch.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        momentum: μ; 0 for none.
        nesterov: use Nesterov's momentum.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["SGD"]

    def __init__(
        self,
        learning_rate: Rate = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class Adagrad(Optimizer):
    r"""AdaGrad (Duchi, Hazan and Singer, 2011, figure 1): every gradient ever seen counts in the denominator.

    .. math:: v_t = v_{t-1} + g_t^2, \qquad p_t = p_{t-1} - \frac{\eta}{1 + (t-1) \gamma} \frac{g_t}{\sqrt{v_t + \epsilon}}

    Suits sparse features; its effective rate only decreases.

    Of a sparse gradient, on TensorFlow, only the rows that are there are stepped, unless there is weight decay, a
    penalty, clipping or accumulation; a row that is there twice is summed before it is squared. On JAX it is made
    dense.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        initial_accumulator_value: v₀.
        epsilon: ε.
        eps_mode: the place of ε: ``"root"``, under the root as in Keras and optax, or ``"torch"``, outside it.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["Adagrad"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: RootMode = "root",
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class LARS(Optimizer):
    r"""LARS (You, Gitman and Ginsburg, 2017, arXiv:1708.03888, algorithm 1): momentum with a rate for each tensor.

    .. math::
        m_t = \mu m_{t-1} + \frac{c\, \|p_{t-1}\|}{\|g_t\| + \lambda \|p_{t-1}\| + \epsilon} (g_t + \lambda p_{t-1}),
            \qquad p_t = p_{t-1} - \eta m_t

    The norms are of each tensor; where one is 0, the ratio is 1. With ``decay="l2"``, the norm is of the sum :math:`g_t
    + \lambda p_{t-1}`, as in optax.

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        momentum: μ.
        trust_coefficient: c, the share of its norm that a tensor moves by at a rate of 1.
        epsilon: ε.
        nesterov: use Nesterov's momentum.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["LARS"]

    def __init__(
        self,
        learning_rate: Rate = 1.0,
        momentum: float = 0.9,
        trust_coefficient: float = 1e-3,
        epsilon: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        decay: Decay = "update",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class Lion(Optimizer):
    r"""Lion (Chen et al., 2023, arXiv:2302.06675, algorithm 2): the sign of an interpolated momentum.

    .. math::
        u_t &= \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \qquad m_t = \beta_2 m_{t-1} + (1 - \beta_2)
            g_t \\
        p_t &= p_{t-1} - \eta u_t

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["Lion"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class RMSprop(Optimizer):
    r"""RMSprop (Tieleman and Hinton, 2012); centered as in Graves, 2013 (arXiv:1308.0850, equations 38 to 45).

    .. math:: v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \qquad p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t + \epsilon}}

    ``centered`` subtracts the square of the mean gradient from v; ``momentum`` averages the quotient.

    The momentum of ``keras.optimizers.RMSprop`` includes the learning rate. At a constant rate the steps are the same;
    if the rate changes, the whole step has the new rate at once here, as in PyTorch.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        rho: α, the decay of the moments.
        momentum: momentum of the quotient; 0 for none.
        epsilon: ε.
        centered: divide by an estimate of the standard deviation.
        eps_mode: the place of ε: ``"root"``, under the root as in Keras and optax, or ``"torch"``, outside it.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["RMSprop"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: RootMode = "root",
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class Signum(Optimizer):
    r"""Signum (Bernstein et al., 2018, arXiv:1802.04434, algorithm 2): the sign of the momentum.

    .. math:: m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad p_t = p_{t-1} - \eta \operatorname{sign}(m_t)

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        momentum: β, the decay of the momentum; 0 for signSGD.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["Signum"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        momentum: float = 0.9,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class Adam(Optimizer):
    r"""Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1): momentum, RMSprop and bias correction.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        amsgrad: divide by the largest v so far (Reddi, Kale and Kumar, 2018, arXiv:1904.09237).
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["Adam"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: EpsMode = "hat",
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class AdamW(Optimizer):
    r"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2): Adam with decoupled weight decay.

    .. math:: p_t = (1 - \eta \lambda) p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with λ for ``weight_decay``.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        weight_decay: λ; ``decay="independent"`` takes η out of the product, as in the paper.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        amsgrad: divide by the largest v so far (Reddi, Kale and Kumar, 2018, arXiv:1904.09237).
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["AdamW"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        weight_decay: float = 4e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: EpsMode = "hat",
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class Adamax(Optimizer):
    r"""Adamax (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 2): Adam with the infinity norm.

    .. math::
        v_t = \max(\beta_2 v_{t-1}, |g_t| + \epsilon), \qquad p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t} \frac{m_t}{v_t}

    ``keras.optimizers.Adamax`` adds ε to :math:`v_t` in the denominator, not to :math:`|g_t|`; this differs if the
    gradients are not much larger than ε.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε, added to the magnitude of the gradient as in PyTorch.
        bias_correction: False uses the moments without bias correction.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["Adamax"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class AdamH(Optimizer):
    r"""AdamH (Wen et al., 2025, Hyperball Optimization): Adam that keeps the norm of each weight.

    .. math::
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}, \qquad q_t = p_{t-1} - \eta
            \frac{\|p_{t-1}\|}{\|u_t\|} u_t \\
        p_t &= \frac{\|p_{t-1}\|}{\|q_t\|} q_t

    The norms are of each tensor. A tensor of zeros, which has no direction, takes Adam's steps.

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        keep_norm: False steps as Adam does, for biases, norms and embeddings.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["AdamH"]

    def __init__(
        self,
        learning_rate: Rate = 2e-2,
        beta_1: float = 0.9,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        keep_norm: bool = True,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: EpsMode = "torch",
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class ADOPT(Optimizer):
    r"""ADOPT (Taniguchi et al., 2024, arXiv:2411.02853, algorithm 2): Adam that divides by the v of the step before.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \operatorname{clip}\left(\frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}, \pm
            (t-1)^{1/4}\right) \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad p_t = p_{t-1} - \eta m_t

    The first step only initializes :math:`v_1 = g_1^2`: apart from weight decay, it changes no weight.

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε, the least denominator.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["ADOPT"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.9999,
        epsilon: float = 1e-6,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class Lamb(Optimizer):
    r"""LAMB (You et al., 2020, arXiv:1904.00962, algorithm 2): AdamW whose step is relative to the weight of each tensor.

    .. math::
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda p_{t-1}, \qquad p_t =
            p_{t-1} - \eta \frac{\|p_{t-1}\|}{\|u_t\|} u_t

    The norms are of each tensor; where one is 0, the ratio is 1.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["LAMB"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: EpsMode = "torch",
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class LaProp(Optimizer):
    r"""LaProp (Ziyin, Wang and Ueda, 2020, arXiv:2002.04839, algorithm 1): momentum after the division.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}, \qquad p_t = p_{t-1}
            - \eta \frac{m_t}{1 - \beta_1^t}

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["LaProp"]

    def __init__(
        self,
        learning_rate: Rate = 4e-4,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-15,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: EpsMode = "torch",
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class Nadam(Optimizer):
    r"""NAdam (Dozat, 2016, Incorporating Nesterov Momentum into Adam): Adam with Nesterov's momentum.

    .. math::
        \mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \psi}) \\
        p_t &= p_{t-1} - \eta \left( \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i} + \frac{(1 - \mu_t) g_t}{1 -
            \prod_{i=1}^t \mu_i} \right) / (\sqrt{v_t / (1 - \beta_2^t)} + \epsilon)

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        momentum_decay: ψ: 0.004 in PyTorch, 1 in Keras, and infinite in optax, where μ is β₁.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["NAdam"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: EpsMode = "torch",
        bias_correction: bool = True,
        momentum_decay: float = 1.0,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class RAdam(Optimizer):
    r"""RAdam (Liu et al., 2020, arXiv:1908.03265, algorithm 2): Adam without a denominator until its variance is finite.

    .. math::
        \rho_\infty &= \tfrac{2}{1-\beta_2} - 1, \qquad \rho_t = \rho_\infty - \tfrac{2 t \beta_2^t}{1 - \beta_2^t} \\
        p_t &= p_{t-1} - \eta\, r_t \frac{m_t}{1 - \beta_1^t} \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon}
            \quad\text{once } \rho_t > 5, \text{ before that } p_{t-1} - \eta \frac{m_t}{1 - \beta_1^t}

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["RAdam"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: EpsMode = "hat",
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class StableAdamW(Optimizer):
    r"""StableAdamW (Wortsman et al., 2023, arXiv:2304.13013, algorithm 2): AdamW with shorter steps where v lags behind.

    .. math::
        \text{RMS}_t &= \sqrt{\operatorname{mean}\left(\frac{g_t^2}{\max(\hat v_t, \epsilon^2)}\right)}, \qquad \eta_t =
            \frac{\eta}{\max(1, \text{RMS}_t)} \\
        p_t &= (1 - \eta_t \lambda) p_{t-1} - \eta_t \frac{m_t / (1 - \beta_1^t)}{\sqrt{\hat v_t} + \epsilon}, \qquad
            \hat v_t = \frac{v_t}{1 - \beta_2^t}

    The mean is over each tensor.

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["StableAdamW"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        epsilon: float = 1e-6,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        decay: Decay = "update",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class AdEMAMix(Optimizer):
    r"""AdEMAMix (Pagliardini et al., 2024, arXiv:2409.03137, algorithm 1): AdamW with a second, slow average.

    .. math:: p_t = p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t) + \alpha s_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        beta_3: β₃.
        alpha: α, the share of s.
        epsilon: ε.
        alpha_warmup: the number of steps over which α rises linearly from 0.
        beta3_warmup: the number of steps over which the decay of s rises from β₁ to β₃.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["AdEMAMix"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        beta_3: float = 0.9999,
        alpha: float = 2.0,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        alpha_warmup: float = 0.0,
        beta3_warmup: float = 0.0,
        eps_mode: EpsMode = "hat",
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class MARS(Optimizer):
    r"""MARS-AdamW (Yuan et al., 2024, arXiv:2411.10438, algorithm 2): AdamW with gradients of reduced variance.

    .. math::
        c_t &= g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1}), \qquad \tilde c_t = \frac{c_t}{\max(1,
            \|c_t\|)} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \tilde c_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \tilde c_t^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    The norm is of each tensor; the gradient before the first step is 0, as in the authors' code.

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        gamma: γ, the strength of the correction.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["MARS"]

    def __init__(
        self,
        learning_rate: Rate = 3e-3,
        beta_1: float = 0.95,
        beta_2: float = 0.99,
        epsilon: float = 1e-8,
        gamma: float = 0.025,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class Adan(Optimizer):
    r"""Adan (Xie et al., 2022, arXiv:2208.06677, algorithm 1): Nesterov's momentum by differences of gradients.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad d_t = \beta_2 d_{t-1} + (1 - \beta_2) (g_t - g_{t-1}) \\
        v_t &= \beta_3 v_{t-1} + (1 - \beta_3) (g_t + \beta_2 (g_t - g_{t-1}))^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t) + \beta_2 d_t / (1 - \beta_2^t)}{\sqrt{v_t / (1 - \beta_3^t)}
            + \epsilon}

    In the first step, :math:`g_0 = g_1`.

    Keras has no optimizer of this name.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        beta_3: β₃.
        epsilon: ε.
        eps_mode: the place of ε: ``"torch"``, √v̂ + ε, or ``"hat"``, √v + ε before the bias correction (Keras,
            TensorFlow).
        bias_correction: False uses the moments without bias correction.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["Adan"]

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.98,
        beta_2: float = 0.92,
        beta_3: float = 0.99,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        eps_mode: EpsMode = "torch",
        bias_correction: bool = True,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())


@_registered
class Prodigy(Optimizer):
    r"""Prodigy (Mishchenko and Defazio, 2023, arXiv:2306.06101, algorithm 4): Adam that estimates its learning rate.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 g_t^2 \\
        r_t &= \sqrt{\beta_2} r_{t-1} + \tfrac{d_t}{d_0} \eta d_t \langle g_t, p_0 - p_{t-1} \rangle, \qquad s_t =
            \sqrt{\beta_2} s_{t-1} + \tfrac{d_t}{d_0} \eta d_t g_t, \qquad d_{t+1} = \max(d_t, c\, r_t / \|s_t\|_1) \\
        p_t &= p_{t-1} - \eta d_t \left( \frac{m_t}{\sqrt{v_t} + d_{t+1} \epsilon} + \lambda p_{t-1} \right)

    There is one d for all parameters of all groups, which share ``betas``, ``d0``, ``d_coef``, ``growth_rate`` and
    ``safeguard_warmup``; in ``s``, η and d are those of each step. It is the scalar ``d`` in the state of each
    parameter. :math:`d_{t+1}` is at most ``growth_rate`` times :math:`d_t`, except the first time that it grows.

    Args:
        learning_rate: learning rate η; a number, a schedule, or a function without arguments.
        beta_1: β₁.
        beta_2: β₂.
        epsilon: ε.
        use_bias_correction: multiply η by √(1 − β₂ᵗ) / (1 − β₁ᵗ).
        safeguard_warmup: leave η out of s; for a schedule with a warmup.
        d0: d₁, the first estimate.
        d_coef: c, a factor of d, with which the learning rate is tuned.
        growth_rate: the largest factor by which d grows in a step, except the first time.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has an invalid value.
    """

    _member = MEMBERS["Prodigy"]

    def __init__(
        self,
        learning_rate: Rate = 1.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        decay: Decay = "decoupled",
        cautious: bool = False,
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())
