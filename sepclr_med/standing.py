"""Where a study stands: what has been done with a manifest or in a run folder, and the command that comes next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sepclr_med.cohort.control_names import find_controls, group_options
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.errors import ManifestError, Problem
from sepclr_med.report.collect import collect_run, dig
from sepclr_med.report.not_run import find_not_run
from sepclr_med.rundir import RunDir
from sepclr_med.settings import CLOSED_FORM


@dataclass(frozen=True)
class Standing:
    """How far a study has got.

    Parameters
    ----------
    facts : list of tuple of str
        What is looked at, and what was found.
    follows : str
        The command that comes next; empty when there is nothing left to do.
    """

    facts: Sequence[tuple[str, str]]
    follows: str

    def table(self) -> pd.DataFrame:
        """Return the facts as a table, columns ``what`` and ``found``."""
        return pd.DataFrame(self.facts, columns=["what", "found"])


def find_standing(path: str | Path) -> Standing:
    r"""Look at a manifest, a run folder or a BIDS folder.

    Parameters
    ----------
    path : path

    Returns
    -------
    Standing

    Raises
    ------
    ManifestError
        When a table cannot be read, or the path is none of these.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder) / "m.tsv"
    ...     _ = table.write_text("participant_id\timage_path\tdiagnosis\n01\t01.nii\tHC\n02\t02.nii\tMDD\n")
    ...     find_standing(table).follows.replace(folder, "")
    'sepclr-med check /m.tsv --background HC --target MDD'
    """
    path = Path(path)
    if not path.is_dir():
        return _of_manifest(path)
    run = RunDir(path)
    if run.config.is_file() or run.history.is_file():
        return _of_run(run)
    if any(path.glob("sub-*")) or (path / "dataset_description.json").is_file():
        return Standing([("BIDS folder", str(path))], shlex.join(["sepclr-med", "init", "--data", str(path)]))
    fix = "name a manifest, the folder of a run, or a BIDS folder"
    raise ManifestError(f"{path}: nothing to look at", [Problem("holds no run and no participants", fix=fix)])


def _of_manifest(path: Path) -> Standing:
    manifest = read_manifest(path)
    levels = manifest["diagnosis"].value_counts()
    names = [str(name) for name in levels.index]
    back = find_controls(names)
    roles = group_options(back, [name for name in names if name not in back])
    looked_at = path.with_name(f".{path.name}.images.jsonl").is_file()
    parts = manifest["split"].value_counts() if "split" in manifest else pd.Series(dtype=int)
    facts = [
        ("manifest", f"{len(manifest)} images of {manifest['participant_id'].nunique()} participants"),
        ("diagnoses", ", ".join(f"{name}: {n}" for name, n in levels.items()) or "none"),
        ("images looked at by check", "yes" if looked_at else "no"),
        ("divided", ", ".join(f"{name}: {n}" for name, n in parts.items()) or "no"),
        *(("read with a warning", str(p)) for p in manifest.attrs["problems"] if p.severity == "warning"),
    ]
    if not looked_at:
        return Standing(facts, shlex.join(["sepclr-med", "check", str(path), *roles]))
    if parts.empty:
        return Standing(facts, shlex.join(["sepclr-med", "split", str(path)]))
    return Standing(facts, shlex.join(["sepclr-med", "fit", str(path), "RUN_DIR", *roles]))


def _of_run(run: RunDir) -> Standing:
    data = collect_run(run.path)
    facts = [
        (
            str(step.get("step", "?")),
            f"{'in part failed' if step.get('failed') else 'done'} "
            f"{str(step.get('started', ''))[:16].replace('T', ' ')} UTC",
        )
        for step in data["steps"]
    ]
    trained = _describe_training(run, data)
    if trained:
        facts.append(("training", trained))
        words = ["sepclr-med", "fit", os.fspath(run.manifest), str(run.path), "--config", os.fspath(run.config)]
        return Standing(facts, shlex.join(words))
    missing = find_not_run(data)
    facts += [("not run", step["name"]) for step in missing]
    facts += [("cannot be read", fault) for fault in data["faults"]]
    commands = [step["command"].replace("RUN_DIR", shlex.quote(str(run.path))) for step in missing]
    # A check of the run's own manifest can come at any time, and tables of older verbs need not be there.
    wanted = [command for command in commands if not command.startswith("sepclr-med check")]
    if wanted:
        return Standing(facts, wanted[0])
    return Standing(facts, "" if run.report.is_file() else shlex.join(["sepclr-med", "report", str(run.path)]))


def _describe_training(run: RunDir, data: dict) -> str:
    """Say how far training has got, nothing when it has ended."""
    if run.cross_fit.is_file() or any(step.get("step") == "fit" for step in data["steps"]):
        return ""
    if dig(data["config"], "method", "name") in CLOSED_FORM:
        return "begun and not ended"
    history = data["tables"].get("history")
    return (
        f"{0 if history is None else len(history)} of {dig(data['config'], 'training', 'epochs', default='?')} epochs"
    )
