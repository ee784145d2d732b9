"""StableAdamW."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, EPS, learning_rate
from ..declaration import Array, Hypers, Member, Numbers, Scalars, Sum
from ..scaled import UPDATE_DECAY, at_most_1, decay_of, scaled_adam
from ..shared import WEIGHT_DECAY
from ..statistics import LEAST_FLOOR
from .adam import ADAM


def _of_ratio(k: Any, xp: Any, p: Array, g: Array, m: Array, v: Array) -> Array:
    size = k.w * (k.a2 * v + k.b2 * g * g)
    ratio = g / xp.sqrt(xp.where(size < k.floor, k.floor, size))  # a finite g² may overflow
    return ratio * ratio


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    adam = ADAM.numbers({**hyper, "bias_correction": True, "eps_mode": "torch"}, scalars, f)
    return adam | decay_of(hyper) | {"floor": hyper["eps"] ** 2 + LEAST_FLOOR}


_SUMS = (Sum("ratio", "tensor", _of_ratio, is_mean=True),)
_RULE = scaled_adam("stableadamw", _SUMS, at_most_1("trust", "ratio"), ("floor",))
STABLEADAMW = Member(
    name="StableAdamW",
    title="StableAdamW (Wortsman et al., 2023, arXiv:2304.13013, algorithm 2): AdamW with shorter steps where v lags behind.",
    equations=(
        r"\text{RMS}_t &= \sqrt{\operatorname{mean}\left(\frac{g_t^2}{\max(\hat v_t, \epsilon^2)}\right)}, \qquad "
        r"\eta_t = \frac{\eta}{\max(1, \text{RMS}_t)}",
        r"p_t &= (1 - \eta_t \lambda) p_{t-1} - \eta_t \frac{m_t / (1 - \beta_1^t)}{\sqrt{\hat v_t} + \epsilon}, \qquad "
        r"\hat v_t = \frac{v_t}{1 - \beta_2^t}",
    ),
    hyperparameters=(
        *(learning_rate(1e-3), replace(BETAS, default=(0.9, 0.99)), replace(EPS, default=1e-6, elsewhere={})),
        *(replace(WEIGHT_DECAY, default=1e-2, doc="λ"), replace(UPDATE_DECAY, elsewhere={})),
    ),
    make_rule=lambda hyper: _RULE,
    numbers=_numbers,
    names={"first": "exp_avg", "second": "exp_avg_sq"},
    notes="The mean is over each tensor.",
    page=r"""
AdamW that shortens the step of a tensor when its gradients are suddenly much larger than $v$, which is when losses spike. It
replaces clipping, tensor by tensor. Source: [Wortsman et al., 2023](https://arxiv.org/abs/2304.13013), who take it from
Adafactor's clipping of the update ([Shazeer and Stern, 2018](https://arxiv.org/abs/1804.04235)).
""",
)
MEMBERS = (STABLEADAMW,)
