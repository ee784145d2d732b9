"""Training runs: ``fit`` from Python, ``adamas train`` from the command line.

May import adamas.lab.tasks and adamas.torch, and the libraries of the ``train`` extra. Importing this package imports none
of them: options are checked first, and PyTorch is imported when training begins.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Literal

from adamas.extras import needs
from adamas.lab.inputs import InputError
from adamas.lab.train.options import Options, Precision, State, Weights
from adamas.lab.train.records import (
    DivergedError,
    Evaluation,
    Listener,
    Plan,
    Progress,
    RankLostError,
    Sample,
    Summary,
)
from adamas.schedules import Schedule

__all__ = [
    "DivergedError",
    "Evaluation",
    "InputError",
    "Listener",
    "Plan",
    "Progress",
    "RankLostError",
    "Sample",
    "Summary",
    "fit",
]


@needs("train")
def fit(
    task: str | PathLike[str] | None = None,
    *,
    resume: str | PathLike[str] | None = None,
    config: str | PathLike[str] | None = None,
    data_dir: str | PathLike[str] | None = None,
    model: str | None = None,
    optimizer: str | None = None,
    lr: float | Literal["auto"] | None = None,
    betas: tuple[float, float] | None = None,
    eps: float | None = None,
    weight_decay: float | None = None,
    schedule: str | Schedule | None = None,
    plateau: str | Schedule | None = None,
    clip: float | Literal["auto"] | None = None,
    state: State | None = None,
    weights: Weights | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    eval_every: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    compile: bool | None = None,
    threads: int | None = None,
    parallel: Literal["ddp", "fsdp"] | None = None,
    log: Literal["tensorboard"] | None = None,
    watch: bool | str | None = None,
    out: str | PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Summary:
    """Train the network of a task, display the progress, and write the folder of the run.

    The same seed and threads give the same weights, bit for bit, also if the run was killed and resumed.

    Args:
        task: a name of ``adamas.lab.tasks.TASKS``, by default digits, or the path of a Python file with a task.
        resume: the folder of a run to resume from its last checkpoint, with the versions of Adamas and PyTorch that it began
            with. It keeps its options; only ``epochs``, ``data_dir``, ``threads``, ``parallel``, ``log`` and
            ``watch`` may be given.
        config: a TOML file of these options; arguments take precedence.
        data_dir: the folder of the data, for tasks that read some.
        model: another network of the task.
        optimizer: by default adam. A key of ``adamas.lab.train.optimizers.OPTIMIZERS``, ``"torch:AdamW"``, or
            ``"module:Class"`` of another library; with arguments, if any, as ``"sgd(momentum=0.9)"``.
        lr: learning rate; by default that of the optimizer, scaled for the task. ``"auto"`` finds one first
            (``adamas.torch.find_lr``).
        betas: decay rates of the two moments, each from 0 up to but not including 1.
        eps: added to the denominator.
        weight_decay: a penalty on the gradient (L2), part of the update, or decoupled: by the default of the optimizer's
            ``decay``.
        schedule: how the learning rate changes, by default not at all: a key of
            ``adamas.lab.train.named_schedules.SCHEDULES``, stretched over the planned epochs; or a schedule, or one as text,
            in optimizer steps. A factor is multiplied by ``lr``; a rate replaces it.
        plateau: ``"default"``, or a Plateau, or one as text: cuts the rate when the metric of the task stops improving, or,
            if the plateau has the other mode, the loss; both on the validation part of the task, by default a tenth of the
            training data, which training leaves out. It observes each evaluation. The run makes its own copy; its cuts are
            listed in ``cuts`` of the summary.
        clip: the largest norm of the whole gradient; ``"auto"`` clips unusual norms.
        state: how the moments are stored.
        weights: how bfloat16 weights are stored; by default ``"split"``, which trains as float32 does.
        epochs: passes over the training data; by default the task's own.
        batch_size: examples per step; by default the task's own. The last batch of an epoch may be smaller.
        eval_every: steps between two evaluations; by default the task's own, mostly an epoch.
        seed: determines the initial weights and the order of the examples; by default 0.
        device: a PyTorch device, such as ``"cuda"``; by default the CPU.
        precision: ``"float32"``, the default, or ``"bfloat16"`` for computation and weights.
        compile: run the network through ``torch.compile``.
        threads: the threads that PyTorch may use; by default one if the steps of the task are tiny, else unchanged.
        parallel: shares the run among the processes that torchrun started: with ``"ddp"`` each has the whole network, with
            ``"fsdp"`` a part of it. Every process calls ``fit`` alike; rank 0 displays the progress and writes the folder.
        log: ``"tensorboard"`` also writes TensorBoard's event files into the folder.
        watch: whether the optimizer keeps statistics of its steps, or text such as ``"every=10, keep=256"``, as the argument
            ``watch`` of the optimizers of Adamas. The folder then has them in watch.npz, and the summary an ``explanation``.
        out: folder for config.json, metrics.jsonl, steps.jsonl, summary.json, curves.png, model.safetensors and
            checkpoint.pt; by default a new ``runs/<task>-<time>``.
        listener: receives the events of the run; by default a progress bar on a terminal and in a notebook, lines elsewhere.

    Returns:
        The content of summary.json. After Ctrl-C, ``interrupted`` is True, and it covers the run until then.

    Raises:
        InputError: an argument or the data cannot be used; nothing has been written.
        DivergedError: the loss was no longer finite; the files of the run until then are written.
        RankLostError: another process of the run has ended; the last checkpoint stays.
    """
    asked: dict[str, Any] = {name: value for name, value in locals().items() if name in Options.__dataclass_fields__}
    given = {
        name: str(value) if isinstance(value, PathLike | Schedule) else value
        for name, value in asked.items()
        if value is not None
    }
    from adamas.lab.train.config import gather

    folder = None if resume is None else Path(resume)
    options = gather(given, config=None if config is None else Path(config), resume=folder)
    from adamas.lab.train.display import display
    from adamas.lab.train.running import run

    if listener is not None:
        return run(options, listener, resume=folder)
    with display() as shown:
        return run(options, shown, resume=folder)
