"""Where a study stands: what has been done with a manifest or in a run folder, and the command that comes next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sepclr_med.cohort.control_names import find_controls, group_options
from sepclr_med.cohort.image_kinds import suggest_preset
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.errors import ManifestError, Problem
from sepclr_med.method_settings import CLOSED_FORM
from sepclr_med.report.collect import collect_run, dig
from sepclr_med.report.not_run import find_not_run
from sepclr_med.rundir import RunDir

# docs/limitations.md: with fewer, link tests too few held-out patients; everyone is better embedded out of fold.
FEW_PATIENTS = 300
CROSS_FIT = ["--folds", "5", "--seeds", "3"]


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
    path, fix = Path(path), "name a manifest, the folder of a run, or a BIDS folder"
    if not path.exists():
        raise ManifestError(f"{path}: nothing to look at", [Problem("no such file or folder", fix=fix)])
    if not path.is_dir():
        return _of_manifest(path)
    run = RunDir(path)
    if run.config.is_file() or run.history.is_file():
        return _of_run(run)
    if any(path.glob("sub-*")) or (path / "dataset_description.json").is_file():
        return Standing([("BIDS folder", str(path))], shlex.join(["sepclr-med", "init", "--data", str(path)]))
    raise ManifestError(f"{path}: nothing to look at", [Problem("holds no run and no participants", fix=fix)])


def guess_groups(manifest: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the diagnoses with a usual name for controls, and all others; commonest first.

    Examples
    --------
    >>> guess_groups(pd.DataFrame({"diagnosis": ["MDD", "HC", "MDD"]}))
    (['HC'], ['MDD'])
    """
    names = [str(name) for name in manifest["diagnosis"].value_counts().index]
    back = find_controls(names)
    return back, [name for name in names if name not in back]


def has_few_patients(manifest: pd.DataFrame, target: Sequence[str]) -> bool:
    """Tell whether there are fewer patients than can be divided (300): they are cross-fitted.

    Examples
    --------
    >>> has_few_patients(pd.DataFrame({"participant_id": ["01"], "diagnosis": ["MDD"]}), ["MDD"])
    True
    """
    return manifest.loc[manifest["diagnosis"].isin(target), "participant_id"].nunique() < FEW_PATIENTS


def follow_manifest(
    path: Path,
    manifest: pd.DataFrame,
    groups: tuple[Sequence[str], Sequence[str]],
    bids_root: Path | None = None,
    missing_codes: str | None = None,
) -> str:
    """Return the command that follows once a manifest was checked: to divide it, to train, or to cross-fit.

    Parameters
    ----------
    path : Path
    manifest : DataFrame
        What was read from it.
    groups : pair of sequence of str
        Diagnoses of controls and of patients.
    bids_root : Path or None, default=None
        Folder that image paths are relative to, where it was given.
    missing_codes : str or None, default=None
        Codes that mean missing, where they were given; ``split`` writes ``n/a`` in their place.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": ["1"], "image_path": ["1.nii"], "diagnosis": ["MDD"]})
    >>> print(follow_manifest(Path("m.tsv"), table, (["HC"], ["MDD"])))
    sepclr-med fit m.tsv RUN_DIR --folds 5 --seeds 3 --background HC --target MDD
    """
    root = [] if bids_root is None else ["--bids-root", str(bids_root)]
    folds = manifest["fold"].nunique() if "fold" in manifest else 0
    divided = folds > 0 or ("split" in manifest and bool(manifest["split"].notna().any()))
    few = has_few_patients(manifest, groups[1])
    if missing_codes or not (divided or few):
        codes = [f"--missing-codes={missing_codes}"] if missing_codes else []
        alone = ["--test-size", "0", "--val-size", "0", "--folds", "5"] if few else []
        return shlex.join(["sepclr-med", "split", str(path), *root, *codes, *alone])
    cross_fit = ["--folds", str(folds), "--seeds", "3"] if folds else [] if divided else CROSS_FIT
    words = [*_recipe_for(path, manifest), *cross_fit, *group_options(*groups), *root]
    return shlex.join(["sepclr-med", "fit", str(path), "RUN_DIR", *words])


def _recipe_for(path: Path, manifest: pd.DataFrame) -> list[str]:
    """Return the option that says how images are read: the recipe at hand, or the preset that their names speak for."""
    preset = suggest_preset(manifest["image_path"].dropna())
    for recipe in (path.with_name("recipe.yaml"), Path("pipelines", preset, "recipe.yaml")):
        if recipe.is_file():
            return ["-c", str(recipe)]
    return ["--set", f"volumes.preset={preset}"] if preset else []


def _of_manifest(path: Path) -> Standing:
    manifest = read_manifest(path)
    levels = manifest["diagnosis"].value_counts()
    groups = guess_groups(manifest)
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
        return Standing(facts, shlex.join(["sepclr-med", "check", str(path), *group_options(*groups)]))
    return Standing(facts, follow_manifest(path, manifest, groups))


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
    missing = find_not_run(data, further=False)
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
