"""``evaluate`` on a run folder: its embeddings, its manifest, one table, one card, one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.analysis.card import separation_card
from sepclr_med.analysis.figures import draw_separation
from sepclr_med.analysis.separation import evaluate
from sepclr_med.atomic import require_writable
from sepclr_med.cohort.covariates import require_columns
from sepclr_med.cohort.embeddings import read_any_embeddings, read_embeddings
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.occupancy import alone
from sepclr_med.opening import View, guard_files, guard_test
from sepclr_med.provenance import record_step
from sepclr_med.rundir import RunDir, read_json, write_json, write_table
from sepclr_med.runs import read_config

N_PERMUTATIONS = 1000


@alone
def evaluate_run(
    run_dir: str | Path,
    variables: Sequence[str] | None = None,
    n_bootstrap: int | None = None,
    n_permutations: int = N_PERMUTATIONS,
    open_test: str | None = None,
) -> pd.DataFrame:
    """Write the separation card of a run: ``analysis/separation.tsv``, ``card.json`` and ``separation.png``.

    Parameters
    ----------
    run_dir : path
        Folder with embeddings.
    variables : sequence of str or None, default=None
        Columns of the manifest; none means ``evaluation.variables`` of the run, and without it all that can be probed.
    n_bootstrap : int or None, default=None
        Resamples of participants behind each interval; none means ``evaluation.n_bootstrap``.
    n_permutations : int, default=1000
        Permutations behind each p-value of the card.
    open_test : str or None, default=None
        Why a sealed test set is opened; without, it takes no part.

    Returns
    -------
    DataFrame
        As for :func:`sepclr_med.evaluate`; ``attrs["card"]`` holds what
        :func:`sepclr_med.analysis.card.separation_card` returns.

    Raises
    ------
    RunError
        When the folder has no embeddings.
    ManifestError
        When a variable does not exist or ids do not match.
    """
    started = datetime.now(timezone.utc)
    run = RunDir(run_dir)
    config = read_config(run)
    settings, cohort = config.evaluation, config.cohort
    embeddings, manifest = read_embeddings(run.embeddings), read_manifest(run.manifest)
    # First components of batteries are made by link.
    chosen = list(variables or [name for name in settings.variables or () if name not in settings.batteries]) or None
    require_columns(manifest, chosen or [])
    view = guard_test(embeddings, manifest, run, "evaluate", open_test)
    groups = {"target": cohort.target, "background": cohort.background}
    draws = {
        "n_bootstrap": settings.n_bootstrap if n_bootstrap is None else n_bootstrap,
        "n_permutations": n_permutations,
        "seed": settings.seed,
    }
    table = _evaluate(view, chosen, run.separation, groups, draws, settings.measures)
    record_step(run.provenance, "evaluate", started, {**draws, "notes": table.attrs["card"]["notes"]})
    return table


def evaluate_files(
    embeddings: Sequence[str],
    manifest: str | Path,
    output_dir: str | Path,
    variables: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
    open_test: str | None = None,
) -> pd.DataFrame:
    """Write the separation card of any embeddings and any table of participants.

    Parameters
    ----------
    embeddings : sequence of str
        ``FILE`` or ``SPACE=FILE``, as :func:`sepclr_med.cohort.embeddings.read_any_embeddings` takes them.
    manifest : path
        Table with ``participant_id`` and the variables.
    output_dir : path
        Folder for ``separation.tsv``, ``card.json`` and ``separation.png``.
    variables, target, n_bootstrap, n_permutations, seed
        As for :func:`sepclr_med.evaluate`.
    open_test : str or None, default=None
        Why the test part of a sealed manifest is opened; without, it takes no part.

    Returns
    -------
    DataFrame
        As for :func:`evaluate_run`.
    """
    needed = ["participant_id", "diagnosis"] if target else ["participant_id"]
    tables, rows = read_any_embeddings(embeddings), read_manifest(manifest, required=needed)
    file = Path(output_dir) / "separation.tsv"
    require_writable(file)
    view = guard_files(embeddings, tables, rows, "evaluate", open_test)
    draws = {"n_bootstrap": n_bootstrap, "n_permutations": n_permutations, "seed": seed}
    groups = {"target": target, "background": None}
    return _evaluate(view, variables, file, groups, draws, {})


def read_separation(run: RunDir) -> pd.DataFrame:
    """Read back what :func:`evaluate_run` wrote, the card in ``attrs["card"]``."""
    table = pd.read_csv(run.separation, sep="\t", na_values=["n/a"], keep_default_na=False)
    card = read_json(run.analysis("card.json"), {"notes": list})
    table.attrs = {"card": card, "notes": card["notes"]}
    return table


def _evaluate(
    view: View,
    variables: Sequence[str] | None,
    file: Path,
    groups: Mapping[str, Any],
    draws: Mapping[str, Any],
    measures: Mapping[str, str],
) -> pd.DataFrame:
    table = evaluate(view.tables, view.manifest, variables, measures=measures, **groups, **draws)
    card = separation_card(view.tables, view.manifest, table, **groups, **draws)
    said = [f"{note}." for note in view.open()]
    table.attrs["notes"], card["notes"] = ([*said, *notes] for notes in (table.attrs["notes"], card["notes"]))
    card["not_tested"] = table.attrs["not_tested"]
    write_table(file, table)
    write_json(file.with_name("card.json"), card)
    draw_separation(table, file.with_suffix(".png"))
    table.attrs["card"] = card
    return table
