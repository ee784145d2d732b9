"""Members that users declare: ``adamas.own``, ``adamas.torch.OwnOptimizer`` and ``adamas.numpy.OwnOptimizer``."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import adamas.numpy
import adamas.torch as at
from adamas.own import Choice, Flag, Member, OwnRule, Share, State, Sum, learning_rate
from adamas.rule.members import MEMBERS
from adamas.schedules import cosine
from adamas.step import arrays_executor

MOMENTUM = State("first", signed=True, decay="a", draw=0, of="gradient", gain="b")


def of_lion(k: Any, xp: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
    return xp.sign(k.c * m + k.d * g), k.a * m + k.b * g


def numbers(hyper: Any, scalars: Any, f: Any) -> dict[str, Any]:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    return {"a": beta2, "b": 1 - beta2, "c": beta1, "d": 1 - beta1}


def in_place(k: Any, xp: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
    m *= k.a
    return g, m


RULE = OwnRule("lioness", (MOMENTUM,), ("a", "b", "c", "d"), of_lion)
LIONESS = Member(
    name="Lioness",
    title="Lion, declared again.",
    equations=(),
    hyperparameters=(learning_rate(1e-4), Share("beta1", 0.9, "of the update"), Share("beta2", 0.99, "of the average")),
    make_rule=lambda hyper: RULE,
    numbers=numbers,
    names={"first": "exp_avg"},
)


class Lioness(at.OwnOptimizer, member=LIONESS):
    """Lion."""


class LionessOfArrays(adamas.numpy.OwnOptimizer, member=LIONESS):
    """Lion."""


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stepped(optimizer: torch.optim.Optimizer, steps: range) -> Tensor:
    p = optimizer.param_groups[0]["params"][0]
    for t in steps:
        p.grad = normal(t + 1, *p.shape, dtype=p.dtype)
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("options", [{}, {"cautious": True}, {"weight_decay": 0.1, "decay": "cautious"}])
@pytest.mark.parametrize(
    ("state", "weights", "dtype"),
    [
        ("float32", "nearest", torch.float64),
        ("float32", "nearest", torch.float32),
        ("bfloat16", "split", torch.bfloat16),
        ("int8", "nearest", torch.float32),
        ("int6", "stochastic", torch.bfloat16),
    ],
)
def test_it_steps_as_the_member_of_the_family_in_every_format(
    state: str, weights: str, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    start, given = normal(0, 48, 256, dtype=dtype), {"state": state, "weights": weights, "lr": 0.01, **options}
    ours = Lioness([("w", torch.nn.Parameter(start.clone()))], **given)
    theirs = at.Lion([("w", torch.nn.Parameter(start.clone()))], **{"decay": "l2", **given})
    p, q = stepped(ours, range(6)), stepped(theirs, range(6))
    # The engine fuses products and sums: a sign may turn where both are nearly 0.
    differs = ((p - q).abs() > 0.01 * q.abs() + 1e-6).float().mean()
    assert differs < (1e-3 if state == "float32" else 5e-3)
    assert ours.memory().total == theirs.memory().total


def test_schedules_clipping_resuming_copies_and_pickles_are_the_familys() -> None:
    def made() -> Lioness:
        p = torch.nn.Parameter(normal(0, 16, 64))
        return Lioness([p], lr=cosine(10) * 0.01, state="int8", max_grad_norm=1.0, on_nonfinite="skip")

    whole = made()
    stepped(whole, range(6))
    first = made()
    stepped(first, range(3))
    resumed = made()
    with torch.no_grad():
        resumed.param_groups[0]["params"][0].copy_(first.param_groups[0]["params"][0])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file))
    for one in (resumed, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert torch.equal(stepped(one, range(3, 6)), whole.param_groups[0]["params"][0].detach())
    assert whole.clipped_steps == 6


@pytest.mark.parametrize(
    ("shape", "state", "weights", "dtype"),
    [
        ((90, 40), "int8", "nearest", torch.float32),
        ((70, 6, 33), "int6", "stochastic", torch.bfloat16),
        ((64, 65), "bfloat16", "split", torch.float16),
        ((5000,), "bfloat16", "stochastic", torch.bfloat16),
        ((90, 40), "float32", "nearest", torch.complex64),
    ],
)
@pytest.mark.parametrize("is_part", [False, True])
def test_pieces_are_stepped_as_the_whole(
    shape: tuple[int, ...], state: str, weights: str, dtype: torch.dtype, is_part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for most in (1 << 18, 1000):
        monkeypatch.setattr(arrays_executor, "_MOST_ON_CPU", most)
        p = torch.nn.Parameter(normal(0, *shape, dtype=dtype))
        group = {"params": [("w", p)], "rows": [(3, shape[0] + 10)] if is_part else None}
        optimizer = Lioness([group], lr=0.01, state=state, weights=weights, weight_decay=0.1)
        found.append([stepped(optimizer, range(3)), *optimizer.state[p].values()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_numpy_steps_as_torch() -> None:
    start = normal(0, 16, 64).numpy()
    x, ours = start.copy(), Lioness([torch.nn.Parameter(torch.tensor(start))], lr=0.01, state="int8")
    theirs = LionessOfArrays([x], lr=0.01, state="int8")
    for t in range(4):
        theirs.step([normal(t + 1, 16, 64).numpy()])
    np.testing.assert_array_equal(x, stepped(ours, range(4)).numpy())


def test_sums_and_structural_hyperparameters() -> None:
    """A step of the gradient's direction, or of the gradient."""
    plain = OwnRule("plain", (), (), lambda k, xp, p, g: (g,))
    directed = OwnRule(
        "directed",
        (),
        (),
        lambda k, xp, p, g: (k.scale * g,),
        (Sum("squares", "tensor", lambda k, xp, p, g: g * g),),
        lambda k, f: {"scale": 1 / f.sqrt(f.maximum(k.squares, 1e-30))},
    )
    member = Member(
        name="Directed",
        title="The direction of the gradient.",
        equations=(),
        hyperparameters=(learning_rate(1.0), Flag("directed", True, "whether the length is 1", structural=True)),
        make_rule=lambda hyper: directed if hyper["directed"] else plain,
        numbers=lambda hyper, scalars, f: {},
        names={},
    )

    class Directed(at.OwnOptimizer, member=member):
        """The direction of the gradient."""

    for is_directed, expected in ((True, [-0.6, -0.8]), (False, [-3.0, -4.0])):
        p = torch.nn.Parameter(torch.zeros(2))
        p.grad = torch.tensor([3.0, 4.0])
        Directed([p], directed=is_directed).step()
        torch.testing.assert_close(p.detach(), torch.tensor(expected))


def test_release_steps_it_in_the_backward_pass() -> None:
    model, other = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    other.load_state_dict(model.state_dict())
    one, two = Lioness(model.parameters(), lr=0.01), Lioness(other.parameters(), lr=0.01)
    at.release(one)
    x = normal(0, 4, 8)
    model(x).square().sum().backward()
    other(x).square().sum().backward()
    two.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert p.grad is None
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Lion"}, "the family has an optimizer of the name Lion"),
        ({"names": {}}, "Lioness: names has no name for the state 'first' of the rule 'lioness'"),
        ({"numbers": lambda hyper, scalars, f: {"a": 0.9}}, "Lioness: numbers does not return 'b', which the rule"),
        ({"hyperparameters": ()}, "Lioness: hyperparameters must have lr"),
        (
            {"make_rule": lambda hyper: replace(RULE, function=lambda k, xp, p, g, m: (g,))},
            "must return the update and 1 new",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, function=lambda k, xp, p, g, m: (g.sum(0), m))},
            r"returns arrays of the shapes \[\(3,\), \(2, 3\)\]",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, function=lambda k, xp, p, g, m: (g if (g > 0).all() else p, m))},
            "cannot be recorded for kernels",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, function=lambda k, xp, p, g, m: (g / g.sum(), m))},
            r"it takes \.sum of an array: use .*sqrt.*, and declare sums with sums=",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, function=lambda k, xp, p, g, m: (g, 1.0))},
            "must return the update and 1 new",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, function=in_place)},
            "rule 'lioness' cannot be computed .*read-only",
        ),
        ({"make_rule": lambda hyper: replace(RULE, numbers=(*RULE.numbers, "s"))}, "'s' is the name of another number"),
        (
            {"make_rule": lambda hyper: replace(RULE, sums=(Sum("agreement", "tensor", in_place),))},
            "'agreement' is the name",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, function=lambda k, xp, p, g, m: (k.skale * g, m))},
            "Lioness: the rule 'lioness' cannot be computed for NumPy's arrays: it reads k.skale, and there is no number",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, function=lambda k, xp, p, g, m: g)},
            "it returns a ndarray; it must return",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, function=lambda k, xp, p, g, m: (xp.tanh(g), m))},
            "cannot be recorded for kernels: tanh of arrays is not among their operations: use .*sqrt",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, function=lambda k, xp, p, g, m: (g**2, m))},
            "cannot be recorded for kernels: pow of arrays",
        ),
        (
            {"make_rule": lambda hyper: replace(RULE, sums=(Sum("total", "rows", lambda k, xp, p, g, m: g),))},  # type: ignore[arg-type]
            "its sum 'total' is over 'rows': use 'tensor' or 'all'",
        ),
        (
            {"numbers": lambda hyper, scalars, f: {"a": hyper["betta"]}},
            "Lioness: numbers cannot be computed: there is no 'betta'",
        ),
        (
            {"make_rule": lambda hyper: hyper["kind"] and RULE},
            "Lioness: make_rule cannot choose a rule: there is no 'kind'",
        ),
        (
            {"hyperparameters": (learning_rate(1e-4), Share("beta1", 1.9, "…"), Share("beta2", 0.99, "…"))},
            "Lioness: a default is out of range: .*beta1",
        ),
        ({"names": {"first": "step"}}, "names must give every state a name of its own"),
        (
            {"make_rule": lambda hyper: replace(RULE, states=(replace(MOMENTUM, draw=2),))},
            "must have a draw of its own; 2 is that of weights",
        ),
        (
            {"hyperparameters": (*LIONESS.hyperparameters, Flag("fused", False, "…"))},
            "the hyperparameter 'fused' is another argument already",
        ),
        (
            {"hyperparameters": (*LIONESS.hyperparameters, learning_rate(0.1))},
            "the hyperparameter 'lr' is another argument already",
        ),
        (
            {
                "hyperparameters": (
                    *LIONESS.hyperparameters,
                    Choice("kind", "a", "…", structural=True, choices=("a", "b")),
                )
            },
            "'kind' must be a Flag or a Number to be structural, not a Choice",
        ),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):

        class _Broken(at.OwnOptimizer, member=replace(LIONESS, **changes)):
            pass


def test_a_copy_keeps_its_member_when_another_of_the_name_is_declared() -> None:
    def declared(name: str) -> Any:
        member = replace(LIONESS, name="Twice", hyperparameters=(*LIONESS.hyperparameters, Share(name, 0.5, "…")))

        class Twice(at.OwnOptimizer, member=member):
            """Lion."""

        return Twice

    first = declared("one")([torch.nn.Parameter(torch.ones(2))], lr=cosine(10) * 0.01)
    declared("other")
    copied = copy.deepcopy(first)
    assert torch.equal(stepped(copied, range(2)), stepped(first, range(2)))
    assert copied.schedules[0].keys() == {"lr"}


def test_the_builtin_abs_is_recorded() -> None:
    rule = replace(RULE, name="of sizes", function=lambda k, xp, p, g, m: (abs(g), k.a * m + k.b * g))

    class OfSizes(at.OwnOptimizer, member=replace(LIONESS, name="OfSizes", make_rule=lambda hyper: rule)):
        """Always downwards."""

    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([-1.0, 2.0])
    OfSizes([p], lr=1.0).step()
    assert p.tolist() == [-1.0, -2.0]


def test_what_cannot_be_done_is_refused_by_name() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match="OwnOptimizer has no member: derive a class"):
        at.OwnOptimizer([p])
    with pytest.raises(TypeError, match="Lioness has no option momentum"):
        Lioness([p], momentum=0.9)
    with pytest.raises(ValueError, match="beta1"):
        Lioness([p], beta1=1.5)
    with pytest.raises(TypeError, match=r"member must be an adamas.own.Member, not OwnRule"):

        class _Broken(at.OwnOptimizer, member=RULE):  # type: ignore[arg-type]
            pass

    assert "Lioness" not in MEMBERS
