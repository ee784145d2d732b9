"""The checkpoint of a run: everything needed to resume it, in one file that ``torch.load(weights_only=True)`` reads.

May import PyTorch, adamas.files, adamas.lab.tasks and adamas.lab.train.folder.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adamas.files import check_archive
from adamas.lab.inputs import InputError
from adamas.lab.train import folder

FORMAT = 1


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; if that fails, the previous one stays.

    Raises:
        OSError: the file cannot be written.
    """
    stream = io.BytesIO()
    with_checksums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)  # load verifies them, whatever the caller has chosen
    try:
        torch.save({"format": FORMAT, **content}, stream)
    finally:
        torch.serialization.set_crc32_options(with_checksums)
    folder.write(path, stream.getvalue(), durable=True)


def check(content: Mapping[str, Any]) -> None:
    """Raise InputError if ``load`` could not read what ``save`` would write; names ``optimizer``."""
    stream = io.BytesIO()
    try:
        torch.save(content, stream)
        stream.seek(0)
        torch.load(stream, weights_only=True)
    except Exception as error:  # pickle may raise anything for another library's objects
        problem = (
            f"has a state that a checkpoint cannot hold, which takes tensors and plain values: {_first_line(error)}"
        )
        raise InputError("optimizer", problem) from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        InputError: it cannot be read, is damaged, or is not one of these; names ``resume``.
    """
    try:
        stream = io.BytesIO(path.read_bytes())
        check_archive(stream)
        stream.seek(0)
        content: dict[str, Any] = torch.load(stream, map_location="cpu", weights_only=True)
        known = isinstance(content, dict) and content.get("format") == FORMAT
    except Exception as error:  # damaged bytes fail in many ways
        raise InputError("resume", f"has a checkpoint that cannot be read, {path}: {_first_line(error)}") from error
    if not known:
        raise InputError(
            "resume", f"has a checkpoint of another version of adamas, {path}: resume it with that version"
        )
    return content


def fingerprint(tensors: Sequence[Tensor]) -> int:
    """A checksum of the shapes, dtypes and values of data."""
    checksum = 0
    for tensor in tensors:
        checksum = zlib.crc32(f"{tuple(tensor.shape)} {tensor.dtype}".encode(), checksum)
        checksum = zlib.crc32(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
