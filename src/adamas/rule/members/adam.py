"""Adam, AdamW and AMSGrad."""

from __future__ import annotations

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
    redeclared,
)
from ..declaration import Flag, Hypers, Member, Numbers, Preset, Rule, Scalars
from ..sentence import Sentence
from ..shared import DECAY, WEIGHT_DECAY


def _rule(hyper: Hypers) -> Rule:
    return Sentence(first=True, second="square", maximum=bool(hyper["amsgrad"]), use_first=True)


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    beta1, beta2 = hyper["betas"]
    c, w = bias_corrections(hyper, scalars["step"])
    return {
        "a1": beta1,
        "b1": 1 - beta1,
        "a2": beta2,
        "b2": 1 - beta2,
        "c": c,
        **denominator(hyper, w, f),
    }


ADAM = Member(
    name="Adam",
    title="Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1): momentum, RMSprop and bias correction.",
    heading="Adam, AMSGrad",
    equations=(
        r"m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2",
        r"p_t &= p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}",
    ),
    hyperparameters=(
        learning_rate(1e-3),
        BETAS,
        EPS,
        WEIGHT_DECAY,
        Flag(
            "amsgrad",
            False,
            "divide by the largest v so far (Reddi, Kale and Kumar, 2018, arXiv:1904.09237)",
            structural=True,
            only=("torch", "numpy", "scipy", "keras"),
        ),
        EPS_MODE,
        BIAS_CORRECTION,
        EPS_ROOT,
    ),
    make_rule=_rule,
    numbers=_numbers,
    names={"first": "exp_avg", "second": "exp_avg_sq", "maximum": "max_exp_avg_sq"},
    steps_rows=True,
    page=r"""
Adam combines momentum, RMSprop and bias correction. Its default learning rate works on most problems, and it is insensitive to
the scale of the gradients or the loss. For weight decay, use AdamW. Source: [Kingma and Ba,
2015](https://arxiv.org/abs/1412.6980).

**AMSGrad** is `amsgrad=True`: Adam that divides by the largest $v$ so far. It converges on constructed problems on
which Adam provably does not; in practice it seldom makes a difference, and it keeps a third number per weight.
Source: [Reddi, Kale and Kumar, 2018](https://arxiv.org/abs/1904.09237).

```python
adamas.torch.Adam(model.parameters(), lr=1e-3, amsgrad=True)
```
""",
    presets=(
        Preset(
            "amsgrad",
            "AMSGrad (Reddi, Kale and Kumar, 2018, arXiv:1904.09237): Adam that divides by the largest v so far.",
            {"amsgrad": True},
            only=("optax", "scipy"),
        ),
    ),
)
ADAMW = replace(
    ADAM,
    name="AdamW",
    title="AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101, algorithm 2): Adam with decoupled weight decay.",
    heading="",
    equations=(
        r"p_t = (1 - \eta \lambda) p_{t-1} - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}",
    ),
    hyperparameters=(
        *redeclared(
            ADAM.hyperparameters,
            "weight_decay",
            default=1e-2,
            doc='λ; ``decay="independent"`` takes η out of the product, as in the paper',
            elsewhere={"keras": 4e-3, "optax": 1e-4},
        ),
        replace(DECAY, default="decoupled"),
    ),
    variant_of="Adam",
    notes="with λ for ``weight_decay``.",
    page=r"""
Adam with decoupled weight decay. The first choice for transformers, and wherever weight decay is used; with
`weight_decay=0` it is Adam. Source: [Loshchilov and Hutter, 2019](https://arxiv.org/abs/1711.05101).

```python
groups = adamas.torch.param_groups(model, weight_decay=0.1)  # biases, norms and embeddings are not decayed
adamas.torch.AdamW(groups, lr=3e-4)
```
""",
    presets=(),
)
MEMBERS = (ADAM, ADAMW)
