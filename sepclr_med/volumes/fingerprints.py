"""SHA-256 of files, remembered for files that have not changed since."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sepclr_med.errors import VolumeError
from sepclr_med.rundir import file_sha256
from sepclr_med.volumes.journal import Journal, disk_problems

# A file changed within a clock tick of being read may keep its time stamp, so young files are not remembered.
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class ContentHash:
    """What a file holds, and how it looked when that was found out."""

    path: str
    looks: str
    sha256: str
    read_at_ns: int = 0

    @property
    def settled(self) -> bool:
        """Whether the file was old enough, when read, that a later change must show in its time stamps."""
        _, modified, changed, _ = (int(part) for part in self.looks.split("-"))
        return self.read_at_ns - max(modified, changed) > SETTLED_NS


class ContentHashes:
    """Hashes of files by path, size, times and inode.

    Paths are kept as hashes too, so that the file holds nothing about the user's disk.

    Parameters
    ----------
    path : path
        Where they are remembered; made by the first :meth:`remember`.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_text("one")
    >>> ContentHashes(folder / "files.tsv").find(folder / "a").sha256[:8]
    '7692c3ad'
    """

    def __init__(self, path: str | Path):
        self.journal = Journal(path, r"([0-9a-f]{64})\t(\d+-\d+-\d+-\d+)\t([0-9a-f]{64})")
        self._known = {line[1]: (line[2], line[3]) for line in self.journal.read_on()}

    def find(self, path: str | Path) -> ContentHash:
        """Return the hash of a file, reading it only when it is new or looks different.

        Raises
        ------
        OSError
            When the file cannot be read.
        """
        name, looks = _name(path), file_looks(path)
        known_looks, sha256 = self._known.get(name, ("", ""))
        if known_looks == looks:
            return ContentHash(str(path), looks, sha256)
        now = time.time_ns()
        return ContentHash(str(path), looks, file_sha256(path), now)

    def remember(self, found: Iterable[ContentHash]) -> None:
        """Keep those hashes that are new and safe to keep; where nothing can be written, they are found again."""
        news = {_name(entry.path): (entry.looks, entry.sha256) for entry in found if entry.settled}
        news = {name: entry for name, entry in news.items() if self._known.get(name) != entry}
        if not news:
            return
        folder = self.journal.path.parent
        with suppress(VolumeError), disk_problems(folder, 0), FileLock(folder / ".lock"):
            self.journal.append(f"{name}\t{looks}\t{sha256}" for name, (looks, sha256) in news.items())
        self._known |= news


def file_looks(path: str | Path) -> str:
    """Return size, modification time, change time and inode: any rewrite of the file changes one of them."""
    status = os.stat(path)
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def _name(path: str | Path) -> str:
    return hashlib.sha256(os.path.abspath(path).encode("utf-8", "surrogateescape")).hexdigest()
