"""The Adam family: what each member is, as numbers.

Every member is one sentence, with other numbers in it::

    g ← s·g + l2·p + l1·sign(p)            the gradient the user meant (scale, clip, maximize, coupled penalties)
    m ← a1·m + b1·g                        first moment: a memory of direction
    v ← a2·v + b2·g²                       second moment: a memory of size   (or: max(a2·v, |g| + ε), or none)
    h ← max(h, v)                          AMSGrad only
    u ← (c·m + d·g) / (√(w·v + ρ) + ε)     the update  (centered: v − z·m² for v; or no denominator)
    r ← q·r + u                            momentum after the division (RMSprop), used in the place of u
    p ← k·p − η·u                          the step

``Shape`` says which parts of the sentence a member has, ``Coefficients`` holds the numbers of one step, and each function
below turns hyperparameters and the step count into these numbers, in float64: on the host, or, where the step is known only
when a compiled program runs, as arrays. A new member is one more such function; the rule (``adamas.rule``) and the engine
need no change. This module imports no framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Hyperparameters = Mapping[str, Any]
Scalars = Mapping[str, float]


class Host:
    """What the formulas use beside arithmetic, on the host: on Python's numbers."""

    number = float
    sqrt = math.sqrt

    @staticmethod
    def either(
        condition: bool, yes: Callable[[], tuple[float, ...]], no: Callable[[], tuple[float, ...]]
    ) -> tuple[float, ...]:
        """The numbers of ``yes`` where the condition holds, else those of ``no``."""
        return yes() if condition else no()


class Traced:
    """The same on float64 arrays of a namespace, whose values may be known only later."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    @staticmethod
    def number(value: Any) -> Any:
        """As it is."""
        return value

    def sqrt(self, value: Any) -> Any:
        """The root, and 0 below 0: of the two sides of ``either`` both are computed, and one need not have a root."""
        return self._xp.sqrt(self._xp.maximum(value, 0.0))

    def either(self, condition: Any, yes: Callable[[], tuple[Any, ...]], no: Callable[[], tuple[Any, ...]]) -> Any:
        """See ``Host.either``."""
        return tuple(self._xp.where(condition, one, other) for one, other in zip(yes(), no(), strict=True))


class Shape:
    """The parts of the sentence that a member has, as bits to be joined by ``|``. The values are the engine's."""

    FIRST = 1
    SQUARE = 2
    ABSOLUTE = 4
    MAXIMUM = 8
    CENTERED = 16
    TRACE = 32
    USE_FIRST = 64
    USE_GRADIENT = 128
    PENALTY = 256


class Coefficients(NamedTuple):
    """The numbers of the sentence for one step. The defaults are those of plain gradient descent at rate 0.

    Where ``w`` is 0, the update has no denominator in this step.
    """

    s: float = 1.0
    l2: float = 0.0
    l1: float = 0.0
    a1: float = 0.0
    b1: float = 0.0
    a2: float = 0.0
    b2: float = 0.0
    c: float = 0.0
    d: float = 0.0
    w: float = 1.0
    eps: float = 0.0
    root: float = 0.0
    z: float = 0.0
    q: float = 0.0
    k: float = 1.0
    eta: float = 0.0


# The tensors that the parts of a shape need, in the engine's order: first and second moment, maximum, trace.
STATEFUL_PARTS = (Shape.FIRST, Shape.SQUARE | Shape.ABSOLUTE, Shape.MAXIMUM, Shape.TRACE)


@dataclass(frozen=True)
class Member:
    """One member of the family.

    ``shape`` and ``coefficients`` are functions of the hyperparameters, and the latter also of the scalars that a parameter
    carries, of which ``step`` (counting from 1) is always one. ``slots`` names the state tensors as PyTorch does, in the
    order of ``STATEFUL_PARTS``; which of them exist depends on the shape. ``scalars`` gives the initial values, and
    ``advance`` takes them to the next step. The last argument of ``coefficients`` is ``Host`` or a ``Traced``.
    """

    name: str
    shape: Callable[[Hyperparameters], int]
    coefficients: Callable[[Hyperparameters, Scalars, Any], Coefficients]
    slots: tuple[str | None, str | None, str | None, str | None]
    scalars: tuple[tuple[str, float], ...] = (("step", 0.0),)
    advance: Callable[[Hyperparameters, Scalars], dict[str, float]] = lambda hyper, scalars: {
        "step": scalars["step"] + 1
    }

    def full_shape(self, hyper: Hyperparameters) -> int:
        """The shape, with the part for coupled penalties where there are any."""
        coupled = hyper["l1"] != 0 or (hyper["weight_decay"] != 0 and hyper["decay"] == "l2")
        return self.shape(hyper) | (Shape.PENALTY if coupled else 0)

    def state_names(self, hyper: Hyperparameters) -> tuple[str | None, ...]:
        """The name of each state tensor that the hyperparameters call for, None where there is none."""
        shape = self.shape(hyper)
        return tuple(name if shape & part else None for name, part in zip(self.slots, STATEFUL_PARTS, strict=True))

    def full_coefficients(
        self, hyper: Hyperparameters, scalars: Scalars, scale: float = 1.0, f: Any = Host
    ) -> Coefficients:
        """The member's numbers with those that all members share: scale, maximize, penalties and decay.

        ``scale`` multiplies the gradient (clipping, loss scaling). ``f`` is ``Host``, or a ``Traced`` where numbers are
        arrays.
        """
        lr, weight_decay = f.number(hyper["lr"]), hyper["weight_decay"]
        keep, l2 = 1.0, 0.0
        if hyper["decay"] == "l2":
            l2 = weight_decay
        elif hyper["decay"] == "decoupled":
            keep = 1 - lr * weight_decay
        else:  # independent: by the schedule's factor alone, not by the learning rate
            base = float(hyper["base_lr"])
            keep = 1 - (lr / base if base else 0.0) * weight_decay
        own = self.coefficients(hyper, scalars, f)
        return own._replace(
            s=-scale if hyper["maximize"] else scale,
            l2=l2,
            l1=hyper["l1"],
            k=keep,
            root=hyper.get("eps_root", 0.0),
        )


def _sgd_shape(hyper: Hyperparameters) -> int:
    if not hyper["momentum"]:
        return Shape.USE_GRADIENT
    return Shape.FIRST | Shape.USE_FIRST | (Shape.USE_GRADIENT if hyper["nesterov"] else 0)


def _sgd(hyper: Hyperparameters, scalars: Scalars, f: Any) -> Coefficients:
    (damping,) = f.either(scalars["step"] > 1, lambda: (hyper["dampening"],), lambda: (0.0,))
    # d counts where the shape uses the gradient: without momentum and with Nesterov's.
    return Coefficients(
        a1=hyper["momentum"],
        b1=1 - damping,
        c=hyper["momentum"] if hyper["nesterov"] else 1.0,
        d=1.0,
        eta=f.number(hyper["lr"]),
    )


SGD = Member("SGD", _sgd_shape, _sgd, ("momentum_buffer", None, None, None))
"""Gradient descent, with momentum (Polyak, 1964) or Nesterov's (Sutskever et al., 2013, in PyTorch's form)."""


def _adagrad(hyper: Hyperparameters, scalars: Scalars, f: Any) -> Coefficients:
    eta = f.number(hyper["lr"]) / (1 + (scalars["step"] - 1) * hyper["lr_decay"])
    return Coefficients(a2=1, b2=1, d=1, eps=hyper["eps"], eta=eta)


ADAGRAD = Member("Adagrad", lambda hyper: Shape.SQUARE | Shape.USE_GRADIENT, _adagrad, (None, "sum", None, None))
"""Duchi, Hazan and Singer, 2011 (JMLR 12), figure 1, diagonal form."""


def _rmsprop_shape(hyper: Hyperparameters) -> int:
    shape = Shape.SQUARE | Shape.USE_GRADIENT
    if hyper["centered"]:
        shape |= Shape.FIRST | Shape.CENTERED
    return shape | Shape.TRACE if hyper["momentum"] else shape


def _rmsprop(hyper: Hyperparameters, scalars: Scalars, f: Any) -> Coefficients:
    alpha = hyper["alpha"]
    return Coefficients(
        a1=alpha,
        b1=1 - alpha,
        a2=alpha,
        b2=1 - alpha,
        d=1,
        z=1,
        eps=hyper["eps"],
        q=hyper["momentum"],
        eta=f.number(hyper["lr"]),
    )


RMSPROP = Member("RMSprop", _rmsprop_shape, _rmsprop, ("grad_avg", "square_avg", None, "momentum_buffer"))
"""Tieleman and Hinton, 2012 (lecture 6.5); centered: Graves, 2013 (arXiv:1308.0850), equations 38 to 45."""


def _bias_corrections(hyper: Hyperparameters, step: float) -> tuple[float, float]:
    """1/(1 − β1ᵗ) and 1/(1 − β2ᵗ), or 1 and 1 where the moments are used as they are."""
    if not hyper["bias_correction"]:
        return 1.0, 1.0
    beta1, beta2 = hyper["betas"]
    return 1 / (1 - beta1**step), 1 / (1 - beta2**step)


def _placed_eps(hyper: Hyperparameters, w: float, f: Any) -> float:
    """ε beside √(w·v) as PyTorch has it, or beside √v ("epsilon hat", Kingma and Ba, section 2)."""
    eps: float = hyper["eps"]
    return eps * f.sqrt(w) if hyper["eps_mode"] == "hat" else eps


def _adam_shape(hyper: Hyperparameters) -> int:
    return Shape.FIRST | Shape.SQUARE | Shape.USE_FIRST | (Shape.MAXIMUM if hyper["amsgrad"] else 0)


def _adam(hyper: Hyperparameters, scalars: Scalars, f: Any) -> Coefficients:
    beta1, beta2 = hyper["betas"]
    c, w = _bias_corrections(hyper, scalars["step"])
    return Coefficients(
        a1=beta1,
        b1=1 - beta1,
        a2=beta2,
        b2=1 - beta2,
        c=c,
        w=w,
        eps=_placed_eps(hyper, w, f),
        eta=f.number(hyper["lr"]),
    )


ADAM = Member("Adam", _adam_shape, _adam, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", None))
"""Kingma and Ba, 2015 (arXiv:1412.6980), algorithm 1. With decoupled decay it is AdamW (Loshchilov and Hutter, 2019,
arXiv:1711.05101, algorithm 2), with the maximum AMSGrad (Reddi, Kale and Kumar, 2018, arXiv:1904.09237)."""


def _adamax(hyper: Hyperparameters, scalars: Scalars, f: Any) -> Coefficients:
    beta1, beta2 = hyper["betas"]
    c, _ = _bias_corrections(hyper, scalars["step"])
    return Coefficients(a1=beta1, b1=1 - beta1, a2=beta2, c=c, eps=hyper["eps"], eta=f.number(hyper["lr"]))


ADAMAX = Member(
    "Adamax",
    lambda hyper: Shape.FIRST | Shape.ABSOLUTE | Shape.USE_FIRST,
    _adamax,
    ("exp_avg", "exp_inf", None, None),
)
"""Kingma and Ba, 2015, algorithm 2, with PyTorch's ε beside |g|."""


def _nadam_mu(hyper: Hyperparameters, step: float) -> float:
    beta1: float = hyper["betas"][0]
    momentum_decay: float = hyper["momentum_decay"]
    mu: float = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
    return mu


def _nadam_advance(hyper: Hyperparameters, scalars: Scalars) -> dict[str, float]:
    step = scalars["step"] + 1
    return {"step": step, "mu_product": scalars["mu_product"] * _nadam_mu(hyper, step)}


def _nadam(hyper: Hyperparameters, scalars: Scalars, f: Any) -> Coefficients:
    beta1, beta2 = hyper["betas"]
    step, product = scalars["step"], scalars["mu_product"]
    mu, mu_next = _nadam_mu(hyper, step), _nadam_mu(hyper, step + 1)
    _, w = _bias_corrections(hyper, step)
    c, d = mu_next, 1 - mu
    if hyper["bias_correction"]:
        c, d = c / (1 - product * mu_next), d / (1 - product)
    return Coefficients(
        a1=beta1,
        b1=1 - beta1,
        a2=beta2,
        b2=1 - beta2,
        c=c,
        d=d,
        w=w,
        eps=_placed_eps(hyper, w, f),
        eta=f.number(hyper["lr"]),
    )


NADAM = Member(
    "NAdam",
    lambda hyper: Shape.FIRST | Shape.SQUARE | Shape.USE_FIRST | Shape.USE_GRADIENT,
    _nadam,
    ("exp_avg", "exp_avg_sq", None, None),
    scalars=(("step", 0.0), ("mu_product", 1.0)),
    advance=_nadam_advance,
)
"""Dozat, 2016 (Incorporating Nesterov Momentum into Adam), with the momentum decay of its section 2."""


def _radam(hyper: Hyperparameters, scalars: Scalars, f: Any) -> Coefficients:
    beta1, beta2 = hyper["betas"]
    step = scalars["step"]
    c, w = _bias_corrections(hyper, step)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)

    def rectified() -> tuple[float, float, float]:
        r = f.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        return w, _placed_eps(hyper, w, f), r

    def momentum() -> tuple[float, float, float]:  # the variance of the denominator is not tractable yet
        return 0.0, 1.0, 1.0

    w, eps, r = f.either(rho > 5, rectified, momentum)
    return Coefficients(
        a1=beta1, b1=1 - beta1, a2=beta2, b2=1 - beta2, c=c, w=w, eps=eps, eta=f.number(hyper["lr"]) * r
    )


RADAM = Member(
    "RAdam",
    lambda hyper: Shape.FIRST | Shape.SQUARE | Shape.USE_FIRST,
    _radam,
    ("exp_avg", "exp_avg_sq", None, None),
)
"""Liu et al., 2020 (arXiv:1908.03265), algorithm 2."""

MEMBERS = {member.name: member for member in (SGD, ADAGRAD, RMSPROP, ADAM, ADAMAX, NADAM, RADAM)}
