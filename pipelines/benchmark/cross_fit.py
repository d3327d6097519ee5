"""What cross-fitting changes: probes on embeddings of models that saw people, that did not, and on new people.

    python pipelines/benchmark/cross_fit.py OUTPUT_DIR [--demo] [--jobs 1]

Three folds and three seeds of 180 simulated participants, 12 epochs, and 220 new people; with ``--demo`` of the demo's
400, with its settings, and its 200 held-out ones as new people. One row per space, variable and source in
``OUTPUT_DIR/cross_fit.tsv``; agreement of the seeds in ``OUTPUT_DIR/run/analysis``. What is done is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from sepclr_med import evaluate, load_config, simulate
from sepclr_med.analysis.linking import link_run
from sepclr_med.cohort.embeddings import read_embeddings
from sepclr_med.crossfitting import cross_fit
from sepclr_med.ensembles import embed_cross_fitted
from sepclr_med.rundir import RunDir, write_table

RECIPE = Path(__file__).parent.parent / "synthetic" / "recipe.yaml"
SMALL_COHORT = {"n_train": 180, "n_test": 220, "spacing": 10.0, "seed": 2}
SMALL = ["volumes.spacing=10", "training.epochs=12", "training.batch_size=32"]
SPACES = ("salient", "common")
VARIABLES = ["diagnosis", "severity", "subtype", "age", "sex", "site", "tiv", "shared_pattern"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--demo", action="store_true", help="the demo's cohort and settings")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    config = load_config(RECIPE, ["training.threads=1", *([] if options.demo else SMALL)])
    sizes = config.cohort.simulate | {"n_val": 0} if options.demo else SMALL_COHORT
    cohort = simulate(options.output / "study", **sizes)
    run = cross_fit(cohort, config, options.output / "run", 3, 3, options.jobs, say=print)
    embed_cross_fitted(run)
    new = cohort[cohort["split"] == "test"].reset_index(drop=True)
    embed_cross_fitted(run, new, options.output / "new")
    table = compare_sources(RunDir(run).embeddings, options.output / "new", cohort)
    write_table(options.output / "cross_fit.tsv", table)
    table["cell"] = table.apply(lambda r: f"{r['value']:.2f} [{r['ci_low']:.2f}, {r['ci_high']:.2f}]", axis=1)
    print(table.pivot_table("cell", ["space", "variable"], "source", "first", sort=False).to_string())
    found = link_run(run, n_permutations=999, parts=[])
    print(found.reading_stability.round(2).to_string(index=False))
    print(found.space_stability.round(2).to_string(index=False))
    print(found.stability.groupby("space")["stable"].agg(["sum", "size"]).to_string())


def compare_sources(own: Path, new: Path, cohort: pd.DataFrame) -> pd.DataFrame:
    """Return held-out or cross-validated scores of every variable by where the embeddings come from."""
    tables = {
        "in-sample": read_embeddings(own / "seen", SPACES),
        "out-of-fold, one seed": read_embeddings(own / "seed-0", SPACES),
        "out-of-fold": read_embeddings(own, SPACES),
    }
    # No part for training among them: probes are cross-validated over these very people.
    found = [
        _score({space: table.assign(split="test") for space, table in spaces.items()}, cohort).assign(source=source)
        for source, spaces in tables.items()
    ]
    unseen = read_embeddings(new, SPACES)
    both = {
        space: pd.concat([table.assign(split="train"), unseen[space].assign(split="test")], ignore_index=True)
        for space, table in tables["out-of-fold"].items()
    }
    return pd.concat([*found, _score(both, cohort).assign(source="held out")], ignore_index=True)


def _score(spaces: dict[str, pd.DataFrame], cohort: pd.DataFrame) -> pd.DataFrame:
    groups = {"target": ["patient"], "background": ["control"]}
    table = evaluate(spaces, cohort.drop(columns="split"), VARIABLES, n_permutations=0, **groups)
    kept = table["scheme"].ne("leave-site-out") & table["metric"].isin(["r2", "balanced_accuracy"])
    kept &= table["space"].isin(SPACES)
    return table.loc[kept, ["space", "variable", "metric", "value", "ci_low", "ci_high", "chance", "n"]]


if __name__ == "__main__":
    main()
