"""``evaluate``: what a linear probe can read from each space, on participants it was not fitted on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from sepclr_med.analysis.scoring import COLUMNS, choose_scheme, score_variable
from sepclr_med.analysis.spaces import describe_coverage, join_spaces
from sepclr_med.analysis.variables import choose_variables
from sepclr_med.errors import UserError
from sepclr_med.progress import report_progress

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

HEADLINES = {"balanced_accuracy": "acc", "r2": "R2"}
WIDEST_INTERVAL = len("[-0.00,-0.00]")

logger = logging.getLogger(__name__)


def evaluate(
    embeddings: Mapping[str, pd.DataFrame],
    manifest: pd.DataFrame,
    variables: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Probe every variable from every space.

    Standardised linear probes (balanced logistic regression for classes, ridge regression for numbers) are fitted on
    participants of the ``train`` split and scored on those of ``test``; without ``test`` on ``val``; without any
    held-out part by participant-grouped cross-validation, which the notes then say. Sessions of one participant are
    averaged first, embedding and number alike. Intervals are percentile bootstraps over scored participants; they
    leave out what another training set would change.

    Parameters
    ----------
    embeddings : mapping of str to DataFrame
        Space (``common``, ``salient``, ``voxel_pca``) to table: ids, ``split`` and factors.
    manifest : DataFrame
        As :func:`sepclr_med.read_manifest` gives it.
    variables : sequence of str or None, default=None
        Columns to probe; none means the diagnosis and every known and clinical column that can be probed.
    target : sequence of str or None, default=None
        Values of ``diagnosis`` that are patients. Clinical columns that do not vary outside them are probed among
        them only. None means: over every row with a value.
    n_bootstrap : int, default=1000
        Resamples behind each interval; 0 leaves intervals missing.
    seed : int, default=0
        Seed of folds and resamples.

    Returns
    -------
    DataFrame
        ``variable space metric value ci_low ci_high chance n``, one row per variable, space and metric. Metrics are
        ``balanced_accuracy`` and ``auc`` (one class against the rest, averaged, for more than two), or ``r2`` and
        ``mae``. ``chance`` is 1 / number of classes, 0.5, or the score of the training mean. ``n`` is the number of
        scored participants. A probe with too little data has the value missing. ``attrs["notes"]`` lists in words
        how it was scored, what was left out and why a value is missing.

    Raises
    ------
    ManifestError
        When a name is unknown (with the nearest known one), when embeddings and manifest do not match, or when a
        participant or family is in two splits.

    Examples
    --------
    >>> ids = [f"{i:03}" for i in range(60)]
    >>> manifest = pd.DataFrame({"participant_id": ids, "age": range(20, 80)})
    >>> split = ["train", "train", "test"] * 20
    >>> common = pd.DataFrame({"participant_id": ids, "split": split, "common_000": manifest["age"] / 10})
    >>> table = evaluate({"common": common}, manifest)
    >>> print(*table.round(2).iloc[0])
    age common r2 1.0 1.0 1.0 -0.01 20
    """
    from threadpoolctl import threadpool_limits

    if n_bootstrap < 0 or seed < 0:
        raise UserError(f"evaluate: n_bootstrap and seed are 0 or more, got {n_bootstrap} and {seed}")
    variables, target = _listed(variables), _listed(target)
    spaces = join_spaces(embeddings, manifest)
    seen = pd.concat([space.rows for space in spaces])
    seen = seen[~seen.index.duplicated()].sort_index()
    chosen, choice = choose_variables(seen, variables, target)
    scheme = choose_scheme(seen["split"])
    notes = [*scheme.notes, *describe_coverage(spaces, manifest), *choice]
    records: list[dict[str, object]] = []
    # Matrices this small are slower on several threads than on one.
    with threadpool_limits(1), report_progress("probing", len(chosen)) as advance:
        for variable in chosen:
            said: dict[str, list[str]] = {}
            for space in spaces:
                scored, remarks = score_variable(space, variable, target, scheme, n_bootstrap, seed)
                records += scored
                for remark in remarks:
                    said.setdefault(remark, []).append(space.name)
            notes += [_remark(variable.name, names, remark, len(spaces)) for remark, names in said.items()]
            advance(variable.name)
    for note in notes:
        logger.info(note)
    table = pd.DataFrame(records, columns=COLUMNS).astype({"n": int})
    table.attrs["notes"] = notes
    return table


def format_separation(table: pd.DataFrame) -> Table:
    """Lay the table out for people: a line per variable, a column per space, notes below.

    Each cell is balanced accuracy (``acc``) or R2 with its 95% interval, bold where the interval lies above chance.

    Parameters
    ----------
    table : DataFrame
        From :func:`evaluate`, or read back from ``separation.tsv``.

    Returns
    -------
    rich.table.Table
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    notes = "\n".join(f"- {note}" for note in table.attrs.get("notes", ()))
    grid = Table(
        title=Text("What a linear probe reads from each space [95% interval]"),
        caption=Text(notes) if notes else None,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    spaces = list(dict.fromkeys(table["space"]))
    grid.add_column("variable", overflow="fold", min_width=10)
    grid.add_column("score", no_wrap=True)
    for space in spaces:
        grid.add_column(Text(space), justify="right", min_width=WIDEST_INTERVAL)
    grid.add_column("chance", justify="right", no_wrap=True)
    grid.add_column("n", justify="right", no_wrap=True)
    for variable, rows in table[table["metric"].isin(HEADLINES)].groupby("variable", sort=False):
        by_space = rows.set_index("space")
        cells = [_cell(by_space.loc[space]) if space in by_space.index else Text("") for space in spaces]
        chance = rows["chance"].dropna()
        shown = _short(chance.iloc[0]) if len(chance) else "n/a"
        counts = "/".join(str(n) for n in dict.fromkeys(rows["n"]))
        grid.add_row(Text(str(variable)), HEADLINES[rows["metric"].iloc[0]], *cells, shown, counts)
    return grid


def _cell(row: pd.Series) -> Text:
    from rich.text import Text

    if pd.isna(row["value"]):
        return Text("n/a", style="dim")
    # The mean predictor can score below zero by luck of the draw; a probe must beat zero as well.
    stands_out = row["ci_low"] > max(row["chance"], 0)
    # No space inside the brackets: in a narrow terminal the interval moves below the value as a whole.
    interval = "" if pd.isna(row["ci_low"]) else f" [{_short(row['ci_low'])},{_short(row['ci_high'])}]"
    return Text(f"{_short(row['value'])}{interval}", style="bold" if stands_out else "")


def _short(value: float) -> str:
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(value, 2) + 0.0:.2f}"


def _listed(names: Sequence[str] | None) -> Sequence[str] | None:
    return [names] if isinstance(names, str) else names


def _remark(variable: str, spaces: list[str], remark: str, n_spaces: int) -> str:
    where = f" ({', '.join(spaces)})" if len(spaces) < n_spaces else ""
    return f"{variable}{where}: {remark}"
