"""Adamax."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, BIAS_CORRECTION, EPS, bias_corrections, learning_rate
from ..declaration import Hypers, Member, Numbers, Scalars
from ..sentence import Sentence
from ..shared import WEIGHT_DECAY


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2 = hyper["betas"]
    c, _ = bias_corrections(hyper, scalars["step"])
    return {"a1": beta1, "b1": 1 - beta1, "a2": beta2, "c": c, "eps": hyper["eps"]}


ADAMAX = Member(
    name="Adamax",
    title="Adamax (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 2): Adam with the infinity norm.",
    equations=(
        r"v_t = \max(\beta_2 v_{t-1}, |g_t| + \epsilon), \qquad p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t} \frac{m_t}{v_t}",
    ),
    hyperparameters=(
        learning_rate(2e-3, keras=1e-3),
        BETAS,
        replace(EPS, doc="ε, added to the magnitude of the gradient as in PyTorch"),
        WEIGHT_DECAY,
        BIAS_CORRECTION,
    ),
    make_rule=lambda hyper: Sentence(first=True, second="size", use_first=True),
    numbers=_numbers,
    names={"first": "exp_avg", "second": "exp_inf"},
    page=r"""
Adam with the largest recent gradient in place of the root mean square. A single large gradient shortens the
steps for about 1/(1 − β₂) steps; the denominator needs no bias correction. Used for embeddings, and for sparse
gradients. Source: [Kingma and Ba, 2015](https://arxiv.org/abs/1412.6980), algorithm 2.
""",
)
MEMBERS = (ADAMAX,)
