"""The task ``digits-gan``: draws digits like those of scikit-learn, by two networks that play against each other.

One step trains both: the loss is the sum of two losses, and the gradient of each reaches only its own player. The quality of
the drawings is measured by the Fréchet distance of Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017,
between the features of drawn and real digits. The features are the hidden layer of a small network that classifies digits.

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

LATENT = 16  # numbers from which a digit is drawn
FEATURES = 32
DRAWN = 2_000  # digits that are evaluated


class Players(nn.Module):
    """Both networks; calling it draws digits."""

    def __init__(self) -> None:
        """Make the layers. Without dropout the discriminator memorizes the few digits, and the generator learns no more."""
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
        """Return drawings, digits × 64 pixels from 0 to 1, for digits × LATENT normally distributed numbers."""
        drawings: Tensor = self.generator(latents)
        return drawings


def discriminator_loss(model: Players, real: Tensor, drawn: Tensor) -> Tensor:
    """Return the discriminator's loss on real and drawn digits; it has no gradient for the generator."""
    judged_real, judged_drawn = model.discriminator(real).float(), model.discriminator(drawn.detach()).float()
    return F.softplus(-judged_real).mean() + F.softplus(judged_drawn).mean()


def generator_loss(model: Players, drawn: Tensor) -> Tensor:
    """Return the generator's loss: low if the discriminator takes the drawings for real. It has no gradient for the latter."""
    frozen = {name: weight.detach() for name, weight in model.discriminator.named_parameters()}
    judged: Tensor = functional_call(model.discriminator, frozen, (drawn,))
    return F.softplus(-judged.float()).mean()


def loss(model: Players, real: Tensor) -> Tensor:
    """Return the sum of both players' losses; the latents come from PyTorch's global generator."""
    count = max(len(real), 2)  # batch normalisation needs at least two
    drawn = model.generator(torch.randn(count, LATENT, device=real.device))
    return discriminator_loss(model, real, drawn) + generator_loss(model, drawn)


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Return |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), the distance between normal distributions with the samples' moments.

    Args:
        one: float64, samples × features.
        other: the same with any number of samples.

    Returns:
        The distance; NaN if a feature is not finite.
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
    """Train the network whose features are compared; it is always the same, and the global generator is not changed.

    It uses one thread, whatever the run has, since the sums depend on the number of threads.
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
    """Make the function that compares the network's features of drawings with those of the real digits."""
    features = nn.Sequential(network[0], network[1])
    wanted = features(real.double())

    def evaluate(model: Players, latents: Tensor) -> dict[str, float]:
        """Return ``frechet_distance``, computed in float64 on the CPU, so that it is the same for every device."""
        return {"frechet_distance": frechet_distance(features(model.generator(latents).cpu().double()), wanted)}

    return evaluate


def load(data_dir: Path | None) -> Task:
    """Load the digits, and train the network that evaluates drawings, which takes half a second.

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
