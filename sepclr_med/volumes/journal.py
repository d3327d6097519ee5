"""Append-only text files that stay readable when a writer is killed or the disk is full."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import SEEK_END, FileIO
from pathlib import Path

from sepclr_med.atomic import FULL_DISK
from sepclr_med.errors import Problem, RunError, VolumeError


class Journal:
    r"""Lines of one form in a file that only grows.

    Parameters
    ----------
    path : path
        The file; made by the first :meth:`append`.
    form : str
        Regular expression of a whole line; anything else in the file is passed over.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "log.tsv")
    >>> Journal(path, r"(\d+)").append(["1", "2"])
    >>> _ = path.open("a").write("3")  # torn: its line end is missing
    >>> [match[1] for match in Journal(path, r"(\d+)").read_on()]
    ['1', '2']
    """

    def __init__(self, path: str | Path, form: str):
        self.path = Path(path)
        self._form = re.compile(form)
        self._read_to = 0

    def read_on(self) -> Iterator[re.Match[str]]:
        """Give the whole lines that were added since the last call."""
        if not self.path.is_file():
            return
        with open(self.path, "rb") as stream:
            stream.seek(self._read_to)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.decode("ascii", errors="replace").split("\n"):
            match = self._form.fullmatch(line)
            if match:
                yield match

    def append(self, lines: Iterable[str]) -> None:
        """Add lines and flush them to the disk; the caller holds the lock that keeps other writers away."""
        with open_to_extend(self.path) as stream:
            length = stream.seek(0, SEEK_END)
            # A line is far shorter than this, so a torn one lies wholly in the tail. What is longer is none of ours.
            stream.seek(max(0, length - 4096))
            tail = stream.read()
            stranger = len(tail) < length and b"\n" not in tail
            stream.seek(length if stranger else length - len(tail) + tail.rfind(b"\n") + 1)
            stream.truncate()
            with undone_on_error(stream):
                write_to_disk(stream, [("\n" * stranger + "".join(f"{line}\n" for line in lines)).encode("ascii")])


def open_to_extend(path: Path) -> FileIO:
    """Open a file for reading and writing anywhere, made if absent, never emptied.

    It is unbuffered: a buffer would try again to write, on closing, what :func:`undone_on_error` has taken back.
    """
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def write_to_disk(stream: FileIO, blocks: Iterable[bytes | memoryview]) -> None:
    """Write every byte, and return once they are on the disk."""
    for block in blocks:
        left = memoryview(block).cast("B")
        while left:
            left = left[stream.write(left) :]
    os.fsync(stream.fileno())


@contextmanager
def undone_on_error(stream: FileIO) -> Iterator[None]:
    """Give the file its old length back when the block fails, so that a full disk is not left full."""
    length = os.fstat(stream.fileno()).st_size
    try:
        yield
    except BaseException:
        os.ftruncate(stream.fileno(), length)
        raise


@contextmanager
def disk_problems(folder: Path, n_bytes: int) -> Iterator[None]:
    """Make ``folder`` and turn what the disk refuses while ``n_bytes`` are written into a :class:`VolumeError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RunError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if getattr(cause, "errno", None) in FULL_DISK:
            raise full_disk(folder, n_bytes) from error
        problem = Problem(
            f"cannot be written: {getattr(cause, 'strerror', None) or error}",
            file=str(folder),
            fix="give a folder you may write as volumes.cache_dir",
            code="unwritable_cache",
        )
        raise VolumeError("the cache of preprocessed volumes cannot be written", [problem]) from error


def full_disk(folder: Path, needed: int) -> VolumeError:
    """Return the error of a disk without room for ``needed`` bytes."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    problem = Problem(
        "the disk is too full for the preprocessed volumes",
        file=str(folder),
        got=f"{shutil.disk_usage(existing).free / 1e6:,.1f} MB free",
        allowed=f"{needed / 1e6:,.1f} MB needed",
        fix="free space, give a larger disk as volumes.cache_dir, or take a larger volumes.spacing",
        code="full_disk",
    )
    return VolumeError("the cache of preprocessed volumes cannot grow", [problem])
