"""How wrong the normative reference is about each covariate, by the number of controls and by who helps. No training.

    python pipelines/ablation/effects.py OUTPUT_DIR [--sizes 24,50,100,200] [--spacing 8] [--interaction 0] [--new 300]

A cohort with as many controls as patients is simulated for each size. ``error_*`` is the mean squared error of the map
of an effect, in variances of the residuals, after the components are taken out: that is what a new image still shows of
the covariate. It is measured on people who took no part, by the product of what two halves of them show, which does not
count their own noise. ``borrowed_*`` is the share of the effect that comes from patients. With ``--interaction`` the
effect of sex is so many times larger in patients. One row per size and choice in ``OUTPUT_DIR/effects.tsv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from sepclr_med import simulate
from sepclr_med.rundir import write_table
from sepclr_med.settings import VolumesConfig
from sepclr_med.volumes.cache import cache_volumes
from sepclr_med.volumes.normative_design import code_covariates
from sepclr_med.volumes.normative_regression import fit_regression

COVARIATES = ["age", "sex", "site"]
N_SPLITS = 50
# Of the controls' degrees of freedom: about what the likelihood chooses in this cohort.
SHARE_OF_COMPONENTS = 0.12
CHOICES = {"controls alone": ([], False), "site pooled": (["site"], False), "borrowed": (["site"], True)}


def main() -> None:
    options = _options()
    largest = max(options.sizes)
    people = simulate(options.output / "cohort", 2 * largest, 0, 2 * options.new, options.spacing, n_jobs=-1)
    cached = cache_volumes(people, VolumesConfig(spacing=options.spacing), options.output / "cache")
    images = cached.load(np.arange(len(people))).reshape(len(people), -1).astype(np.float64)
    images = images[:, images.std(axis=0) > 1e-4]
    if options.interaction:
        images += _more_sex_in_patients(people, images, options.interaction)
    rows = [
        {"n_controls": n, "effects": name} | measure(people, images, n, *choice)
        for n in options.sizes
        for name, choice in CHOICES.items()
    ]
    table = pd.DataFrame(rows)
    write_table(options.output / "effects.tsv", table)
    print(table.round(4).to_string(index=False))


def measure(people: pd.DataFrame, images: np.ndarray, n: int, pooled: list[str], borrow: bool) -> dict[str, float]:
    ill, train = (people["diagnosis"] == "patient").to_numpy(), (people["split"] == "train").to_numpy()
    fitted = np.concatenate([np.flatnonzero(train & ~ill)[:n], np.flatnonzero(train & ill)[:n]])
    coding = code_covariates(people.iloc[fitted[:n]], COVARIATES)
    design = coding.encode(people).astype(float)
    centred = images[fitted] - images[fitted[0]]
    found = fit_regression(
        centred @ centred.T,
        design[fitted],
        np.ones(fitted.size, bool),
        ill[fitted].astype(int),
        coding.columns_of(pooled),
        images.shape[1],
        borrow,
    )
    left = images - design @ (found.weights @ images[fitted])
    k = int(SHARE_OF_COMPONENTS * (n - design.shape[1]))
    components = np.linalg.svd(left[fitted[:n]], full_matrices=False)[2][:k]
    left = left - left @ components.T @ components
    new = np.flatnonzero(~train & ~ill)
    left = left / (left[new].std(axis=0) + 0.05 * np.median(left[new].std(axis=0)))
    errors = _errors(left[new], design[new])
    names = {name: np.flatnonzero(coding.columns_of([name]))[0] for name in COVARIATES}
    return {f"error_{name}": errors[place] for name, place in names.items()} | {
        f"borrowed_{name}": found.borrowed[place] for name, place in names.items()
    }


def _errors(left: np.ndarray, design: np.ndarray) -> np.ndarray:
    rng, found = np.random.default_rng(0), []
    for _ in range(N_SPLITS):
        halves = np.array_split(rng.permutation(len(left)), 2)
        one, other = (np.linalg.lstsq(design[half], left[half], rcond=None)[0] for half in halves)
        found.append((one * other).mean(axis=1))
    return np.mean(found, axis=0)


def _more_sex_in_patients(people: pd.DataFrame, images: np.ndarray, times: float) -> np.ndarray:
    """Return what patients have beside the effect of sex in controls, which is estimated in all of them."""
    ill, man = (people["diagnosis"] == "patient").to_numpy(), (people["sex"] == "M").to_numpy(float)
    healthy = images[~ill]
    effect = healthy[man[~ill] == 1].mean(axis=0) - healthy[man[~ill] == 0].mean(axis=0)
    return np.outer(times * man * ill, effect)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[24, 50, 100, 200])
    parser.add_argument("--spacing", type=float, default=8.0)
    parser.add_argument("--interaction", type=float, default=0.0)
    parser.add_argument("--new", type=int, default=300, help="controls who took no part")
    return parser.parse_args()


if __name__ == "__main__":
    main()
