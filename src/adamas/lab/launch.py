"""How this process was started: alone, or by torchrun as one of several ranks.

torchrun, and whatever starts processes as it does, tells each of them its rank in environment variables.

May import the standard library and adamas.lab.inputs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from adamas.lab.inputs import InputError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
EXAMPLE = 2  # ranks in a command that is suggested


def launched() -> bool:
    """Whether the environment names this process's rank, and where the others are."""
    return all(os.environ.get(name) for name in VARIABLES)


def ranks() -> int:
    """The number of processes that were started together."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def rank() -> int:
    """The number of this process among all, from 0."""
    return int(os.environ["RANK"]) if launched() else 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def command(words: Sequence[str], parallel: str | None) -> list[str]:
    """The words that start ``adamas`` with these arguments, as many times as this process was started."""
    if parallel is None:
        return ["adamas", *words]
    processes = str(ranks() if launched() else EXAMPLE)
    return ["torchrun", "--nproc-per-node", processes, "-m", "adamas", *words, "--parallel", parallel]


def typed(words: Sequence[str]) -> str:
    """Write words as they are typed in a shell: in double quotes if that is simpler, else as ``shlex.join`` does."""
    simpler = ("'" in word and not set(word) & set('"$`\\!') for word in words)
    return " ".join(f'"{word}"' if is_so else shlex.quote(word) for word, is_so in zip(words, simpler, strict=True))


def check(parallel: str | None, words: Sequence[str]) -> None:
    """Check that a run suits how this process was started.

    Args:
        parallel: the option of that name.
        words: the arguments of ``adamas`` without it, for the message.

    Raises:
        InputError: ``parallel`` is given in a process of its own, or is missing in one of several.
    """
    if parallel is not None and not launched():
        line = typed(command(words, parallel))
        raise InputError("parallel", f"shares a run among the processes that torchrun starts: type {line}")
    if parallel is None and ranks() > 1:
        line = typed(command(words, "ddp"))
        raise InputError("parallel", f"is missing, and {ranks()} processes would all write the same run: type {line}")


def check_alone(words: Sequence[str]) -> None:
    """Check that a command that processes cannot share was started once.

    Args:
        words: the command and its arguments, for the message.

    Raises:
        InputError: it was started as one of several processes.
    """
    if ranks() > 1:
        line = typed(command(words, None))
        raise InputError("command", f"{words[0]} runs in one process, but {ranks()} were started: type {line}")
