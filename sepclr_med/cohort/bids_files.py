"""The images of a BIDS folder: their names taken apart, chosen by entities, one per participant, session and run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from sepclr_med.cohort.cells import count_values
from sepclr_med.cohort.rows import KEY
from sepclr_med.errors import ManifestError, Problem, did_you_mean
from sepclr_med.progress import report_progress

EXTENSIONS = (".nii.gz", ".nii", ".mgz")
# Folders of signals and reports: large, and never with an image of the brain's anatomy.
SKIPPED_FOLDERS = ("beh", "eeg", "emg", "figures", "ieeg", "log", "logs", "meg", "motion", "nirs")
LONG_NAMES = {
    "session": "ses",
    "acquisition": "acq",
    "reconstruction": "rec",
    "resolution": "res",
    "hemisphere": "hemi",
}
OWN_OPTIONS = ("desc", "label", "space", "session")
ABSENT = "none"


@dataclass
class Scan:
    """What one pass over the folder found.

    Parameters
    ----------
    images : DataFrame
        One row per image of the suffix: ``participant_id`` (``sub-01``), ``session_id`` (``ses-1`` or missing),
        ``image_path`` (absolute), ``extension``, and one column per other entity, missing where a name lacks it.
    participants : list of str
        Folders ``sub-*``, with or without an image.
    suffixes : Counter
        Number of images of every suffix.
    problems : list of Problem
    layout : str, default="BIDS"
        How the folder was read.
    """

    images: pd.DataFrame
    participants: list[str]
    suffixes: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    layout: str = "BIDS"


def parse_name(name: str) -> tuple[dict[str, str], str, str] | None:
    """Take a BIDS file name apart.

    Returns
    -------
    (entities, suffix, extension) or None
        None when it is no image or no BIDS name.

    Examples
    --------
    >>> parse_name("sub-01_ses-2_desc-mod_probseg.nii.gz")
    ({'sub': '01', 'ses': '2', 'desc': 'mod'}, 'probseg', '.nii.gz')
    """
    extension = next((e for e in EXTENSIONS if name.endswith(e)), None)
    if extension is None:
        return None
    *parts, suffix = name[: -len(extension)].split("_")
    pairs = [part.partition("-") for part in parts]
    if not parts or parts[0][:4] != "sub-" or not all(key and value for key, _, value in pairs):
        return None
    return {key: value for key, _, value in pairs}, suffix, extension


def scan_images(root: str | Path, suffix: str) -> Scan:
    """Read the names in ``sub-*/[ses-*/][anat/]`` under ``root``, and nothing deeper or elsewhere.

    Links to folders are followed, but not upwards; the fixed depth makes other loops harmless. Links whose file is not
    there (a dataset whose content was not fetched) count as images and give a warning.

    Parameters
    ----------
    root : path
        A BIDS dataset or one derivative of it.
    suffix : str
        Suffix of the images wanted.

    Returns
    -------
    Scan
    """
    root = os.path.realpath(root)
    scan = Scan(pd.DataFrame(), [])
    scan.participants = sorted(e.name for e in list_folder(root, scan) if e.name.startswith("sub-") and is_folder(e))
    records: list[dict[str, str | None]] = []
    strange: list[str] = []
    with report_progress("reading folders", len(scan.participants)) as advance:
        for participant in scan.participants:
            for entry, session in _files(os.path.join(root, participant), scan):
                parsed = parse_name(entry.name)
                if parsed is None or not entry.path.isprintable():
                    strange += [entry.path] if entry.name.endswith(EXTENSIONS) else []
                    continue
                scan.suffixes[parsed[1]] += 1
                if parsed[1] == suffix:
                    records.append(make_record(entry.path, parsed, participant, session, scan))
            advance()
    add_images(scan, records, root, strange)
    return scan


def add_images(scan: Scan, records: Sequence[Mapping[str, str | None]], root: str, strange: Sequence[str] = ()) -> None:
    """Put what was found into a scan, with warnings of links that lead nowhere or out of the dataset.

    Parameters
    ----------
    scan : Scan
        Changed in place.
    records : sequence of mapping
        One per image: ``participant_id``, ``session_id`` or None, ``image_path``, and its entities.
    root : str
        The dataset.
    strange : sequence of str, default=()
        Images whose names say nothing.
    """
    paths = [str(record["image_path"]) for record in records]
    broken = [path for path in paths if not os.path.isfile(path)]
    outside = [path for path in paths if leads_out(path, [root])]
    scan.images = _frame(records)
    scan.problems += _say_odd_files(strange, broken, outside, root)


def select_images(scan: Scan, suffix: str, entities: Mapping[str, str | None], root: Path) -> pd.DataFrame:
    """Keep the images that carry every entity asked for.

    Parameters
    ----------
    scan : Scan
    suffix : str
        For the message.
    entities : mapping
        Entity (short or long name, ``extension`` too) to value; commas separate alternatives, ``none`` means that the
        name lacks the entity, a value None asks for nothing.
    root : Path
        For the message.

    Returns
    -------
    DataFrame
        Rows of ``scan.images``, with the run.

    Raises
    ------
    ManifestError
        When nothing is left: says which entity removed the last image, and which values there are.
    """
    images = scan.images
    if images.empty:
        raise ManifestError(f"{root}: no image with suffix {suffix}", [_no_suffix(scan, suffix, root), *scan.problems])
    for name, wanted in entities.items():
        if wanted is None:
            continue
        values = images.get(_column(name), pd.Series(index=images.index, dtype=object))
        kept = images[_matches(values, name, wanted)]
        if kept.empty:
            raise ManifestError(f"{root}: no image left", [_no_value(name, wanted, values, suffix, images)])
        images = kept
    return images


def find_ambiguous(images: pd.DataFrame, suffix: str) -> list[Problem]:
    """Return an error when several images of one participant and session differ by more than their run.

    Examples
    --------
    >>> rows = [("sub-01", "a"), ("sub-01", "b")]
    >>> images = pd.DataFrame(rows, columns=["participant_id", "acq"]).assign(image_path=["a.nii", "b.nii"])
    >>> print(*find_ambiguous(images, "T1w"))
    1 participant(s) have several T1w images, such as sub-01; got "a.nii, b.nii";
    fix: choose with --entity acq=a (acq is a, b)
    """
    key = [column for column in KEY if column in images]
    several = images[images.duplicated(key, keep=False)]
    if several.empty:
        return []
    example = several["participant_id"].iloc[0]
    names = several["image_path"][several["participant_id"] == example].map(os.path.basename)
    options = " or ".join(_options(several, key))
    return [
        Problem(
            f"{several['participant_id'].nunique():,} participant(s) have several {suffix} images, such as {example}",
            got=", ".join(names.head(4)),
            fix=f"choose with {options}" if options else "keep one of the files",
            code="several_images",
        )
    ]


def report_runs(images: pd.DataFrame) -> list[Problem]:
    """Warn when sessions have several runs, each of which becomes a row."""
    session = [column for column in KEY[:2] if column in images]
    repeated = images[images.duplicated(session, keep=False)]
    if repeated.empty:
        return []
    message = f"{repeated['participant_id'].nunique():,} participant(s) have several runs, each a row of its own"
    fix = f"keep one with {' or '.join(_options(repeated, session))} if repeats are not wanted"
    return [Problem(message, column="run", fix=fix, code="runs", severity="warning")]


def _options(images: pd.DataFrame, key: list[str]) -> list[str]:
    """Say which option chooses among images that share a key, one per entity that differs."""
    options = []
    for column in images.columns.difference([*key, "image_path"]):
        values = images[column].fillna(ABSENT)
        if values.groupby([images[name] for name in key], dropna=False).nunique().max() > 1:
            options.append(f"{_option(column, values.iloc[0])} ({column} is {count_values(values)})")
    return options


def list_folder(folder: str, scan: Scan) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted, without links upwards; what cannot be read becomes a problem."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not _leads_up(e)), key=lambda entry: entry.name)
    except OSError as error:
        fix = "make it readable, or move it out of the dataset"
        message = f"folder cannot be read: {error.strerror}"
        scan.problems.append(Problem(message, file=folder, fix=fix, code="unreadable_folder"))
        return []


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _leads_up(entry: os.DirEntry[str]) -> bool:
    if not (entry.is_symlink() and is_folder(entry)):
        return False
    target = os.path.realpath(entry.path)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(entry.path))]) == target


def _files(folder: str, scan: Scan, session: str | None = None) -> Iterator[tuple[os.DirEntry[str], str | None]]:
    for entry in list_folder(folder, scan):
        if not is_folder(entry):
            yield entry, session
        elif session is None and entry.name.startswith("ses-"):
            yield from _files(entry.path, scan, entry.name)
        elif entry.name not in SKIPPED_FOLDERS:
            yield from ((inner, session) for inner in list_folder(entry.path, scan) if not is_folder(inner))


def make_record(
    path: str, parsed: tuple[dict[str, str], str, str], participant: str, session: str | None, scan: Scan
) -> dict[str, str | None]:
    """Return one image as a row of a scan; a name that contradicts its folder becomes a problem of the scan."""
    entities, _, extension = parsed
    named = f"sub-{entities.pop('sub')}"
    named_session = f"ses-{entities.pop('ses')}" if "ses" in entities else session
    if named != participant or (session and named_session != session):
        fix = "rename the file or move it to its own folder"
        message = "the name says another participant or session than the folder"
        scan.problems.append(Problem(message, file=path, participant_id=participant, fix=fix, code="misplaced_image"))
    own = {"participant_id": participant, "session_id": named_session, "image_path": path, "extension": extension}
    return {**own, **entities}


def _frame(records: Sequence[Mapping[str, str | None]]) -> pd.DataFrame:
    images = pd.DataFrame.from_records(list(records))
    if images.empty:
        return images
    images = images.sort_values("image_path", ignore_index=True)
    return images.drop(columns="session_id") if images["session_id"].isna().all() else images


def leads_out(path: str | Path, roots: Iterable[str | Path]) -> bool:
    """Return whether a path in a dataset leads out of it by a link.

    git-annex and datalad keep contents in ``.git/annex/objects`` and put links to them in their places. Where a clone
    shares contents with another, those lie outside of it; they count as its own.

    Examples
    --------
    >>> leads_out("/data/../etc/passwd", ["/data"]), leads_out("/data/sub-01", ["/data"])
    (True, False)
    """
    real = os.path.realpath(path)
    inside = any(real.startswith(os.path.join(os.path.realpath(root), "")) for root in roots)
    return not inside and "/annex/objects/" not in Path(real).as_posix()


def _say_odd_files(strange: Sequence[str], broken: list[str], outside: list[str], root: str) -> list[Problem]:
    problems = []
    for paths, message, fix, code in (
        (strange, "not named as BIDS asks, left out", "rename as sub-LABEL_[KEY-VALUE_...]SUFFIX.nii.gz", "odd_name"),
        (outside, "links that lead out of the dataset", "nothing, if you linked them yourself", "link_outside"),
        (broken, "links to a file that is not there", "fetch it first (datalad get, git annex get)", "broken_link"),
    ):
        if paths:
            shown = ", ".join(os.path.relpath(path, root) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
            text = f"{len(paths):,} image file(s): {message}"
            problems.append(Problem(text, file=root, got=shown, fix=fix, code=code, severity="warning"))
    return problems


def _column(name: str) -> str:
    return {"ses": "session_id"}.get(LONG_NAMES.get(name, name), LONG_NAMES.get(name, name))


def _option(column: str, value: str) -> str:
    name = "session" if column == "session_id" else column
    return f"--{name} {value}" if name in OWN_OPTIONS else f"--entity {name}={value}"


def _matches(values: pd.Series, name: str, wanted: str) -> pd.Series:
    labels = [_bare(label, name) for label in wanted.split(",")]
    found = [ABSENT if pd.isna(value) else _bare(value, name) for value in values]
    return pd.Series(found, index=values.index).isin(labels)


def _bare(label: str, name: str) -> str:
    """Return a label without its key, and an index without its leading zeros (run 1 is run 01)."""
    label = label.strip().removeprefix(f"{LONG_NAMES.get(name, name)}-")
    return str(int(label)) if name in ("run", "echo") and label.isdecimal() else label


def _no_value(name: str, wanted: str, values: pd.Series, suffix: str, images: pd.DataFrame) -> Problem:
    if values.isna().all():
        others = [c for c in images.columns if c not in (*KEY, "image_path", "extension") and images[c].notna().any()]
        others += [c for c in ("session_id", "run") if c in images]
        there = "; ".join(f"{c}: {count_values(images[c])}" for c in others)
        hint = did_you_mean(LONG_NAMES.get(name, name), others)
        return Problem(f"no {suffix} image has the entity {name}", got=wanted, allowed=there, fix=hint, code="entity")
    seen = [_bare(value, name) for value in values.dropna().unique()]
    hint = did_you_mean(_bare(wanted, name), seen) or f"choose one of these: {_option(_column(name), seen[0])}"
    message = f"no {suffix} image has this {name}"
    return Problem(message, got=wanted, allowed=count_values(values.fillna(ABSENT)), fix=hint, code="entity")


def _no_suffix(scan: Scan, suffix: str, root: Path) -> Problem:
    there = ", ".join(f"{name}: {n:,}" for name, n in scan.suffixes.most_common(8))
    folder = root / "derivatives"
    derivatives = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    advice = [
        did_you_mean(suffix, scan.suffixes),
        f"choose with --suffix {scan.suffixes.most_common(1)[0][0]}" if scan.suffixes else "",
        f"or look in a derivative with --derivative {derivatives[0]}" if derivatives else "",
        f"(there are: {', '.join(derivatives[:6])})" if len(derivatives) > 1 else "",
    ]
    fix = " ".join(part for part in advice if part) or "give the folder that holds the images"
    message = f"none of {len(scan.participants):,} participant folders holds one"
    message += "" if scan.layout == "BIDS" else f"; the folder was read as {scan.layout}"
    return Problem(message, file=str(root), got=suffix, allowed=there or "no NIfTI or .mgz", fix=fix, code="no_image")
