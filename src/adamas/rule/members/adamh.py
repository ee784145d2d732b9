"""AdamH."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..corrections import BETAS, BIAS_CORRECTION, EPS, EPS_MODE, EPS_ROOT, learning_rate
from ..declaration import Array, Flag, Member, Numbers, OwnRule, Sum
from ..scaled import ADAM, of_weight, squares
from ..shared import DECAY, WEIGHT_DECAY
from .adam import ADAM as ADAM_MEMBER


def _turned(k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
    update, *after = ADAM.update(k, xp, p, g, *states)
    return k.inward * p + k.along * update, *after


def _of_both(k: Any, xp: Any, p: Array, g: Array, *states: Array) -> Array:
    update, *_ = ADAM.update(k, xp, p, g, *states)
    return p * update


def _coefficients(k: Any, f: Any) -> Numbers:
    def turned() -> tuple[Any, ...]:
        """p − η·‖p‖/‖u‖·u has the norm ‖p‖/shrink."""
        scale = f.sqrt(k.weights / k.updates)
        cosine = k.both / f.sqrt(k.weights * k.updates)
        shrink = 1 / f.sqrt(1 + k.eta * (k.eta - 2 * cosine))
        return (1 - shrink) / k.eta, shrink * scale

    is_known = f.minimum(f.minimum(k.weights, k.updates), k.eta) > 0
    inward, along = f.either(is_known, turned, lambda: (0.0, 1.0))
    return {"inward": inward, "along": along}


_NORMS = Sum("weights", "tensor", of_weight), Sum("updates", "tensor", squares(ADAM.update))
_SUMS = *_NORMS, Sum("both", "tensor", _of_both)
_RULE = OwnRule("adamh", ADAM.states, ADAM.numbers, _turned, _SUMS, _coefficients)
ADAMH = Member(
    name="AdamH",
    title="AdamH (Wen et al., 2025, Hyperball Optimization): Adam that keeps the norm of each weight.",
    equations=(
        r"u_t &= \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}, \qquad "
        r"q_t = p_{t-1} - \eta \frac{\|p_{t-1}\|}{\|u_t\|} u_t",
        r"p_t &= \frac{\|p_{t-1}\|}{\|q_t\|} q_t",
    ),
    hyperparameters=(
        *(learning_rate(2e-2), replace(BETAS, default=(0.9, 0.95)), replace(EPS, elsewhere={})),
        WEIGHT_DECAY,
        Flag("keep_norm", True, "False steps as Adam does, for biases, norms and embeddings", structural=True),
        replace(DECAY, default="decoupled"),
        *(replace(EPS_MODE, elsewhere={}), BIAS_CORRECTION, EPS_ROOT),
    ),
    make_rule=lambda hyper: _RULE if hyper["keep_norm"] else ADAM,
    numbers=ADAM_MEMBER.numbers,
    names={"first": "exp_avg", "second": "exp_avg_sq"},
    notes="The norms are of each tensor. A tensor of zeros, which has no direction, takes Adam's steps.",
    page=r"""
For matrices whose norm does not matter, such as those before a normalization. The norm stays what it is at the start: a step
only turns the matrix, by an angle of about the learning rate (in radians), so there is no weight decay to tune. Give biases,
norms and embeddings a group of their own with `keep_norm=False` and the learning rate of Adam. `adamas.scipy` does not have
AdamH, since it would keep the norm of x. Sources: [Wen et al., 2025](https://tinyurl.com/muonh), and AdamH of
[Marin](https://github.com/marin-community/marin).

```python
matrices = [p for p in model.parameters() if p.ndim >= 2]
others = [p for p in model.parameters() if p.ndim < 2]
adamas.torch.AdamH([{"params": matrices}, {"params": others, "keep_norm": False, "lr": 6e-4}], lr=0.02)
```
""",
    absent={"scipy": "it keeps the norm of x, so it does not converge to a minimum: use adamas.scipy.adam"},
    no_mask="it keeps the norms of weights, which a masked update would change",
)
MEMBERS = (ADAMH,)
