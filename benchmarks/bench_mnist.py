"""Times training on MNIST: ``adamas train`` beside the loop that PyTorch's tutorials teach, and beside the gradient alone.

    python benchmarks/bench_mnist.py --data-dir DIR --epochs 10

DIR holds the four IDX files; by default it is $ADAMAS_DATA/mnist. All three train, or differentiate, the same
784-512-256-10 network with autograd, on batches of 64 and the same number of threads, in one process and epoch by epoch in
turn, so that whatever else the machine does falls on all of them. A ratio is the median over the epochs.

- The textbook loop: a Dataset that turns each image into a float tensor, a DataLoader that shuffles, torch.optim.Adam as it
  comes, loss.item() after each batch, and an evaluation an epoch.
- Ours is ``adamas.lab.train.fit``: what is timed is the whole epoch with its evaluation, rows and checkpoint.
- The gradient alone: forward and backward passes of the batches that ours trains on, made ready before.

The bound: the training loop of ours, without evaluations, takes at most 1.15 × the gradient alone. Ends with status 1 where
it is missed.

May import PyTorch and adamas.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from adamas.lab.tasks import mnist
from adamas.lab.tasks.idx import find_idx, read_idx
from adamas.lab.train import Evaluation, Listener, Plan, fit

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
    """The textbook loop, an epoch at a time. ``seconds`` has one entry an epoch."""

    def __init__(self, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = mnist.model()
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.train = DataLoader(Images(folder, "train"), batch_size=BATCH_SIZE, shuffle=True)
        self.test = DataLoader(Images(folder, "t10k"), batch_size=BATCH_SIZE)
        self.seconds: list[float] = []
        self.accuracy = 0.0

    def epoch(self) -> None:
        began = perf_counter()
        criterion, running_loss, right = nn.CrossEntropyLoss(), 0.0, 0
        for images, labels in self.train:
            self.optimizer.zero_grad()
            loss = criterion(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
            running_loss += loss.item()
        self.model.eval()
        with torch.no_grad():
            for images, labels in self.test:
                right += int((self.model(images).argmax(1) == labels).sum())
        self.model.train()
        self.seconds.append(perf_counter() - began)
        self.accuracy = right / len(self.test.dataset)  # type: ignore[arg-type]


class GradientAlone:
    """Forward and backward passes of the batches of a run, an epoch at a time."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.task = mnist.load(folder)
        self.shuffling = torch.Generator().manual_seed(seed)
        self.model = mnist.model()
        self.seconds: list[float] = []

    def epoch(self) -> None:
        batches = list(self.task.batches(BATCH_SIZE, self.shuffling))
        began = perf_counter()
        for images, labels in batches:
            self.model.zero_grad()
            F.cross_entropy(self.model(images), labels).backward()
        self.seconds.append(perf_counter() - began)


class InTurn(Listener):
    """After each epoch of ours, lets the others make one. ``seconds`` and ``training`` have one entry an epoch."""

    def __init__(self, textbook: Textbook, alone: GradientAlone) -> None:
        self.others = (textbook, alone)
        self.seconds: list[float] = []  # with the evaluation
        self.training: list[float] = []  # without it
        self.trained = self.began = 0.0

    def on_start(self, plan: Plan) -> None:
        self.began = perf_counter()

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.seconds.append(perf_counter() - self.began)
        self.training.append(evaluation.train_seconds - self.trained)
        self.trained = evaluation.train_seconds
        for other in self.others:
            other.epoch()
        self.began = perf_counter()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Time adamas train on MNIST beside a textbook loop and the gradient alone."
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
    steps = summary.steps / arguments.epochs
    parts = summary.seconds
    print(f"textbook  {median(textbook.seconds):6.2f} s an epoch, accuracy {textbook.accuracy:.4f}")
    print(f"adamas    {median(ours.seconds):6.2f} s an epoch, accuracy {summary.value:.4f}")
    for part in ("data", "forward", "backward", "optimizer"):
        print(f"  {part:9} {getattr(parts, part) / summary.steps * 1e3:6.3f} ms a batch")
    print(f"  evaluation {parts.evaluation / arguments.epochs:.2f} s an epoch")
    print(f"gradient alone  {median(alone.seconds) / steps * 1e3:6.3f} ms a batch")
    faster = median(a / b for a, b in zip(textbook.seconds, ours.seconds, strict=True))
    print(f"beside the textbook loop: {faster:.2f} × faster")
    loop = median(a / b for a, b in zip(ours.training, alone.seconds, strict=True))
    print(f"training loop over the gradient alone: {loop:.3f}, bound {BOUND}{'' if loop <= BOUND else '  MISSED'}")
    return int(loop > BOUND)


if __name__ == "__main__":
    raise SystemExit(main())
