"""What each process of torchrun does in ``test_train_ranks.py``: runs that all of them share.

Writes RANK.json: for each line of REFUSED, the exit status of ``adamas`` and what it printed. The last run ends all processes.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from adamas.lab import launch
from adamas.lab.commands.main import main
from adamas.lab.train import Listener, curves, fit, ranks, running

# 46 batches of 31 in an epoch, and one of 11. Adam would turn the rounding of gradients of nearly 0 into whole steps, which
# depend on the machine.
DIGITS = {"batch_size": 31, "epochs": 2, "optimizer": "momentum", "lr": 0.01}
SMALL = {"batch_size": 15, "epochs": 3, "eval_every": 4, "optimizer": "nadam", "clip": 1.0}
FOREIGN = {"optimizer": "torch:AdamW"}
LOW_BITS = {"optimizer": "adamw(state='int8')", "precision": "bfloat16"}
PARALLEL = ("ddp", "fsdp")
NO_PICTURES = SimpleNamespace(draw=lambda charts, title, columns: b"")  # painting takes longer than most of these runs

# Three batches in an epoch: of 15, 15 and 1 examples, of which one rank has none. Each draws numbers of its own.
# Rank 1 may send itself a signal in the fifth step.
TASK = """
import os
import signal

import torch
from torch import nn
from torch.nn import functional as F

from adamas.lab.tasks import Task

steps = 0


def loss(model, inputs, targets):
    global steps
    steps += 1
    if steps == 5 and "RANK_1_GETS" in os.environ and os.environ["RANK"] == "1":
        os.kill(os.getpid(), getattr(signal, os.environ["RANK_1_GETS"]))
    penalty = sum(weight.square().sum() for weight in model.first.parameters())
    return F.mse_loss(model(inputs), targets) + 0.1 * model.first(inputs).square().mean() + 0.01 * penalty


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.dropout, self.last = nn.Linear(4, 8), nn.Dropout(DROPOUT), nn.Linear(8, 1)

    def forward(self, x):
        return self.last(self.dropout(self.first(x).tanh()))


def evaluate(model, inputs, targets):
    error = F.mse_loss(model(inputs), targets).item()
    return {"r2": 1 - error / targets.var(correction=0).item()}


def load(data_dir):
    inputs = torch.randn(41, 4, generator=torch.Generator().manual_seed(0))
    targets = inputs[:, :1] * inputs[:, 1:2]
    return Task(
        description="a product", model=Model, loss=loss, evaluate=evaluate, metric="r2", mode="max", target=0.9,
        epochs=3, train=(inputs[:31], targets[:31]), test=(inputs[31:], targets[31:]), threads=1,
    )
"""
REFUSED = {
    "train quadratic --parallel ddp": "--parallel shares out data, and the task quadratic has none",
    "train digits --parallel ddp --batch-size 1": "--batch-size is 1, fewer examples than the 2 ranks",
    "train digits --parallel ddp --lr auto": "--lr auto is searched by one process",
    "train digits --parallel ddp --device cuda:0": "--device is cuda:0, but each rank has a device of its own",
    "train digits --parallel ddp --out one": "--out 'one' already holds a run",
    "train unlike.py --parallel ddp": "--data-dir holds other training data on one rank than on another",
    "train partly.py --parallel ddp": (
        "--parallel ddp needs a gradient for every weight in every step, and unused.weight has none"
    ),
    "train digits": "type torchrun --nproc-per-node 2 -m adamas train digits --parallel ddp",
    "train digits --parallel dpd": "--parallel must be 'ddp' or 'fsdp', got 'dpd'",
    "train digits --parallel ddp --epochs few": "--epochs must be a whole number, got 'few'",
    "compare digits --optimizers 'sgd(momentum=0.9),adam'": (
        "command compare runs in one process, but 2 were started: type "
        "adamas compare digits --optimizers 'sgd(momentum=0.9),adam'"
    ),
    "find-lr digits": "command find-lr runs in one process, but 2 were started: type adamas find-lr digits",
}


TASKS = {
    "plain.py": TASK.replace("DROPOUT", "0.0"),
    "normal.py": TASK.replace("nn.Dropout(DROPOUT)", "nn.BatchNorm1d(8)").replace("[:31]", "[:35]"),
    "masked.py": TASK.replace("DROPOUT", "0.5"),
    "unlike.py": TASK.replace("DROPOUT", "0.0").replace("manual_seed(0)", "manual_seed(int(os.environ['RANK']))"),
    "partly.py": TASK.replace("DROPOUT", "0.0").replace(
        "self.first,", "self.unused = nn.Linear(1, 1)\n        self.first,"
    ),
}


def shared_runs(parallel: str) -> None:
    quiet: dict[str, Any] = {"listener": Listener(), "parallel": parallel}
    fit("digits", out=f"digits {parallel}", **DIGITS, **quiet)
    fit(resume=f"digits resumed by {parallel}", epochs=2, **quiet)
    fit("plain.py", out=f"plain {parallel}", **SMALL, **quiet)
    fit("normal.py", out=f"normal {parallel}", **SMALL, **quiet)
    fit("plain.py", out=f"foreign {parallel}", **SMALL | FOREIGN, **quiet)
    fit("masked.py", out=f"random {parallel}", **SMALL | LOW_BITS, **quiet)
    os.environ["RANK_1_GETS"] = "SIGTERM"
    summary = fit("masked.py", out=f"random resumed by {parallel}", **SMALL | LOW_BITS, **quiet)
    del os.environ["RANK_1_GETS"]
    assert summary.interrupted
    assert summary.steps == 5
    fit(resume=f"random resumed by {parallel}", **quiet)


def refused(line: str) -> tuple[int, str]:
    """The exit status of ``adamas`` with these arguments, and what it prints."""
    told = io.StringIO()
    store = dist.PrefixStore(line, ranks._store())  # each line is that of other processes
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(told), redirect_stderr(told):
        patch.setattr(sys, "argv", ["adamas", *shlex.split(line)])
        patch.setattr(os, "_exit", sys.exit)
        patch.setattr(ranks, "_store", lambda: store)
        with pytest.raises(SystemExit) as end:
            main()
    return end.value.code, told.getvalue()


def end_all_processes(parallel: str) -> None:
    """Rank 1 kills itself."""
    os.environ["RANK_1_GETS"] = "SIGKILL"
    running.SECONDS_BETWEEN_CHECKPOINTS = running.CHECKPOINT_SHARE = 0
    words = ["train", "plain.py", "--parallel", parallel, "--batch-size", "15", "--eval-every", "4", "--out", "killed"]
    sys.argv = ["adamas", *words]
    with Path(f"{launch.rank()}.stderr").open("w") as stream:
        os.dup2(stream.fileno(), 2)
    main()


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    curves.png = NO_PICTURES
    ranks.SECONDS_FOR_RANK_0 = 600  # however busy the machine is, rank 0 prints
    ranks.LARGE = 1_000  # so that FSDP gathers the layers of the digits' network one by one
    try:
        for parallel in PARALLEL:
            shared_runs(parallel)
        found = {line: refused(line) for line in REFUSED}
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the threads of gloo may keep the interpreter from ending
    Path(f"{launch.rank()}.json").write_text(json.dumps(found))
    end_all_processes("fsdp")
