"""Files that are there whole or not at all, and why they could not be written."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import platform
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from sepclr_med.errors import RunError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
# What to do where nothing can be written, by the number that the system gives as the reason.
ADVICE = {
    **dict.fromkeys(FULL_DISK, "free space or choose another folder"),
    errno.EROFS: "choose another folder, or have this file system mounted for writing",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "choose a folder you may write, or have its permissions changed"),
    errno.ENAMETOOLONG: "choose a shorter name, or a folder with a shorter path",
    errno.EISDIR: "a folder has this name: rename it or choose another name",
    errno.EFBIG: "choose a folder of a file system that takes larger files",
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE), "close other programs or raise the limit on open files (`ulimit -n`)"
    ),
}


@contextlib.contextmanager
def atomic_path(path: str | Path, mode: int | None = None) -> Iterator[Path]:
    """Give a temporary name in the same folder; rename it to ``path`` if the block succeeds, delete it if not.

    What a process that was killed left of the same file is deleted too.

    Parameters
    ----------
    path : path
    mode : int or None, default=None
        Permissions of the file, at no moment wider than that; none means the usual ones.

    Raises
    ------
    RunError
        When the folder cannot be written or the disk is full, naming the file and the reason.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        prefix = f".{path.name}.{_machine()}-{os.getpid()}-"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask() if mode is None else mode)
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {describe_refusal(path, error)}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; rename it to ``path`` if the block succeeds, delete it if not.

    Parameters
    ----------
    path : path
        Absent or empty, unless ``overwrite``; not the folder one is in.
    overwrite : bool, default=False
        Put the new folder in the place of what is there.

    Raises
    ------
    RunError
        When something is there already, or the folder cannot be written or is the one the process is in.
    """
    path, given = Path(path).absolute(), path
    if path.exists() and not path.is_dir():
        raise RunError(f"{given}: is a file, not a folder; choose another")
    if Path.cwd().is_relative_to(path.resolve()):
        # It would be moved away under the feet of whoever stands in it.
        raise RunError(f"{given}: is the folder in which this command is run, or one around it; choose another")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise RunError(f"{given}: is not empty; choose another folder, or replace it whole with --overwrite")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{given}: cannot be written: {describe_refusal(path, error)}") from error
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def describe_refusal(path: str | Path, error: OSError) -> str:
    """Say why nothing can be written at a path, and what to do about it.

    Examples
    --------
    >>> describe_refusal("absent/a.tsv", OSError(28, "No space left on device"))
    'No space left on device; free space or choose another folder, then run the same command again'
    """
    # What cannot be looked at is none.
    in_the_way = next((parent for parent in Path(path).parents if os.path.isfile(parent)), None)
    if in_the_way is not None:
        return f"{in_the_way} is a file, not a folder; choose another folder"
    advice = ADVICE.get(error.errno or 0, "see what is the matter there, or choose another folder")
    return f"{error.strerror or error}; {advice}, then run the same command again"


def require_writable(path: str | Path) -> None:
    """Refuse what could not be written, before the work is done that is to be written there; leaves no trace.

    Parameters
    ----------
    path : path
        Of a file, whose folder need not be there.

    Raises
    ------
    RunError
        As for :func:`atomic_path`, and when a folder has this name.

    Examples
    --------
    >>> require_writable(__file__ + "/links.tsv")
    Traceback (most recent call last):
    ...
    sepclr_med.errors.RunError: ...links.tsv: cannot be written: ... is a file, not a folder; choose another folder
    """
    path = Path(path).absolute()
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=next(parent for parent in path.parents if parent.exists())).close()
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {describe_refusal(path, error)}") from error


def _remove_leftovers(path: Path) -> None:
    for old in path.parent.glob(f".{glob.escape(path.name)}.{_machine()}-*"):
        pid = old.name.removeprefix(f".{path.name}.{_machine()}-").partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            old.unlink(missing_ok=True)


def _machine() -> str:
    # Folders are shared between machines, each with processes of its own.
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _flush(path: Path) -> None:
    # For reading and writing, which Windows wants of a file it is to flush.
    with open(path, "r+b") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
