"""``run``: a recipe's steps in order, each skipped when it is already done."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from sepclr_med import __version__
from sepclr_med.analysis.evaluation import evaluate_run, read_separation
from sepclr_med.analysis.linking import link_run, strongest_factors
from sepclr_med.anatomy.explanation import SENSITIVITIES, explain
from sepclr_med.cohort.bids import bids_options, find_images
from sepclr_med.cohort.embeddings import SPACES, embedding_path
from sepclr_med.cohort.manifest import forward, read_manifest, write_manifest
from sepclr_med.cohort.named_columns import list_columns, require_named_columns
from sepclr_med.cohort.preflight import CheckResult, check_cohort, problems_table
from sepclr_med.cohort.simulate import simulate_with
from sepclr_med.cohort.splits import assign_splits
from sepclr_med.config import Config, dump_config, load_config
from sepclr_med.embedding import embed, embeddings_are_current
from sepclr_med.engine import process_grid
from sepclr_med.errors import (
    ConfigError,
    ManifestError,
    PreemptedError,
    Problem,
    RunError,
    TooFewError,
    UserError,
    did_you_mean,
)
from sepclr_med.occupancy import alone, working_in
from sepclr_med.report.render import report
from sepclr_med.rundir import RunDir, file_sha256, read_json, write_json, write_table, write_text
from sepclr_med.runs import note_seal, read_config, refuse_strangers, require_sealed
from sepclr_med.settings import CohortConfig
from sepclr_med.training import fit


def run_recipe(
    recipe: str | Path,
    run_dir: str | Path,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> pd.DataFrame:
    """Simulate or read the cohort, check, split, fit, embed, evaluate, link, explain, report; the same call resumes.

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
        As for the single steps; when another process works in the run folder.
    """
    config = load_config(recipe, overrides)
    run = RunDir(run_dir)
    refuse_strangers(run)
    several = _several_processes(config)
    with ExitStack() as held:
        held.enter_context(working_in(run.path))
        manifest = _take_cohort(config, recipe, run, say)
        say(f"fit: {config.training.epochs} epochs of {config.network.called}")
        if several:
            _fit_apart(manifest, config, run, overwrite, held)
        else:
            fit(manifest, config, run.path, overwrite)
        if not embeddings_are_current(run.path):
            say("embed")
            embed(run.path)
        return interpret(run.path, say)


def _take_cohort(config: Config, recipe: str | Path, run: RunDir, say: Callable[[str], None]) -> pd.DataFrame:
    """Return the recipe's cohort, checked and divided."""
    say("cohort")
    manifest = find_cohort(config.cohort, recipe, run)
    require_named_columns(manifest, config, str(recipe))
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
    manifest = split_cohort(manifest, config.cohort)
    counts = ", ".join(f"{n} {split}" for split, n in manifest["split"].value_counts().items())
    say(f"split: {counts}")
    return manifest


@alone
def interpret(run_dir: str | Path, say: Callable[[str], None] = lambda _: None) -> pd.DataFrame:
    """Evaluate, link, explain and report an embedded run, each step only when what it rests on has changed.

    Parameters
    ----------
    run_dir : path
        Folder with embeddings.
    say : callable, default=silent
        Told what each step found.

    Returns
    -------
    DataFrame
        The table of :func:`sepclr_med.evaluate`; ``attrs["card"]`` has the rest of the separation card, and
        ``attrs["not_tested"]`` the variables that neither it nor ``link`` could test, with the reason.
    """
    run = RunDir(run_dir)
    config = read_config(run)
    done = _Done(run, config)
    if done.needs("evaluate", run.separation, run.analysis("card.json")):
        say("evaluate")
        evaluate_run(run.path)
        done.mark("evaluate")
    if done.needs("link", run.analysis("links.tsv"), run.analysis("link.json")):
        say("link")
        try:
            found = link_run(run.path)
        except TooFewError as error:
            say(f"  left out: {error}")
        else:
            for verdict in found.verdicts:
                say(f"  {verdict['text']}")
            done.mark("link")
    if config.evaluation.explain and done.needs("explain", run.maps / "maps.json"):
        _explain(run, config, say)
        done.mark("explain")
    say(f"report -> {report(run.path)}")
    table, linked = read_separation(run), run.analysis("link.json")
    table.attrs["not_tested"] = dict(table.attrs["card"].get("not_tested", {}))
    if not done.needs("link", linked):
        table.attrs["not_tested"] |= read_json(linked).get("not_tested", {})
    return table


class _Done:
    """Which steps have been done with the embeddings, the manifest and the settings that are there now."""

    def __init__(self, run: RunDir, config: Config):
        self.file = run.analysis("done.json")
        tables = [embedding_path(run.embeddings, space) for space in SPACES]
        parts = [file_sha256(path) for path in (run.manifest, *tables) if path.is_file()]
        parts += [config.evaluation.model_dump_json(), config.cohort.model_dump_json(), __version__]
        self.state = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def needs(self, step: str, *files: Path) -> bool:
        return self._known().get(step) != self.state or not all(path.is_file() for path in files)

    def mark(self, step: str) -> None:
        write_json(self.file, {**self._known(), step: self.state})

    def _known(self) -> dict[str, str]:
        return read_json(self.file, {}) if self.file.is_file() else {}


def _explain(run: RunDir, config: Config, say: Callable[[str], None]) -> None:
    settings = config.evaluation
    factors = strongest_factors(run, settings.explain) if run.analysis("links.tsv").is_file() else None
    say(f"explain: {', '.join(factors or ['the factors that vary most'])}")
    manifest = read_manifest(run.manifest)
    sensitivity = SENSITIVITIES if find_spec("captum") else tuple(kind for kind in SENSITIVITIES if kind != "ig")
    try:
        explain(
            run.path,
            factors,
            covariates=list_columns(settings, "covariates", manifest),
            n_permutations=settings.explain_permutations,
            sensitivity=sensitivity,
            seed=settings.seed,
        )
    except UserError as error:
        # Too few participants for a map must not take the report with it.
        say(f"  no maps: {error}")


def _several_processes(config: Config) -> bool:
    """Say whether training has processes of its own; refuse to be one of several that were started together."""
    n = math.prod(process_grid(config.training))
    if n > 1 and config.training.devices is None:
        fix = "start run once, with --set training.devices=N; or start sepclr-med fit in every process"
        raise ConfigError("run: one process does all steps", [Problem(f"{n} processes were started", fix=fix)])
    return n > 1


def _fit_apart(manifest: pd.DataFrame, config: Config, run: RunDir, overwrite: bool, held: ExitStack) -> None:
    """Train in a program of its own: it starts its processes by starting itself again."""
    require_sealed(manifest)
    table = write_manifest(manifest, run.path / "cohort" / "manifest_split.tsv")
    recipe = write_text(run.path / "cohort" / "training.yaml", dump_config(config))
    command = [sys.executable, "-m", "sepclr_med", "fit", str(table), str(run.path), "--config", str(recipe)]
    # It may outlive this program, so it holds the folder itself.
    held.close()
    code = subprocess.run([*command, *(["--overwrite"] if overwrite else [])]).returncode
    if code == PreemptedError.exit_code:
        raise PreemptedError(f"{run.path}: training was told to stop; the same command goes on from there")
    if code:
        raise RunError(f"{run.path}: training in {config.training.devices} processes failed, as said above")
    held.enter_context(working_in(run.path))
    # The manifest it was given is a copy, without the ledger.
    note_seal(run, manifest)


def read_cohort(cohort: CohortConfig, recipe: str | Path, run: RunDir) -> pd.DataFrame:
    """Return the manifest of a recipe's cohort, with splits."""
    return split_cohort(find_cohort(cohort, recipe, run), cohort)


def find_cohort(cohort: CohortConfig, recipe: str | Path, run: RunDir) -> pd.DataFrame:
    """Return the manifest that a recipe names, finds in BIDS, or simulates; paths are relative to its folder."""
    folder = Path(recipe).parent
    _require_places(cohort, recipe)
    if cohort.simulate is not None:
        base = cohort.simulate.get("base")
        options = cohort.simulate if base is None else {**cohort.simulate, "base": folder / str(base)}
        return simulate_with(run.path / "cohort", options)
    if cohort.bids is not None:
        manifest, problems = find_images(folder / forward(cohort.bids.root), **bids_options(cohort.bids, folder))
        write_json(run.check / "manifest_problems.json", [str(problem) for problem in problems])
        return manifest
    if cohort.manifest is not None:
        root = folder / forward(cohort.bids_root) if cohort.bids_root else None
        return read_manifest(folder / forward(cohort.manifest), bids_root=root)
    fix = "--manifest FILE; or write a recipe that names one with `sepclr-med init`"
    raise ConfigError(
        "recipe: no cohort", [Problem("cohort.manifest, cohort.bids and cohort.simulate are empty", fix=fix)]
    )


def _require_places(cohort: CohortConfig, recipe: str | Path) -> None:
    """Refuse a recipe that names files and folders which are not there; absolute paths may be of the command line."""
    named = {"cohort.manifest": cohort.manifest, "cohort.bids_root": cohort.bids_root}
    named["cohort.bids.root"] = cohort.bids.root if cohort.bids is not None else None
    problems = []
    for key, name in named.items():
        place = Path(recipe).absolute().parent / forward(name or "")
        if name and not Path(forward(name)).is_absolute() and not place.exists():
            beside = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
            fix = did_you_mean(place.name, beside) or "check the path, which is relative to the recipe"
            message = f"{key}: there is no {os.path.normpath(place)}"
            problems.append(Problem(message, file=str(recipe), got=name, fix=fix))
    if problems:
        raise ConfigError(f"{recipe}: names what is not there", problems)


def split_cohort(manifest: pd.DataFrame, cohort: CohortConfig) -> pd.DataFrame:
    """Return the manifest with splits: its own, or those the recipe asks for."""
    if "split" in manifest and manifest["split"].notna().any():
        return manifest
    split = cohort.split
    return assign_splits(
        manifest, split.test_size, split.val_size, split.stratify, split.leave_site_out, seed=split.seed
    )


def _write_check(run: RunDir, result: CheckResult) -> None:
    write_table(run.check / "problems.tsv", problems_table(result))
    write_table(run.check / "table_one.tsv", result.table_one)
    write_json(run.check / "check.json", result.to_dict())
