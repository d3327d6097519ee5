"""What kind of images a manifest lists, guessed by the names of the files: to offer a choice, never to make it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

# The presets of volumes.preset, and what names of their images hold.
MARKS = {"vbm": ("probseg", "mwp1", "gm_mod", "_gm"), "t1w": ("_t1w",)}


def suggest_preset(paths: Iterable[str]) -> str:
    """Return the preset that names of images speak for: ``vbm`` (maps in template space), ``t1w``, or "" for none.

    Examples
    --------
    >>> [suggest_preset([name]) for name in ("sub-01_label-GM_probseg.nii.gz", "sub-01_T1w.nii.gz", "01.nii")]
    ['vbm', 't1w', '']
    """
    names = [Path(path).name.casefold() for path in paths]
    return next((kind for kind, marks in MARKS.items() if any(m in name for name in names for m in marks)), "")
