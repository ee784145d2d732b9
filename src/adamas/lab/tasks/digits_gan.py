"""The task ``digits-gan``: draws digits like those of scikit-learn, by two networks that play against each other.

One step moves both: the loss is the sum of two, and the gradient of each reaches only its own player. How good the drawings
are is told by the Fréchet distance of Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, between features of
drawn and of real digits. The features are the hidden layer of a small network that tells digits apart.

May import PyTorch and what the task digits imports.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from adamas.lab.tasks import Task, classification, digits, without_data_dir

LATENT = 16  # numbers that a digit is drawn from
FEATURES = 32
DRAWN = 2_000  # digits that are judged


class Players(nn.Module):
    """Both networks; called, it draws."""

    def __init__(self) -> None:
        """Make the layers. Without dropout the discriminator learns the few digits by heart, and has nothing more to teach."""
        super().__init__()
        self.generator = nn.Sequential(
            *(nn.Linear(LATENT, 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Linear(128, 64), nn.Sigmoid()),
        )
        self.discriminator = nn.Sequential(
            *(nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
            *(nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Dropout(0.3)),
            nn.Linear(128, 1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Return drawings, pixels from 0 to 1, digits × 64, for digits × LATENT numbers of a normal distribution."""
        drawings: Tensor = self.generator(latents)
        return drawings


def discriminator_loss(model: Players, real: Tensor, drawn: Tensor) -> Tensor:
    """Return how wrong the discriminator is on what is real and what is drawn; the drawings are given, not learnt."""
    judged_real, judged_drawn = model.discriminator(real).float(), model.discriminator(drawn.detach()).float()
    return F.softplus(-judged_real).mean() + F.softplus(judged_drawn).mean()


def generator_loss(model: Players, drawn: Tensor) -> Tensor:
    """Return how seldom the discriminator takes the drawings for real; the discriminator is given, not learnt."""
    frozen = {name: weight.detach() for name, weight in model.discriminator.named_parameters()}
    judged: Tensor = functional_call(model.discriminator, frozen, (drawn,))
    return F.softplus(-judged.float()).mean()


def loss(model: Players, real: Tensor) -> Tensor:
    """Return the sum of both players' losses; the latents come from PyTorch's global generator."""
    count = max(len(real), 2)  # batch normalisation has nothing to go by in a single one
    drawn = model.generator(torch.randn(count, LATENT, device=real.device))
    return discriminator_loss(model, real, drawn) + generator_loss(model, drawn)


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Return |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), the distance of two normal distributions with these samples' moments.

    Args:
        one: float64, samples × features.
        other: the same with any number of samples.

    Returns:
        NaN where a feature is no finite number.
    """
    if not (one.isfinite().all() and other.isfinite().all()):
        return math.nan
    one, other = one.detach(), other.detach()
    first, second = torch.cov(one.T), torch.cov(other.T)
    # Σ₁Σ₂ has the eigenvalues of Σ₁^½ Σ₂ Σ₁^½, which is symmetric.
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float((one.mean(0) - other.mean(0)).square().sum() + first.trace() + second.trace() - 2 * shared)


def classifier(task: Task) -> nn.Sequential:
    """Train the network whose features are compared, the same one every time; the global generator stays where it is.

    On one thread, whatever the run has: sums over several come out otherwise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = classification.perceptron(64, FEATURES, 10)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    shuffling = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(15):
            for batch in task.batches(32, shuffling):
                optimizer.zero_grad()
                classification.loss(network, *batch).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    finally:
        torch.set_num_threads(threads)
    return network.double().requires_grad_(False)


def evaluation(network: nn.Sequential, real: Tensor) -> Callable[[Players, Tensor], dict[str, float]]:
    """Make the function that judges drawings by the network's features, beside those of the real digits."""
    features = nn.Sequential(network[0], network[1])
    wanted = features(real.double())

    def evaluate(model: Players, latents: Tensor) -> dict[str, float]:
        """Return ``frechet_distance``; in float64 on the CPU, where it is the same for every device."""
        return {"frechet_distance": frechet_distance(features(model.generator(latents).cpu().double()), wanted)}

    return evaluate


def load(data_dir: Path | None) -> Task:
    """Take the digits to learn from, and train the network that judges, in half a second.

    Raises:
        InputError: a data_dir was given, which this task does not read.
    """
    without_data_dir(data_dir, "digits-gan, whose digits come with scikit-learn")
    real = digits.load(None)
    return Task(
        description=f"draws 8×8 digits from {LATENT} numbers, two networks of 128",
        model=Players,
        loss=loss,
        evaluate=evaluation(classifier(real), real.train[0]),
        metric="frechet_distance",
        mode="min",
        target=3.0,
        epochs=120,
        train=real.train[:1],
        test=(torch.randn(DRAWN, LATENT, generator=torch.Generator().manual_seed(0)),),
        eval_every=225,
        threads=1,
    )
