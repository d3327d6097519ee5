"""One process to a run folder: a second that would write there is refused, with the name of the first."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from filelock import BaseFileLock, FileLock, Timeout

from sepclr_med.atomic import describe_refusal
from sepclr_med.errors import RunError
from sepclr_med.rundir import RunDir, read_json, write_json

logger = logging.getLogger(__name__)

LOCK, WHO = ".lock", ".working.json"
Verb = TypeVar("Verb", bound=Callable[..., Any])


@contextmanager
def working_in(folder: str | Path) -> Iterator[None]:
    """Be the only process that works in a run folder, which is made if need be.

    Within it the same may be asked again: a command holds the folder for all its steps. The lock is the operating
    system's: it ends with the process, however that ends, and nothing has to be cleared away. A folder that was made
    for it and in which nothing was written is gone afterwards.

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
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file, not a folder; choose another run folder")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = FileLock(folder.resolve() / LOCK, is_singleton=True)
    if lock.is_locked:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take(lock, folder)
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
        yield
    finally:
        # In a folder that can no longer be written, what went wrong in the block is what is to be said.
        with suppress(OSError):
            (folder / WHO).unlink(missing_ok=True)
            if made and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink(missing_ok=True)
                for place in made:
                    place.rmdir()
        lock.release()


def require_free(folder: str | Path) -> None:
    """Refuse a run folder in which another process works; nothing is made or written there.

    Parameters
    ----------
    folder : path
        It need not be there.

    Raises
    ------
    RunError
        As for :func:`working_in`.

    Examples
    --------
    >>> require_free("absent")
    """
    path = Path(folder).resolve() / LOCK
    lock = FileLock(path, is_singleton=True)
    if path.is_file() and not lock.is_locked:
        _take(lock, Path(folder))
        lock.release()


def alone_in(run_dir: str | Path) -> AbstractContextManager[None]:
    """Be the only process that works in a run folder that is there; in any other folder nothing is made or written.

    Parameters
    ----------
    run_dir : path

    Raises
    ------
    RunError
        As for :func:`working_in`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, alone_in(folder):
    ...     list(Path(folder).iterdir())
    []
    """
    is_run = RunDir(run_dir).config.is_file() or (Path(run_dir) / LOCK).exists()
    return working_in(run_dir) if is_run else nullcontext()


def alone(verb: Verb) -> Verb:
    """Let what writes into the run folder that is its first argument be the only process there.

    Parameters
    ----------
    verb : callable

    Examples
    --------
    >>> @alone
    ... def name(run_dir):
    ...     return f"nobody else is in {run_dir}"
    >>> name("runs/demo")
    'nobody else is in runs/demo'
    """

    @wraps(verb)
    def held(run_dir: str | Path, *args: Any, **choices: Any) -> Any:
        with alone_in(run_dir):
            return verb(run_dir, *args, **choices)

    return cast(Verb, held)


def _take(lock: BaseFileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{folder}: {_describe_worker(folder)} is working there; wait for it, or stop it") from None


def _describe_worker(folder: Path) -> str:
    try:
        who = read_json(folder / WHO)
        return f"process {who['process']} on {who['machine']} (since {who['since'][:16].replace('T', ' ')} UTC)"
    except (RunError, OSError, KeyError, TypeError):
        return "another process"
