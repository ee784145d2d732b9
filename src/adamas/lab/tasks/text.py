"""Text as bytes for the tasks that predict the next character: where it comes from, how it is cut, and the loss.

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
HELD_OUT = 0.1  # of the text, at its end
BATCH = 100  # windows that are evaluated at once


def corpus() -> Tensor:
    """Return the source of Python's standard library, its modules one after the other, as bytes (uint8)."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return _bytes(sorted(folder.glob("*.py")))


def read_text(data_dir: Path | None) -> Tensor:
    """Read the text to learn as bytes (uint8).

    Args:
        data_dir: a file, or a folder whose ``*.txt`` are read in the order of their names; None for ``corpus()``.

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
    """Cut a text into windows that do not overlap, and choose some, evenly spread.

    Args:
        text: uint8.
        context: characters that are known when the last one of a window is predicted.
        train: at most so many windows of all but the end of the text.
        test: at most so many of its end, HELD_OUT of it.

    Returns:
        Windows for training and for testing, uint8, each windows × (context + 1).

    Raises:
        InputError: the text is too short for one window of each.
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
        model: gives CHARACTERS numbers for each character, the next one's logarithms of odds.
        text: uint8, windows × (context + 1).
    """
    characters = text.long()
    return F.cross_entropy(model(characters[:, :-1]).flatten(0, 1).float(), characters[:, 1:].flatten())


def evaluate(model: nn.Module, text: Tensor) -> dict[str, float]:
    """Return ``bits_per_character``: how many bits it takes to tell a character of the test text to who has the model."""
    total = sum(loss(model, some).item() * len(some) for some in torch.split(text, BATCH))
    return {"bits_per_character": total / len(text) / math.log(2)}
