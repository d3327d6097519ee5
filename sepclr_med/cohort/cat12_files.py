"""The images that CAT12 leaves: mwp1NAME.nii and the like, in ``mri`` or beside, in one folder or one per participant.

The part before the source's name says what an image is (CAT12 manual, "Naming convention of output files"): ``mwp1``
modulated grey matter in template space, ``m0wp1`` modulated by the non-linear part only, ``wm`` the corrected T1 in
template space, ``p1`` grey matter as scanned, ``rp1`` registered for DARTEL, each with ``s`` and a width in front when
smoothed by SPM. Here it takes the place of BIDS's suffix.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sepclr_med.cohort.bids_files import Scan, add_images, is_folder, list_folder, parse_name
from sepclr_med.cohort.importers import ImageRules
from sepclr_med.cohort.name_patterns import compile_pattern, fill_pattern

LAYOUT = "CAT12: PREFIX*.nii[.gz] in the folder, mri, */mri or sub-*/[ses-*/][anat/][mri/]"
PREFIX = r"(?:s\d*)?(?:m0?wp\d|wp\d|rp\d|p\d|wm(?:i(?=sub-|[A-Z0-9]|$))?)"
# Of CAT12's longitudinal pipeline the source is the realigned image, rNAME.
NAME = re.compile(
    rf"(?P<prefix>{PREFIX}(?:r(?=sub-))?)(?P<source>.+?)(?:_(?P<space>affine|rigid))?(?P<end>\.nii(?:\.gz)?)"
)
INNER = ("mri", "anat")


def is_prefix(suffix: str) -> bool:
    """Return whether a suffix is a prefix of CAT12.

    Examples
    --------
    >>> [name for name in ("mwp1", "s6mwp1", "m0wp2", "mwp1r", "T1w", "probseg") if is_prefix(name)]
    ['mwp1', 's6mwp1', 'm0wp2', 'mwp1r']
    """
    return bool(re.fullmatch(rf"{PREFIX}r?", suffix))


def scan_cat12(root: Path, prefix: str, rules: ImageRules | None = None) -> Scan:
    """Read the names of CAT12's images under a folder.

    Where the source's name is BIDS, it says participant, session and entities. Elsewhere it is the participant's
    label as a whole, unless the last part of one of an importer's patterns fits it.

    Parameters
    ----------
    root : Path
    prefix : str
        ``mwp1``, say.
    rules : ImageRules or None, default=None
        What an importer says of the sources.

    Returns
    -------
    Scan
        ``participants`` are those of any image of CAT12.
    """
    real = os.path.realpath(root)
    scan = Scan(pd.DataFrame(), [], layout=LAYOUT)
    rules = rules or ImageRules()
    records, seen = [], set()
    for entry in _find_entries(real, scan):
        found = NAME.fullmatch(entry.name)
        if found is None or not entry.path.isprintable():
            continue
        record = _make_record(found, entry.path, rules)
        seen.add(str(record["participant_id"]))
        scan.suffixes[found["prefix"]] += 1
        records += [record] if found["prefix"] == prefix else []
    scan.participants = sorted(seen)
    add_images(scan, records, real)
    return scan


def _find_entries(root: str, scan: Scan) -> Iterator[os.DirEntry[str]]:
    for entry in list_folder(root, scan):
        if not is_folder(entry):
            yield entry
        elif entry.name in INNER:
            yield from _descend(entry.path, scan)
        elif entry.name.startswith("sub-") or os.path.isdir(os.path.join(entry.path, "mri")):
            yield from _descend(entry.path, scan, sessions=entry.name.startswith("sub-"))


def _descend(folder: str, scan: Scan, sessions: bool = False) -> Iterator[os.DirEntry[str]]:
    """Yield the files of a folder and of its ``ses-*``, ``anat`` and ``mri``, each in this order at most once."""
    for entry in list_folder(folder, scan):
        if not is_folder(entry):
            yield entry
        elif sessions and entry.name.startswith("ses-"):
            yield from _descend(entry.path, scan)
        elif entry.name == "mri":
            yield from (inner for inner in list_folder(entry.path, scan) if not is_folder(inner))
        elif entry.name == "anat" and os.path.basename(folder) != "anat":
            yield from _descend(entry.path, scan)


def _make_record(found: re.Match[str], path: str, rules: ImageRules) -> dict[str, str | None]:
    source, space = found["source"], found["space"]
    own: dict[str, str | None] = {"image_path": path, "extension": found["end"], "session_id": None}
    own |= {"space": space} if space else {}
    parsed = parse_name(source + found["end"]) or parse_name(f"{source}_T1w{found['end']}")
    if parsed is not None:
        entities = dict(parsed[0])
        own["participant_id"] = f"sub-{entities.pop('sub')}"
        own["session_id"] = f"ses-{entities.pop('ses')}" if "ses" in entities else None
        return {**entities, **own}
    held = _read_source(source, rules)
    session = held.get("session_id")
    return {
        **held,
        **own,
        "participant_id": f"sub-{held['participant_id']}",
        "session_id": session and f"ses-{session}",
    }


def _read_source(source: str, rules: ImageRules) -> dict[str, str]:
    for pattern in rules.patterns:
        found = compile_pattern(re.sub(r"\.nii(\.gz)?$", "", pattern.rsplit("/", 1)[-1])).fullmatch(source)
        if found is not None and "participant_id" in found.groupdict():
            return {**found.groupdict(), "participant_id": fill_pattern(rules.participant, found.groupdict())}
    return {"participant_id": source}
