"""The optimizers of the family for Keras, with the arguments, defaults and meaning of their namesakes in Keras.

``clipnorm``, ``clipvalue``, ``global_clipnorm``, ``use_ema``, ``ema_momentum``, ``ema_overwrite_frequency``,
``loss_scale_factor``, ``gradient_accumulation_steps`` and ``name`` are Keras's own: see ``keras.optimizers.Optimizer``. Beside
them, each has the same options:

- ``weight_decay``: coefficient of the decay. ``decay`` says what it means: ``"decoupled"``, as in Keras, takes
  ``learning_rate * weight_decay * p`` from the weight; ``"l2"`` adds ``weight_decay * p`` to the gradient; ``"independent"``
  takes ``factor * weight_decay * p``, with the schedule's factor alone.
- ``l1``: coefficient of a penalty, added to the gradient as ``l1 * sign(p)``. Variables that are excluded from weight decay
  (``exclude_from_weight_decay``) do not have it.
- ``state``: how the moments are stored, ``"float32"``, ``"bfloat16"`` or ``"int8"`` (rounded as ``adamas.rule.formats`` says),
  or a format for each by its name in the state: ``{"exp_avg": "int8"}``.
- ``weights``: how variables in bfloat16 and float16 are rounded. ``"split"`` keeps the low bits in the state, so that they
  train exactly as in float32; ``"stochastic"`` rounds up or down at random and is right on average; ``"nearest"`` loses
  updates that are smaller than half the distance to the next number.
- ``seed``: of the random numbers that ``state`` and ``"stochastic"`` round with. A variable has its own by its position.

A learning rate may be a schedule of ``adamas.schedules`` or of Keras; both count optimizer steps, also where gradients are
accumulated. All arithmetic is in float32, or float64 for float64 variables.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import keras

from ..rule.hyperparameters import Decay, Weights
from ..rule.layout import State
from ..rule.members import MEMBERS
from .optimizer import Optimizer, Rate

EpsMode: TypeAlias = Literal["hat", "torch"]
RootMode: TypeAlias = Literal["root", "torch"]

_registered = keras.saving.register_keras_serializable("adamas")


@_registered
class SGD(Optimizer):
    r"""Gradient descent, with momentum (Polyak, 1964) or Nesterov's (Sutskever et al., 2013).

    .. math:: m_t = \mu m_{t-1} + g_t, \qquad p_t = p_{t-1} - \eta m_t

    Nesterov's step is :math:`\eta (g_t + \mu m_t)`. Without momentum there is no state but the count. The velocity of
    ``keras.optimizers.SGD`` has the learning rate in it: while that stays the same, so does the step; where it changes, here
    the whole step has the new one at once, as in PyTorch.

    Args:
        learning_rate: η; a number, a schedule of ``adamas.schedules`` or of Keras, or a function without arguments.
        momentum: μ.
        nesterov: use Nesterov's momentum.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["SGD"]

    def __init__(
        self,
        learning_rate: Rate = 0.01,
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
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())

    def _hyper(self) -> dict[str, Any]:
        return {
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "dampening": 0.0,
        }


@_registered
class Adagrad(Optimizer):
    r"""AdaGrad (Duchi, Hazan and Singer, 2011, figure 1): every gradient ever seen counts in the denominator.

    .. math:: v_t = v_{t-1} + g_t^2, \qquad p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t + \epsilon}}

    Suits features that are mostly zero; its rate only ever falls. Sparse gradients are made dense: a step takes the time and
    memory of the whole variable.

    Args:
        learning_rate: η; as for ``SGD``.
        initial_accumulator_value: v₀.
        epsilon: ε.
        eps_mode: ``"root"``, ε under the root as in Keras; ``"torch"``, beside it.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["Adagrad"]
    _eps_modes = ("root", "torch")

    def __init__(
        self,
        learning_rate: Rate = 0.001,
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
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())

    def _hyper(self) -> dict[str, Any]:
        return {
            "initial_accumulator_value": self.initial_accumulator_value,
            "lr_decay": 0.0,
            **self._placed_eps(),
        }


@_registered
class RMSprop(Optimizer):
    r"""RMSprop (Tieleman and Hinton, 2012); centered as in Graves, 2013 (arXiv:1308.0850, equations 38 to 45).

    .. math:: v_t = \rho v_{t-1} + (1 - \rho) g_t^2, \qquad p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t + \epsilon}}

    With momentum μ the fraction goes into a trace :math:`r_t = \mu r_{t-1} + \ldots`, and :math:`\eta r_t` is the step.
    That of ``keras.optimizers.RMSprop`` has the learning rate in it: see ``SGD``.

    Args:
        learning_rate: η; as for ``SGD``.
        rho: ρ.
        momentum: μ.
        epsilon: ε.
        centered: divide by the root of the variance, :math:`v_t - \bar g_t^2`; its moments are kept in float32.
        eps_mode: ``"root"``, ε under the root as in Keras; ``"torch"``, beside it.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["RMSprop"]
    _eps_modes = ("root", "torch")

    def __init__(
        self,
        learning_rate: Rate = 0.001,
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
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())

    def _hyper(self) -> dict[str, Any]:
        return {
            "alpha": self.rho,
            "momentum": self.momentum,
            "centered": self.centered,
            **self._placed_eps(),
        }


@_registered
class Adam(Optimizer):
    r"""Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1); with ``amsgrad``, Reddi, Kale and Kumar, 2018
    (arXiv:1904.09237).

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
        p_t = p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon_t}

    Args:
        learning_rate: η; as for ``SGD``.
        beta_1, beta_2: β₁ and β₂.
        epsilon: ε.
        amsgrad: divide by the largest :math:`v_t` so far.
        eps_mode: ``"hat"``, beside the root of what is not corrected, as in Keras: :math:`\epsilon_t = \epsilon / \sqrt{1 -
            \beta_2^t}`; ``"torch"``: :math:`\epsilon_t = \epsilon`.
        bias_correction: whether the moments are divided by :math:`1 - \beta^t`.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["Adam"]

    def __init__(
        self,
        learning_rate: Rate = 0.001,
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
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())

    def _hyper(self) -> dict[str, Any]:
        return {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "eps_mode": self.eps_mode,
            "bias_correction": self.bias_correction,
            "amsgrad": self.amsgrad,
        }


@_registered
class AdamW(Optimizer):
    r"""Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2).

    Each step takes :math:`\eta \lambda p_{t-1}` from the weight and then makes that of ``Adam``.

    Args:
        learning_rate: η; as for ``SGD``.
        weight_decay: λ.
        beta_1, beta_2, epsilon, amsgrad, eps_mode, bias_correction: see ``Adam``.
        clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["Adam"]

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        weight_decay: float = 0.004,
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
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        if weight_decay is None:
            raise ValueError("weight_decay must be a number from 0 up, not None: Adam is AdamW without")
        super().__init__(locals())

    def _hyper(self) -> dict[str, Any]:
        return {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "eps_mode": self.eps_mode,
            "bias_correction": self.bias_correction,
            "amsgrad": self.amsgrad,
        }


@_registered
class Adamax(Optimizer):
    r"""Adamax (Kingma and Ba, 2015, algorithm 2): Adam with the infinity norm.

    .. math:: u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \qquad p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t} \frac{m_t}{u_t}

    ``keras.optimizers.Adamax`` adds ε to :math:`u_t` where it divides, and not to :math:`|g_t|`: the two differ where
    gradients are not much larger than ε.

    Args:
        learning_rate: η; as for ``SGD``.
        beta_1, beta_2, epsilon: β₁, β₂ and ε.
        bias_correction: see ``Adam``.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["Adamax"]

    def __init__(
        self,
        learning_rate: Rate = 0.001,
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
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())

    def _hyper(self) -> dict[str, Any]:
        return {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "bias_correction": self.bias_correction,
        }


@_registered
class Nadam(Optimizer):
    r"""Adam with Nesterov's momentum (Dozat, 2016).

    .. math::
        p_t = p_{t-1} - \eta \frac{\mu_{t+1} m_t / (1 - \prod_{i \le t+1} \mu_i) + (1 - \mu_t) g_t / (1 - \prod_{i \le t}
        \mu_i)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with :math:`\mu_t = \beta_1 (1 - 0.96^{t \psi} / 2)`.

    Args:
        learning_rate: η; as for ``SGD``.
        beta_1, beta_2, epsilon, bias_correction: see ``Adam``.
        eps_mode: as for ``Adam``; here Keras too has it where PyTorch has.
        momentum_decay: ψ; 1 in Keras, 0.004 in PyTorch.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["NAdam"]

    def __init__(
        self,
        learning_rate: Rate = 0.001,
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
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())

    def _hyper(self) -> dict[str, Any]:
        return {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "eps_mode": self.eps_mode,
            "bias_correction": self.bias_correction,
            "momentum_decay": self.momentum_decay,
        }


@_registered
class RAdam(Optimizer):
    r"""Rectified Adam (Liu et al., 2020, arXiv:1908.03265, algorithm 2): momentum alone for as long as too few gradients were
    seen for a denominator. Keras has none of this name.

    Args:
        learning_rate: η; as for ``SGD``.
        beta_1, beta_2, epsilon, eps_mode, bias_correction: see ``Adam``.
        weight_decay, clipnorm to name, decay to seed: see ``adamas.keras.members``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["RAdam"]

    def __init__(
        self,
        learning_rate: Rate = 0.001,
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
        l1: float = 0.0,
        state: State = "float32",
        weights: Weights = "split",
        seed: int = 0,
    ) -> None:
        super().__init__(locals())

    def _hyper(self) -> dict[str, Any]:
        return {
            "betas": (self.beta_1, self.beta_2),
            "eps": self.epsilon,
            "eps_mode": self.eps_mode,
            "bias_correction": self.bias_correction,
        }
