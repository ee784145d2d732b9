"""The optimizers that a run can use: the family by name, and any other by module and class.

May import adamas.rule and adamas.lab.inputs; PyTorch and the classes themselves only when a class is inspected.

An optimizer is written ``adamw``, ``torch:AdamW`` (which is ``torch.optim:AdamW``) or ``module:Class``, and each may have
arguments of its own: ``sgd(momentum=0.9, nesterov=True)``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from adamas.extras import needs
from adamas.lab.inputs import InputError, choose
from adamas.lab.tasks import Task
from adamas.lab.users_code import USERS_MODULES, remember_step
from adamas.rule.declaration import Member
from adamas.rule.members import MEMBERS
from adamas.rule.shared import defaults

TUNED = frozenset({"betas", "eps", "weight_decay"})  # besides the rate
ADAMAS = "adamas.torch"


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer that a run can use.

    ``module`` and ``class_name`` locate its class. ``lr`` is the default rate, None if the class has none. ``options`` are
    those of TUNED that it has, and ``arguments`` are further arguments of the class. ``member`` is its declaration, None if
    it is an optimizer of another library.
    """

    module: str
    class_name: str
    lr: float | None
    options: frozenset[str]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    member: Member | None = None

    @property
    def takes_matrices(self) -> bool:
        """Whether it has a rule for matrices, and another for all other parameters."""
        return self.member is not None and not self.member.rule(defaults(self.member, "torch")).is_elementwise

    @property
    def keeps_norms(self) -> bool:
        """Whether it keeps the norms of the weights, which is not meant for biases and other vectors."""
        return self.member is not None and "keep_norm" in defaults(self.member, "torch")

    @property
    def of_kinds(self) -> str | None:
        """The argument that a run gives by the kind of each parameter."""
        return "use_muon" if self.takes_matrices else "keep_norm" if self.keeps_norms else None

    @property
    def is_adamas(self) -> bool:
        """Whether it is an optimizer of Adamas, or of a member of one's own, which takes schedules, storage formats and
        clipping."""
        return self.member is not None

    def usual_lr(self, task: Task) -> float | None:
        """Its default rate on a task."""
        is_sgd = self.class_name in ("SGD", "SGDScheduleFree")
        return None if self.lr is None else self.lr * (task.sgd_lr_scale if is_sgd else task.lr_scale)

    def other_form(self, name: str) -> Any:
        """The default of one of TUNED that it has in another form than the option gives, such as a pair for ``eps``; None if
        it has no such one."""
        parameter = inspect.signature(self.load()).parameters.get(name)
        is_other = parameter is not None and name not in self.arguments and not _has_form(name, parameter.default)
        return parameter.default if parameter is not None and is_other else None

    def load(self) -> type[Any]:
        """Import its class."""
        loaded: type[Any] = getattr(importlib.import_module(self.module), self.class_name)
        return loaded


# The names under which a class is offered, if not its lower-case name with its default rate: each with a rate for the usual
# networks, and arguments that select a variant.
_OFFERED_AS: Mapping[str, Mapping[str, tuple[float, Mapping[str, Any]]]] = {
    "SGD": {
        "sgd": (0.1, {}),
        "momentum": (0.03, {"momentum": 0.9}),
        "nesterov": (0.03, {"momentum": 0.9, "nesterov": True}),
    },
    "SGDScheduleFree": {"sgd_schedule_free": (0.3, {})},
    "RMSprop": {"rmsprop": (1e-3, {})},
    "Adam": {"adam": (1e-3, {}), "amsgrad": (1e-3, {"amsgrad": True})},
    "NAdam": {"nadam": (1e-3, {})},
    "LaProp": {"laprop": (1e-3, {})},
    "Adan": {"adan": (5e-3, {})},
    "Muon": {"muon": (1e-3, {"adjust_lr_fn": "match_rms_adamw"})},  # one rate for all parameters
}


def _offered(member: Member) -> dict[str, OptimizerSpec]:
    usual: Mapping[str, tuple[float | None, Mapping[str, Any]]] = {member.lower_name: (_usual_lr(member), {})}
    offered = _OFFERED_AS.get(member.name, usual)
    return {
        name: OptimizerSpec(ADAMAS, member.name, lr, _tuned(member), arguments, member)
        for name, (lr, arguments) in offered.items()
    }


def _usual_lr(member: Member) -> float | None:
    return next((float(one.default) for one in member.hyperparameters if one.name == "lr"), None)


def _tuned(member: Member) -> frozenset[str]:
    """Those of TUNED that a member has."""
    return _in_form({one.name: one.default for one in member.hyperparameters}) | {"weight_decay"}


def _in_form(usual: Mapping[str, Any]) -> frozenset[str]:
    """Those of TUNED among hyperparameters with these defaults whose value is what the option can give."""
    return frozenset(name for name in TUNED & usual.keys() if _has_form(name, usual[name]))


def _has_form(name: str, default: Any) -> bool:
    """Whether a default is a pair for ``betas``, a single number for the others, or leaves that open."""
    if default is None or default is inspect.Parameter.empty:
        return True
    length = len(default) if isinstance(default, tuple | list) else None
    return length == (2 if name == "betas" else None)


OPTIMIZERS = {name: spec for member in MEMBERS.values() for name, spec in _offered(member).items()}


def choose_optimizer(text: str) -> OptimizerSpec:
    """Parse the text of an optimizer.

    Raises:
        InputError: there is no such optimizer, or it does not take the arguments; names ``optimizer``.
    """
    written = re.fullmatch(r"\s*([\w.:]+)\s*(\(.*\))?\s*", text, re.DOTALL)
    if written is None:
        raise InputError("optimizer", f"{text!r} cannot be read: write such as adamw, torch:AdamW or sgd(momentum=0.9)")
    name, arguments = written.group(1), _arguments(text, written.group(2))
    spec = _foreign(name) if ":" in name else OPTIMIZERS[choose("optimizer", name, OPTIMIZERS)]
    if arguments:
        taken = _parameters(spec)
        for argument in arguments:
            if argument == "lr" or (argument == "watch" and spec.is_adamas):
                problem = f"{text!r} has {argument} as an argument: give it as the option {argument}"
                raise InputError("optimizer", problem, other=argument)
            if argument == spec.of_kinds:
                raise InputError(
                    "optimizer",
                    f"{text!r} has {argument}, which a run gives by the kind of each parameter: leave it out",
                )
            choose("optimizer", argument, taken) if taken is not None else None
    # A hyperparameter that is given as an argument is no longer an option, or it could be given twice.
    return replace(spec, options=spec.options - set(arguments), arguments={**dict(spec.arguments), **arguments})


def split_optimizers(text: str) -> list[str]:
    """Split a list at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _arguments(text: str, bracket: str | None) -> dict[str, Any]:
    """The arguments in the bracket, which must be keywords with literal values."""
    if bracket is None:
        return {}
    problem = "its arguments are written name=value, such as momentum=0.9"
    try:
        call = ast.parse(f"f{bracket}", mode="eval").body
        if isinstance(call, ast.Call) and not call.args and all(keyword.arg for keyword in call.keywords):
            for keyword in call.keywords:
                if isinstance(keyword.value, ast.Name):
                    written = f"{keyword.arg}={keyword.value.id}"
                    problem = (
                        f"{written} is not a value of Python: write True, False, None, a number, or text in quotes"
                    )
            return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (
        SyntaxError,
        ValueError,
        TypeError,
        MemoryError,
        RecursionError,
    ):  # the last two if it is nested too deeply
        pass
    raise InputError("optimizer", f"{text!r} cannot be read: {problem}")


def _parameters(spec: OptimizerSpec) -> list[str] | None:
    """The names of the arguments of the class; None if it takes any."""
    parameters = list(inspect.signature(spec.load()).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def _foreign(name: str) -> OptimizerSpec:
    given, _, class_name = name.partition(":")
    module = "torch.optim" if given == "torch" else given
    try:
        with needs("train"):
            imported = importlib.import_module(module)
        if not hasattr(imported, class_name):
            there = [f"{given}:{key}" for key, value in vars(imported).items() if _is_optimizer(value)]
            if there:
                choose("optimizer", name, there)
        loaded = getattr(imported, class_name)
        parameters = inspect.signature(loaded).parameters
    except InputError:
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError("optimizer", f"{name!r} cannot be imported: {_first_line(error)}") from error
    if not _is_optimizer(loaded):
        raise InputError("optimizer", f"{name!r} is not an optimizer: give a class derived from torch.optim.Optimizer")
    if loaded.__module__.partition(".")[0] not in ("torch", "adamas"):
        USERS_MODULES.add(loaded.__module__)
    closure = inspect.signature(loaded.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            "optimizer", f"{name!r} evaluates the loss several times per step, which a run does not support"
        )
    member = _member(loaded)
    if member is not None:
        return OptimizerSpec(module, class_name, _usual_lr(member), _tuned(member), member=member)
    usual = {key: parameter.default for key, parameter in parameters.items()}
    if "lr" not in usual and all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise InputError("optimizer", f"{name!r} takes no learning rate: give its __init__ an argument lr")
    remember_step(loaded.step, name)
    lr = usual.get("lr")
    return OptimizerSpec(module, class_name, float(lr) if isinstance(lr, int | float) else None, _in_form(usual))


def _member(loaded: type[Any]) -> Member | None:
    """The declaration behind a class: of the family, or of a member of one's own whose class takes the same arguments."""
    from adamas.torch import OwnOptimizer

    if loaded.__module__.partition(".")[0] != "adamas" and loaded.__init__ is not OwnOptimizer.__init__:
        return None
    found: Member | None = getattr(loaded, "_member", None)
    return found


def _is_optimizer(value: Any) -> bool:
    from torch.optim import Optimizer

    return isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def having(option: str) -> Iterable[str]:
    """The names of the family's members that have an option."""
    return (name for name, spec in OPTIMIZERS.items() if option in spec.options)


def decaying(kind: str) -> Iterable[str]:
    """The names of the family's members whose weight decay is of this kind unless ``decay`` says otherwise."""
    for name, spec in OPTIMIZERS.items():
        if defaults(MEMBERS[spec.class_name], "torch")["decay"] == kind:
            yield name
