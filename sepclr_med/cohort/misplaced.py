"""Files that are elsewhere than a newcomer says, or of another kind: where they may be meant to be."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from sepclr_med.errors import did_you_mean

DICOM_PREAMBLE = 128
LOOKED_AT = 50


def suggest_path(path: str | Path) -> str:
    """Say where a file that is not there may be: beside, under a like name, or below another folder.

    Parameters
    ----------
    path : path
        A file that does not exist.

    Returns
    -------
    str
        A sentence for the ``fix`` of a :class:`sepclr_med.errors.Problem`; empty when nothing is near.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "sub-01_T1w.nii.gz").touch()
    ...     suggest_path(Path(folder, "sub-01_T1w.nii"))
    'the file beside it is sub-01_T1w.nii.gz: write the path with .nii.gz in the manifest'
    """
    try:
        return _suggest(Path(path))
    except OSError:
        # A folder that may not be listed: it is a hint, and the error it belongs to is said anyway.
        return ""


def _suggest(path: Path) -> str:
    for ending, other in ((".nii", ".nii.gz"), (".nii.gz", ".nii")):
        there = path.with_name(path.name.removesuffix(ending) + other)
        if path.name.endswith(ending) and there.is_file():
            return f"the file beside it is {there.name}: write the path with {other} in the manifest"
    if path.parent.is_dir():
        return did_you_mean(path.name, (entry.name for entry in islice(path.parent.iterdir(), 10_000)))
    base = next(folder for folder in path.parents if folder.is_dir())
    rest = path.relative_to(base)
    found = [folder for folder in islice(base.iterdir(), LOOKED_AT) if (folder / rest).is_file()]
    return f"the file is in {found[0].name}: give --bids-root {found[0]}" if found else ""


def holds_dicom(folder: Path) -> bool:
    """Tell whether a folder of images is one of DICOM files, whose names need not say so.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "IM0001").write_bytes(bytes(128) + b"DICM")
    ...     holds_dicom(Path(folder))
    True
    """
    folders = [folder, *(entry for entry in _list(folder) if entry.is_dir())]
    return any(_is_dicom(entry) for each in folders for entry in _list(each) if entry.is_file())


def _list(folder: Path) -> list[Path]:
    """Return the first entries of a folder; none of one that may not be listed, such as lost+found."""
    try:
        return list(islice(folder.iterdir(), LOOKED_AT))
    except OSError:
        return []


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as stream:
            return stream.read(DICOM_PREAMBLE + 4)[DICOM_PREAMBLE:] == b"DICM"
    except OSError:
        return False
