"""Files that are written whole or not at all, and archives that are what was written. Imports the standard library alone."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file at the end of the block; where that fails, what was there before stays.

    This holds for a process that is killed, and, where it is ``durable``, for a machine that loses its power.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        # A write on a full disk names no file. One without a number is told by its text alone, which a name would hide.
        if error.errno is not None and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def check_archive(archive: BinaryIO) -> None:
    """Read a ZIP archive, such as ``torch.save`` and ``np.savez`` write, and compare its content with its checksums.

    The readers of both leave that out, wholly or in part.

    Raises:
        zipfile.BadZipFile: a member is not what was written. Other damage raises whatever ``zipfile`` raises then.
    """
    with zipfile.ZipFile(archive) as opened:
        damaged = opened.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not have its checksum")
