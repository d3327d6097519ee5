"""What it costs to take a column out of the salient space: erased by degrees, or with all but the leading axes dropped.

    python pipelines/ablation/tradeoff.py OUTPUT_DIR [--arm default] [--column sex]

For every run of the arm that ``run.py`` left in OUTPUT_DIR; nothing is trained. Erasures (LEACE) and axes (principal
components) are fitted on training patients, probes on training participants, and scored on held-out ones. Writes
``OUTPUT_DIR/tradeoff.tsv`` and ``tradeoff.png``, and prints the table as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from run import probe
from sklearn.decomposition import PCA

from sepclr_med import read_manifest
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.methods.erasure import fit_erasure, fit_truncation
from sepclr_med.rundir import write_table

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
AXES = (1, 2, 4, 8, 16)
SHARES = (0.98, 0.99, 0.995, 0.998)
SHOWN = ("severity", "subtype", "age", "sex", "site")
ERASED, KEPT, SHARE = "erased", "leading axes kept", "leading axes with a share of variance"


def main() -> None:
    options = _options()
    runs = sorted(options.output.glob(f"{options.arm}_cohort*_seed*/embeddings"))
    found = pd.concat([_try_all(run, options) for run in runs], ignore_index=True)
    write_table(options.output / "tradeoff.tsv", found)
    print(summarise(found))
    draw(found, options.column, options.output / "tradeoff.png")


def _try_all(run: Path, options: argparse.Namespace) -> pd.DataFrame:
    drawn = run.parent.name.removeprefix(f"{options.arm}_cohort").split("_")[0]
    cohort = read_manifest(options.output / f"cohort{drawn}" / "manifest.tsv")
    salient = read_embeddings(run)["salient"]
    tables = []
    for how, much, table in change(salient, cohort, options.column):
        scores = probe({"salient": table}, cohort)
        tables.append(scores.assign(run=run.parent.name, how=how, much=much))
        print(run.parent.name, how, much, flush=True)
    return pd.concat(tables)


def change(salient: pd.DataFrame, cohort: pd.DataFrame, column: str) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Yield what was done, how much of it, and the salient table that is left."""
    names = factor_columns(salient)
    values = salient[names].to_numpy(float)
    rows = salient[["participant_id"]].merge(cohort, on="participant_id", how="left", validate="1:1")
    fitted = ((rows["split"] == "train") & (rows["diagnosis"] == "patient")).to_numpy()
    coded = pd.get_dummies(rows.loc[fitted, column], drop_first=True).to_numpy(float)
    erasure = fit_erasure(values[fitted], coded)
    for strength in STRENGTHS:
        yield ERASED, strength, salient.assign(**_named(values + strength * (erasure(values) - values), names))
    scores = PCA().fit(values[fitted]).transform(values)
    for n in AXES:
        yield KEPT, n, salient.drop(columns=names).assign(**_named(scores[:, :n], names))
    for share in SHARES:
        yield SHARE, share, salient.assign(**_named(fit_truncation(values[fitted], share)(values), names))


def _named(values: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
    return dict(zip(names, values.T, strict=False))


def summarise(table: pd.DataFrame) -> str:
    """Return a Markdown table: means over runs, and the range."""
    patients = table[table["people"] == "patients"]
    lines = [f"| salient space | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 1) + "|"]
    for (how, much), rows in patients.groupby(["how", "much"]):
        cells = [_cell(rows.loc[rows["variable"] == name, "value"]) for name in SHOWN]
        lines.append(f"| {how}: {much:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: pd.Series) -> str:
    return f"{values.mean() + 0.0:.2f} ({values.min() + 0.0:.2f} to {values.max() + 0.0:.2f})"


def draw(table: pd.DataFrame, column: str, path: Path) -> None:
    """Draw severity against the column, a panel for each way, a point for each degree."""
    patients = table[table["people"] == "patients"]
    means = patients.pivot_table("value", ["how", "much"], "variable")
    chance = patients.loc[patients["variable"] == column, "chance"].iloc[0]
    ways = list(means.groupby(level="how"))
    figure, axes = plt.subplots(
        1, len(ways), figsize=(4 * len(ways), 3.6), sharex=True, sharey=True, layout="constrained"
    )
    for panel, (how, rows) in zip(axes, ways, strict=True):
        panel.plot(rows[column], rows["severity"], "o-")
        for number, ((_, much), point) in enumerate(rows.iterrows()):
            place = (0, 7 if number % 2 else -15)
            at = (point[column], point["severity"])
            panel.annotate(f"{much:g}", at, xytext=place, textcoords="offset points", ha="center")
        panel.axvline(chance, color="0.6", linestyle=":", label="chance")
        panel.set(xlabel=f"{column}: balanced accuracy", title=how)
    axes[0].set_ylabel("severity: R2")
    axes[0].set_ylim(max(0, means["severity"].min() - 0.05), 1)
    axes[0].legend(loc="lower right")
    figure.savefig(path, dpi=120)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--arm", default="default")
    parser.add_argument("--column", default="sex")
    return parser.parse_args()


if __name__ == "__main__":
    main()
