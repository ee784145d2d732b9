"""Reads IDX files, the format that MNIST is distributed in, gzipped or not. May import PyTorch.

An IDX file is two zero bytes, one byte for the type (8: unsigned bytes), one for the number of dimensions, the
dimensions as big-endian 32-bit integers, and the values. Source: http://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from adamas.lab.inputs import InputError

CHUNK = 1 << 20  # bytes per read


def find_idx(folder: Path, name: str, dimensions: int) -> Path:
    """Return the file with this name (such as ``train-images``) in any of the usual spellings.

    Raises:
        InputError: there is no such file.
    """
    spellings = [f"{name}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for spelling in spellings:
        if (folder / spelling).is_file():
            return folder / spelling
    if not folder.is_dir():
        raise InputError("data_dir", f"{str(folder)!r} is not a folder: give the one that holds {spellings[0]}")
    raise InputError("data_dir", f"{str(folder)!r} has no {spellings[0]}, nor {', '.join(spellings[1:])}: put it there")


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes.

    Args:
        path: the file; a name that ends in ``.gz`` is read as gzip.
        dimensions: the number of dimensions that the file must have.

    Returns:
        uint8 tensor of the file's shape.

    Raises:
        InputError: the file cannot be read, is truncated, or is not of this kind.
    """

    def damaged(problem: str) -> InputError:
        return InputError("data_dir", f"has a damaged file, {path}: {problem}. Download it again")

    header_bytes = 4 + 4 * dimensions
    content = bytearray()
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            header = stream.read(header_bytes)
            if header[:4] != bytes([0, 0, 8, dimensions]):
                begins = header[:4].hex() or "nothing"
                raise damaged(f"it begins with {begins}, where 000008{dimensions:02x} is expected")
            if len(header) < header_bytes:
                raise damaged(f"its header ends after {len(header)} of {header_bytes} bytes")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            expected = math.prod(shape)
            # Read at most one byte more than the header promises, which shows that the file is too long: a few megabytes of
            # gzip can hold gigabytes. At the end of the stream, gzip verifies its checksum.
            while len(content) <= expected and (part := stream.read(min(CHUNK, expected + 1 - len(content)))):
                content += part
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise damaged(f"not a complete gzip file ({error})") from error
    except OSError as error:
        raise InputError("data_dir", f"has a file that cannot be read, {path}: {error.strerror}") from error
    if len(content) != expected:
        holds = f"{len(content)}" if len(content) < expected else f"more than {expected}"
        raise damaged(f"it holds {holds} values, where its header promises {expected}")
    if expected == 0:
        raise damaged("it is empty")
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)
