"""Schedule-free AdamW and gradient descent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, EPS, learning_rate
from ..declaration import (
    BETWEEN_0_AND_1,
    Array,
    Hyperparameter,
    Hypers,
    Member,
    Number,
    Numbers,
    OwnRule,
    Scalars,
    Share,
    State,
)
from ..scaled import UPDATE_DECAY, decay_of
from ..sentence import SECOND, quotient
from ..shared import WEIGHT_DECAY

# Of the three sequences y, z and x of the paper, y is the weight, and y − x is kept: it is small and begins with 0, so that it
# can be stored in few bits, and x follows from it without β.
_OFFSET = State("offset", signed=True, decay="rest", draw=0)
_OFFSET_NAME = "y_minus_x"
_NUMBERS = ("rest", "gain", "pull", "push", "decay")


def _moved(k: Any, p: Array, u: Array, offset: Array) -> tuple[Array, Array]:
    """The update of y and the new offset, from the update u of z."""
    u = u + k.decay * p
    return k.push * u - k.pull * offset, k.rest * offset - k.gain * u


def _sgd(k: Any, xp: Any, p: Array, g: Array, offset: Array) -> tuple[Array, ...]:
    return _moved(k, p, g, offset)


def _adamw(k: Any, xp: Any, p: Array, g: Array, offset: Array, v: Array) -> tuple[Array, ...]:
    v = k.a2 * v + k.b2 * g * g
    update, offset = _moved(k, p, quotient(k, xp, g, v), offset)
    return update, offset, v


_SGD = OwnRule("sgd_schedule_free", (_OFFSET,), _NUMBERS, _sgd)
_ADAMW = OwnRule("adamw_schedule_free", (_OFFSET, SECOND), (*_NUMBERS, "a2", "b2", "w", "eps", "root"), _adamw)


def _rate(hyper: Hypers, step: Any, f: Any) -> Any:
    """The learning rate of a step."""
    return f.number(hyper["lr"]) * f.minimum(step / f.maximum(hyper["warmup_steps"], 1.0), 1.0)


def _weight(hyper: Hypers, step: Any, lr_max: Any) -> Any:
    """What a step weighs in the average x."""
    return step ** hyper["r"] * lr_max ** hyper["weight_lr_power"]


def _next_scalars(hyper: Hypers, scalars: Scalars, f: Any) -> dict[str, Any]:
    step = scalars["step"] + 1
    rate = _rate(hyper, step, f)
    lr_max = f.maximum(scalars["lr_max"], rate)
    (weight,) = f.either(rate > 0, lambda: (_weight(hyper, step, lr_max),), lambda: (0.0,))
    return {"step": step, "weight_sum": scalars["weight_sum"] + weight, "lr_max": lr_max}


def _of_average(hyper: Hypers, scalars: Scalars, beta: Any, f: Any) -> Numbers:
    """The numbers of ``_moved``, and the rate. A step with a rate of 0 moves nothing."""
    step, total = scalars["step"], scalars["weight_sum"]
    rate = _rate(hyper, step, f)
    c, per_rate = f.either(
        rate > 0,
        lambda: (_weight(hyper, step, scalars["lr_max"]) / total, 1 / rate),
        lambda: (0.0, 0.0),
    )
    rest = 1 - c
    moved = {"rest": rest, "gain": rest * (1 - beta) * rate, "push": 1 - beta * rest}
    return moved | {"pull": c * beta / (1 - beta) * per_rate, "eta": rate} | decay_of(hyper)


def _sgd_numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    return _of_average(hyper, scalars, hyper["momentum"], f)


def _adamw_numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2 = hyper["betas"]
    second = {"a2": beta2, "b2": 1 - beta2, "w": 1 / (1 - beta2 ** scalars["step"]), "eps": hyper["eps"], "root": 0.0}
    return _of_average(hyper, scalars, beta1, f) | second


_AVERAGE: tuple[Hyperparameter, ...] = (
    Number("warmup_steps", 0.0, "the number of steps over which the learning rate rises linearly from 0"),
    Number("r", 0.0, "r, the power of the step count in the weights of the average x"),
    Number("weight_lr_power", 2.0, "p, the power of the largest learning rate so far in the weights of the average x"),
)
_NO_MASK = "its update also moves the weight towards the average of the steps, which does not follow the gradient"
_ABSENT = {
    "keras": "Keras has no place to switch the weights for validation, callbacks and saving: use a decaying schedule with "
    "adamas.keras.AdamW, or adamas.torch in a loop of PyTorch"
}
_DECAYS = replace(WEIGHT_DECAY, doc="λ"), replace(UPDATE_DECAY, elsewhere={})
_SCALARS = (("step", 0.0), ("weight_sum", 0.0), ("lr_max", 0.0))
_MOVES = (
    r"z_{t+1} &= z_t - \eta_t u_t, \qquad x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}, \qquad "
    r"c_t = w_t / \textstyle\sum_{i \le t} w_i, \quad w_t = t^r (\max_{i \le t} \eta_i)^p",
    r"y_{t+1} &= (1 - \beta_1) z_{t+1} + \beta_1 x_{t+1}",
)
_NOTES = (
    ":math:`\\eta_t` is the learning rate with its warmup; a step with a rate of 0 changes no weight. The weight is :math:`y` "
    "while training, and :math:`x` for evaluation; the state contains their difference."
)
_PAGE = r"""
The average $x$ of the iterates takes the place of a decaying learning rate: training can end at any step, and needs no
schedule, only a warmup. Gradients are taken at $y$, between $x$ and the fast sequence $z$; the result, which you evaluate and
use, is $x$. `optimizer.eval()` sets the weights to $x$, and `optimizer.train()` sets them back to $y$: see [Schedule-free
optimizers](pytorch.md#schedule-free-optimizers). Keep `decay="update"`, the default: kinds that decay the weight itself move
$x$ and $z$ by as much as $y$. {more} Source: [Defazio et al., 2024](https://arxiv.org/abs/2405.15682).
"""

SGD_SCHEDULE_FREE = Member(
    name="SGDScheduleFree",
    function="sgd_schedule_free",
    title="Schedule-free gradient descent (Defazio et al., 2024, arXiv:2405.15682, equations 3 to 5): averages its steps.",
    equations=(r"u_t &= g_t + \lambda y_t", *_MOVES),
    hyperparameters=(
        learning_rate(1.0),
        Share("momentum", 0.9, "β₁: how close to x the gradients are taken", range=BETWEEN_0_AND_1),
        *(*_DECAYS, *_AVERAGE),
    ),
    make_rule=lambda hyper: _SGD,
    numbers=_sgd_numbers,
    names={"offset": _OFFSET_NAME},
    scalars=_SCALARS,
    next_scalars=_next_scalars,
    offset=_OFFSET_NAME,
    absent=_ABSENT,
    no_mask=_NO_MASK,
    notes=_NOTES,
    heading="Schedule-free gradient descent",
    page=_PAGE.replace("{more}", "Use learning rates 10 to 50 times those of momentum."),
)
ADAMW_SCHEDULE_FREE = replace(
    SGD_SCHEDULE_FREE,
    name="AdamWScheduleFree",
    function="adamw_schedule_free",
    title="Schedule-free AdamW (Defazio et al., 2024, arXiv:2405.15682, algorithm 1): AdamW that averages its steps.",
    equations=(
        r"v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad u_t = \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + "
        r"\lambda y_t",
        *_MOVES,
    ),
    hyperparameters=(
        learning_rate(2.5e-3),
        replace(
            BETAS,
            doc="β₁, how close to x the gradients are taken, and β₂, the decay of v",
            may_be_scheduled=False,
            range=BETWEEN_0_AND_1,
        ),
        *(replace(EPS, elsewhere={}), *_DECAYS, *_AVERAGE),
    ),
    make_rule=lambda hyper: _ADAMW,
    numbers=_adamw_numbers,
    names={"offset": _OFFSET_NAME, "second": "exp_avg_sq"},
    heading="Schedule-free AdamW",
    page=_PAGE.replace(
        "{more}", "Use learning rates 1 to 10 times those of AdamW; for long runs, try β₁ = 0.95 or 0.98."
    ),
)
MEMBERS = (SGD_SCHEDULE_FREE, ADAMW_SCHEDULE_FREE)
