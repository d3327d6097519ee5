"""``run``: a recipe's steps in order, each skipped when it is already done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from sepclr_med.analysis.evaluation import evaluate_run
from sepclr_med.cohort.bids import find_images
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.cohort.preflight import CheckResult, check_cohort, problems_table
from sepclr_med.cohort.simulate import simulate_with
from sepclr_med.cohort.splits import assign_splits
from sepclr_med.config import CohortConfig, Config, load_config
from sepclr_med.embedding import embed, embeddings_are_current
from sepclr_med.errors import ConfigError, ManifestError, Problem
from sepclr_med.rundir import RunDir, write_json, write_table
from sepclr_med.runs import refuse_strangers
from sepclr_med.training import fit


def run_recipe(
    recipe: str | Path,
    run_dir: str | Path,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> pd.DataFrame:
    """Simulate or read the cohort, check, split, fit, embed and evaluate; the same call again resumes.

    Parameters
    ----------
    recipe : path
        YAML file; its paths are relative to its own folder.
    run_dir : path
        Folder of the run.
    overrides : iterable of str, default=()
        ``section.key=value`` over the recipe.
    overwrite : bool, default=False
        Start over; a simulated cohort and the cache are kept.
    say : callable, default=silent
        Told what each step found.

    Returns
    -------
    DataFrame
        The table of :func:`sepclr_med.evaluate`.

    Raises
    ------
    ManifestError
        When the check finds what must be mended first.
    ConfigError, VolumeError, RunError
        As for the single steps.
    """
    config = load_config(recipe, overrides)
    run = RunDir(run_dir)
    refuse_strangers(run)
    say("cohort")
    manifest = _read_cohort(config.cohort, Path(recipe).parent, run)
    say(f"check: {len(manifest)} images")
    result = check_cohort(manifest, config.cohort.background, config.cohort.target, cache_file=run.image_facts)
    _write_check(run, result)
    for verdict in result.verdicts:
        say(f"  {verdict}")
    if not result.ok:
        errors = [problem for problem in result.problems if problem.severity == "error"]
        raise ManifestError(
            f"check: {len(errors)} problem(s) must be mended first ({run.check / 'problems.tsv'})", errors
        )
    manifest = _split(manifest, config)
    counts = ", ".join(f"{n} {split}" for split, n in manifest["split"].value_counts().items())
    say(f"split: {counts}")
    say(f"fit: {config.training.epochs} epochs of {config.network.backbone}")
    fit(manifest, config, run.path, overwrite)
    if not embeddings_are_current(run.path):
        say("embed")
        embed(run.path)
    say("evaluate")
    return evaluate_run(run.path)


def _read_cohort(cohort: CohortConfig, folder: Path, run: RunDir) -> pd.DataFrame:
    if cohort.simulate is not None:
        base = cohort.simulate.get("base")
        options = cohort.simulate if base is None else {**cohort.simulate, "base": folder / str(base)}
        return simulate_with(run.path / "cohort", options)
    if cohort.bids is not None:
        options = cohort.bids.model_dump(exclude={"root"})
        manifest, problems = find_images(folder / cohort.bids.root, **options)
        write_json(run.check / "manifest_problems.json", [str(problem) for problem in problems])
        return manifest
    if cohort.manifest is not None:
        root = folder / cohort.bids_root if cohort.bids_root else None
        return read_manifest(folder / cohort.manifest, bids_root=root)
    fix = "--set cohort.manifest=FILE, or cohort.bids.root=FOLDER, or a cohort.simulate section"
    raise ConfigError(
        "recipe: no cohort", [Problem("cohort.manifest, cohort.bids and cohort.simulate are empty", fix=fix)]
    )


def _split(manifest: pd.DataFrame, config: Config) -> pd.DataFrame:
    if "split" in manifest and manifest["split"].notna().any():
        return manifest
    split = config.cohort.split
    return assign_splits(
        manifest, split.test_size, split.val_size, split.stratify, split.leave_site_out, seed=split.seed
    )


def _write_check(run: RunDir, result: CheckResult) -> None:
    write_table(run.check / "problems.tsv", problems_table(result))
    write_table(run.check / "table_one.tsv", result.table_one)
    write_json(run.check / "check.json", result.to_dict())
