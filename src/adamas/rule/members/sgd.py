"""Gradient descent and its momentum."""

from __future__ import annotations

from typing import Any

from ..corrections import learning_rate
from ..declaration import FINITE, Flag, Hypers, Member, Number, Numbers, Preset, Rule, Scalars
from ..sentence import Sentence
from ..shared import WEIGHT_DECAY


def _rule(hyper: Hypers) -> Rule:
    if not hyper["momentum"]:
        return Sentence(use_gradient=True)
    return Sentence(first=True, use_first=True, use_gradient=bool(hyper["nesterov"]))


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    (damping,) = f.either(scalars["step"] > 1, lambda: (hyper["dampening"],), lambda: (0.0,))
    mu = hyper["momentum"]
    return {"a1": mu, "b1": 1 - damping, "c": mu if hyper["nesterov"] else 1.0, "d": 1.0}


def _conflict(hyper: Hypers) -> str:
    if hyper["nesterov"] and (hyper["momentum"] <= 0 or hyper["dampening"] != 0):
        return "Nesterov momentum requires a momentum and zero dampening"
    return ""


SGD = Member(
    name="SGD",
    title="Gradient descent, with momentum (Polyak, 1964) or Nesterov's momentum (Sutskever et al., 2013).",
    equations=(r"m_t = \mu m_{t-1} + (1 - \tau) g_t, \qquad p_t = p_{t-1} - \eta m_t",),
    hyperparameters=(
        learning_rate(1e-3, keras=1e-2),
        Number("momentum", 0.0, "μ; 0 for none", structural=True, elsewhere={"optax": None}),
        Number("dampening", 0.0, "τ", only=("torch", "numpy", "scipy", "optax"), range=FINITE),
        WEIGHT_DECAY,
        Flag("nesterov", False, "use Nesterov's momentum", structural=True),
    ),
    make_rule=_rule,
    numbers=_numbers,
    names={"first": "momentum_buffer"},
    conflict=_conflict,
    steps_rows=True,
    notes=(
        r"with :math:`m_1 = g_1`; Nesterov's step is :math:`\eta (g_t + \mu m_t)`. Without momentum, the only state is the "
        "step count."
    ),
    heading="Gradient descent, momentum, Nesterov",
    page=r"""
All three are [`adamas.torch.SGD`][]. Gradient descent keeps no state, and its only hyperparameter is the learning rate; it is
slow if the curvature differs between directions. Momentum accelerates in consistent directions: its steps are up to
1/(1 − μ) times longer, so lower the learning rate, by up to that factor. Nesterov's momentum looks ahead by one step and is
slightly more stable at the same rate. They remain the usual choice for convolutional networks on images, with a decaying rate.

| | formula | source |
|---|---|---|
| gradient descent | $p \leftarrow p - \eta\,g$ | Cauchy, 1847 |
| momentum | $m \leftarrow \mu m + (1-\tau)\,g, \quad p \leftarrow p - \eta\,m$ | Polyak, 1964 |
| Nesterov | $m \leftarrow \mu m + g, \quad p \leftarrow p - \eta\,(g + \mu m)$ | [Sutskever et al., 2013][nesterov] |

```python
adamas.torch.SGD(model.parameters(), lr=0.1)
adamas.torch.SGD(model.parameters(), lr=0.03, momentum=0.9)
adamas.torch.SGD(model.parameters(), lr=0.03, momentum=0.9, nesterov=True)
```

[nesterov]: https://proceedings.mlr.press/v28/sutskever13.html
""",
    presets=(
        Preset("momentum", "Gradient descent with momentum (Polyak, 1964).", {"momentum": 0.9}, only=("scipy",)),
        Preset(
            "nesterov",
            "Gradient descent with Nesterov's momentum (Sutskever et al., 2013).",
            {"momentum": 0.9, "nesterov": True},
            only=("scipy",),
        ),
    ),
)
MEMBERS = (SGD,)
