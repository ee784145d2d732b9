"""AdEMAMix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, BIAS_CORRECTION, EPS, EPS_MODE, EPS_ROOT, bias_corrections, learning_rate, placed_eps
from ..declaration import Array, Hypers, Member, Number, Numbers, OwnRule, Scalars, State
from ..sentence import FIRST, SECOND, quotient
from ..shared import DECAY, WEIGHT_DECAY

SLOW = State("slow", signed=True, decay="a3", draw=4, of="gradient", gain="b3")
WARMUP = Number("alpha_warmup", 0.0, "the number of steps over which α rises linearly from 0", is_option=True)


def _update(k: Any, xp: Any, p: Array, g: Array, m: Array, s: Array, v: Array) -> tuple[Array, ...]:
    m, s, v = k.a1 * m + k.b1 * g, k.a3 * s + k.b3 * g, k.a2 * v + k.b2 * g * g
    return quotient(k, xp, k.c * m + k.d * s, v), m, s, v


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    (beta1, beta2, beta3), step = hyper["betas"], scalars["step"]
    alpha_part, part = (f.minimum(step / f.maximum(hyper[x], 1.0), 1.0) for x in ("alpha_warmup", "beta3_warmup"))
    start, end = (1 / f.log(f.maximum(beta, 1e-300)) for beta in (beta1, beta3))  # how long s remembers, less than 0
    warming = f.minimum(f.exp(1 / (start + part * (end - start))), beta3)
    (beta3,) = f.either(part < 1, lambda: (warming,), lambda: (beta3,))
    c, w, _ = bias_corrections(hyper, step)
    averages = {"a1": beta1, "b1": 1 - beta1, "a2": beta2, "b2": 1 - beta2, "a3": beta3, "b3": 1 - beta3}
    eps, root = placed_eps(hyper, w, f), hyper.get("eps_root", 0.0)
    return averages | {"c": c, "d": alpha_part * hyper["alpha"], "w": w, "eps": eps, "root": root}


_NUMBERS = ("a1", "b1", "a3", "b3", "a2", "b2", "c", "d", "w", "eps", "root")
_RULE = OwnRule("ademamix", (FIRST, SLOW, SECOND), _NUMBERS, _update)
ADEMAMIX = Member(
    name="AdEMAMix",
    title="AdEMAMix (Pagliardini et al., 2024, arXiv:2409.03137, algorithm 1): AdamW with a second, slow average.",
    equations=(
        r"p_t = p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t) + \alpha s_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}",
    ),
    hyperparameters=(
        *(learning_rate(1e-3), replace(BETAS, default=(0.9, 0.999, 0.9999), doc="the decay of m, v and s")),
        Number("alpha", 2.0, "α, the share of s", may_be_scheduled=True, elsewhere={"optax": 5.0}),
        *(EPS, WEIGHT_DECAY, replace(DECAY, default="decoupled"), WARMUP),
        replace(WARMUP, name="beta3_warmup", doc="the number of steps over which the decay of s rises from β₁ to β₃"),
        *(EPS_MODE, BIAS_CORRECTION, EPS_ROOT),
    ),
    make_rule=lambda hyper: _RULE,
    numbers=_numbers,
    names={"first": "exp_avg", "slow": "exp_avg_slow", "second": "exp_avg_sq"},
    page="""
AdamW that also remembers gradients from thousands of steps ago, for long runs. Set `alpha_warmup` and `beta3_warmup` to the
length of the run; otherwise it may diverge early. Source: [Pagliardini et al., 2024](https://arxiv.org/abs/2409.03137).
""",
)
MEMBERS = (ADEMAMIX,)
