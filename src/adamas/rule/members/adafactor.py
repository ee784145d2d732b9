"""Adafactor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import learning_rate
from ..declaration import (
    FROM_0,
    Array,
    FactorableRule,
    Hypers,
    Member,
    Number,
    Numbers,
    Range,
    Scalars,
    Several,
    State,
    Sum,
)
from ..scaled import of_weight, squares
from ..shared import DECAY, WEIGHT_DECAY

_SQUARE = State("second", signed=False, decay="a2", draw=1, of="square", gain="b2")
_EPS = 2.0**-23  # of float32, in which a step computes
_LEAST_FLOOR = 2.0**-126  # of v, so that 1/√v is finite in float32
_AT_MOST_0 = Range("a number of at most 0", lambda x: x <= 0)
_AT_LEAST_1 = Range("a number of at least 1", lambda x: x >= 1)


def _divided(k: Any, xp: Any, p: Array, g: Array, second: Array) -> tuple[Array, Array]:
    """The gradient, divided by its root mean square; and the mean square."""
    second = k.a2 * second + (k.b2 * g) * g  # in this order a b2 of 0 makes no NaN of a square that overflows
    return g / xp.sqrt(xp.where(second < k.floor, k.floor, second)), second


def _update(k: Any, xp: Any, p: Array, g: Array, second: Array) -> tuple[Array, ...]:
    update, second = _divided(k, xp, p, g, second)
    return k.scale * update, second


def _scale(k: Any, f: Any) -> Numbers:
    return {"scale": f.maximum(f.sqrt(k.weights), k.least) / f.maximum(f.sqrt(k.updates) / k.d, 1.0)}


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    step = scalars["step"]
    eps, least = hyper["eps"]
    eps = _EPS if eps is None else eps
    gain = step ** hyper["beta2_decay"]
    return {
        "a2": 1 - gain,
        "b2": gain,
        "eps": eps,
        "floor": max(eps * eps, _LEAST_FLOOR),
        "least": least,
        "d": hyper["d"],
        "eta": f.minimum(f.number(hyper["lr"]), 1 / f.sqrt(step)),
    }


def _conflict(hyper: Hypers) -> str:
    state = hyper.get("state", "float32")
    formats = [state] if isinstance(state, str) else state.values()
    if all(one == "float32" for one in formats):
        return ""
    return (
        f'state={state!r} is not for Adafactor, which keeps a number for each row and column, in float32: use "float32"'
    )


_RULE = FactorableRule(
    "adafactor",
    (_SQUARE,),
    ("a2", "b2", "eps", "floor", "least", "d"),
    _update,
    (
        Sum("weights", "tensor", of_weight, is_mean=True),
        Sum("updates", "tensor", squares(_divided), is_mean=True),
    ),
    _scale,
)
ADAFACTOR = Member(
    name="Adafactor",
    title="Adafactor (Shazeer and Stern, 2018, arXiv:1804.04235): the mean squares of the rows and columns of the gradient.",
    equations=(
        r"R_t &= \hat\beta_t R_{t-1} + (1 - \hat\beta_t) \operatorname{mean}_{columns}(g_t^2), \qquad "
        r"C_t = \hat\beta_t C_{t-1} + (1 - \hat\beta_t) \operatorname{mean}_{rows}(g_t^2), \qquad "
        r"\hat\beta_t = 1 - t^\tau",
        r"v_t &= \frac{R_t C_t}{\max(\operatorname{mean}(R_t), \epsilon_1)}, \qquad "
        r"u_t = \frac{g_t}{\max(\sqrt{v_t}, \epsilon_1)}",
        r"p_t &= (1 - \eta \lambda) p_{t-1} - \min(\eta, \tfrac{1}{\sqrt t}) \max(\epsilon_2, \operatorname{RMS}(p_{t-1})) "
        r"\frac{u_t}{\max(1, \operatorname{RMS}(u_t) / d)}",
    ),
    hyperparameters=(
        replace(
            learning_rate(1e-2), doc="η: the decay's learning rate, and the largest step relative to a weight's size"
        ),
        Number("beta2_decay", -0.8, "τ: the exponent of the decay of the mean squares", range=_AT_MOST_0),
        Several(
            "eps",
            (None, 1e-3),
            "ε₁, the smallest root mean square that a gradient is divided by, and ε₂, the smallest size of a weight that a "
            "step is relative to. None is 2⁻²³, float32's ε, in which a step computes (``torch.optim`` takes that of the "
            "weight's dtype)",
            range=FROM_0,
        ),
        Number("d", 1.0, "the largest root mean square of an update, before it is scaled", range=_AT_LEAST_1),
        *(replace(WEIGHT_DECAY, doc="λ"), replace(DECAY, default="decoupled")),
    ),
    make_rule=lambda hyper: _RULE,
    numbers=_numbers,
    names={"second": "variance", "second rows": "row_var", "second columns": "col_var"},
    conflict=_conflict,
    absent={
        "keras": "it keeps the means of rows and columns, and the state of adamas.keras has the shapes of the weights: use "
        "keras.optimizers.Adafactor, or adamas.torch.Adafactor in a loop of PyTorch",
        "optax": "it keeps the means of rows and columns, and the state of adamas.optax has the shapes of the parameters: use "
        "optax.adafactor",
        "scipy": "x is a vector, for which it keeps as much as RMSprop: use adamas.scipy.rmsprop",
    },
    no_mask="its update has the signs of the gradient, so that nothing would be left out",
    notes="with λ for ``weight_decay`` and τ for ``beta2_decay``. The last two dimensions of a parameter are rows and "
    "columns; parameters of fewer than two dimensions keep v itself, an average of the squares.\n\n"
    "As in ``torch.optim``, ε₁ is a lower bound of the denominator; in the paper, in Keras and in optax, it is added to the "
    "squares of the gradient. Where this makes no difference, ``keras.optimizers.Adafactor`` without its decay takes the same "
    "steps, and so does ``optax.adafactor`` with ``min_dim_size_to_factor=1`` for matrices; without a rate, the largest "
    "relative step of the paper is 0.01. In tensors of more than two dimensions, optax uses the two largest ones as rows and "
    "columns.",
    page=r"""
For models that leave little memory for the optimizer: for a matrix of r rows and c columns, Adafactor keeps r + c numbers
where AdamW keeps 2·r·c. For the layers of a large model, that is less than a thousandth. There is no first moment, and a step
is relative to the size of each tensor, so one learning rate suits all tensors. Source: [Shazeer and Stern,
2018](https://arxiv.org/abs/1804.04235), with the learning rate and the ε of `torch.optim.Adafactor`.

State dicts can be exchanged with `torch.optim.Adafactor` in both directions. The state is always in float32. `cautious=True`
is refused, since the update has the signs of the gradient anyway.

A matrix is stepped in pieces of at most 2²¹ elements (or one row), so a step needs temporary memory for a few such pieces
only, whatever the size of the model. The framework computes the means of rows and columns, so the bits of a step depend on the
number of threads. Matrices that processes have in parts, as with `fully_shard`, are refused.
""",
)
MEMBERS = (ADAFACTOR,)
