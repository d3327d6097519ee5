"""Fit every arm of ``arms.yaml`` on simulated cohorts for several seeds, and probe both spaces against the truth.

    python pipelines/ablation/run.py OUTPUT_DIR [--arms NAME,...] [--seeds 0,1,2] [--cohorts 0,1,2] [--set KEY=VALUE]
    python pipelines/ablation/run.py OUTPUT_DIR --base MANIFEST ...
    python pipelines/ablation/run.py OUTPUT_DIR --show

``--cohorts`` are seeds of the simulation. With ``--base`` atrophy is planted into half of these real maps, whatever
their own diagnosis. One row per arm, cohort, seed, space and variable in ``OUTPUT_DIR/ablation.tsv``; what is there
already is not done again. Probes are linear, fitted on training participants and scored on the held-out ones: among
patients, and apart from that over everyone (variables that controls have too).
"""

from __future__ import annotations

import argparse
import shutil
from itertools import product
from pathlib import Path

import pandas as pd
import yaml
from variants import in_force

from sepclr_med import embed, evaluate, fit, load_config, simulate
from sepclr_med.cohort.embeddings import read_embeddings
from sepclr_med.config import Config
from sepclr_med.rundir import write_table

HERE = Path(__file__).parent
RECIPE = HERE.parent / "synthetic" / "recipe.yaml"
VARIANT = "variant="
HEADLINES = {"r2", "balanced_accuracy"}
SHARED = ["age", "sex", "site", "shared_pattern"]
SHOWN = {
    "severity, patients": "severity R2",
    "subtype, patients": "subtype",
    "age, patients": "age R2",
    "sex, patients": "sex",
    "site, patients": "site",
    "shared_pattern, patients": "shared pattern R2",
    "age, everyone": "age R2, everyone",
    "sex, everyone": "sex, everyone",
    "site, everyone": "site, everyone",
    "diagnosis, everyone": "diagnosis",
}


def main() -> None:
    options = _options()
    if options.show:
        print(summarise(pd.read_csv(options.output / "ablation.tsv", sep="\t")))
        return
    arms = yaml.safe_load((HERE / "arms.yaml").read_text())
    names = options.arms.split(",") if options.arms else list(arms)
    for drawn, seed in product(options.cohorts.split(","), options.seeds.split(",")):
        cohort = _cohort(options, int(drawn))
        for name in names:
            run = options.output / f"{name}_cohort{drawn}_seed{seed}"
            if not (run / "probes.tsv").is_file():
                settings = [f"training.seed={seed}", f"volumes.cache_dir={options.output / 'cache'}", *options.set]
                variants = [setting[len(VARIANT) :] for setting in arms[name] if setting.startswith(VARIANT)]
                settings += [setting for setting in arms[name] if not setting.startswith(VARIANT)]
                table = _fit_and_probe(cohort, load_config(RECIPE, settings), run, *variants)
                write_table(run / "probes.tsv", table.assign(arm=name, cohort=drawn, seed=seed))
                shutil.rmtree(run / "checkpoints")
                print(table.pivot_table("value", ["space", "people"], "variable").round(2).to_string(), flush=True)
            found = pd.concat(pd.read_csv(f, sep="\t") for f in sorted(options.output.glob("*/probes.tsv")))
            write_table(options.output / "ablation.tsv", found)


def _fit_and_probe(cohort: pd.DataFrame, config: Config, run: Path, variant: str | None = None) -> pd.DataFrame:
    with in_force(variant, cohort, config.training.epochs, config.training.batch_size):
        fit(cohort, config, run)
        embed(run)
    return probe(read_embeddings(run / "embeddings"), cohort)


def probe(embeddings: dict[str, pd.DataFrame], cohort: pd.DataFrame) -> pd.DataFrame:
    """Return the held-out score of every variable from the common and the salient space."""
    spaces = {name: table for name, table in embeddings.items() if name in ("common", "salient")}
    patients = cohort[cohort["diagnosis"] == "patient"]
    inside = {name: table[table["participant_id"].isin(patients["participant_id"])] for name, table in spaces.items()}
    clinical = [name for name in ("severity", "subtype", "score") if name in cohort]
    shared = [name for name in SHARED if name in cohort and len(set(cohort[name])) > 1]
    found = [
        _evaluate(inside, patients, [*clinical, *shared]).assign(people="patients"),
        _evaluate(spaces, cohort, [*shared, "diagnosis"]).assign(people="everyone"),
    ]
    return pd.concat(found)[["space", "people", "variable", "metric", "value", "chance", "n"]]


def summarise(table: pd.DataFrame) -> str:
    """Return a Markdown table: mean over cohorts and seeds, and the range where there are several."""
    lines = [f"| space | arm | runs | {' | '.join(SHOWN.values())} |", "|---" * (len(SHOWN) + 3) + "|"]
    question = table["variable"] + ", " + table["people"]
    for (space, arm), rows in table.groupby(["space", "arm"], sort=False):
        cells = [_cell(rows[question.loc[rows.index] == key]["value"]) for key in SHOWN]
        lines.append(f"| {space} | {arm} | {len(rows.groupby(['cohort', 'seed']))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: pd.Series) -> str:
    if not len(values):
        return "n/a"
    spread = f" ({values.min():.2f} to {values.max():.2f})" if len(values) > 1 else ""
    return f"{values.mean() + 0.0:.2f}{spread}"


def _evaluate(spaces: dict[str, pd.DataFrame], cohort: pd.DataFrame, variables: list[str]) -> pd.DataFrame:
    table = evaluate(spaces, cohort, variables, n_bootstrap=0, n_permutations=0)
    kept = table["metric"].isin(HEADLINES) & table["space"].isin(list(spaces)) & (table["scheme"] == "held-out")
    return table[kept]


def _cohort(options: argparse.Namespace, seed: int) -> pd.DataFrame:
    folder = options.output / f"cohort{seed}"
    if options.base:
        # Two thirds train; sizes of a base are those of its table.
        return simulate(folder, 200, 0, 100, base=options.base, base_diagnosis=None, seed=seed)
    return simulate(folder, **(load_config(RECIPE, options.set).cohort.simulate | {"seed": seed}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--arms", default="")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--cohorts", default="0")
    parser.add_argument("--base", default=None)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--show", action="store_true", help="print what is there as Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
