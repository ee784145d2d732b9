"""What a run can be told beyond its rate: other optimizers, precision, formats, clipping, configuration files, logs."""

from __future__ import annotations

import json
import math
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import adamas.torch
from adamas.lab.commands.main import main
from adamas.lab.inputs import InputError
from adamas.lab.tasks import Task, digits, mnist
from adamas.lab.train import Evaluation, Listener, Plan, Sample, Summary, display, fit, folder, measures
from adamas.lab.train.config import gather
from adamas.lab.train.interruption import Interruption
from adamas.lab.train.optimizers import OPTIMIZERS, choose_optimizer, split_optimizers
from adamas.lab.train.options import Options
from adamas.lab.train.repeatable import seed_and_threads
from adamas.lab.train.training import MEASURED_ONLY, SAMPLES, Training
from adamas.rule.members import MEMBERS
from adamas.schedules import Plateau

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("unpainted")]
QUIET = Listener()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def model_of(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / folder.MODEL)


# --- optimizers -----------------------------------------------------------------------------------------------------


def test_every_member_is_offered() -> None:
    assert {spec.class_name for spec in OPTIMIZERS.values()} == set(MEMBERS)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("adam", ["adam"]),
        ("adam,sgd", ["adam", "sgd"]),
        (
            " adam , sgd(momentum=0.9, nesterov=True),torch:AdamW ",
            ["adam", "sgd(momentum=0.9, nesterov=True)", "torch:AdamW"],
        ),
        ("adam(betas=(0.8, 0.9)),,", ["adam(betas=(0.8, 0.9))"]),
        ("", []),
    ],
)
def test_a_list_is_split_at_its_own_commas(text: str, parts: list[str]) -> None:
    assert split_optimizers(text) == parts


def test_an_optimizer_is_what_its_text_says() -> None:
    member = choose_optimizer("sgd(momentum=0.9, nesterov=True)")
    assert (member.load(), dict(member.arguments)) == (adamas.torch.SGD, {"momentum": 0.9, "nesterov": True})
    foreign = choose_optimizer("torch:AdamW(betas=(0.8, 0.9))")
    assert foreign.load() is torch.optim.AdamW
    assert (foreign.lr, foreign.options, foreign.is_adamas) == (1e-3, {"eps", "weight_decay"}, False)
    assert choose_optimizer("adamas.torch:Adam").is_adamas
    assert choose_optimizer("torch.optim:SGD").options == {"weight_decay"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("adamw", "torch:AdamW"),
        ("momentum", "torch:SGD(momentum=0.9)"),
        ("sgd(momentum=0.9, nesterov=True)", "torch:SGD(momentum=0.9, nesterov=True)"),
    ],
)
def test_an_optimizer_of_another_library_trains_the_same_network_to_the_same_weights(
    tmp_path: Path, ours: str, theirs: str
) -> None:
    """With the same schedule, the same clip and the same plateau, which the run gives to it."""
    options: dict[str, Any] = {"lr": 0.01, "schedule": "one_cycle", "clip": 0.5, "epochs": 3, "weight_decay": 0.1}
    options["plateau"] = "Plateau(patience=0, threshold=0.5)"
    one = fit(optimizer=ours, out=tmp_path / "ours", listener=QUIET, **options)
    other = fit(optimizer=theirs, out=tmp_path / "theirs", listener=QUIET, **options)
    assert len(one.cuts) == len(other.cuts) > 0
    for name, weight in model_of(tmp_path / "ours").items():
        torch.testing.assert_close(weight, model_of(tmp_path / "theirs")[name], rtol=1e-3, atol=1e-5)


def test_an_optimizer_without_a_rate_of_its_own_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Sign(torch.optim.Optimizer):\n"
        "    def __init__(self, params, lr):\n        super().__init__(params, {'lr': lr})\n"
        "    @torch.no_grad()\n    def step(self, closure=None):\n        for group in self.param_groups:\n"
        "            for p in group['params']:\n                p -= group['lr'] * p.grad.sign()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="lr is missing: mine:Sign has no default"):
        Options(optimizer="mine:Sign")
    assert fit(optimizer="mine:Sign", lr=1e-3, epochs=3, out=tmp_path / "run", listener=QUIET).value > 0.9


@pytest.mark.parametrize("lr", [None, 0.1])
def test_an_optimizer_that_takes_no_rate_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lr: float | None
) -> None:
    (tmp_path / "rateless.py").write_text(
        "import torch\nclass NoLr(torch.optim.SGD):\n"
        "    def __init__(self, params, momentum=0.9):\n        super().__init__(params, 0.1, momentum)\n"
        "class Any(NoLr):\n    def __init__(self, params, **kwargs):\n        super().__init__(params)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    says = "^optimizer 'rateless:NoLr' takes no learning rate: give its __init__ an argument lr$"
    with pytest.raises(InputError, match=says):
        Options(optimizer="rateless:NoLr", lr=lr)
    assert Options(optimizer="rateless:Any", lr=0.1).spec.lr is None


def test_an_optimizer_has_the_options_that_can_give_its_hyperparameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, arguments in {
        "Lists": "betas=(0.9, 0.9, 0.9), eps=(1e-30, 1e-3), weight_decay=[0.1]",
        "Single": "betas=0.9",
        "Open": "betas, eps=None, weight_decay=0",
    }.items():
        (tmp_path / f"with_{name}.py").write_text(
            "import torch\nclass Mine(torch.optim.SGD):\n"
            f"    def __init__(self, params, lr, {arguments}):\n        super().__init__(params, lr)\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    has = {name: choose_optimizer(f"with_{name}:Mine").options for name in ("Lists", "Single", "Open")}
    assert has == {"Lists": set(), "Single": set(), "Open": {"betas", "eps", "weight_decay"}}


# --- precision, formats, networks -----------------------------------------------------------------------------------


def test_a_bfloat16_network_is_kept_in_float32_unless_told_otherwise(tmp_path: Path) -> None:
    for name, options in {"split": {}, "nearest": {"weights": "nearest"}}.items():
        fit(precision="bfloat16", lr=1e-5, epochs=2, out=tmp_path / name, listener=QUIET, **options)
        assert {weight.dtype for weight in model_of(tmp_path / name).values()} == {torch.bfloat16}
        assert json.loads((tmp_path / name / folder.CONFIG).read_text())["weights"] == name
    with seed_and_threads(0, 1):
        begun = digits.model().state_dict()["0.weight"].bfloat16()
    moved = {
        name: (model_of(tmp_path / name)["0.weight"] != begun).float().mean().item() for name in ("split", "nearest")
    }
    assert moved["split"] > 2 * moved["nearest"]  # steps that are lost to rounding


def test_state_and_clip_reach_the_optimizer() -> None:
    task = digits.load(None)
    made = Training(task, Options(state="int8", clip=0.25, seed=3), Interruption())
    for _, _ in zip(range(2), made.train(QUIET), strict=False):
        pass
    assert made.optimizer.state[made.parameters[0]]["exp_avg"].dtype == torch.int8
    group = made.optimizer.param_groups[0]
    assert (group["max_grad_norm"], group["seed"]) == (0.25, 3)


def test_another_network_of_the_task(tmp_path: Path, data_dir: Path) -> None:
    task = mnist.load(data_dir / "mnist")
    training = Training(task, Options("mnist", data_dir=data_dir / "mnist", model="small"), Interruption())
    assert training.parameter_count == 784 * 128 + 128 + 128 * 10 + 10
    with pytest.raises(InputError, match="model 'smal' is unknown: did you mean small"):
        Training(task, Options("mnist", data_dir=data_dir / "mnist", model="smal"), Interruption())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of PyTorch's own
def test_a_compiled_network_learns_the_same(tmp_path: Path) -> None:
    plain = fit(epochs=2, out=tmp_path / "plain", listener=QUIET)
    compiled = fit(epochs=2, compile=True, out=tmp_path / "compiled", listener=QUIET)
    assert compiled.metrics["test_loss"] == pytest.approx(plain.metrics["test_loss"], rel=1e-3)
    assert model_of(tmp_path / "compiled").keys() == model_of(tmp_path / "plain").keys()


# --- what is measured -----------------------------------------------------------------------------------------------


def measuring(optimizer: Any, parameters: list[nn.Parameter]) -> Any:
    return measures.OfWatch(optimizer) if hasattr(optimizer, "watch") else measures.OfWeights(parameters)


@pytest.mark.parametrize("library", [torch.optim, adamas.torch])
def test_the_norm_of_the_gradient_and_the_update_ratio_are_those_of_the_weights(library: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    parameters = [*layer.parameters()]
    layer.weight.grad, layer.bias.grad = torch.zeros((2, 3)), torch.full((2,), 5.0)
    arguments = {} if library is torch.optim else {"watch": MEASURED_ONLY}
    optimizer = library.SGD(parameters, lr=0.1, **arguments)
    for _ in range(2):
        size = math.sqrt(sum(parameter.square().sum().item() for parameter in parameters))
        measured = measuring(optimizer, parameters)
        measured.begin()
        optimizer.step()
        assert measured.end() == pytest.approx((math.sqrt(2 * 25), math.sqrt(2 * 0.25) / size))


@pytest.mark.parametrize("library", [torch.optim, adamas.torch])
def test_the_norm_of_a_complex_gradient_counts_both_parts(library: Any) -> None:
    weight = nn.Parameter(torch.tensor([3 + 4j]))
    weight.grad = torch.tensor([6 + 8j])
    arguments = {} if library is torch.optim else {"watch": MEASURED_ONLY}
    optimizer = library.SGD([weight], lr=0.1, **arguments)
    measured = measuring(optimizer, [weight])
    measured.begin()
    optimizer.step()
    assert measured.end() == pytest.approx((10, 0.1 * 10 / 5))


def test_the_update_ratio_of_split_weights_is_that_of_all_their_bits() -> None:
    ratios = []
    for precision in ("float32", "bfloat16"):
        with seed_and_threads(0, 1):
            made = Training(digits.load(None), Options(precision=precision, lr=1e-4, epochs=5), Interruption())
            for _, _ in zip(range(15), made.train(QUIET), strict=False):
                pass
        ratios.append([sample.update_ratio for sample in made.samples])
    assert ratios[1] == pytest.approx(ratios[0], rel=0.1)


def test_steps_are_sampled_evenly_with_the_mean_loss_between(tmp_path: Path) -> None:
    losses: list[float] = []

    class Spy(Training):
        def step(self, *arguments: Any) -> float:
            losses.append(super().step(*arguments))
            return losses[-1]

    with seed_and_threads(0, 1):
        made = Spy(digits.load(None), Options(epochs=20, optimizer="sgd", lr=0.01), Interruption())
        for _ in made.train(QUIET):
            pass
    steps = [sample.step for sample in made.samples]
    assert steps == [1, *range(4, 901, 4)]
    assert SAMPLES <= len(steps) <= 2 * SAMPLES
    assert made.samples[2].loss == pytest.approx(sum(losses[4:8]) / 4)
    for sample in made.samples[1:]:
        assert sample.grad_norm > 0
        assert 0 < sample.update_ratio < 1


def test_looking_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(epochs=2, out=tmp_path / "seen", listener=QUIET)
    monkeypatch.setattr("adamas.lab.train.training.SAMPLES", 1)
    fit(epochs=2, out=tmp_path / "unseen", eval_every=90, listener=QUIET)
    assert (tmp_path / "seen" / folder.MODEL).read_bytes() == (tmp_path / "unseen" / folder.MODEL).read_bytes()
    assert len(lines(tmp_path / "unseen" / folder.STEPS)) < len(lines(tmp_path / "seen" / folder.STEPS))


def test_the_time_is_split_into_its_parts(tmp_path: Path) -> None:
    summary = fit(optimizer="torch:Adam", epochs=5, precision="bfloat16", out=tmp_path / "run", listener=QUIET)
    parts = summary.seconds
    assert min(parts.data, parts.forward, parts.backward, parts.optimizer, parts.evaluation) > 0
    assert parts.data + parts.forward + parts.backward + parts.optimizer == pytest.approx(summary.train_seconds)


def test_a_member_of_ones_own_has_the_options_of_the_family(tmp_path: Path) -> None:
    given: dict[str, Any] = {"weight_decay": 0.1, "state": "int8", "clip": "auto", "watch": True, "schedule": "cosine"}
    summary = fit(optimizer="test_own:Lioness", epochs=2, out=tmp_path / "run", listener=QUIET, **given)
    assert (summary.lr, summary.explanation is None) == (1e-4, False)
    config = json.loads((tmp_path / "run" / folder.CONFIG).read_text())
    assert (config["state"], config["weight_decay"]) == ("int8", 0.1)
    again = fit(optimizer="lion(decay='l2')", lr=1e-4, epochs=2, out=tmp_path / "lion", listener=QUIET, **given)
    assert again.memory.state == summary.memory.state
    assert model_of(tmp_path / "run").keys() == model_of(tmp_path / "lion").keys()
    for name, weight in model_of(tmp_path / "run").items():
        torch.testing.assert_close(weight, model_of(tmp_path / "lion")[name])


def test_a_class_of_a_member_of_ones_own_with_other_arguments_is_as_another_librarys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "narrow_member.py").write_text(
        "import test_own\nclass Narrow(test_own.Lioness):\n"
        "    def __init__(self, params, lr=1e-3):\n        super().__init__(params, lr=lr)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert not choose_optimizer("narrow_member:Narrow").is_adamas
    assert fit(optimizer="narrow_member:Narrow", epochs=1, out=tmp_path / "run", listener=QUIET).value > 0.5


def test_evaluations_come_as_often_as_asked_and_at_the_end(tmp_path: Path) -> None:
    summary = fit(epochs=2, eval_every=40, out=tmp_path / "run", listener=QUIET)
    rows = lines(tmp_path / "run" / folder.METRICS)
    assert [row["step"] for row in rows] == [40, 80, 90]
    assert [row["epoch"] for row in rows] == pytest.approx([40 / 45, 80 / 45, 2])
    assert rows[-1]["test_accuracy"] == summary.value


def test_the_steps_and_seconds_to_the_target_are_those_of_the_first_evaluation_that_reached_it(tmp_path: Path) -> None:
    summary = fit(epochs=25, out=tmp_path / "run", listener=QUIET)
    rows = lines(tmp_path / "run" / folder.METRICS)
    first = next(row for row in rows if row["test_accuracy"] >= summary.target)
    assert (summary.steps_to_target, summary.seconds_to_target) == (first["step"], first["train_seconds"])
    assert fit(epochs=1, out=tmp_path / "short", listener=QUIET).steps_to_target is None


# --- tasks of one's own ----------------------------------------------------------------------------------------------

OWN = """
import torch
from torch import nn
from adamas.lab.tasks import Task

def load(data_dir):
    x = torch.arange(12.).view(6, 2) / 12
    return Task(description="", model=lambda: nn.Linear(2, 1), loss=lambda model, x: model(x).square().mean(),
                evaluate=lambda model, x: {"size": model(x).square().mean()}, metric="size", mode="min", target=0.1,
                epochs=2, train=(x,), test=(x,), threads=1)
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('mode="min"', 'mode="minimal"', "task has the mode 'minimal': it must be 'max' or 'min'"),
        ("target=0.1", "target=None", "task has the target None: it must be a number"),
        ("epochs=2", "epochs=0", "task has epochs = 0: it must be a positive whole number"),
        (
            "train=(x,)",
            "train=(x, x[:3])",
            "task has parts of train with [6, 3] examples: they must all have the same number",
        ),
        ("train=(x,)", "train=(x[:0],)", "task has parts of train with [0] examples"),
        ("train=(x,)", "train=x", "task has a train that must be a tuple of tensors, not Tensor"),
        ("train=(x,)", "train=(x.numpy(),)", "task has a train that must be a tuple of tensors, not tuple"),
        ("threads=1", "threads=1, lr_scale=0", "task has lr_scale = 0: it must be a number above 0"),
        ("threads=1", "sgd_lr_scale=True", "task has sgd_lr_scale = True: it must be a number above 0"),
        ('metric="size"', 'metric="sise"', "task has the metric 'sise', but evaluate returns size"),
        (
            '"size"',
            '"step"',
            "task has an evaluate that returns 'step', a name that every run uses: choose another name",
        ),
        (
            '{"size": model(x).square().mean()}',
            "None",
            "task has an evaluate that must return numbers by name, not None",
        ),
        (
            "model(x).square().mean(),",
            "model(x),",
            "task has a loss that must return a scalar with a gradient, not a tensor of shape (6, 1)",
        ),
        ("model(x).square().mean(),", "0.5,", "task has a loss that must return a scalar with a gradient, not 0.5"),
        ("import torch\n", "import torch(\n", "task '{path}' is not Python: "),
        ("import torch\n", "x = " + "(" * 5000, "task '{path}' is not Python: "),
        ("import torch\n", "x = " + "-" * 100_000 + "1\n", "task '{path}' is not Python: "),
        ("import torch\n", "\0", "task '{path}' is not Python: "),
        ("import torch\n", "\udcff", "task '{path}' is not Python: "),
        ("return Task", "return dict", "task '{path}': its load(data_dir) must return an adamas.lab.tasks.Task, not "),
        (
            "def load(",
            "def lode(",
            "task '{path}' has no function load(data_dir), which returns an adamas.lab.tasks.Task",
        ),
    ],
)
def test_a_mistake_in_a_task_is_told_before_anything_is_written(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "own.py"
    assert old in OWN
    path.write_text(OWN.replace(old, new), errors="surrogateescape")
    with pytest.raises(InputError) as raised:
        fit(path, out=tmp_path / "run", listener=QUIET)
    assert str(raised.value).startswith(says.format(path=path))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("adma", "adam"),
        ("admaw", "adamw"),
        ("ndam", "nadam"),
        ("momentun", "momentum"),
        ("SGD", "sgd"),
    ],
)
def test_the_name_that_is_suggested_is_the_one_with_the_fewest_typing_errors(given: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"'{given}' is unknown: did you mean {meant}\?"):
        choose_optimizer(given)


@pytest.mark.parametrize(
    ("where", "function"), [("model=lambda: ", "<lambda>"), ("def load(data_dir):\n    x = ", "load")]
)
def test_what_a_task_raises_is_told_with_the_frames_of_the_task_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str, function: str
) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN.replace(where, f"{where}fail() or ") + "\ndef fail():\n    raise OSError('no luck\\nat all')\n")
    monkeypatch.setattr(sys, "argv", ["adamas", "train", str(path), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert lines[0] == f"adamas: {path}, line {len(path.read_text().splitlines())}, raised OSError: no luck"
    assert [line.split(", in ")[1] for line in lines if line.startswith("  File ")] == [function, "fail"]
    assert lines[-2:] == ["OSError: no luck", "at all"]
    assert not (tmp_path / "run").exists()


def test_what_an_optimizer_of_the_users_raises_is_told_with_its_frames_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_failing_optimizer.py").write_text(
        "import torch\n\nclass Mine(torch.optim.SGD):\n    def step(self, closure=None):\n        raise ValueError(3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = ["train", "quadratic", "--optimizer", "own_failing_optimizer:Mine", "--out", "run"]
    monkeypatch.setattr(sys, "argv", ["adamas", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1
    assert lines[0] == f"adamas: {tmp_path}/own_failing_optimizer.py, line 5, raised ValueError: 3"
    assert lines[-1] == "ValueError: 3"
    assert "adamas/lab/train" not in "".join(lines)


@pytest.mark.parametrize("command", [["train"], ["train", "--lr", "auto"], ["find-lr"]], ids=" ".join)
def test_what_the_step_of_another_library_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, *others = command
    monkeypatch.setattr(sys, "argv", ["adamas", first, "digits", *others, "--optimizer", "torch:SparseAdam"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "adamas: --optimizer torch:SparseAdam cannot make a step: SparseAdam does not support dense gradients, please "
        "consider Adam instead"
    )


def test_what_the_own_steps_raise_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("within the step")

    (tmp_path / "derived.py").write_text(
        "import adamas.torch\nclass Mine(adamas.torch.Adam):\n"
        "    def __init__(self, params, lr=1e-3):\n        super().__init__(params, lr)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adamas.torch.Adam, "_step_all", failing)
    for optimizer in ("adam", "derived:Mine"):
        monkeypatch.setattr(
            sys, "argv", ["adamas", "train", "digits", "--optimizer", optimizer, "--out", optimizer[:4]]
        )
        with pytest.raises(RuntimeError, match="within the step"):
            main()


def test_a_rehearsal_leaves_the_run_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN.replace("nn.Linear(2, 1)", "nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 1))"))
    fit(path, out=tmp_path / "rehearsed", listener=QUIET)
    monkeypatch.setattr(Training, "rehearse", lambda self: None)
    fit(path, out=tmp_path / "not", listener=QUIET)
    assert (tmp_path / "rehearsed" / folder.MODEL).read_bytes() == (tmp_path / "not" / folder.MODEL).read_bytes()


def test_a_tasks_file_finds_its_neighbours_when_it_is_loaded_and_later(tmp_path: Path) -> None:
    (tmp_path / "beside_own_task.py").write_text("import torch\nVALUES = torch.ones(6, 2)\n")
    (tmp_path / "own.py").write_text(
        OWN.replace("    x = torch.arange(12.).view(6, 2) / 12\n", "    from beside_own_task import VALUES as x\n")
    )
    assert fit(tmp_path / "own.py", out=tmp_path / "run", listener=QUIET).epochs == 2


def test_tied_weights_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    tied = "nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))"
    path.write_text(
        OWN.replace("lambda: nn.Linear(2, 1)", "tied").replace(
            "def load",
            f"def tied():\n    made = {tied}\n    made[1].weight = made[0].weight\n    return made\n\ndef load",
        )
    )
    fit(path, out=tmp_path / "run", listener=QUIET)
    weights = model_of(tmp_path / "run")
    assert torch.equal(weights["0.weight"], weights["1.weight"])


def test_what_a_checkpoint_cannot_hold_is_told_after_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.py").write_text(
        "import torch\nclass Odd(torch.optim.SGD):\n"
        "    def step(self, closure=None):\n        super().step()\n        self.state['count'] = lambda: 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="optimizer has a state that a checkpoint cannot hold"):
        fit(optimizer="odd:Odd", lr=0.1, epochs=1, out=tmp_path / "run", listener=QUIET)


# --- configuration files --------------------------------------------------------------------------------------------


def test_a_file_gives_options_and_the_caller_counts_before_it(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'task = "digits"\noptimizer = "adamw"\nlr = 1\nbetas = [0.8, 0.9]\nbatch-size = 64\ndata_dir = "x"\n'
    )
    assert gather({"lr": 0.5}, config=path) == Options(
        "digits", optimizer="adamw", lr=0.5, betas=(0.8, 0.9), batch_size=64, data_dir=Path("x")
    )


def test_what_is_given_to_fit_counts_before_the_file_also_where_it_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('task = "quadratic"\noptimizer = "sgd"\nseed = 5\nschedule = "cosine"\ncompile = true\n')
    given: dict[str, Any] = {"optimizer": "adam", "seed": 0, "schedule": "constant", "compile": False, "epochs": 1}
    summary = fit("digits", config=path, out=tmp_path / "run", listener=QUIET, **given)
    assert (summary.task, summary.optimizer) == ("digits", "adam")
    config = json.loads((tmp_path / "run" / folder.CONFIG).read_text())
    assert {name: config[name] for name in given} == given


def test_numbers_of_numpy_are_numbers() -> None:
    options = Options(epochs=np.int64(3), lr=np.float32(0.5), betas=np.array([0.5, 0.75]))
    assert (options.epochs, options.lr, options.betas) == (3, 0.5, (0.5, 0.75))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbfepochs = 3\n")
    assert gather({}, config=tmp_path / "run.toml") == Options(epochs=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimizer": "adam(state='int8')", "state": "float32"}, "state is given twice, also as state in adam("),
        ({"optimizer": "adam(max_grad_norm=1)", "clip": 5}, "clip is given twice, also as max_grad_norm in adam("),
        (
            {"optimizer": "adam(weights='split')"},
            "weights determines how bfloat16 weights are stored: give precision bfloat16",
        ),
    ],
)
def test_what_is_said_in_two_places_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as raised:
        Options(**options)
    assert str(raised.value).startswith(says)


def test_arguments_of_an_optimizer_reach_it() -> None:
    arguments = Options(optimizer="adam(seed=7, max_grad_norm=3)", seed=1).optimizer_arguments()
    assert (arguments["seed"], arguments["max_grad_norm"]) == (7, 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr = ", "config '{path}' is not TOML: "),
        ("epoch = 3", "config '{path}' has an unknown option: 'epoch' is unknown: did you mean epochs?"),
        ("[train]\nlr = 1", "config '{path}' has an unknown option: 'train' is unknown"),
        ("epochs = 'three'", "epochs must be a whole number, got 'three'"),
        ("betas = 0.9", "betas must be two numbers, got 0.9"),
        ("betas = ['a', 'b']", "betas must be two numbers, got "),
        ("optimizer = 3", "optimizer must be text, got 3"),
        ("compile = 1", "compile must be true or false, got 1"),
        ("lr = 'fast'", "lr must be a number or 'auto', got 'fast'"),
        ("batch-size = 3\nbatch_size = 4", "config '{path}' has batch-size twice, once with _: leave one of them out"),
        ("out = ''", "out must be a path, got ''"),
        (b"\xff\xfe", "config '{path}' is not TOML: "),
        ("lr = " + "[" * 5000, "config '{path}' cannot be read: it is nested too deeply"),
        ("lr = " + "9" * 6000, "config '{path}' is not TOML: "),
        ("lr = " + "9" * 400, "lr must be a number or 'auto', got 99999"),
        ("epochs = " + "9" * 400, "epochs must be a whole number from 1 to 1,000,000,000, got 9"),
        (f"optimizer = 'sgd(momentum={'-' * 5000}1)'", "optimizer 'sgd(momentum=-"),
        (None, "config '{path}' cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | bytes | None, says: str) -> None:
    path = tmp_path / "run.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as raised:
        gather({}, config=path)
    assert str(raised.value).startswith(says.format(path=path))
    assert "\n" not in str(raised.value)


def test_the_command_in_the_configuration_asks_for_the_same_run() -> None:
    options = Options("digits", optimizer="adam(amsgrad=True)", betas=(0.8, 0.9), compile=True, lr="auto", seed=3)
    assert options.command() == [
        *("adamas", "train", "digits", "--optimizer", "adam(amsgrad=True)", "--lr", "auto"),
        *("--betas", "0.8,0.9", "--seed", "3", "--compile"),
    ]
    assert Options(**options.given()) == options
    assert Options(**json.loads(json.dumps(options.given()))) == options


# --- what is shown and logged ---------------------------------------------------------------------------------------


def test_tensorboard_reads_the_event_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(epochs=2, log="tensorboard", plateau="default", out=tmp_path / "run", listener=QUIET)
    fit(resume=tmp_path / "run", epochs=3, listener=QUIET)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    rows = lines(tmp_path / "run" / folder.METRICS)
    told = [(event.step, event.value) for event in events.Scalars("test/accuracy")]
    assert told == [(row["step"], pytest.approx(row["test_accuracy"])) for row in rows]
    names = {"train/loss", "train/learning_rate", "train/grad_norm", "train/update_ratio", "test/loss", "test/accuracy"}
    assert set(events.Tags()["scalars"]) == names | {"validation/loss", "validation/accuracy"}


def test_listeners_hear_everything_in_order(tmp_path: Path) -> None:
    heard: list[str] = []

    class Notes(Listener):
        def on_start(self, plan: Plan) -> None:
            heard.append(f"start {plan.steps}")

        def on_sample(self, sample: Sample) -> None:
            heard.append("sample")

        def on_evaluation(self, evaluation: Evaluation) -> None:
            heard.append(f"evaluation {evaluation.step}")

        def on_end(self, summary: Summary) -> None:
            heard.append(f"end {summary.steps}")

    fit(epochs=2, batch_size=1000, out=tmp_path / "run", listener=Notes())
    parts = ["start 4", "sample", "sample", "evaluation 2", "sample", "sample", "evaluation 4", "end 4"]
    assert heard == parts


def test_fit_shows_how_it_goes_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(epochs=2, out=tmp_path / "run")
    shown = capsys.readouterr().out.splitlines()
    assert shown[2] == "epoch  learning rate  train loss  test loss  test accuracy"
    assert [line.split()[0] for line in shown[3:]] == ["1", "2"]


def test_in_a_notebook_there_is_a_bar_where_it_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "Console", partial(display.Console, force_jupyter=True))
    for installed in (None, object()):
        monkeypatch.setattr(display, "find_spec", lambda name, installed=installed: installed)
        assert (display.console_for_a_bar() is not None) == (installed is not None)


def test_a_plateau_watches_what_goes_its_way() -> None:
    task = digits.load(None).with_validation()
    made = Training(task, Options(plateau="default"), Interruption())
    assert made.followed(Plateau()) == "validation_loss"
    assert made.followed(Plateau(mode="max")) == "validation_accuracy"
    lonely = Task("", task.model, task.loss, lambda model: {"returns": 1.0}, "returns", "max", 1.0, 1, train=task.train)
    made = Training(lonely, Options(plateau="default"), Interruption())
    assert (made.plateaus[0].mode, made.followed(made.plateaus[0])) == ("max", "returns")
    with pytest.raises(InputError, match="plateau has the mode min, but returns has the mode max: give it that mode"):
        Training(lonely, Options(plateau="Plateau()"), Interruption())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of a cluster are those of Unix")
def test_a_clusters_signal_ends_a_run_like_ctrl_c(tmp_path: Path) -> None:
    import signal

    class Terminate(Listener):
        def on_evaluation(self, evaluation: Evaluation) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    summary = fit(epochs=5, out=tmp_path / "run", listener=Terminate())
    assert (summary.interrupted, summary.epochs) == (True, 1)
    assert (tmp_path / "run" / folder.CHECKPOINT).exists()
    assert signal.getsignal(signal.SIGTERM) is before
