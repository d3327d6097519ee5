"""The anatomical images of a CAPS folder, as Clinica writes it: subjects/SUB/SES/{t1_linear, t1/spm/...}.

Names and folders: Clinica, "CAPS specifications" (aramislab.paris.inria.fr/clinica/docs), of the pipelines t1-linear
and t1-volume.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sepclr_med.cohort.bids_files import (
    EXTENSIONS,
    Scan,
    add_images,
    is_folder,
    list_folder,
    make_record,
    parse_name,
)
from sepclr_med.progress import report_progress

LAYOUT = "CAPS (Clinica): subjects/sub-*/ses-*/{t1_linear, t1/spm/segmentation/*, t1/spm/dartel/group-*}"
FOLDERS = ("t1_linear", "t1/spm/segmentation/native_space", "t1/spm/segmentation/normalized_space",
           "t1/spm/segmentation/dartel_input")  # fmt: skip
GROUPS = "t1/spm/dartel"
# Clinica puts what it adds behind the whole name of the source, suffix and all.
SOURCE_SUFFIX = re.compile("_T1w(?=_)")


def find_caps(root: Path) -> Path | None:
    """Return the CAPS folder that this folder is, or is the ``subjects`` of; None when it is neither."""
    for caps in (root, root.parent if root.name == "subjects" else root):
        if any(entry.is_dir() for entry in caps.glob("subjects/sub-*")):
            return caps
    return None


def scan_caps(root: Path, suffix: str) -> Scan:
    """Read the names of a CAPS folder's T1 images.

    Beside the entities of the names (``segm-graymatter``, ``space``, ``modulated``, ``fwhm``, ``desc``, ``res``), the
    group of a DARTEL template is the entity ``group``.

    Parameters
    ----------
    root : Path
        The folder with ``subjects``.
    suffix : str
        ``T1w`` or ``probability``, say.

    Returns
    -------
    Scan
    """
    scan = Scan(pd.DataFrame(), [], layout=LAYOUT)
    subjects = os.path.join(os.path.realpath(root), "subjects")
    folders = [e for e in list_folder(subjects, scan) if e.name.startswith("sub-") and is_folder(e)]
    scan.participants = [entry.name for entry in folders]
    records, strange = [], []
    with report_progress("reading folders", len(folders)) as advance:
        for participant in folders:
            for session, group, entry in _find_images(participant.path, scan):
                parsed = parse_name(SOURCE_SUFFIX.sub("", entry.name, count=1))
                if parsed is None or not entry.path.isprintable():
                    strange += [entry.path] if entry.name.endswith(EXTENSIONS) else []
                    continue
                scan.suffixes[parsed[1]] += 1
                if parsed[1] == suffix:
                    record = make_record(entry.path, parsed, participant.name, session, scan)
                    records.append({**record, "group": group} if group else record)
            advance()
    add_images(scan, records, subjects, strange)
    return scan


def _find_images(participant: str, scan: Scan) -> Iterator[tuple[str, str | None, os.DirEntry[str]]]:
    for session in list_folder(participant, scan):
        if not session.name.startswith("ses-") or not is_folder(session):
            continue
        folders: list[tuple[str, str | None]] = [(os.path.join(session.path, name), None) for name in FOLDERS]
        dartel = os.path.join(session.path, GROUPS)
        if os.path.isdir(dartel):
            groups = [e for e in list_folder(dartel, scan) if e.name.startswith("group-") and is_folder(e)]
            folders += [(entry.path, entry.name.removeprefix("group-")) for entry in groups]
        for folder, group in folders:
            for entry in list_folder(folder, scan) if os.path.isdir(folder) else ():
                if not is_folder(entry):
                    yield session.name, group, entry
