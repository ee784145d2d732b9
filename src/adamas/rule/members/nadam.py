"""NAdam."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..corrections import (
    BETAS,
    BIAS_CORRECTION,
    EPS,
    EPS_MODE,
    EPS_ROOT,
    bias_corrections,
    denominator,
    learning_rate,
)
from ..declaration import FROM_0_TO_INFINITY, Hypers, Member, Number, Numbers, Scalars
from ..sentence import Sentence
from ..shared import WEIGHT_DECAY


def _mu(hyper: Hypers, step: Any) -> Any:
    return hyper["betas"][0] * (1 - 0.5 * 0.96 ** (step * hyper["momentum_decay"]))


def _next_scalars(hyper: Hypers, scalars: Scalars, f: Any) -> dict[str, float]:
    step = scalars["step"] + 1
    return {"step": step, "mu_product": scalars["mu_product"] * _mu(hyper, step)}


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2 = hyper["betas"]
    step, product = scalars["step"], scalars["mu_product"]
    mu, mu_next = _mu(hyper, step), _mu(hyper, step + 1)
    _, w = bias_corrections(hyper, step)
    c, d = mu_next, 1 - mu
    if hyper["bias_correction"]:
        c, d = c / (1 - product * mu_next), d / (1 - product)
    return {
        "a1": beta1,
        "b1": 1 - beta1,
        "a2": beta2,
        "b2": 1 - beta2,
        "c": c,
        "d": d,
        **denominator(hyper, w, f),
    }


NADAM = Member(
    name="NAdam",
    title="NAdam (Dozat, 2016, Incorporating Nesterov Momentum into Adam): Adam with Nesterov's momentum.",
    equations=(
        r"\mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \psi})",
        r"p_t &= p_{t-1} - \eta \left( \frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i} "
        r"+ \frac{(1 - \mu_t) g_t}{1 - \prod_{i=1}^t \mu_i} \right) / (\sqrt{v_t / (1 - \beta_2^t)} + \epsilon)",
    ),
    hyperparameters=(
        learning_rate(2e-3, keras=1e-3),
        BETAS,
        EPS,
        WEIGHT_DECAY,
        Number(
            "momentum_decay",
            4e-3,
            "ψ: 0.004 in PyTorch, 1 in Keras, and infinite in optax, where μ is β₁",
            elsewhere={"keras": 1.0, "optax": math.inf},
            range=FROM_0_TO_INFINITY,
        ),
        replace(EPS_MODE, elsewhere={}),
        BIAS_CORRECTION,
        EPS_ROOT,
    ),
    make_rule=lambda hyper: Sentence(first=True, second="square", use_first=True, use_gradient=True),
    numbers=_numbers,
    names={"first": "exp_avg", "second": "exp_avg_sq"},
    scalars=(("step", 0.0), ("mu_product", 1.0)),
    next_scalars=_next_scalars,
    page=r"""
Adam with Nesterov's momentum and a β₁ that warms up. Usually as good as Adam or slightly faster, at the same cost. It
is the baseline of the AlgoPerf benchmark. Source: [Dozat,
2016](https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ).
""",
)
MEMBERS = (NADAM,)
