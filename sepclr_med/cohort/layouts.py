"""How a folder is laid out, and the images in it: BIDS, CAPS of Clinica, CAT12, or as a cohort is published."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from sepclr_med.cohort.bids_files import EXTENSIONS, Scan, add_images, is_folder, list_folder, scan_images
from sepclr_med.cohort.caps_files import find_caps, scan_caps
from sepclr_med.cohort.cat12_files import is_prefix, scan_cat12
from sepclr_med.cohort.importers import ImageRules
from sepclr_med.cohort.misplaced import holds_dicom
from sepclr_med.cohort.name_patterns import compile_pattern, fill_pattern
from sepclr_med.errors import Problem


def scan_layout(root: Path, suffix: str, rules: ImageRules | None = None) -> Scan:
    """Read the names of the images in a folder, whatever its layout.

    A prefix of CAT12 (``mwp1``) asks for CAT12's images; ``subjects/sub-*`` means CAPS, ``sub-*`` BIDS; where neither
    gives an image, an importer's patterns say where a cohort's images are.

    Parameters
    ----------
    root : Path
    suffix : str
        Suffix of BIDS or CAPS, or prefix of CAT12.
    rules : ImageRules or None, default=None
        What an importer says of images.

    Returns
    -------
    Scan
        With a remark on any layout but BIDS. Without an image, ``suffixes`` counts those of CAT12 too.
    """
    rules = rules or ImageRules()
    caps = find_caps(root)
    if is_prefix(suffix):
        scan = scan_cat12(root, suffix, rules)
    elif caps is not None:
        scan = scan_caps(caps, suffix)
    else:
        scan = scan_images(root, suffix)
        if scan.images.empty:
            published = scan_published(root, rules) if rules.patterns else scan
            scan = scan if published.images.empty else published
    if scan.images.empty and not is_prefix(suffix):
        scan.suffixes.update(scan_cat12(root, suffix).suffixes)
    if scan.layout != "BIDS" and not scan.images.empty:
        scan.problems.append(Problem(f"read as {scan.layout}", str(root), code="layout", severity="info"))
    return scan


def scan_published(root: Path, rules: ImageRules) -> Scan:
    """Find images whose paths fit any of an importer's patterns.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> rules = ImageRules(patterns=["IXI{participant_id}-{site}-*-T1.nii.gz"], participant="IXI{participant_id}")
    >>> with TemporaryDirectory() as folder:
    ...     (Path(folder) / "IXI002-Guys-0828-T1.nii.gz").touch()
    ...     scan = scan_published(Path(folder), rules)
    >>> scan.images[["participant_id", "site"]].values.tolist()
    [['sub-IXI002', 'Guys']]
    """
    real = os.path.realpath(root)
    scan = Scan(pd.DataFrame(), [], layout=f"published: {' or '.join(rules.patterns)}")
    found: dict[str, dict[str, str]] = {}
    for pattern in rules.patterns:
        found = {**dict(_find_files(real, pattern.split("/"), {}, scan)), **found}
    records = [_make_record(path, held, rules) for path, held in found.items() if path.isprintable()]
    scan.participants = sorted({str(record["participant_id"]) for record in records})
    add_images(scan, records, real)
    return scan


def say_empty(root: Path, scan: Scan, suffix: str, patterns: Sequence[str]) -> Problem:
    """Say that no layout fits a folder: what was looked for, what is there, what to type."""
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    inner = [folder.name for folder in folders if any(entry.is_dir() for entry in folder.glob("sub-*"))]
    there = ", ".join(f"{name}: {n:,}" for name, n in scan.suffixes.most_common(8))
    allowed = ", ".join(["sub-*", "subjects/sub-* (CAPS)", f"{suffix if is_prefix(suffix) else 'mwp1'}*.nii (CAT12)"])
    allowed += f", {', '.join(patterns)}" if patterns else ""
    if root.name.startswith("sub-"):
        message, fix = "this is the folder of one participant", f"give the dataset, {root.parent}"
    elif there:
        message = f"no {suffix} image, but images of CAT12 are here"
        fix = f"choose with --suffix {scan.suffixes.most_common(1)[0][0]}"
    elif len(inner) > 1:
        message = f"{len(inner)} datasets lie in this folder, none at its top"
        fix = f"run the command on each, such as {root / inner[0]}"
    elif inner:
        message, fix = "the participants are one folder further down", f"give {root / inner[0]}"
    elif holds_dicom(root):
        message = "this folder holds DICOM files, as scanners write them, not NIfTI images in BIDS"
        fix = "convert them first, for example with dcm2bids or HeuDiConv; then give the BIDS folder they make"
    else:
        message = "no folder is named sub-LABEL, so there are no images to list"
        fix = (
            "fetch the images, or, if the folder is laid out otherwise, write the manifest yourself (docs/manifests.md)"
        )
    got = there or ", ".join((inner or [folder.name for folder in folders])[:8]) or "no folders"
    return Problem(message, file=str(root), got=got, allowed=allowed, fix=fix, code="no_participants")


def _find_files(
    folder: str, steps: list[str], held: dict[str, str], scan: Scan
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the files whose path fits, one step of the pattern a folder, with what its places stand for."""
    wanted = compile_pattern(steps[0])
    for entry in list_folder(folder, scan):
        found = wanted.fullmatch(entry.name)
        if found is None or any(held.get(place, value) != value for place, value in found.groupdict().items()):
            continue
        together = {**held, **found.groupdict()}
        if len(steps) == 1 and not is_folder(entry):
            yield entry.path, together
        elif len(steps) > 1 and is_folder(entry):
            yield from _find_files(entry.path, steps[1:], together, scan)


def _make_record(path: str, held: dict[str, str], rules: ImageRules) -> dict[str, str | None]:
    extension = next((end for end in EXTENSIONS if path.endswith(end)), "")
    session = f"ses-{held['session_id']}" if "session_id" in held else None
    participant = f"sub-{fill_pattern(rules.participant, held)}"
    return {**held, "participant_id": participant, "session_id": session, "image_path": path, "extension": extension}
