"""The task ``speech``: tells twenty spoken words apart, in voices that it has never heard.

The words are those of Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", 2018. Without a folder
of recordings, eSpeak NG speaks them (``adamas.lab.tasks.speaking``), in accents of English and in the voices of different
throats, at different speeds and pitches, with noise. ``python -m adamas.lab.tasks.speech FILE`` makes a file of their frames.

May import PyTorch, and what reads its data.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal
from torch import Tensor, nn

from adamas.files import check_archive, replacing
from adamas.lab.inputs import InputError
from adamas.lab.tasks import Task, classification, speaking

BANDS, HOP, WINDOW = 40, 320, 640  # of the spectrogram: frames of 40 ms every 20 ms
LOWEST, HIGHEST = 60.0, 7600.0  # Hz
CHANNELS = 64
TOGETHER = 500  # sounds whose spectra are in memory at a time

Frames = NDArray[np.float16]
Arrays: TypeAlias = dict[str, Any]  # of the training and of the test, by name


class Listener(nn.Module):
    """Two convolutions over time, a gated recurrent unit, and a linear layer on the mean of what it has heard."""

    def __init__(self, words: int = len(speaking.WORDS)) -> None:
        """Make the layers, for a number of words."""
        super().__init__()
        self.heard = nn.Sequential(
            nn.Conv1d(BANDS, CHANNELS, 5, padding=2),
            nn.BatchNorm1d(CHANNELS),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(2),
            nn.Conv1d(CHANNELS, CHANNELS, 5, padding=2),
            nn.BatchNorm1d(CHANNELS),
            nn.ReLU(inplace=True),
        )
        self.memory = nn.GRU(CHANNELS, CHANNELS, batch_first=True)
        self.head = nn.Linear(CHANNELS, words)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits, sounds × words, for log-mel frames, sounds × BANDS × time."""
        found, _ = self.memory(self.heard(frames).transpose(1, 2))
        logits: Tensor = self.head(found.mean(1))
        return logits


def load(data_dir: Path | None) -> Task:
    """Make or read the sounds. The voices of the test are in no sound of the training.

    Args:
        data_dir: a folder with a folder of WAV files for each word, as that of Speech Commands; by default eSpeak NG speaks.

    Raises:
        InputError: eSpeak NG is not installed; or the folder has too few sounds, or one that cannot be read.
    """
    if data_dir is None:
        words: tuple[str, ...] = speaking.WORDS
        found = _synthesized()
    else:
        words, sounds = speaking.recorded(data_dir)
        found = _of(sounds)
        for name, labels in (("training", found["train_words"]), ("test", found["test_words"])):
            if absent := [word for i, word in enumerate(words) if i not in labels]:
                raise InputError(
                    "data_dir", f"{str(data_dir)!r} has no recording of {absent[0]!r} for the {name}: add more"
                )
    train, test = (
        (torch.from_numpy(found[f"{part}_frames"].astype(np.float32)), torch.from_numpy(found[f"{part}_words"]))
        for part in ("train", "test")
    )
    return Task(
        description=f"{len(train[0]):,} spoken words, {len(words)} different ones; convolutions and a recurrent unit",
        model=lambda: Listener(len(words)),
        loss=classification.loss,
        evaluate=classification.evaluate,
        metrics_are_means=True,
        metric="test_accuracy",
        mode="max",
        target=0.95,
        epochs=12,
        train=train,
        test=test,
        batch_size=64,
        threads=1,
        lr_scale=3.0,
    )


# ---- frames


def _filters() -> NDArray[np.float32]:
    """The weights of the bands, BANDS × frequencies: triangles whose corners are evenly spaced in mel."""
    lowest, highest = (2595 * math.log10(1 + frequency / 700) for frequency in (LOWEST, HIGHEST))
    mel = np.linspace(lowest, highest, BANDS + 2)
    corners = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / speaking.RATE)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    weights: NDArray[np.float32] = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return weights


def log_mel(sounds: NDArray[np.float32]) -> Frames:
    """The logarithms of the power in each band and frame, sounds × BANDS × time, with mean 0 and variance 1 in each sound."""
    _, _, spectrum = signal.stft(
        sounds, speaking.RATE, nperseg=WINDOW, noverlap=WINDOW - HOP, padded=False, boundary=None
    )
    power = np.log(_filters() @ (np.abs(spectrum) ** 2).astype(np.float32) + 1e-10)
    power -= power.mean((1, 2), keepdims=True)
    frames: Frames = (power / (power.std((1, 2), keepdims=True) + 1e-3)).astype(np.float16)
    return frames


def _of(sounds: Iterable[speaking.Spoken]) -> Arrays:
    """The frames and the words of the training, and those of the test."""
    frames, spoken = [], list[tuple[int, bool]]()
    rest = iter(sounds)
    while some := list(islice(rest, TOGETHER)):
        frames.append(log_mel(np.stack([one.sound for one in some])))
        spoken += [(one.word, one.is_test) for one in some]
    words, is_test = np.array([word for word, _ in spoken], np.int64), np.array([test for _, test in spoken], bool)
    all_frames = np.concatenate(frames) if frames else np.zeros((0, BANDS, 1), np.float16)
    return {
        f"{name}_{what}": of[is_test == chosen]
        for name, chosen in (("train", False), ("test", True))
        for what, of in (("frames", all_frames), ("words", words))
    }


# ---- the cache


def _synthesized() -> Arrays:
    """The frames of what eSpeak NG says, from the cache if it has said it before."""
    code = (Path(__file__).read_bytes(), Path(speaking.__file__).read_bytes(), speaking.version().encode())
    path = _cache() / f"speech-{hashlib.sha256(b'|'.join(code)).hexdigest()[:16]}.npz"
    kept = _kept(path)
    if kept is None:
        _make(path)
        kept = _kept(path)
    if kept is None:
        raise InputError("task", f"'speech' cannot read what it has written, {path}: remove it")
    return kept


def _cache() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(folder) if folder else Path.home() / ".cache") / "adamas"


def _kept(path: Path) -> Arrays | None:
    """What is in the file; None if it is not there, or damaged."""
    try:
        with path.open("rb") as stream:
            check_archive(stream)
            stream.seek(0)
            return dict(np.load(stream))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _make(path: Path) -> None:
    """Writes the file, in a process of its own, where eSpeak NG begins anew."""
    made = subprocess.run([sys.executable, "-m", __name__, str(path)], capture_output=True, text=True)
    if made.returncode != 0:
        reason = (made.stderr.strip() or f"exit status {made.returncode}").splitlines()[-1]
        raise InputError("task", f"'speech' could not make its sounds: {reason}")


def _main(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        np.savez(stream, **_of(speaking.synthesized()))
    for former in path.parent.glob("speech-*.npz"):
        if former != path:
            former.unlink(missing_ok=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
