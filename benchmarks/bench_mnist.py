"""Times training on MNIST: ``adamas train``, compared with the loop of PyTorch's tutorials and with the gradient alone.

    python benchmarks/bench_mnist.py --data-dir DIR --epochs 10

DIR holds the four IDX files; by default it is $ADAMAS_DATA/mnist. All three use the same 784-512-256-10 network with autograd,
batches of 64 and the same number of threads, in one process. They take turns, about fifty batches each, so that other load on
the machine affects all of them. A ratio is the median over the turns.

- The textbook loop: a Dataset that turns each image into a float tensor, a DataLoader that shuffles, torch.optim.Adam with its
  defaults, and loss.item() after each batch.
- Ours is ``adamas.lab.train.fit``, timed from one sample of the run to the next.
- The gradient alone: forward and backward passes of the batches that ours trains on, which are prepared in advance.

Turns in which ours evaluates are left out; the time of an evaluation is printed separately. The bound: our training loop takes
at most 1.15 × the gradient alone. The exit status is 1 if it is missed.

May import PyTorch and adamas.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from adamas.lab.tasks import mnist
from adamas.lab.tasks.idx import find_idx, read_idx
from adamas.lab.train import Evaluation, Listener, Sample, Summary, fit

BATCH_SIZE = 64
BOUND = 1.15


class Images(Dataset[tuple[Tensor, int]]):
    """The textbook Dataset over arrays of bytes."""

    def __init__(self, folder: Path, part: str) -> None:
        self.images = read_idx(find_idx(folder, f"{part}-images", 3), 3).flatten(1).numpy()
        self.labels = read_idx(find_idx(folder, f"{part}-labels", 1), 1).numpy()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor(self.images[index], dtype=torch.float32) / 255, int(self.labels[index])


class Textbook:
    """The textbook loop."""

    def __init__(self, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = mnist.model()
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.train = DataLoader(Images(folder, "train"), batch_size=BATCH_SIZE, shuffle=True)
        self.test = DataLoader(Images(folder, "t10k"), batch_size=BATCH_SIZE)
        self.batches = iter(self.train)
        self.running_loss = 0.0

    def run(self, steps: int) -> float:
        """Train on the next batches; return the seconds."""
        began = perf_counter()
        criterion = nn.CrossEntropyLoss()
        for _ in range(steps):
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.train)
                batch = next(self.batches)
            images, labels = batch
            self.optimizer.zero_grad()
            loss = criterion(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            self.running_loss += loss.item()
        return perf_counter() - began

    def evaluate(self) -> tuple[float, float]:
        """Return the accuracy, and the seconds."""
        began, right, count = perf_counter(), 0, 0
        self.model.eval()
        with torch.no_grad():
            for images, labels in self.test:
                right += int((self.model(images).argmax(1) == labels).sum())
                count += len(labels)
        self.model.train()
        return right / count, perf_counter() - began


class GradientAlone:
    """Forward and backward passes of the batches of a run with a known seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.task = mnist.load(folder)
        self.batches = self.shuffled(torch.Generator().manual_seed(seed))
        self.model = mnist.model()

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield from self.task.batches(BATCH_SIZE, generator)

    def run(self, steps: int) -> float:
        """Differentiate the next batches; return the seconds."""
        batches = list(islice(self.batches, steps))
        began = perf_counter()
        for images, labels in batches:
            self.model.zero_grad()
            F.cross_entropy(self.model(images), labels).backward()
        return perf_counter() - began


class InTurn(Listener):
    """At each of our samples, lets the others do as many batches. ``turns`` has the seconds per batch of all three."""

    def __init__(self, textbook: Textbook, alone: GradientAlone) -> None:
        self.textbook = textbook
        self.alone = alone
        self.turns: list[tuple[float, float, float]] = []
        self.began = 0.0
        self.step = 0
        self.evaluated = True  # leaves out the first turn, which includes the first step

    def on_sample(self, sample: Sample) -> None:
        ours, steps = perf_counter() - self.began, sample.step - self.step
        textbook, alone = self.textbook.run(steps), self.alone.run(steps)
        if not self.evaluated:
            self.turns.append((ours / steps, textbook / steps, alone / steps))
        self.step, self.evaluated, self.began = sample.step, False, perf_counter()

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.evaluated = True

    def on_end(self, summary: Summary) -> None:
        self.textbook.run(summary.steps - self.step)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Compare the time of adamas train on MNIST with a textbook loop and the gradient alone."
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ["ADAMAS_DATA"]) / "mnist" if "ADAMAS_DATA" in os.environ else None,
        help="folder of the four IDX files (default: $ADAMAS_DATA/mnist)",
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.data_dir is None:
        print("MNIST left out: give --data-dir, or set ADAMAS_DATA to the folder that holds mnist/")
        return 0
    torch.set_num_threads(arguments.threads)
    textbook = Textbook(arguments.data_dir, arguments.seed)
    alone = GradientAlone(arguments.data_dir, arguments.seed)
    ours = InTurn(textbook, alone)
    with tempfile.TemporaryDirectory() as scratch:
        summary = fit(
            "mnist",
            data_dir=arguments.data_dir,
            epochs=arguments.epochs,
            batch_size=BATCH_SIZE,
            seed=arguments.seed,
            threads=arguments.threads,
            out=Path(scratch) / "run",
            listener=ours,
        )
    accuracy, evaluation = textbook.evaluate()
    parts = summary.seconds
    each = [median(turn) * 1e3 for turn in zip(*ours.turns, strict=True)]
    print(f"adamas          {each[0]:7.3f} ms a batch, accuracy {summary.value:.4f}")
    for part in ("data", "forward", "backward", "optimizer"):
        print(f"  {part:13} {getattr(parts, part) / summary.steps * 1e3:7.3f} ms a batch, on average")
    print(f"textbook loop   {each[1]:7.3f} ms a batch, accuracy {accuracy:.4f}")
    print(f"gradient alone  {each[2]:7.3f} ms a batch")
    print(f"an evaluation: adamas {parts.evaluation / arguments.epochs:.2f} s, textbook loop {evaluation:.2f} s")
    print(f"compared with the textbook loop: {median(turn[1] / turn[0] for turn in ours.turns):.2f} × faster")
    loop = median(turn[0] / turn[2] for turn in ours.turns)
    print(f"training loop over the gradient alone: {loop:.3f}, bound {BOUND}{'' if loop <= BOUND else '  MISSED'}")
    return int(loop > BOUND)


if __name__ == "__main__":
    raise SystemExit(main())
