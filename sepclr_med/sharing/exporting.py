"""``export``: the part of a run that is meant for others, and nothing of who or where."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med import __version__
from sepclr_med.atomic import atomic_folder
from sepclr_med.errors import ConfigError, Problem, RunError
from sepclr_med.opening import hides_test
from sepclr_med.rundir import RunDir, write_json
from sepclr_med.sharing.columns import PLACES
from sepclr_med.sharing.copying import ID, Copier
from sepclr_med.sharing.keys import KINDS, extend_key, read_key, require_apart, write_key
from sepclr_med.sharing.traces import look_for
from sepclr_med.sharing.words import TABLES, kind_of, read_cells

SHARED = ("embeddings", "analysis", "maps")
RECORD = "export.json"
# How `run` remembers which steps it has done.
FINISHED = "done.json"
OLD_AGE = "it may draw participants, some of whom are over 89 years old"
SEALED = "The {} participants of the sealed test set, which this run never opened, are in no table here."
RULES = {
    "ids": "participant_id, session_id, run and family_id are new and random; the key lies apart. Rows are in the "
    "order of the new ids.",
    "ages": "Ages over 89 years are 90 (HIPAA safe harbour).",
    "columns": "Columns of participants whose name or values could identify someone are left out.",
    "not_done": "Sites, scanners and clinical values are as they were. Ids are replaced, and the data are not "
    "anonymous: who has the same images or values elsewhere can find a participant again.",
}


def export(
    run_dir: str | Path,
    output_dir: str | Path,
    deidentify: bool = False,
    key: str | Path | None = None,
    drop: Sequence[str] = (),
    report: bool = True,
    bundle: bool = False,
    overwrite: bool = False,
) -> Path:
    """Copy what is meant to be shared: embeddings, tables of the analysis, maps and the report; or the model.

    No copy holds a path of the disk, the name of the user or the machine, or an identifier of DICOM; a file that still
    does is left out and named in ``export.json``. Cells that a spreadsheet would take for formulas begin with an
    apostrophe. Participants of a sealed test set that the run never opened are in no table. The images, the manifest
    and the weights are never copied; ``bundle`` writes the weights instead.

    Parameters
    ----------
    run_dir : path
        Folder of the run.
    output_dir : path
        Absent or empty; complete, or not there at all.
    deidentify : bool, default=False
        Give participants, sessions, runs and families new random ids, leave out columns that could identify, write
        ages over 89 as 90.
    key : path or None, default=None
        Where the new ids are written beside the old ones, readable by its owner only. Needed with ``deidentify``. A
        key that is there is used: who is in it keeps the same new id, others are added.
    drop : sequence of str, default=()
        Further columns of participants to leave out.
    report : bool, default=True
        Whether ``report.html`` is copied.
    bundle : bool, default=False
        Write the model as a MONAI bundle instead (:func:`sepclr_med.sharing.bundle.write_bundle`).
    overwrite : bool, default=False
        Replace an earlier export.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    RunError
        When the run has nothing to share, the folder or the key cannot be used, or the key would lie in the export.
    ConfigError
        For options that contradict one another.
    """
    run, output = RunDir(run_dir), Path(output_dir)
    _check_options(deidentify, key, drop, report, bundle)
    _check_places(run, output, overwrite)
    if bundle:
        from sepclr_med.sharing.bundle import write_bundle

        return write_bundle(run.path, output, overwrite)
    files = list_shared(run, report)
    if not files:
        raise RunError(f"{run.path}: nothing there to share; run `sepclr-med embed {run.path}` first")
    new_ids = None
    if deidentify:
        require_apart(Path(key), output, *(run.path / name for name in SHARED))
        tables = [run.manifest, *(run.path / file for file in files if kind_of(file) in TABLES)]
        new_ids = extend_key(read_key(Path(key)), read_originals(tables))
    sealed = _read_sealed(run)
    places = set().union(*read_originals([run.manifest], PLACES).values())
    copier = Copier(look_for(new_ids, places), new_ids, drop, sealed)
    if run.manifest.is_file():
        # It is not copied; what it would withhold must not stand in what is.
        copier.table(read_cells(run.manifest))
    with atomic_folder(output, overwrite) as folder:
        left_out = _copy_all(copier, run, files, folder)
        _refuse_unknown(copier, drop)
        write_json(folder / RECORD, _describe(copier, folder, left_out))
        # Before anything can be passed on that needs it.
        if new_ids is not None:
            write_key(Path(key), new_ids)
    return output


def list_shared(run: RunDir, report: bool = True) -> list[Path]:
    """Return the files of a run that are meant for others, relative to its folder."""
    found = [path for name in SHARED for path in sorted((run.path / name).rglob("*")) if path.is_file()]
    found += [run.report] if report and run.report.is_file() else []
    return [path.relative_to(run.path) for path in found if not path.name.startswith(".") and path.name != FINISHED]


def _read_sealed(run: RunDir) -> set[str]:
    """Return the participants of a sealed test set that this run never opened."""
    rows = read_cells(run.manifest) if run.manifest.is_file() and hides_test(run) else pd.DataFrame()
    return set(rows.loc[rows["split"] == "test", ID]) if "split" in rows else set()


def _check_options(deidentify: bool, key: str | Path | None, drop: Sequence[str], report: bool, bundle: bool) -> None:
    problems = []
    if deidentify and key is None:
        fix = "--key FILE, outside the folder that is passed on"
        problems.append(Problem("where should the key of the new ids go?", got="no --key", fix=fix))
    if key is not None and not deidentify:
        problems.append(Problem("--key is of --deidentify", fix="add --deidentify, or leave --key out"))
    if bundle and (deidentify or key is not None or drop or not report):
        fix = "export the bundle and the tables one after the other, to two folders"
        problems.append(Problem("a bundle holds no participants, tables or report", fix=fix))
    if problems:
        raise ConfigError("export: what should be written?", problems)


def _check_places(run: RunDir, output: Path, overwrite: bool) -> None:
    if not run.path.is_dir():
        raise RunError(f"{run.path}: no such folder; name the folder of a run, such as runs/demo")
    # An overwritten export is deleted whole, so it must be one.
    if overwrite and output.is_dir() and any(output.iterdir()) and not _is_export(output):
        raise RunError(f"{output}: holds something that `export` did not write; choose another folder")
    if run.path.resolve().is_relative_to(output.resolve()):
        raise RunError(f"{output}: the run lies in it; choose another folder")


def _is_export(folder: Path) -> bool:
    return (folder / RECORD).is_file() or (folder / "configs" / "metadata.json").is_file()


def read_originals(tables: Iterable[Path], columns: Iterable[str] = KINDS) -> dict[str, set[str]]:
    """Return the ids in these tables of participants, or what stands in other columns of theirs, by column."""
    originals: dict[str, set[str]] = {column: set() for column in columns}
    for path in tables:
        table = read_cells(path) if path.is_file() else pd.DataFrame()
        for column in originals if ID in table else ():
            originals[column] |= set(table[column].dropna()) if column in table else set()
    return originals


def _copy_all(copier: Copier, run: RunDir, files: Sequence[Path], folder: Path) -> dict[str, str]:
    """Copy the files, look through the copies, and say which were left out and why."""
    left_out: dict[str, str] = {}
    for file in files:
        try:
            copier.copy(run.path / file, folder / file)
        except RunError:
            raise
        except (ValueError, OSError) as error:
            left_out[file.as_posix()] = f"cannot be read ({type(error).__name__})"
    for file in files:
        # After all are copied: what one table withholds must not stand in another file.
        if file.as_posix() not in left_out and (told := _look_through(copier, folder / file)):
            left_out[file.as_posix()] = "; ".join(told)
    for name in left_out:
        (folder / name).unlink(missing_ok=True)
    # A name can be an id too.
    return {copier.traces.cleaner(name)(name): reason for name, reason in left_out.items()}


def _look_through(copier: Copier, copy: Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            told = copier.traces.find(copy, copier.withheld)
        except (ValueError, OSError) as error:
            return [f"cannot be read ({type(error).__name__})"]
    return told or ([OLD_AGE] if copier.capped and copy.name == "report.html" else [])


def _refuse_unknown(copier: Copier, drop: Sequence[str]) -> None:
    unknown = [Problem("no table of participants has this column", column=c) for c in drop if c not in copier.removed]
    if unknown:
        raise ConfigError("--drop: columns that are not there", unknown)


def _describe(copier: Copier, folder: Path, left_out: dict[str, str]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "Name": "sepclr_med export",
        "Version": __version__,
        "Files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
        "LeftOut": left_out,
        **({"Sealed": SEALED.format(len(copier.sealed))} if copier.sealed else {}),
        "ColumnsRemoved": copier.removed,
        "Formulas": "A cell that begins like a formula has an apostrophe before it.",
    }
    if copier.key is None:
        return {**content, "Deidentified": False}
    return {**content, "Deidentified": True, "Rules": RULES, "AgesCapped": sorted(copier.capped)}
