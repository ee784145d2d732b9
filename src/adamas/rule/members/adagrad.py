"""AdaGrad."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import EPS, EPS_PLACE, EPS_ROOT, learning_rate, rooted_eps
from ..declaration import Hypers, Member, Number, Numbers, Scalars
from ..sentence import Sentence
from ..shared import WEIGHT_DECAY


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    eps, root = rooted_eps(hyper)
    eta = f.number(hyper["lr"]) / (1 + (scalars["step"] - 1) * hyper["lr_decay"])
    return {
        "a2": 1.0,
        "b2": 1.0,
        "d": 1.0,
        "w": 1.0,
        "eps": eps,
        "root": root,
        "eta": eta,
    }


ADAGRAD = Member(
    name="Adagrad",
    title="AdaGrad (Duchi, Hazan and Singer, 2011, figure 1): every gradient ever seen counts in the denominator.",
    equations=(
        r"v_t = v_{t-1} + g_t^2, \qquad p_t = p_{t-1} - \frac{\eta}{1 + (t-1) \gamma} \frac{g_t}{\sqrt{v_t} + \epsilon}",
    ),
    hyperparameters=(
        learning_rate(1e-2, keras=1e-3),
        Number("lr_decay", 0.0, "γ", only=("torch", "numpy", "scipy", "optax")),
        WEIGHT_DECAY,
        Number("initial_accumulator_value", 0.0, "v₀", elsewhere={"keras": 0.1, "optax": 0.1}),
        replace(EPS, default=1e-10, elsewhere={"keras": 1e-7, "optax": 1e-7}),
        EPS_PLACE,
        EPS_ROOT,
    ),
    make_rule=lambda hyper: Sentence(second="square", use_gradient=True),
    numbers=_numbers,
    names={"second": "sum"},
    starts={"second": "initial_accumulator_value"},
    steps_rows=True,
    notes="Suits sparse features; its effective rate only decreases.",
    heading="AdaGrad",
    page=r"""
For sparse features and convex problems: parameters whose gradient is rarely nonzero take larger steps. Its
effective learning rate only decreases, so deep networks eventually stop learning. Source: [Duchi, Hazan and Singer,
2011](https://jmlr.org/papers/v12/duchi11a.html).

With sparse gradients (`torch.nn.Embedding(..., sparse=True)`), `adamas.torch` steps only the rows that have one. Without
decay, the result is that of the dense step, in the time of those rows ([more](pytorch.md#sparse-gradients)).
`adamas.keras` does the same on TensorFlow ([more](keras.md#sparse-gradients)); `adamas.numpy` takes only dense arrays.
""",
)
MEMBERS = (ADAGRAD,)
