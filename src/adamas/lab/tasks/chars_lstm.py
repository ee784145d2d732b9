"""The task ``chars-lstm``: a recurrent network that predicts the next character of a text. May import PyTorch."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from adamas.lab.tasks import Task, text

CONTEXT, EMBEDDING, WIDTH = 64, 32, 192


class Recurrent(nn.Module):
    """An LSTM over bytes, whose memory is empty at the start of each window."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.embedding = nn.Embedding(text.CHARACTERS, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, text.CHARACTERS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the next characters, windows × characters × CHARACTERS, for int64 characters."""
        outputs, _ = self.lstm(self.embedding(x))
        logits: Tensor = self.head(outputs)
        return logits


def load(data_dir: Path | None) -> Task:
    """Cut the text of ``data_dir`` into windows: a file, a folder of *.txt, or by default Python's standard library.

    Raises:
        InputError: the text cannot be read, or is too short.
    """
    train, test = text.windows(text.read_text(data_dir), CONTEXT, train=16_000, test=800)
    return Task(
        description=f"{train.numel():,} characters of text, an LSTM of {WIDTH}",
        model=Recurrent,
        loss=text.loss,
        evaluate=text.evaluate,
        metrics_are_means=True,
        metric="bits_per_character",
        mode="min",
        target=2.5,
        epochs=3,
        train=(train,),
        test=(test,),
        batch_size=32,
        eval_every=250,
        lr_scale=3.0,
    )
