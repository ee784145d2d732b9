"""LAMB."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, BIAS_CORRECTION, EPS, EPS_MODE, EPS_ROOT, learning_rate
from ..declaration import Hypers, Member, Numbers, Scalars, Sum
from ..scaled import UPDATE_DECAY, decay_of, decayed_update, of_weight, scaled_adam, squares
from ..shared import WEIGHT_DECAY
from .adam import ADAM


def _trust(k: Any, f: Any) -> Numbers:
    is_known = f.minimum(k.weights, k.updates) > 0
    (trust,) = f.either(is_known, lambda: (f.sqrt(k.weights / k.updates),), lambda: (1.0,))
    return {"trust": trust}


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    return ADAM.numbers(hyper, scalars, f) | decay_of(hyper)


_SUMS = Sum("weights", "tensor", of_weight), Sum("updates", "tensor", squares(decayed_update))
_RULE = scaled_adam("lamb", _SUMS, _trust)
LAMB = Member(
    name="LAMB",
    title="LAMB (You et al., 2020, arXiv:1904.00962, algorithm 2): AdamW whose step is relative to the weight of each tensor.",
    equations=(
        r"u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda p_{t-1}, \qquad "
        r"p_t = p_{t-1} - \eta \frac{\|p_{t-1}\|}{\|u_t\|} u_t",
    ),
    hyperparameters=(
        *(learning_rate(1e-3), BETAS, replace(EPS, default=1e-6)),
        *(replace(WEIGHT_DECAY, default=1e-2, doc="λ"), UPDATE_DECAY),
        *(replace(EPS_MODE, elsewhere={}), BIAS_CORRECTION, EPS_ROOT),
    ),
    make_rule=lambda hyper: _RULE,
    numbers=_numbers,
    names={"first": "exp_avg", "second": "exp_avg_sq"},
    notes="The norms are of each tensor; where one is 0, the ratio is 1.",
    page=r"""
For very large batches: every tensor moves by the same fraction of its norm, whatever the size of its gradient, so the learning
rate can grow with the batch. Source: [You et al., 2020](https://arxiv.org/abs/1904.00962), with φ the identity.
""",
)
MEMBERS = (LAMB,)
