"""The folder of a simulated cohort: what it holds, how it is resumed, and that nothing foreign is ever overwritten."""

from __future__ import annotations

import gzip
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import pandas as pd

from sepclr_med.atomic import atomic_path
from sepclr_med.errors import ConfigError, Problem, RunError
from sepclr_med.rundir import read_json, write_json, write_table

DERIVATIVE = "simulated"
SPACE = "MNI152NLin2009aSym"
MNI_CODE = 4
BIDS_VERSION = "1.10.0"
OWN_FILES = (
    "manifest.tsv",
    "participants.tsv",
    "participants.json",
    "dataset_description.json",
    "simulation.json",
    "truth",
    f"derivatives/{DERIVATIVE}",
)

COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session"},
    "diagnosis": {"Description": "Group", "Levels": {"control": "Healthy control", "patient": "Patient"}},
    "age": {"Description": "Age", "Units": "year"},
    "sex": {"Description": "Sex", "Levels": {"F": "Female", "M": "Male"}},
    "site": {"Description": "Acquisition site"},
    "tiv": {"Description": "Total intracranial volume", "Units": "mL"},
    "shared_pattern": {"Description": "Strength of an anatomical pattern found in everyone (standard normal)"},
    "subtype": {
        "Description": "Planted subtype of patients",
        "Levels": {"A": "Medial and lateral temporal", "B": "Frontal, cingulate and striatal"},
    },
    "severity": {"Description": "Planted severity of patients, 0 to 1"},
    "score": {"Description": "Noisy clinical score of severity (higher is worse)"},
}


class Painter(Protocol):
    """Makes the images of a cohort, one row at a time."""

    def paint(self, row: int) -> nib.Nifti1Image:
        """Return the image of one row of the cohort's table."""

    def truth_images(self) -> dict[str, nib.Nifti1Image]:
        """Return the planted maps by name."""


def image_name(participant_id: str, session_id: str | None = None, run: str | None = None) -> str:
    """Return where an image lies in the cohort's folder.

    Examples
    --------
    >>> image_name("sub-01")
    'derivatives/simulated/sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-mod_label-GM_probseg.nii.gz'
    """
    entities = {"sub": participant_id, "ses": session_id, "run": run}
    parts = {key: f"{key}-{label(key, value)}" for key, value in entities.items() if value is not None}
    folder = "/".join(part for key, part in parts.items() if key != "run")
    stem = "_".join([*parts.values(), f"space-{SPACE}", "desc-mod_label-GM_probseg"])
    return f"derivatives/{DERIVATIVE}/{folder}/anat/{stem}.nii.gz"


def label(entity: str, value: str) -> str:
    """Return the alphanumeric BIDS label of an identifier, without its ``sub-`` or ``ses-``."""
    return "".join(letter for letter in value.removeprefix(f"{entity}-") if letter.isalnum())


def encode(data: np.ndarray, affine: np.ndarray, dtype: np.dtype | type = np.uint8) -> nib.Nifti1Image:
    """Return an image whose largest value fills an integer ``dtype`` through its slope; floats are kept as they are."""
    dtype = np.dtype(dtype)
    slope = 1.0
    if dtype.kind in "iu":
        slope = float(data.max()) / np.iinfo(dtype).max or 1.0
        data = np.rint(data / slope)
    image = nib.Nifti1Image(data.astype(dtype), affine)
    image.set_sform(affine, MNI_CODE)
    image.set_qform(affine, MNI_CODE)
    image.header.set_xyzt_units("mm")
    if dtype.kind in "iu":
        image.header.set_slope_inter(slope, 0)
    return image


def write_cohort(
    output_dir: Path,
    table: pd.DataFrame,
    painter: Painter,
    parameters: Mapping[str, Any],
    n_jobs: int,
) -> None:
    """Write everything that is not there yet; the manifest comes last and so marks a finished cohort.

    Parameters
    ----------
    output_dir : Path
        Folder that :func:`open_folder` has cleared for this simulation.
    table : DataFrame
        One row per image, ``image_path`` relative to ``output_dir``.
    painter : Painter
        Makes the images.
    parameters : mapping
        What the cohort depends on, as in ``simulation.json``.
    n_jobs : int
        Processes; -1 is one per core.
    """
    missing = _missing_images(output_dir, table)
    for leftover in output_dir.glob(f"derivatives/{DERIVATIVE}/**/.*"):
        leftover.unlink()
    for name, image in painter.truth_images().items():
        _write_image(output_dir / "truth" / f"desc-{name}_atrophy.nii.gz", image)
    _write_images(output_dir, table, painter, missing, n_jobs)
    _write_descriptions(output_dir, table, parameters)
    write_table(output_dir / "manifest.tsv", table)


def is_complete(output_dir: Path, table: pd.DataFrame) -> bool:
    """Return whether the manifest and every image of it are there."""
    return (output_dir / "manifest.tsv").is_file() and not _missing_images(output_dir, table)


def open_folder(output_dir: Path, parameters: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder this simulation's own, or refuse.

    An empty or new folder is taken; the folder of the same simulation is continued; with ``overwrite`` the files of
    another simulation are removed, never anything else.

    Raises
    ------
    ConfigError
        When the folder holds other files, or a simulation with other parameters (the difference is shown).
    """
    stored = output_dir / "simulation.json"
    if overwrite:
        _remove_own(output_dir)
    elif stored.is_file():
        _same_or_refuse(stored, parameters)
    elif output_dir.is_dir() and any(output_dir.iterdir()):
        raise ConfigError(
            f"{output_dir}: this folder is not empty and holds no simulation",
            [
                Problem(
                    "simulate writes into a new folder", fix="choose another folder, or overwrite=True (--overwrite)"
                )
            ],
        )
    write_json(stored, dict(parameters))


def _missing_images(output_dir: Path, table: pd.DataFrame) -> list[int]:
    return [row for row, path in enumerate(table["image_path"]) if not (output_dir / path).is_file()]


def _same_or_refuse(stored: Path, parameters: Mapping[str, Any]) -> None:
    try:
        before = read_json(stored, {})
    except RunError:
        before = {}
    changed = [key for key in {**before, **parameters} if before.get(key) != parameters.get(key)]
    if changed:
        problems = [
            Problem(f"{key} differs", got=str(parameters.get(key)), allowed=f"{before.get(key)}, as before")
            for key in changed
        ]
        fix = Problem("nothing was written", fix="choose another folder, or overwrite=True (--overwrite)")
        raise ConfigError(f"{stored.parent}: holds a simulation with other parameters", [*problems, fix])


def _remove_own(output_dir: Path) -> None:
    for name in OWN_FILES:
        path = output_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _write_images(output_dir: Path, table: pd.DataFrame, painter: Painter, rows: Sequence[int], n_jobs: int) -> None:
    from joblib import Parallel, delayed, effective_n_jobs
    from rich.console import Console
    from rich.progress import track

    paths = [output_dir / path for path in table["image_path"]]
    workers = min(effective_n_jobs(n_jobs), max(1, len(rows) // 8))
    if workers == 1:
        written: Iterator[Any] = starmap(_write_image, ((paths[row], painter.paint(row)) for row in rows))
        total = len(rows)
    else:
        # Chunks, because each task carries the painter's arrays to its process.
        chunks = [chunk.tolist() for chunk in np.array_split(rows, 4 * workers)]
        written = Parallel(n_jobs=workers, return_as="generator_unordered")(
            delayed(_write_chunk)(painter, chunk, [paths[row] for row in chunk]) for chunk in chunks
        )
        total = len(chunks)
    console = Console(stderr=True)
    quiet = not sys.stderr.isatty()
    if quiet and rows:
        print(f"Simulating {len(rows)} images", file=sys.stderr)
    for _ in track(written, description="Simulating", total=total, console=console, disable=quiet):
        pass


def _write_chunk(painter: Painter, rows: Sequence[int], paths: Sequence[Path]) -> None:
    for row, path in zip(rows, paths, strict=True):
        _write_image(path, painter.paint(row))


def _write_image(path: Path, image: nib.Nifti1Image) -> None:
    # mtime=0: the same image is the same bytes whenever it is written.
    content = gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _write_descriptions(output_dir: Path, table: pd.DataFrame, parameters: Mapping[str, Any]) -> None:
    from importlib.metadata import version

    generated = [{"Name": "sepclr_med simulate", "Version": version("sepclr-med")}]
    root = {"Name": parameters["Name"], "BIDSVersion": BIDS_VERSION, "DatasetType": "raw", "GeneratedBy": generated}
    derivative = {**root, "Name": f"{parameters['Name']}: grey-matter maps", "DatasetType": "derivative"}
    write_json(output_dir / "dataset_description.json", root)
    write_json(output_dir / "derivatives" / DERIVATIVE / "dataset_description.json", derivative)
    people = table.drop(columns=["image_path", "split", "session_id", "run"], errors="ignore")
    people = people.drop_duplicates("participant_id")
    write_table(output_dir / "participants.tsv", people)
    write_json(output_dir / "participants.json", {c: COLUMNS[c] for c in people if c in COLUMNS})
