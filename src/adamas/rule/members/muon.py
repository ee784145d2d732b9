"""Muon, with AdamW for what is no hidden matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..corrections import BETAS, bias_corrections, learning_rate
from ..declaration import (
    FINITE,
    Array,
    Choice,
    Count,
    Flag,
    Hypers,
    MatrixRule,
    Member,
    Number,
    Numbers,
    Rule,
    Scalars,
    Several,
    Share,
    State,
)
from ..newton_schulz import orthogonalized
from ..sentence import Sentence
from ..shared import DECAY, WEIGHT_DECAY

_MOMENTUM = State("momentum", signed=True, decay="a1", draw=0, of="gradient", gain="b1")
_COEFFICIENTS = (3.4445, -4.775, 2.0315)


@dataclass(frozen=True)
class MuonRule(MatrixRule):
    """The rule of hidden matrices.

    Attributes:
        steps, coefficients, eps: see ``adamas.rule.newton_schulz.orthogonalized``.
        matches_adamw: whether updates are as large as AdamW's; if not, as in the original.
        products: the dtype of the products of matrices; ``"auto"`` chooses by the device.
        is_stacked: see ``MatrixRule``.
        is_cautious: see ``Rule``.
    """

    steps: int = 5
    coefficients: tuple[float, float, float] = _COEFFICIENTS
    eps: float = 1e-7
    matches_adamw: bool = False
    products: str = "auto"
    is_stacked: bool = False
    is_cautious: bool = False

    name = "muon"
    states = (_MOMENTUM,)
    numbers = ("a1", "b1", "c", "d")

    def given(self, hyper: Hypers) -> Rule:
        """See ``Rule.given``."""
        a, b, c = map(float, hyper["ns_coefficients"])
        return MuonRule(
            int(hyper["ns_steps"]),
            (a, b, c),
            float(hyper["eps"]),
            hyper["adjust_lr_fn"] == "match_rms_adamw",
            hyper.get("ns_dtype", "auto"),
            bool(hyper.get("stacks", False)),
        )

    def direction(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        """See ``MatrixRule.direction``."""
        momentum = k.a1 * states[0] + k.b1 * g
        return k.c * momentum + k.d * g, momentum

    def of_matrices(self, xp: Any, directions: Array) -> Array:
        """See ``MatrixRule.of_matrices``."""
        rows, columns = directions.shape[-2:]
        size = 0.2 * math.sqrt(max(rows, columns)) if self.matches_adamw else math.sqrt(max(1, rows / max(1, columns)))
        dtype = xp.dtype_name(directions)
        if self.products == "bfloat16" or (self.products == "auto" and getattr(xp, "prefers_bfloat16", False)):
            dtype = "bfloat16"
        return size * orthogonalized(xp, directions, self.steps, self.coefficients, self.eps, dtype)


_ADAMW = Sentence(first=True, second="square", use_first=True)


def _numbers(hyper: Hypers, scalars: Scalars, f: Any) -> Numbers:
    if hyper["use_muon"]:
        mu = hyper["momentum"]
        c, d = (mu, 1 - mu) if hyper["nesterov"] else (1.0, 0.0)
        return {"a1": mu, "b1": 1 - mu, "c": c, "d": d}
    beta1, beta2 = hyper["betas"]
    c, w = bias_corrections({**hyper, "bias_correction": True}, scalars["step"])
    return {
        "a1": beta1,
        "b1": 1 - beta1,
        "a2": beta2,
        "b2": 1 - beta2,
        "c": c,
        "w": w,
        "eps": hyper["eps"],
        "root": 0.0,
    }


MUON = Member(
    name="Muon",
    title="Muon (Jordan et al., 2024): orthogonalized momentum for hidden matrices, and AdamW for all other parameters.",
    equations=(
        r"m_t &= \mu m_{t-1} + (1 - \mu) g_t, \qquad d_t = \mu m_t + (1 - \mu) g_t",
        r"p_t &= (1 - \eta \lambda) p_{t-1} - \eta \, \gamma \operatorname{orthogonalize}(d_t)",
    ),
    hyperparameters=(
        learning_rate(1e-3),
        replace(WEIGHT_DECAY, default=0.1, doc="λ"),
        Share("momentum", 0.95, "μ"),
        Flag("nesterov", True, "use Nesterov's momentum; if not, the direction is the momentum itself"),
        Several("ns_coefficients", _COEFFICIENTS, "coefficients of the Newton–Schulz iteration", range=FINITE),
        Number(
            "eps",
            1e-7,
            "ε: the smallest norm that a matrix is divided by. In groups of AdamW it is that of AdamW, which those of "
            "``matrix_groups`` and of a model set to 1e-8",
        ),
        Count("ns_steps", 5, "iterations"),
        Choice(
            "adjust_lr_fn",
            None,
            'γ, for a matrix of r rows and c columns: ``"original"``, √max(1, r/c); ``"match_rms_adamw"``, 0.2·√max(r, c), '
            "with which updates are as large as AdamW's, and one lr suits all parameters (Liu et al., 2025, "
            'arXiv:2502.16982). None is ``"original"`` as in ``torch.optim`` or, if a model is given, '
            '``"match_rms_adamw"``',
            choices=("original", "match_rms_adamw"),
        ),
        replace(BETAS, doc="the decay of AdamW's moments, in groups of AdamW", is_option=True),
        Flag(
            "use_muon",
            True,
            "whether a group has hidden matrices; False steps its parameters with AdamW",
            structural=True,
            is_option=True,
        ),
        Flag(
            "stacks",
            False,
            "whether the parameters of a group are stacks of matrices (of experts, for example), of shape (…, rows, columns), "
            "each of which is orthogonalized by itself",
            is_option=True,
            only=("torch", "numpy"),
        ),
        Choice(
            "ns_dtype",
            "auto",
            'the dtype of the products of matrices: ``"float32"`` (float64 for float64 weights), ``"bfloat16"``, or '
            '``"auto"``: bfloat16 on a GPU, and float32 elsewhere. Many CPUs have no instructions for products in '
            "bfloat16, and take twenty times as long for them",
            is_option=True,
            only=("torch",),
            choices=("auto", "float32", "bfloat16"),
        ),
        replace(DECAY, default="decoupled"),
    ),
    make_rule=lambda hyper: MuonRule() if hyper["use_muon"] else _ADAMW,
    numbers=_numbers,
    names={"momentum": "momentum_buffer", "first": "exp_avg", "second": "exp_avg_sq"},
    absent={
        "keras": "its steps multiply whole matrices, and those of adamas.keras do not: use keras.optimizers.Muon, or "
        "adamas.torch.Muon in a loop of PyTorch",
        "optax": "its steps multiply whole matrices, and those of adamas.optax do not: use optax.contrib.muon",
        "scipy": "x is a vector, and it orthogonalizes matrices: use adamas.numpy.Muon in a loop of your own, or "
        "adamas.scipy.adamw",
    },
    no_mask='its updates have singular values near 1, which masked ones would not; decay="cautious" masks only the '
    "weight decay",
    notes=(
        "with λ for ``weight_decay``; γ is ``adjust_lr_fn``. A parameter of more than two dimensions, such as the kernel "
        "of a convolution, is one matrix, with the dimensions after the first flattened; with ``stacks=True``, it is a stack "
        "of matrices, which are its last two dimensions."
    ),
    page=r"""
The update of a hidden matrix has singular values near 1, so all directions of the matrix are learned equally fast. On the
hidden matrices of transformers and convolutional networks, Muon reaches the same loss in fewer steps than AdamW, and keeps one
moment instead of two. The matrix products of a step cost about as much as the forward pass of a few hundred tokens. Sources:
[Jordan et al., 2024](https://kellerjordan.github.io/posts/muon/), and [Liu et al., 2025](https://arxiv.org/abs/2502.16982) for
the size of updates at which AdamW's learning rates can be used.

Embeddings, the head, norms and biases are not hidden matrices: the same optimizer steps them with AdamW.

```python
optimizer = adamas.torch.Muon(model, lr=1e-3)  # prints how many parameters each rule steps
```

Given a model, Muon makes the groups with [`adamas.torch.matrix_groups`][] and steps all of them with one learning rate, 1e-3
by default, at which its updates are as large as AdamW's. This default is for long runs. Short ones need a higher rate; how
much higher depends on the network, so try 3 and 10 times as much. In 1500 steps of `adamas train chars-gpt --schedule cosine
--optimizer muon --lr RATE`, the bits per character were 2.19 at 1e-3, 1.94 at 3e-3 and 1.88 at 1e-2, where AdamW had 2.38 at
1e-3 and 2.63 at 3e-3 (without a warmup, one seed). At the default, in a run of a few hundred steps, Muon may be behind AdamW.

You can also make the groups yourself. `use_muon` selects the rule of a group:

```python
hidden = [p for p in model.parameters() if p.ndim >= 2]  # of a model without embeddings and head
others = [p for p in model.parameters() if p.ndim < 2]
groups = [
    {"params": hidden, "lr": 0.02},
    {"params": others, "use_muon": False, "lr": 3e-4, "betas": (0.9, 0.95)},
]
optimizer = adamas.torch.Muon(groups)
```

Experts are often stacked in one parameter of three dimensions. `Muon(model, stacks=True)` orthogonalizes each matrix of such a
stack by itself; by default, AdamW steps stacks. `stacks` is also an argument of `matrix_groups`, and an option of a group. The
kernel of a convolution is always one matrix.

Matrices of the same shape are multiplied in batches of at most 2²⁴ elements (2²⁰ on a CPU), or one by one if they are larger.
A step needs about five temporary tensors of the size of a batch, whatever the size of the model. Matrices that are sharded as
DTensors, for example by `fully_shard`, are gathered: if they are sharded by rows, each is gathered on one of the processes,
which take turns. The result is that of a single process up to rounding, and has the same bits for the same number of threads.

The iterations are those of `torch.optim.Muon`, with fewer operations: of the four blocks of a large symmetric product, three
are computed, and for matrices that are at least twice as wide as high, up to three iterations are made on the small matrix
$XX^\top$ before it is applied. In float32, the weights agree with plain iterations to a millionth after 20 steps.
`torch.optim.Muon` multiplies in bfloat16 on any device, which changes an update by about 1% on random matrices. With
`ns_dtype="bfloat16"`, Adamas multiplies in bfloat16 too: the error of an update is 3 to 5% on random matrices, and below 10%
on nearly singular ones. (`tests/test_muon.py` checks this bound.)
""",
)
MEMBERS = (MUON,)
