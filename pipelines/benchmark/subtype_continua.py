"""How often `find_subtypes` cuts a continuum into groups, and how often it finds groups that are there.

    python pipelines/benchmark/subtype_continua.py                200 continua, 60 cohorts with groups
    python pipelines/benchmark/subtype_continua.py --studies 40   fewer

Shapes and sizes (30, 80, 200 participants) take turns. The answer rests on several conditions at once, so there is no
p-value whose distribution could be looked at: the rate of false groups is what counts, at most 0.05 wanted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import binomtest, ortho_group

from sepclr_med.analysis.subtypes import find_subtypes, seek_gaps

SIZES = (30, 80, 200)
N_BACKGROUND = 100
OPTIONS = {"n_null": 99, "n_resamples": 6, "max_groups": 4}


def _arc(n, rng, width, end):
    angle = rng.uniform(0, end, n)
    return np.stack([6 * np.cos(angle), 6 * np.sin(angle)], 1) + width * rng.normal(size=(n, 2))


def _fan(n, rng):
    angle, length = rng.uniform(0, 0.8 * np.pi, n), rng.uniform(4, 15, n)
    return np.stack([length * np.cos(angle), length * np.sin(angle), 0 * angle], 1) + rng.normal(size=(n, 3))


POSITION = {
    "Gaussian": lambda n, r: r.normal(size=(n, 3)),
    "Gaussian, 6 factors": lambda n, r: r.normal(size=(n, 6)) * [6, 5, 4, 3, 2, 1],
    "long ellipsoid": lambda n, r: r.normal(size=(n, 3)) * [12, 1, 1],
    "even along a line": lambda n, r: np.hstack([r.uniform(-15, 15, (n, 1)), r.normal(size=(n, 2))]),
    "even in a square": lambda n, r: r.uniform(-3, 3, (n, 2)),
    "half circle": lambda n, r: _arc(n, r, 1.0, np.pi),
    "thin curve": lambda n, r: _arc(n, r, 0.5, 1.4 * np.pi),
    "parabola": lambda n, r: (lambda t: np.stack([2 * t, t**2], 1))(r.normal(size=n)) + 0.4 * r.normal(size=(n, 2)),
    "skewed": lambda n, r: np.hstack([r.exponential(4, (n, 1)), r.normal(size=(n, 2))]),
    "heavy tails": lambda n, r: r.standard_t(3, size=(n, 3)) * [3, 1, 1],
}
DIRECTION = {
    "no disease": lambda n, r: r.normal(size=(n, 4)),
    "severity along one axis": lambda n, r: r.normal(size=(n, 4)) + r.uniform(0, 20, (n, 1)) * np.eye(4)[0],
    "ellipsoid beside background": lambda n, r: r.normal(size=(n, 4)) * [4, 3, 2, 1] + 8 * np.eye(4)[0],
    "ellipsoid on background": lambda n, r: r.normal(size=(n, 4)) * [8, 2, 1, 1],
    "fan of directions": _fan,
}
PLANTED = {
    "two, 5 SD": ([0.5, 0.5], [[0, 0, 0], [5, 0, 0]]),
    "two, 6 SD": ([0.5, 0.5], [[0, 0, 0], [6, 0, 0]]),
    "two, 8 SD": ([0.5, 0.5], [[0, 0, 0], [8, 0, 0]]),
    "80% and 20%, 8 SD": ([0.8, 0.2], [[0, 0, 0], [8, 0, 0]]),
    "three, 8 SD": ([0.34, 0.33, 0.33], [[0, 0, 0], [8, 0, 0], [0, 8, 0]]),
}


def _embed(latent, seed, background=None):
    rng = np.random.default_rng(seed + 10_000)
    rows = latent if background is None else np.vstack([latent, background])
    full = np.hstack([rows, np.zeros((len(rows), 8 - rows.shape[1]))]) + 0.05 * rng.normal(size=(len(rows), 8))
    target = np.arange(len(rows)) < len(latent)
    return full @ ortho_group.rvs(8, random_state=seed), target


def study(seed: int) -> dict:
    """Ask one continuum; shapes and sizes take turns by the seed."""
    shapes = [*POSITION, *DIRECTION]
    shape, n = shapes[seed % len(shapes)], SIZES[(seed // len(shapes)) % len(SIZES)]
    rng = np.random.default_rng(seed)
    latent = {**POSITION, **DIRECTION}[shape](n, rng)
    background = rng.normal(size=(N_BACKGROUND, latent.shape[1])) if shape in DIRECTION else None
    rows, target = _embed(latent, seed, background)
    smallest = max(0.1, 5 / n)
    gaps = seek_gaps(rows[target], rows[~target], n_null=OPTIONS["n_null"], smallest=smallest, seed=seed)[1]
    gap = min(found.p_value for found in gaps.values()) <= 0.05 / len(gaps)
    # Without a gap the answer is a continuum whatever the other criteria say.
    groups = gap and find_subtypes(rows, target, ~target, seed=seed, **OPTIONS).n_groups > 1
    return {"kind": "continuum", "shape": shape, "n": n, "groups": bool(groups), "gap": gap}


def planted_study(seed: int) -> dict:
    """Ask one cohort with planted groups: right when their number is found."""
    shape = list(PLANTED)[seed % len(PLANTED)]
    n = SIZES[(seed // len(PLANTED)) % len(SIZES)]
    shares, centres = PLANTED[shape]
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(shares)), np.round(np.array(shares) * n).astype(int)))
    rows, target = _embed(np.asarray(centres, float)[truth] + rng.normal(size=(len(truth), 3)), seed)
    found = find_subtypes(rows, target, seed=seed, **OPTIONS)
    return {"kind": "planted", "shape": shape, "n": n, "groups": found.n_groups == len(shares), "gap": np.nan}


def main() -> None:
    """Run, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--planted", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("subtype_continua.json"))
    options = parser.parse_args()
    started = time.time()
    calls = [delayed(study)(s) for s in range(options.studies)]
    calls += [delayed(planted_study)(s) for s in range(options.planted)]
    table = pd.DataFrame(Parallel(options.jobs)(calls))
    for kind, rows in table.groupby("kind"):
        low, high = binomtest(int(rows["groups"].sum()), len(rows)).proportion_ci()
        said = "cut into groups" if kind == "continuum" else "groups found, their number right"
        print(f"\n{kind}: {said} {rows['groups'].mean():.3f} [{low:.3f}, {high:.3f}] of {len(rows)}")
        print(rows.pivot_table(index="shape", columns="n", values="groups", sort=False).round(2).to_string())
        if kind == "continuum":
            print(f"gap test alone: {rows['gap'].mean():.3f}")
    options.output.write_text(json.dumps(table.to_dict("records"), indent=1, default=float))
    print(f"\n{time.time() - started:.0f} s, options {OPTIONS}; {options.output.name}")


if __name__ == "__main__":
    main()
