"""Times training on MNIST: the loop that PyTorch's tutorials teach against ``adamas train``.

    python benchmarks/bench_mnist.py --data-dir DIR --epochs 10 --repeats 2

DIR holds the four IDX files; by default it is $ADAMAS_DATA/mnist. Both train the 784-512-256-10 network with Adam,
batches of 64 and the same number of threads, in one process, run by run in turn (A B A B …), so that what else the
machine does falls on both. The ratio at the end is of the best run of each.

The textbook loop is a Dataset that turns each image into a float tensor, a DataLoader that shuffles, torch.optim.Adam
as it comes, loss.item() after each batch and an evaluation an epoch. Ours is ``adamas.lab.train.fit``. The time is that of the
epochs with their evaluations, without reading the files; ``whole call`` is all of ``fit``, which also reads the files,
draws the curves and writes the folder.

May import PyTorch and adamas.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from adamas.lab.tasks import mnist
from adamas.lab.tasks.idx import find_idx, read_idx
from adamas.lab.train import Evaluation, Listener, Plan, fit

BATCH_SIZE = 64


@dataclass
class Times:
    """Seconds of one run, and what it reached. ``rest`` is forward, backward and the loop itself."""

    total: float
    data: float
    rest: float
    step: float
    evaluation: float
    accuracy: float
    whole_call: float


class Images(Dataset[tuple[Tensor, int]]):
    """The textbook Dataset over arrays of bytes."""

    def __init__(self, folder: Path, part: str) -> None:
        self.images = read_idx(find_idx(folder, f"{part}-images", 3), 3).flatten(1).numpy()
        self.labels = read_idx(find_idx(folder, f"{part}-labels", 1), 1).numpy()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor(self.images[index], dtype=torch.float32) / 255, int(self.labels[index])


def textbook(train: Images, test: Images, epochs: int, seed: int) -> Times:
    torch.manual_seed(seed)
    model = mnist.model()
    optimizer = torch.optim.Adam(model.parameters())
    criterion = nn.CrossEntropyLoss()
    train_loader = DataLoader(train, batch_size=BATCH_SIZE, shuffle=True)
    test_loader = DataLoader(test, batch_size=BATCH_SIZE)
    data = rest = step = evaluation = accuracy = 0.0
    began = perf_counter()
    for _ in range(epochs):
        running_loss = 0.0
        mark = perf_counter()
        for images, labels in train_loader:
            fetched = perf_counter()
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            differentiated = perf_counter()
            optimizer.step()
            stepped = perf_counter()
            running_loss += loss.item()
            data, rest, step = data + fetched - mark, rest + differentiated - fetched, step + stepped - differentiated
            mark = perf_counter()
        right = 0
        model.eval()
        with torch.no_grad():
            for images, labels in test_loader:
                right += int((model(images).argmax(1) == labels).sum())
        model.train()
        accuracy = right / len(test)
        evaluation += perf_counter() - mark
    total = perf_counter() - began
    return Times(total, data, rest, step, evaluation, accuracy, total)


class Clock(Listener):
    """Notes when training begins and when its last epoch is done."""

    began = ended = 0.0

    def on_start(self, plan: Plan) -> None:
        self.began = perf_counter()

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.ended = perf_counter()


def ours(folder: Path, epochs: int, seed: int, threads: int) -> Times:
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        began = perf_counter()
        summary = fit(
            "mnist",
            data_dir=folder,
            epochs=epochs,
            batch_size=BATCH_SIZE,
            seed=seed,
            threads=threads,
            out=Path(scratch) / "run",
            listener=clock,
        )
        whole_call = perf_counter() - began
    total, train, parts = clock.ended - clock.began, summary.train_seconds, summary.seconds
    rest = parts.forward + parts.backward
    return Times(total, parts.data, rest, parts.optimizer, total - train, summary.value, whole_call)


def report(name: str, runs: list[Times], steps: int) -> None:
    def each(part: str) -> str:
        return f"{statistics.median(getattr(run, part) for run in runs) / steps * 1e3:.3f}"

    totals = ", ".join(f"{run.total:.2f}" for run in runs)
    print(f"{name}: {totals} s; accuracy {', '.join(f'{run.accuracy:.4f}' for run in runs)}")
    print(f"  ms a batch: data {each('data')}, forward and backward {each('rest')}, step {each('step')}")
    print(
        f"  evaluation {statistics.median(run.evaluation for run in runs):.2f} s, "
        f"whole call {statistics.median(run.whole_call for run in runs):.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the textbook loop against adamas train on MNIST.")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ["ADAMAS_DATA"]) / "mnist" if "ADAMAS_DATA" in os.environ else None,
        help="folder of the four IDX files (default: $ADAMAS_DATA/mnist)",
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.data_dir is None:
        print("MNIST left out: give --data-dir, or set ADAMAS_DATA to the folder that holds mnist/")
        return
    torch.set_num_threads(arguments.threads)
    train, test = Images(arguments.data_dir, "train"), Images(arguments.data_dir, "t10k")
    textbook_runs: list[Times] = []
    our_runs: list[Times] = []
    for seed in range(arguments.repeats):
        textbook_runs.append(textbook(train, test, arguments.epochs, seed))
        our_runs.append(ours(arguments.data_dir, arguments.epochs, seed, arguments.threads))
    steps = arguments.epochs * -(-len(train) // BATCH_SIZE)
    report("textbook", textbook_runs, steps)
    report("adamas  ", our_runs, steps)
    textbook_best = min(run.total for run in textbook_runs)
    ratio = min(run.total for run in our_runs) / textbook_best
    whole_ratio = min(run.whole_call for run in our_runs) / textbook_best
    print(f"ratio {ratio:.3f} (whole call {whole_ratio:.3f}): {1 / ratio:.2f} × faster")


if __name__ == "__main__":
    main()
