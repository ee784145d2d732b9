"""Text as bytes, for the tasks that predict the next character: reading it, cutting it into windows, and the loss.

May import PyTorch.
"""

from __future__ import annotations

import math
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adamas.lab.inputs import InputError

CHARACTERS = 256  # a character is a byte: two or three of them are one Chinese character
HELD_OUT = 0.1  # the share of the text, at its end, that is used for testing
BATCH = 100  # windows per evaluation


def corpus() -> Tensor:
    """Return the concatenated source of Python's standard library, as bytes (uint8)."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return _bytes(sorted(folder.glob("*.py")))


def read_text(data_dir: Path | None) -> Tensor:
    """Read the text as bytes (uint8).

    Args:
        data_dir: a file, or a folder whose ``*.txt`` are read in the order of their names; by default ``corpus()``.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if data_dir is None:
        return corpus()
    if data_dir.is_file():
        return _bytes([data_dir])
    if not data_dir.is_dir():
        raise InputError("data_dir", f"{str(data_dir)!r} does not exist: give a text file, or a folder of *.txt")
    files = sorted(path for path in data_dir.glob("*.txt") if path.is_file())
    if not files:
        raise InputError("data_dir", f"{str(data_dir)!r} holds no *.txt: put some there, or give the path of a file")
    return _bytes(files)


def _bytes(files: list[Path]) -> Tensor:
    content = bytearray()
    for path in files:
        try:
            content += path.read_bytes()
        except OSError as error:
            raise InputError("data_dir", f"has a file that cannot be read, {path}: {error.strerror}") from error
    return torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


def windows(text: Tensor, context: int, train: int, test: int) -> tuple[Tensor, Tensor]:
    """Cut a text into windows that do not overlap, and choose evenly spaced ones.

    Args:
        text: the text, uint8.
        context: the number of characters from which the last one of a window is predicted.
        train: the largest number of training windows; they come from the text before the test part.
        test: the largest number of test windows; they come from the last HELD_OUT of the text.

    Returns:
        Windows for training and for testing, uint8, each windows × (context + 1).

    Raises:
        InputError: the text is too short for one window of each kind.
    """
    length = context + 1
    border = int(len(text) * (1 - HELD_OUT))
    parts = [part[: len(part) // length * length].view(-1, length) for part in (text[:border], text[border:])]
    if not all(len(part) for part in parts):
        shortest = math.ceil(length / HELD_OUT) + 1
        raise InputError("data_dir", f"holds {len(text)} bytes of text: give one of at least {shortest}")
    return _spread(parts[0], train), _spread(parts[1], test)


def _spread(rows: Tensor, most: int) -> Tensor:
    chosen = min(most, len(rows))
    return rows[torch.arange(chosen) * len(rows) // chosen]


def loss(model: nn.Module, text: Tensor) -> Tensor:
    """Return the mean cross-entropy of each next character, in nats.

    Args:
        model: returns the logits of the next character, CHARACTERS for each position.
        text: uint8, windows × (context + 1).
    """
    characters = text.long()
    return F.cross_entropy(model(characters[:, :-1]).flatten(0, 1).float(), characters[:, 1:].flatten())


def evaluate(model: nn.Module, text: Tensor) -> dict[str, float]:
    """Return ``bits_per_character``: the mean number of bits that encode a character of the test text, given the model."""
    total = sum(loss(model, some).item() * len(some) for some in torch.split(text, BATCH))
    return {"bits_per_character": total / len(text) / math.log(2)}
