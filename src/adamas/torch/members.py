# Written by `make members` from the declarations in adamas.rule.members. Change those.
"""The optimizers of the family for PyTorch.

Each has the arguments of its namesake in ``torch.optim``, then the options of ``adamas.rule.options``.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import nn
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from ..rule import options as rule_options
from ..rule.members import MEMBERS
from .matrices import MatrixOptimizer
from .optimizer import EagerOptimizer, Optimizer
from .options import Options, Scheduled
from .schedule_free import ScheduleFreeOptimizer

__all__ = [
    "ADOPT",
    "LAMB",
    "LARS",
    "MARS",
    "SGD",
    "AdEMAMix",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamH",
    "AdamW",
    "AdamWScheduleFree",
    "Adamax",
    "Adan",
    "LaProp",
    "Lion",
    "Muon",
    "NAdam",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "SGDScheduleFree",
    "Signum",
    "StableAdamW",
]


class RootOptions(Options, rule_options.RootOptions, total=False):
    """Those of ``Options`` and ``adamas.rule.options.RootOptions``."""


class MuonOptions(Options, rule_options.MuonOptions, total=False):
    """Those of ``Options`` and ``adamas.rule.options.MuonOptions``."""


class AdamOptions(Options, rule_options.AdamOptions, total=False):
    """Those of ``Options`` and ``adamas.rule.options.AdamOptions``."""


class AdamaxOptions(Options, rule_options.AdamaxOptions, total=False):
    """Those of ``Options`` and ``adamas.rule.options.AdamaxOptions``."""


class AdEMAMixOptions(Options, rule_options.AdEMAMixOptions, total=False):
    """Those of ``Options`` and ``adamas.rule.options.AdEMAMixOptions``."""


class SGD(Optimizer):
    r"""Gradient descent, with momentum (Polyak, 1964) or Nesterov's momentum (Sutskever et al., 2013).

    .. math:: m_t = \mu m_{t-1} + (1 - \tau) g_t, \qquad p_t = p_{t-1} - \eta m_t

    with :math:`m_1 = g_1`; Nesterov's step is :math:`\eta (g_t + \mu m_t)`. Without momentum, the only state is the
    step count.

    Of a sparse gradient (``torch.nn.Embedding(sparse=True)``), on the CPU, the rows that are there are stepped, and all
    others stay as they are, with their states.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        momentum: μ; 0 for none.
        dampening: τ.
        weight_decay: coefficient of the weight decay; see ``decay``.
        nesterov: use Nesterov's momentum.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.SGD([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.99
    """

    _member = MEMBERS["SGD"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: Scheduled = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class Adafactor(Optimizer):
    r"""Adafactor (Shazeer and Stern, 2018, arXiv:1804.04235): the mean squares of the rows and columns of the gradient.

    .. math::
        R_t &= \hat\beta_t R_{t-1} + (1 - \hat\beta_t) \operatorname{mean}_{columns}(g_t^2), \qquad C_t = \hat\beta_t
            C_{t-1} + (1 - \hat\beta_t) \operatorname{mean}_{rows}(g_t^2), \qquad \hat\beta_t = 1 - t^\tau \\
        v_t &= \frac{R_t C_t}{\max(\operatorname{mean}(R_t), \epsilon_1)}, \qquad u_t = \frac{g_t}{\max(\sqrt{v_t},
            \epsilon_1)} \\
        p_t &= (1 - \eta \lambda) p_{t-1} - \min(\eta, \tfrac{1}{\sqrt t}) \max(\epsilon_2, \operatorname{RMS}(p_{t-1}))
            \frac{u_t}{\max(1, \operatorname{RMS}(u_t) / d)}

    with λ for ``weight_decay`` and τ for ``beta2_decay``. The last two dimensions of a parameter are rows and columns;
    parameters of fewer than two dimensions keep v itself, an average of the squares.

    As in ``torch.optim``, ε₁ is a lower bound of the denominator; in the paper, in Keras and in optax, it is added to
    the squares of the gradient. Where this makes no difference, ``keras.optimizers.Adafactor`` without its decay takes
    the same steps, and so does ``optax.adafactor`` with ``min_dim_size_to_factor=1`` for matrices; without a rate, the
    largest relative step of the paper is 0.01. In tensors of more than two dimensions, optax uses the two largest ones
    as rows and columns.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: η: the decay's learning rate, and the largest step relative to a weight's size; a float, a schedule or a
            tensor of one element.
        beta2_decay: τ: the exponent of the decay of the mean squares.
        eps: ε₁, the smallest root mean square that a gradient is divided by, and ε₂, the smallest size of a weight that
            a step is relative to. None is 2⁻²³, float32's ε, in which a step computes (``torch.optim`` takes that of
            the weight's dtype).
        d: the largest root mean square of an update, before it is scaled.
        weight_decay: λ.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.Adafactor([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.995
    """

    _member = MEMBERS["Adafactor"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: Scheduled = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class Adagrad(EagerOptimizer):
    r"""AdaGrad (Duchi, Hazan and Singer, 2011, figure 1): every gradient ever seen counts in the denominator.

    .. math:: v_t = v_{t-1} + g_t^2, \qquad p_t = p_{t-1} - \frac{\eta}{1 + (t-1) \gamma} \frac{g_t}{\sqrt{v_t} + \epsilon}

    Suits sparse features; its effective rate only decreases.

    Of a sparse gradient (``torch.nn.Embedding(sparse=True)``), on the CPU, the rows that are there are stepped, and all
    others stay as they are, with their states.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        lr_decay: γ.
        weight_decay: coefficient of the weight decay; see ``decay``.
        initial_accumulator_value: v₀.
        eps: ε.
        foreach: accepted, but has no effect.
        maximize: maximize the objective.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        **options: see ``adamas.torch.members.RootOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.Adagrad([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["Adagrad"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: Scheduled = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
        **options: Unpack[RootOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class LARS(Optimizer):
    r"""LARS (You, Gitman and Ginsburg, 2017, arXiv:1708.03888, algorithm 1): momentum with a rate for each tensor.

    .. math::
        m_t = \mu m_{t-1} + \frac{c\, \|p_{t-1}\|}{\|g_t\| + \lambda \|p_{t-1}\| + \epsilon} (g_t + \lambda p_{t-1}),
            \qquad p_t = p_{t-1} - \eta m_t

    The norms are of each tensor; where one is 0, the ratio is 1. With ``decay="l2"``, the norm is of the sum :math:`g_t
    + \lambda p_{t-1}`, as in optax.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        momentum: μ.
        weight_decay: λ.
        trust_coefficient: c, the share of its norm that a tensor moves by at a rate of 1.
        eps: ε.
        nesterov: use Nesterov's momentum.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.LARS([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        5.0
    """

    _member = MEMBERS["LARS"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1.0,
        momentum: float = 0.9,
        weight_decay: Scheduled = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class Lion(Optimizer):
    r"""Lion (Chen et al., 2023, arXiv:2302.06675, algorithm 2): the sign of an interpolated momentum.

    .. math::
        u_t &= \operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \qquad m_t = \beta_2 m_{t-1} + (1 - \beta_2)
            g_t \\
        p_t &= p_{t-1} - \eta u_t

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the interpolation of the update, and the decay of the momentum.
        weight_decay: coefficient of the weight decay; see ``decay``.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.Lion([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["Lion"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-4,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.99),
        weight_decay: Scheduled = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class Muon(MatrixOptimizer):
    r"""Muon (Jordan et al., 2024): orthogonalized momentum for hidden matrices, and AdamW for all other parameters.

    .. math::
        m_t &= \mu m_{t-1} + (1 - \mu) g_t, \qquad d_t = \mu m_t + (1 - \mu) g_t \\
        p_t &= (1 - \eta \lambda) p_{t-1} - \eta \, \gamma \operatorname{orthogonalize}(d_t)

    with λ for ``weight_decay``; γ is ``adjust_lr_fn``. A parameter of more than two dimensions, such as the kernel of a
    convolution, is one matrix, with the dimensions after the first flattened; with ``stacks=True``, it is a stack of
    matrices, which are its last two dimensions.

    Args:
        params: a model, whose parameters are grouped by ``adamas.torch.matrix_groups`` (it prints how); or parameters,
            named parameters or groups of either, as ``torch.optim`` takes them: matrices, and groups with
            ``use_muon=False``, which AdamW steps.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        weight_decay: λ.
        momentum: μ.
        nesterov: use Nesterov's momentum; if not, the direction is the momentum itself.
        ns_coefficients: coefficients of the Newton–Schulz iteration.
        eps: ε: the smallest norm that a matrix is divided by. In groups of AdamW it is that of AdamW, which those of
            ``matrix_groups`` and of a model set to 1e-8.
        ns_steps: iterations.
        adjust_lr_fn: γ, for a matrix of r rows and c columns: ``"original"``, √max(1, r/c); ``"match_rms_adamw"``,
            0.2·√max(r, c), with which updates are as large as AdamW's, and one lr suits all parameters (Liu et al.,
            2025, arXiv:2502.16982). None is ``"original"`` as in ``torch.optim`` or, if a model is given,
            ``"match_rms_adamw"``.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.members.MuonOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([[5.0]]))
        >>> optimizer = adamas.torch.Muon([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.9988
    """

    _member = MEMBERS["Muon"]

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: Scheduled = 1e-3,
        weight_decay: Scheduled = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[MuonOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class RMSprop(Optimizer):
    r"""RMSprop (Tieleman and Hinton, 2012); centered as in Graves, 2013 (arXiv:1308.0850, equations 38 to 45).

    .. math:: v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \qquad p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t} + \epsilon}

    ``centered`` subtracts the square of the mean gradient from v; ``momentum`` averages the quotient.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        alpha: α, the decay of the moments.
        eps: ε.
        weight_decay: coefficient of the weight decay; see ``decay``.
        momentum: momentum of the quotient; 0 for none.
        centered: divide by an estimate of the standard deviation.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        foreach: accepted, but has no effect.
        maximize: maximize the objective.
        differentiable: True is refused.
        **options: see ``adamas.torch.members.RootOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.RMSprop([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.99
    """

    _member = MEMBERS["RMSprop"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[RootOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class SGDScheduleFree(ScheduleFreeOptimizer):
    r"""Schedule-free gradient descent (Defazio et al., 2024, arXiv:2405.15682, equations 3 to 5): averages its steps.

    .. math::
        u_t &= g_t + \lambda y_t \\
        z_{t+1} &= z_t - \eta_t u_t, \qquad x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \qquad c_t = w_t / \textstyle\sum_{i
            \le t} w_i, \quad w_t = t^r (\max_{i \le t} \eta_i)^p \\
        y_{t+1} &= (1 - \beta_1) z_{t+1} + \beta_1 x_{t+1}

    :math:`\eta_t` is the learning rate with its warmup; a step with a rate of 0 changes no weight. The weight is
    :math:`y` while training, and :math:`x` for evaluation; the state contains their difference.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them; or a model, whose use
            in another mode than that of its weights is then told by a warning.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        momentum: β₁: how close to x the gradients are taken.
        weight_decay: λ.
        warmup_steps: the number of steps over which the learning rate rises linearly from 0.
        r: r, the power of the step count in the weights of the average x.
        weight_lr_power: p, the power of the largest learning rate so far in the weights of the average x.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.SGDScheduleFree([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.99
    """

    _member = MEMBERS["SGDScheduleFree"]

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: Scheduled = 1.0,
        momentum: float = 0.9,
        weight_decay: Scheduled = 0.0,
        warmup_steps: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class Signum(Optimizer):
    r"""Signum (Bernstein et al., 2018, arXiv:1802.04434, algorithm 2): the sign of the momentum.

    .. math:: m_t = \beta m_{t-1} + (1 - \beta) g_t, \qquad p_t = p_{t-1} - \eta \operatorname{sign}(m_t)

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        momentum: β, the decay of the momentum; 0 for signSGD.
        weight_decay: coefficient of the weight decay; see ``decay``.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.Signum([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["Signum"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-4,
        momentum: float = 0.9,
        weight_decay: Scheduled = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class Adam(Optimizer):
    r"""Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1): momentum, RMSprop and bias correction.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Of a sparse gradient (``torch.nn.Embedding(sparse=True)``), on the CPU, the rows that are there are stepped, and all
    others stay as they are, with their states.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: coefficient of the weight decay; see ``decay``.
        amsgrad: divide by the largest v so far (Reddi, Kale and Kumar, 2018, arXiv:1904.09237).
        foreach: accepted, but has no effect.
        maximize: maximize the objective.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        decoupled_weight_decay: the same as ``decay="decoupled"``.
        **options: see ``adamas.torch.members.AdamOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.Adam([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["Adam"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
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
        super().__init__(params, locals(), options)


class AdamW(Adam):
    r"""AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2): Adam with decoupled weight decay.

    .. math:: p_t = (1 - \eta \lambda) p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    with λ for ``weight_decay``.

    Of a sparse gradient (``torch.nn.Embedding(sparse=True)``), on the CPU, the rows that are there are stepped, and all
    others stay as they are, with their states.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: λ; ``decay="independent"`` takes η out of the product, as in the paper.
        amsgrad: divide by the largest v so far (Reddi, Kale and Kumar, 2018, arXiv:1904.09237).
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.members.AdamOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.AdamW([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.99895
    """

    _member = MEMBERS["AdamW"]

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
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            **options,
        )


class Adamax(Optimizer):
    r"""Adamax (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 2): Adam with the infinity norm.

    .. math::
        v_t = \max(\beta_2 v_{t-1}, |g_t| + \epsilon), \qquad p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t} \frac{m_t}{v_t}

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε, added to the magnitude of the gradient as in PyTorch.
        weight_decay: coefficient of the weight decay; see ``decay``.
        foreach: accepted, but has no effect.
        maximize: maximize the objective.
        differentiable: True is refused.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        **options: see ``adamas.torch.members.AdamaxOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.Adamax([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["Adamax"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 2e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Unpack[AdamaxOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class AdamH(Optimizer):
    r"""AdamH (Wen et al., 2025, Hyperball Optimization): Adam that keeps the norm of each weight.

    .. math::
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}, \qquad q_t = p_{t-1} - \eta
            \frac{\|p_{t-1}\|}{\|u_t\|} u_t \\
        p_t &= \frac{\|p_{t-1}\|}{\|q_t\|} q_t

    The norms are of each tensor. A tensor of zeros, which has no direction, takes Adam's steps.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: coefficient of the weight decay; see ``decay``.
        keep_norm: False steps as Adam does, for biases, norms and embeddings.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.members.AdamOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.AdamH([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        5.0
    """

    _member = MEMBERS["AdamH"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 2e-2,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        keep_norm: bool = True,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[AdamOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class ADOPT(Optimizer):
    r"""ADOPT (Taniguchi et al., 2024, arXiv:2411.02853, algorithm 2): Adam that divides by the v of the step before.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \operatorname{clip}\left(\frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}, \pm
            (t-1)^{1/4}\right) \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad p_t = p_{t-1} - \eta m_t

    The first step only initializes :math:`v_1 = g_1^2`: apart from weight decay, it changes no weight.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε, the least denominator.
        weight_decay: coefficient of the weight decay; see ``decay``.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.ADOPT([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        5.0
    """

    _member = MEMBERS["ADOPT"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: Scheduled = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class LAMB(Optimizer):
    r"""LAMB (You et al., 2020, arXiv:1904.00962, algorithm 2): AdamW whose step is relative to the weight of each tensor.

    .. math::
        u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda p_{t-1}, \qquad p_t =
            p_{t-1} - \eta \frac{\|p_{t-1}\|}{\|u_t\|} u_t

    The norms are of each tensor; where one is 0, the ratio is 1.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: λ.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.members.AdamOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.LAMB([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.995
    """

    _member = MEMBERS["LAMB"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: Scheduled = 1e-2,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[AdamOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class LaProp(Optimizer):
    r"""LaProp (Ziyin, Wang and Ueda, 2020, arXiv:2002.04839, algorithm 1): momentum after the division.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}, \qquad p_t = p_{t-1}
            - \eta \frac{m_t}{1 - \beta_1^t}

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: coefficient of the weight decay; see ``decay``.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.members.AdamOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.LaProp([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["LaProp"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 4e-4,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-15,
        weight_decay: Scheduled = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[AdamOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class NAdam(Optimizer):
    r"""NAdam (Dozat, 2016, Incorporating Nesterov Momentum into Adam): Adam with Nesterov's momentum.

    .. math::
        \mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \psi}) \\
        p_t &= p_{t-1} - \eta \left( \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i} + \frac{(1 - \mu_t) g_t}{1 -
            \prod_{i=1}^t \mu_i} \right) / (\sqrt{v_t / (1 - \beta_2^t)} + \epsilon)

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: coefficient of the weight decay; see ``decay``.
        momentum_decay: ψ: 0.004 in PyTorch, 1 in Keras, and infinite in optax, where μ is β₁.
        decoupled_weight_decay: the same as ``decay="decoupled"``.
        foreach: accepted, but has no effect.
        maximize: maximize the objective.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        **options: see ``adamas.torch.members.AdamOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.NAdam([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.99894
    """

    _member = MEMBERS["NAdam"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 2e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[AdamOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class RAdam(Optimizer):
    r"""RAdam (Liu et al., 2020, arXiv:1908.03265, algorithm 2): Adam without a denominator until its variance is finite.

    .. math::
        \rho_\infty &= \tfrac{2}{1-\beta_2} - 1, \qquad \rho_t = \rho_\infty - \tfrac{2 t \beta_2^t}{1 - \beta_2^t} \\
        p_t &= p_{t-1} - \eta\, r_t \frac{m_t}{1 - \beta_1^t} \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v_t} + \epsilon}
            \quad\text{once } \rho_t > 5, \text{ before that } p_{t-1} - \eta \frac{m_t}{1 - \beta_1^t}

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: coefficient of the weight decay; see ``decay``.
        decoupled_weight_decay: the same as ``decay="decoupled"``.
        foreach: accepted, but has no effect.
        maximize: maximize the objective.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        **options: see ``adamas.torch.members.AdamOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.RAdam([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.99
    """

    _member = MEMBERS["RAdam"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[AdamOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class AdamWScheduleFree(ScheduleFreeOptimizer):
    r"""Schedule-free AdamW (Defazio et al., 2024, arXiv:2405.15682, algorithm 1): AdamW that averages its steps.

    .. math::
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad u_t = \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} +
            \lambda y_t \\
        z_{t+1} &= z_t - \eta_t u_t, \qquad x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \qquad c_t = w_t / \textstyle\sum_{i
            \le t} w_i, \quad w_t = t^r (\max_{i \le t} \eta_i)^p \\
        y_{t+1} &= (1 - \beta_1) z_{t+1} + \beta_1 x_{t+1}

    :math:`\eta_t` is the learning rate with its warmup; a step with a rate of 0 changes no weight. The weight is
    :math:`y` while training, and :math:`x` for evaluation; the state contains their difference.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them; or a model, whose use
            in another mode than that of its weights is then told by a warning.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, β₁, how close to x the gradients are taken, and β₂, the decay of v.
        eps: ε.
        weight_decay: λ.
        warmup_steps: the number of steps over which the learning rate rises linearly from 0.
        r: r, the power of the step count in the weights of the average x.
        weight_lr_power: p, the power of the largest learning rate so far in the weights of the average x.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.AdamWScheduleFree([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["AdamWScheduleFree"]

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: Scheduled = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        warmup_steps: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class StableAdamW(Optimizer):
    r"""StableAdamW (Wortsman et al., 2023, arXiv:2304.13013, algorithm 2): AdamW with shorter steps where v lags behind.

    .. math::
        \text{RMS}_t &= \sqrt{\operatorname{mean}\left(\frac{g_t^2}{\max(\hat v_t, \epsilon^2)}\right)}, \qquad \eta_t =
            \frac{\eta}{\max(1, \text{RMS}_t)} \\
        p_t &= (1 - \eta_t \lambda) p_{t-1} - \eta_t \frac{m_t / (1 - \beta_1^t)}{\sqrt{\hat v_t} + \epsilon}, \qquad
            \hat v_t = \frac{v_t}{1 - \beta_2^t}

    The mean is over each tensor.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: λ.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.StableAdamW([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.99895
    """

    _member = MEMBERS["StableAdamW"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: Scheduled = 1e-2,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class AdEMAMix(Optimizer):
    r"""AdEMAMix (Pagliardini et al., 2024, arXiv:2409.03137, algorithm 1): AdamW with a second, slow average.

    .. math:: p_t = p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t) + \alpha s_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁, β₂ and β₃, the decay of m, v and s.
        alpha: α, the share of s.
        eps: ε.
        weight_decay: coefficient of the weight decay; see ``decay``.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.members.AdEMAMixOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.AdEMAMix([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["AdEMAMix"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled, Scheduled] = (0.9, 0.999, 0.9999),
        alpha: Scheduled = 2.0,
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[AdEMAMixOptions],
    ) -> None:
        super().__init__(params, locals(), options)


class MARS(Optimizer):
    r"""MARS-AdamW (Yuan et al., 2024, arXiv:2411.10438, algorithm 2): AdamW with gradients of reduced variance.

    .. math::
        c_t &= g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - g_{t-1}), \qquad \tilde c_t = \frac{c_t}{\max(1,
            \|c_t\|)} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \tilde c_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \tilde c_t^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    The norm is of each tensor; the gradient before the first step is 0, as in the authors' code.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: coefficient of the weight decay; see ``decay``.
        gamma: γ, the strength of the correction.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.MARS([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["MARS"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 3e-3,
        betas: tuple[Scheduled, Scheduled] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        gamma: float = 0.025,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)


class Adan(Optimizer):
    r"""Adan (Xie et al., 2022, arXiv:2208.06677, algorithm 1): Nesterov's momentum by differences of gradients.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad d_t = \beta_2 d_{t-1} + (1 - \beta_2) (g_t - g_{t-1}) \\
        v_t &= \beta_3 v_{t-1} + (1 - \beta_3) (g_t + \beta_2 (g_t - g_{t-1}))^2 \\
        p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t) + \beta_2 d_t / (1 - \beta_2^t)}{\sqrt{v_t / (1 - \beta_3^t)}
            + \epsilon}

    In the first step, :math:`g_0 = g_1`.

    Args:
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁, β₂ and β₃, the decay of m, d and v.
        eps: ε.
        weight_decay: coefficient of the weight decay; see ``decay``.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.members.AdamOptions``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.Adan([x], lr=0.001)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.999
    """

    _member = MEMBERS["Adan"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1e-3,
        betas: tuple[Scheduled, Scheduled, Scheduled] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[AdamOptions],
    ) -> None:
        super().__init__(params, locals(), options)


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
        params: parameters, named parameters or groups of either, as ``torch.optim`` takes them.
        lr: learning rate η; a float, a schedule or a tensor of one element.
        betas: β₁ and β₂, the decay of the moments.
        eps: ε.
        weight_decay: λ.
        use_bias_correction: multiply η by √(1 − β₂ᵗ) / (1 − β₁ᵗ).
        safeguard_warmup: leave η out of s; for a schedule with a warmup.
        d0: d₁, the first estimate.
        d_coef: c, a factor of d, with which the learning rate is tuned.
        growth_rate: the largest factor by which d grows in a step, except the first time.
        maximize: maximize the objective.
        foreach: accepted, but has no effect.
        capturable: let the step be captured in a CUDA graph, which then replays it with the present rates, schedules,
            clipping and skipping: the parameters' device counts the steps.
        differentiable: True is refused.
        fused: as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and
            skips overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of
            one. The speed is the same: every step is fused.
        **options: see ``adamas.torch.options.Options``.

    Raises:
        ValueError: an argument has an invalid value.

    Example:
        >>> import torch, adamas.torch
        >>> x = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = adamas.torch.Prodigy([x], lr=1.0, d0=0.1)
        >>> (x**2).sum().backward()
        >>> optimizer.step()
        >>> round(x.item(), 5)
        4.68377
    """

    _member = MEMBERS["Prodigy"]

    def __init__(
        self,
        params: ParamsT,
        lr: Scheduled = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Scheduled = 0.0,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, locals(), options)
