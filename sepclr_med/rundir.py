"""The one place that names files in a run folder, and writes them so that a crash never leaves half a file."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
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


def write_text(path: str | Path, text: str, mode: int | None = None) -> Path:
    """Write a text file atomically, UTF-8 with LF line ends."""
    with atomic_path(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path: str | Path, content: Any, mode: int | None = None) -> Path:
    """Write JSON atomically, indented, keys in the order given."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", mode)


def read_json(path: str | Path, keys: Mapping[str, type] | None = None) -> Any:
    """Read JSON, an object with these keys and types of values where they are given.

    Raises
    ------
    RunError
        For anything else, naming the file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not readable JSON ({error}); mend or delete it") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from None
    if keys is not None:
        require_keys(content, keys, path)
    return content


def require_keys(content: Any, keys: Mapping[str, type], path: str | Path) -> None:
    """Refuse what is no mapping, or has a key missing or of another type.

    Raises
    ------
    RunError
        Naming the file and every such key.

    Examples
    --------
    >>> require_keys({"steps": 3}, {"steps": list}, "provenance.json")
    Traceback (most recent call last):
    ...
    sepclr_med.errors.RunError: provenance.json: not what belongs there (steps should be a list); mend or delete it
    """
    if isinstance(content, dict):
        wrong = [f"{key} should be a {kind.__name__}" for key, kind in keys.items() if not _is(content.get(key), kind)]
    else:
        wrong = ["it should be an object with keys"]
    if wrong:
        raise RunError(f"{path}: not what belongs there ({', '.join(wrong)}); mend or delete it")


@contextlib.contextmanager
def as_written(path: str | Path) -> Iterator[None]:
    """Call what a block cannot make sense of damage to the file it was read from.

    Parameters
    ----------
    path : path

    Raises
    ------
    RunError
        For any error of a value, a key or a type, naming the file.

    Examples
    --------
    >>> with as_written("facts.json"):
    ...     {}["Loadings"]
    Traceback (most recent call last):
    ...
    sepclr_med.errors.RunError: facts.json: not what belongs there (KeyError: 'Loadings'); mend or delete it
    """
    try:
        yield
    except RunError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RunError(f"{path}: not what belongs there ({said}); mend or delete it") from error


def _is(value: Any, kind: type) -> bool:
    # To Python True is a whole number, and a whole number no float.
    return isinstance(value, int | float if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def write_table(path: str | Path, table: pd.DataFrame) -> Path:
    """Write a TSV atomically: tab, UTF-8, LF, ``n/a`` for missing, floats as ``%.8g``."""
    with atomic_path(path) as temporary:
        table.to_csv(
            temporary, sep="\t", index=False, na_rep="n/a", float_format="%.8g", lineterminator="\n", encoding="utf-8"
        )
    return Path(path)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class RunDir:
    """Names of everything in one run folder.

    Examples
    --------
    >>> RunDir("runs/demo").separation.as_posix()
    'runs/demo/analysis/separation.tsv'
    """

    root: str | Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return Path(self.root)

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, commands, seed, hardware, hashes and times."""
        return self.path / "provenance.json"

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.path / "history.tsv"

    @property
    def progress(self) -> Path:
        """The training curves."""
        return self.path / "progress.png"

    @property
    def embeddings(self) -> Path:
        """The BIDS derivative."""
        return self.path / "embeddings"

    @property
    def separation(self) -> Path:
        """The table that ``evaluate`` writes."""
        return self.path / "analysis" / "separation.tsv"

    def analysis(self, name: str) -> Path:
        """A file of the analysis, such as ``links.tsv``."""
        return self.path / "analysis" / name

    @property
    def maps(self) -> Path:
        """Maps of factors on the brain."""
        return self.path / "maps"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def manifest(self) -> Path:
        """The whole manifest of the run, in its own order."""
        return self.path / "data" / "manifest.tsv"

    def part(self, split: str) -> Path:
        """The rows of one split, ``train``, ``val`` or ``test``."""
        return self.path / "data" / f"{split}.tsv"

    @property
    def cross_fit(self) -> Path:
        """Folds and seeds of a cross-fit; absent from the run folder of a single model."""
        return self.path / "crossfit.json"

    @property
    def seal(self) -> Path:
        """Where the ledger of the manifest lies, and what was sealed there; absent of a manifest that was no file."""
        return self.path / "data" / "seal.json"

    def job(self, name: str) -> Path:
        """The run folder of one model of a cross-fit."""
        return self.path / "models" / name

    def job_file(self, name: str, ending: str) -> Path:
        """The manifest (``.tsv``) or the recipe (``.yaml``) of one model of a cross-fit, beside its run folder.

        Examples
        --------
        >>> RunDir("runs/demo").job_file("fold-GE-1.5T_seed-0", ".tsv").as_posix()
        'runs/demo/models/fold-GE-1.5T_seed-0.tsv'
        """
        return self.path / "models" / f"{name}{ending}"

    @property
    def norms(self) -> Path:
        """What new participants are compared with."""
        return self.path / "norms.json"

    @property
    def check(self) -> Path:
        """What ``check`` found."""
        return self.path / "check"

    @property
    def image_facts(self) -> Path:
        """What ``check`` read from each image, so that it is read once."""
        return self.check / "images.jsonl"

    @property
    def voxel_pca(self) -> Path:
        """The plain baseline, fitted on training rows."""
        return self.path / "checkpoints" / "voxel_pca.safetensors"

    @property
    def reference(self) -> Path:
        """The normative reference, fitted on training background rows."""
        return self.path / "checkpoints" / "reference.safetensors"

    def erasure(self, which: str = "last") -> Path:
        """What is taken out of the spaces that the weights ``last`` or ``best`` export, fitted on training rows."""
        return self.path / "checkpoints" / f"erasure_{which}.safetensors"

    def checkpoint(self, which: str = "last") -> Path:
        """The weights, ``last`` or ``best``; ``previous`` is the one before ``last``, should that be damaged."""
        return self.path / "checkpoints" / f"{which}.safetensors"


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
