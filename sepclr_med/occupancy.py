"""One worker to a run folder: a second process that would write there is refused, with the name of the first."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from sepclr_med.errors import RunError
from sepclr_med.rundir import describe_refusal, read_json, write_json

logger = logging.getLogger(__name__)

LOCK, WHO = ".lock", ".working.json"
LENT = "SEPCLR_MED_WORKING_IN"
_held: set[str] = set()


@contextmanager
def working_in(folder: str | Path) -> Iterator[None]:
    """Be the only process that works in a run folder, which is made if need be.

    The lock is the operating system's: it ends with the process, however that ends, and nothing has to be cleared
    away. A folder that was made for it and in which nothing was written is gone afterwards. Whoever works there
    already may do so again, and so may a process that it was lent to.

    Parameters
    ----------
    folder : path

    Raises
    ------
    RunError
        When another process works there, saying which; or the folder cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, working_in(folder):
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['.lock', '.working.json']
    """
    folder, place = Path(folder), os.path.realpath(folder)
    if place in _held or place == os.environ.get(LENT):
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder; choose another run folder")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{folder}: {_describe_worker(folder)} is working there; wait for it, or stop it") from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {describe_refusal(folder, error)}") from error
    if (folder / WHO).is_file():
        logger.warning(
            "%s: %s ended without a word: killed from outside, the machine stopped, or memory ran out (for less: --set "
            "training.micro_batch=N; `sepclr-med plan` measures it). What it had finished is kept",
            folder,
            _describe_worker(folder),
        )
    who = {"process": os.getpid(), "machine": platform.node(), "since": datetime.now(timezone.utc).isoformat()}
    try:
        write_json(folder / WHO, who)
        _held.add(place)
        yield
    finally:
        _held.discard(place)
        # In a folder that can no longer be written, what went wrong in the block is what is to be said.
        with suppress(OSError):
            (folder / WHO).unlink(missing_ok=True)
            if made and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink(missing_ok=True)
                for place in made:
                    place.rmdir()
        lock.release()


def lend(folder: str | Path) -> dict[str, str]:
    """Return the environment of a process that may work in a folder in which this one works.

    Examples
    --------
    >>> lend("/")["SEPCLR_MED_WORKING_IN"]
    '/'
    """
    return {**os.environ, LENT: os.path.realpath(folder)}


def _describe_worker(folder: Path) -> str:
    try:
        who = read_json(folder / WHO)
        return f"process {who['process']} on {who['machine']} (since {who['since'][:16].replace('T', ' ')} UTC)"
    except (RunError, OSError, KeyError, TypeError):
        return "another process"
