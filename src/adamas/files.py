"""Atomic writes of files, and checks of archives against their checksums. Imports only the standard library."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """A stream whose content replaces the file at the end of the block; if anything fails, the old file stays.

    This also holds if the process is killed, and, with ``durable``, if the machine loses power.
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
        # The error of a write to a full disk has no file name. Without an errno, a file name would replace the message.
        if error.errno is not None and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def check_archive(archive: BinaryIO) -> None:
    """Compare the content of a ZIP archive, as written by ``torch.save`` and ``np.savez``, with its checksums.

    ``torch.load`` and ``np.load`` do this only in part or not at all.

    Raises:
        zipfile.BadZipFile: a member does not match its checksum. Other damage raises other exceptions of ``zipfile``.
    """
    with zipfile.ZipFile(archive) as opened:
        damaged = opened.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} does not have its checksum")
