"""RMSprop."""

from __future__ import annotations

from typing import Any

from ..corrections import EPS, EPS_PLACE, EPS_ROOT, learning_rate, rooted_eps
from ..declaration import Flag, Hypers, Member, Number, Numbers, Rule, Scalars, Share
from ..sentence import Sentence
from ..shared import WEIGHT_DECAY


def _rule(hyper: Hypers) -> Rule:
    centered = bool(hyper["centered"])
    return Sentence(
        first=centered, second="square", centered=centered, trace=bool(hyper["momentum"]), use_gradient=True
    )


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    alpha = hyper["alpha"]
    eps, root = rooted_eps(hyper)
    return {
        "a1": alpha,
        "b1": 1 - alpha,
        "a2": alpha,
        "b2": 1 - alpha,
        "d": 1.0,
        "z": 1.0,
        "w": 1.0,
        "eps": eps,
        "root": root,
        "q": hyper["momentum"],
    }


RMSPROP = Member(
    name="RMSprop",
    title="RMSprop (Tieleman and Hinton, 2012); centered as in Graves, 2013 (arXiv:1308.0850, equations 38 to 45).",
    equations=(
        r"v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \qquad p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t} + \epsilon}",
    ),
    hyperparameters=(
        learning_rate(1e-2, keras=1e-3),
        Share("alpha", 0.99, "α, the decay of the moments", elsewhere={"keras": 0.9, "optax": 0.9}),
        EPS,
        WEIGHT_DECAY,
        Number("momentum", 0.0, "momentum of the quotient; 0 for none", structural=True, elsewhere={"optax": None}),
        Flag("centered", False, "divide by an estimate of the standard deviation", structural=True),
        Number("initial_scale", 0.0, "v₀", only=("optax",)),
        EPS_PLACE,
        EPS_ROOT,
    ),
    make_rule=_rule,
    numbers=_numbers,
    names={"first": "grad_avg", "second": "square_avg", "trace": "momentum_buffer"},
    starts={"second": "initial_scale"},
    notes="``centered`` subtracts the square of the mean gradient from v; ``momentum`` averages the quotient.",
    page=r"""
AdaGrad that forgets: the denominator follows the gradients of the last 1/(1 − α) steps. Used in reinforcement learning
and for recurrent networks. It has no bias correction, so its first steps are up to 1/√(1 − α) = 10 times too long: use
a warmup or a low learning rate. `centered=True` divides by the standard deviation instead, $\sqrt{v - \bar
g^2} + \epsilon$, which is more sensitive; `momentum=` averages the quotient. Sources: Tieleman and Hinton, 2012,
lecture 6.5 of their course; [Graves, 2013](https://arxiv.org/abs/1308.0850).
""",
)
MEMBERS = (RMSPROP,)
