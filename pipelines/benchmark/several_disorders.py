"""Two disorders against one control group: what the shared part and each disorder's own part of the salient space hold.

    python pipelines/benchmark/several_disorders.py OUTPUT_DIR [--seeds 0,1,2] [--set KEY=VALUE]

The demo's cohort, whose two subtypes are called two diagnoses. Two trainings a seed: parts of their own
(``method.disorder_dim=8``), and one salient space for all patients. Linear probes of training participants, scored on
held-out ones of one disorder alone; lengths of held-out participants from the mean of training controls. One row per
seed, training, part, people and variable in ``OUTPUT_DIR/several_disorders.tsv``; trainings that are there are not
done again.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd

from sepclr_med import embed, evaluate, fit, load_config, simulate
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.methods.shapes import name_salient_parts
from sepclr_med.rundir import write_table

RECIPE = Path(__file__).parent.parent / "synthetic" / "recipe.yaml"
TRAININGS = {"own parts": ["method.disorder_dim=8"], "one space": []}
GROUPS = ["A", "B"]
HEADLINES = {"r2", "balanced_accuracy"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    settings = ["training.threads=1", f"cohort.target=[{','.join(GROUPS)}]", *options.set]
    cohort = simulate(options.output / "study", **load_config(RECIPE, settings).cohort.simulate)
    cohort["diagnosis"] = cohort["diagnosis"].where(cohort["diagnosis"] != "patient", cohort["subtype"])
    found = []
    for seed in options.seeds.split(","):
        for name, more in TRAININGS.items():
            config = load_config(RECIPE, [*settings, *more, f"training.seed={seed}"])
            run = fit(cohort, config, options.output / f"{name.replace(' ', '_')}_seed{seed}")
            embed(run)
            spaces = divide(read_embeddings(run / "embeddings", ("common", "salient")), name_salient_parts(config))
            found.append(describe(spaces, cohort).assign(training=name, seed=int(seed)))
    table = pd.concat(found, ignore_index=True)
    write_table(options.output / "several_disorders.tsv", table)
    table["question"] = table["variable"] + ", " + table["people"]
    print(table.pivot_table("value", ["training", "part"], "question", _say, sort=False).to_string())


def divide(spaces: dict[str, pd.DataFrame], parts: dict[str, str]) -> dict[str, pd.DataFrame]:
    """Return the common space, the salient one, and each of its parts as a space of its own."""
    salient = spaces["salient"]
    found = {"common": spaces["common"], "whole salient": salient}
    for name, factors in parts.items():
        first, last = re.findall(r"salient_\d+", factors)
        others = [factor for factor in factor_columns(salient) if not first <= factor <= last]
        found[name] = salient.drop(columns=others)
    return found


def describe(spaces: dict[str, pd.DataFrame], cohort: pd.DataFrame) -> pd.DataFrame:
    """Return what each space reads within each disorder and between them, and how long it is in each group."""
    patients = cohort["diagnosis"].isin(GROUPS)
    asked = [(group, cohort["diagnosis"] == group, ["severity", "age", "sex"]) for group in GROUPS]
    asked.append(("A against B", patients, ["diagnosis"]))
    found = []
    for people, rows, variables in asked:
        inside = {
            name: table[table["participant_id"].isin(cohort.loc[rows, "participant_id"])]
            for name, table in spaces.items()
        }
        table = evaluate(inside, cohort[rows], variables, n_bootstrap=0, n_permutations=0)
        kept = table["metric"].isin(HEADLINES) & table["space"].isin(list(spaces)) & (table["scheme"] == "held-out")
        found.append(table.loc[kept, ["space", "variable", "value", "n"]].assign(people=people))
    lengths = [
        {"space": name, "variable": "length", "people": group, **length}
        for name, table in spaces.items()
        for group, length in measure_lengths(table, cohort).items()
    ]
    return pd.concat([*found, pd.DataFrame(lengths)], ignore_index=True).rename(columns={"space": "part"})


def measure_lengths(table: pd.DataFrame, cohort: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the mean distance of each group's held-out participants from the mean of training controls."""
    rows = table[["participant_id"]].merge(cohort, on="participant_id", how="left", validate="1:1")
    factors = table[factor_columns(table)].to_numpy()
    control, held = rows["diagnosis"] == "control", rows["split"] == "test"
    lengths = np.linalg.norm(factors - factors[control & (rows["split"] == "train")].mean(axis=0), axis=1)
    groups = [("control", control), *((group, rows["diagnosis"] == group) for group in GROUPS)]
    return {name: {"value": float(lengths[of & held].mean()), "n": int((of & held).sum())} for name, of in groups}


def _say(values: pd.Series) -> str:
    spread = f" ({values.min():.2f} to {values.max():.2f})" if len(values) > 1 else ""
    return f"{values.mean() + 0.0:.2f}{spread}"


if __name__ == "__main__":
    main()
