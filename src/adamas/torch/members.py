"""The optimizers of the family for PyTorch. Each has the arguments of its namesake in ``torch.optim``, then the options of
``adamas.rule.hyperparameters``."""

from __future__ import annotations

from typing import Any

from torch.nn.parameter import is_lazy
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from ..rule.hyperparameters import Decay
from ..rule.members import MEMBERS
from .optimizer import Optimizer
from .options import AdamaxOptions, AdamOptions, Options, RootOptions, Scheduled

_ADAM_DEFAULTS: dict[str, Any] = {"bias_correction": True, "eps_mode": "torch", "eps_root": 0.0}


def _decay(decoupled_weight_decay: bool, options: Any) -> Decay:
    """What ``decoupled_weight_decay`` asks for, unless ``decay=`` says it by name."""
    asked: Decay = "decoupled" if decoupled_weight_decay else "l2"
    given: Decay = options.get("decay", asked)
    if decoupled_weight_decay and given != "decoupled":
        raise ValueError(f"decoupled_weight_decay=True and decay={given!r} contradict each other: give decay alone")
    return given


class SGD(Optimizer):
    r"""Gradient descent, with momentum (Polyak, 1964) or Nesterov's momentum (Sutskever et al., 2013).

    .. math:: m_t = \mu m_{t-1} + (1 - \tau) g_t, \qquad p_t = p_{t-1} - \eta m_t

    with :math:`m_1 = g_1`; Nesterov's step is :math:`\eta (g_t + \mu m_t)`. Without momentum there is no state but the
    step count.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim.SGD`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        momentum: μ.
        dampening: τ.
        weight_decay: coefficient of the decay; its meaning is ``decay``'s, ``"l2"`` by default.
        nesterov: use Nesterov's momentum.
        maximize: ascend.
        foreach: accepted and without effect.
        fused: as in ``torch.optim``, True has the step undo the loss scale of ``torch.amp.GradScaler`` and skip what has
            overflowed, in the place of the scaler; gradients then keep the scale. The speed is the same: every step is fused.
        differentiable: refused where True.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has a value that it cannot have.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.SGD([x], lr=0.1)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> x.item()
        4.0
    """

    _member = MEMBERS["SGD"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: Scheduled = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "decay": "l2",
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, options, Options)


class Adagrad(Optimizer):
    r"""AdaGrad (Duchi, Hazan and Singer, 2011, figure 1): every gradient ever seen counts in the denominator.

    .. math:: v_t = v_{t-1} + g_t^2, \qquad p_t = p_{t-1} - \frac{\eta}{1 + (t-1) \gamma} \frac{g_t}{\sqrt{v_t} + \epsilon}

    Suits features that are mostly zero; its rate only ever falls. Sparse gradients (``torch.nn.Embedding(sparse=True)``) are
    refused: use ``sparse=False``, or ``torch.optim.Adagrad``, which takes them.

    Args:
        params: as ``torch.optim.Adagrad`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        lr_decay: γ.
        weight_decay: coefficient of the decay; ``decay="l2"`` by default.
        initial_accumulator_value: v₀.
        eps: ε.
        foreach: accepted and without effect.
        fused: as in ``torch.optim``, True has the step undo the loss scale of ``torch.amp.GradScaler`` and skip what has
            overflowed, in the place of the scaler; gradients then keep the scale. The speed is the same: every step is fused.
        maximize: ascend.
        differentiable: refused where True.
        **options: see ``adamas.torch.options.RootOptions``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["Adagrad"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-2,
        lr_decay: float = 0,
        weight_decay: Scheduled = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[RootOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "decay": "l2",
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "eps_root": 0.0,
        }
        super().__init__(params, defaults, options, RootOptions)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group, with its state at once, as ``torch.optim.Adagrad`` does: see ``share_memory``."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for i, p in enumerate(group["params"]):
            if p.requires_grad and not is_lazy(p):
                self._initialize_state(group, i)

    def share_memory(self) -> None:
        """Moves the sums to shared memory, for training in several processes at once."""
        for state in self.state.values():
            state["sum"].share_memory_()


class RMSprop(Optimizer):
    r"""RMSprop (Tieleman and Hinton, 2012); centered as in Graves, 2013 (arXiv:1308.0850, equations 38 to 45).

    .. math:: v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \qquad p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t} + \epsilon}

    ``centered`` takes the square of the mean gradient from v; ``momentum`` averages the quotient.

    Args:
        params: as ``torch.optim.RMSprop`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        alpha: α.
        eps: ε.
        weight_decay: coefficient of the decay; ``decay="l2"`` by default.
        momentum: of the quotient.
        centered: divide by an estimate of the standard deviation.
        capturable, foreach: accepted and without effect.
        maximize: ascend.
        differentiable: refused where True.
        **options: see ``adamas.torch.options.RootOptions``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["RMSprop"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: Scheduled = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[RootOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "decay": "l2",
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "eps_root": 0.0,
        }
        super().__init__(params, defaults, options, RootOptions)


class Adam(Optimizer):
    r"""Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1): momentum, RMSprop and bias correction.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: as ``torch.optim.Adam`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂.
        eps: ε; its place is ``eps_mode``'s.
        weight_decay: coefficient of the decay, in the gradient (L2) by default; ``decay=`` says otherwise by name.
        amsgrad: divide by the largest v so far (Reddi, Kale and Kumar, 2018).
        foreach, capturable: accepted and without effect.
        fused: as in ``torch.optim``, True has the step undo the loss scale of ``torch.amp.GradScaler`` and skip what has
            overflowed, in the place of the scaler; gradients then keep the scale. The speed is the same: every step is fused.
        maximize: ascend.
        differentiable: refused where True.
        decoupled_weight_decay: the same as ``decay="decoupled"``.
        **options: see ``adamas.torch.options.AdamOptions``.

    Raises:
        ValueError: an argument has a value that it cannot have.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.Adam([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 6)
        4.999
    """

    _member = MEMBERS["Adam"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[AdamOptions],
    ) -> None:
        defaults = {
            **_ADAM_DEFAULTS,
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decay": _decay(decoupled_weight_decay, options),
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, options, AdamOptions)


class AdamW(Adam):
    r"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2): Adam with the decay outside of the gradient.

    .. math:: p_t = (1 - \eta \lambda) p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: as ``torch.optim.AdamW`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂.
        eps: ε.
        weight_decay: λ. ``decay="independent"`` takes η out of the product, as the paper has it.
        amsgrad: divide by the largest v so far.
        maximize: ascend.
        foreach, capturable: accepted and without effect.
        fused: as in ``torch.optim``, True has the step undo the loss scale of ``torch.amp.GradScaler`` and skip what has
            overflowed, in the place of the scaler; gradients then keep the scale. The speed is the same: every step is fused.
        differentiable: refused where True.
        **options: see ``adamas.torch.options.AdamOptions``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _reads_decoupled_flag = False

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[AdamOptions],
    ) -> None:
        options.setdefault("decay", "decoupled")
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            **options,
        )


class Adamax(Optimizer):
    r"""Adamax (Kingma and Ba, 2015, algorithm 2): Adam with the infinity norm.

    .. math:: v_t = \max(\beta_2 v_{t-1}, |g_t| + \epsilon), \qquad p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t} \frac{m_t}{v_t}

    Args:
        params: as ``torch.optim.Adamax`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂.
        eps: ε, beside the gradient's size as PyTorch has it.
        weight_decay: coefficient of the decay; ``decay="l2"`` by default.
        foreach, capturable: accepted and without effect.
        maximize: ascend.
        differentiable: refused where True.
        **options: see ``adamas.torch.options.AdamaxOptions``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["Adamax"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 2e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Unpack[AdamaxOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decay": "l2",
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
            "bias_correction": True,
        }
        super().__init__(params, defaults, options, AdamaxOptions)


class NAdam(Optimizer):
    r"""NAdam (Dozat, 2016): Adam with Nesterov's momentum.

    .. math::
        \mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \psi}) \\
        p_t &= p_{t-1} - \eta \left( \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i}
            + \frac{(1 - \mu_t) g_t}{1 - \prod_{i=1}^t \mu_i} \right) / (\sqrt{v_t / (1 - \beta_2^t)} + \epsilon)

    Args:
        params: as ``torch.optim.NAdam`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂.
        eps: ε.
        weight_decay: coefficient of the decay, in the gradient (L2) by default.
        momentum_decay: ψ.
        decoupled_weight_decay: the same as ``decay="decoupled"``.
        foreach, capturable: accepted and without effect.
        maximize: ascend.
        differentiable: refused where True.
        **options: see ``adamas.torch.options.AdamOptions``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["NAdam"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 2e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[AdamOptions],
    ) -> None:
        defaults = {
            **_ADAM_DEFAULTS,
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decay": _decay(decoupled_weight_decay, options),
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, options, AdamOptions)


class RAdam(Optimizer):
    r"""RAdam (Liu et al., 2020, arXiv:1908.03265, algorithm 2): Adam without the denominator until its variance is known.

    .. math::
        \rho_\infty &= \tfrac{2}{1-\beta_2} - 1, \qquad \rho_t = \rho_\infty - \tfrac{2 t \beta_2^t}{1 - \beta_2^t} \\
        p_t &= p_{t-1} - \eta\, r_t \frac{m_t}{1 - \beta_1^t} \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon}
            \quad\text{once } \rho_t > 5, \text{ before that } p_{t-1} - \eta \frac{m_t}{1 - \beta_1^t}

    Args:
        params: as ``torch.optim.RAdam`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂.
        eps: ε, beside √v as PyTorch has it here (``eps_mode="hat"``; ``"torch"`` puts it beside √v̂).
        weight_decay: coefficient of the decay, in the gradient (L2) by default.
        decoupled_weight_decay: the same as ``decay="decoupled"``.
        foreach, capturable: accepted and without effect.
        maximize: ascend.
        differentiable: refused where True.
        **options: see ``adamas.torch.options.AdamOptions``.

    Raises:
        ValueError: an argument has a value that it cannot have.
    """

    _member = MEMBERS["RAdam"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[AdamOptions],
    ) -> None:
        defaults = {
            **_ADAM_DEFAULTS,
            "eps_mode": "hat",
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decay": _decay(decoupled_weight_decay, options),
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, options, AdamOptions)
