"""``evaluate`` on a run folder: its embeddings, its manifest, one table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from sepclr_med.analysis.figures import draw_separation
from sepclr_med.analysis.separation import evaluate
from sepclr_med.cohort.embeddings import read_embeddings
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.provenance import record_step
from sepclr_med.rundir import RunDir, write_table
from sepclr_med.runs import read_config


def evaluate_run(
    run_dir: str | Path, variables: Sequence[str] | None = None, n_bootstrap: int | None = None
) -> pd.DataFrame:
    """Probe every variable from every space of a run and write ``analysis/separation.tsv`` and ``.png``.

    Parameters
    ----------
    run_dir : path
        Folder with embeddings.
    variables : sequence of str or None, default=None
        Columns of the manifest; none means ``evaluation.variables`` of the run, and without it all that can be probed.
    n_bootstrap : int or None, default=None
        Resamples of participants behind each interval; none means ``evaluation.n_bootstrap``.

    Returns
    -------
    DataFrame
        As for :func:`sepclr_med.evaluate`.

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
    chosen = list(variables) if variables else config.evaluation.variables
    table = evaluate(
        read_embeddings(run.embeddings),
        read_manifest(run.manifest),
        variables=chosen,
        target=config.cohort.target,
        n_bootstrap=config.evaluation.n_bootstrap if n_bootstrap is None else n_bootstrap,
        seed=config.evaluation.seed,
    )
    write_table(run.separation, table)
    draw_separation(table, run.separation.with_suffix(".png"))
    notes = list(table.attrs.get("notes", []))
    record_step(run.provenance, "evaluate", started, {"seed": config.evaluation.seed, "notes": notes})
    return table
