"""ADOPT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, EPS, learning_rate
from ..declaration import Array, Hypers, Member, Numbers, OwnRule, Scalars, State
from ..sentence import SECOND
from ..shared import DECAY, WEIGHT_DECAY

_NORMALIZED = State("first", signed=True, decay="a1", draw=0)


def _update(k: Any, xp: Any, p: Array, g: Array, m: Array, v: Array) -> tuple[Array, ...]:
    size = xp.sqrt(v)  # of the steps before
    u = g / xp.where(size < k.eps, k.eps, size)
    u = xp.where(u > k.most, k.most, u)
    u = xp.where(u < k.least, k.least, u)
    m = k.a1 * m + k.b1 * u
    return m, m, k.a2 * v + k.b2 * g * g


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    (beta1, beta2), before = hyper["betas"], scalars["step"] - 1
    (b2,) = f.either(before > 0, lambda: (1 - beta2,), lambda: (1.0,))
    most = before**0.25
    averages = {"a1": beta1, "b1": 1 - beta1, "a2": beta2, "b2": b2}
    return averages | {"eps": hyper["eps"], "most": most, "least": -most}


_RULE = OwnRule("adopt", (_NORMALIZED, SECOND), ("a1", "b1", "a2", "b2", "eps", "most", "least"), _update)
ADOPT = Member(
    name="ADOPT",
    title="ADOPT (Taniguchi et al., 2024, arXiv:2411.02853, algorithm 2): Adam that divides by the v of the step before.",
    equations=(
        r"m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \operatorname{clip}\left(\frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}, "
        r"\pm (t-1)^{1/4}\right)",
        r"v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad p_t = p_{t-1} - \eta m_t",
    ),
    hyperparameters=(
        *(learning_rate(1e-3), replace(BETAS, default=(0.9, 0.9999))),
        replace(EPS, default=1e-6, doc="ε, the least denominator", elsewhere={}),
        *(WEIGHT_DECAY, replace(DECAY, default="decoupled")),
    ),
    make_rule=lambda hyper: _RULE,
    numbers=_numbers,
    names={"first": "exp_avg_normalized", "second": "exp_avg_sq"},
    notes="The first step only initializes :math:`v_1 = g_1^2`: apart from weight decay, it changes no weight.",
    page=r"""
Adam that converges for any β₂: a gradient is divided by $\sqrt v$ of the step before, and averaged after the division. A clip
keeps the first steps short, while $v$ is an estimate from few gradients. The first step only initializes $v$.
Source: [Taniguchi et al., 2024](https://arxiv.org/abs/2411.02853).
""",
)
MEMBERS = (ADOPT,)
