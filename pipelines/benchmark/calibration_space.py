"""Null studies for the tests of a whole space: cross-validated ridge, similarity (Mantel), contrast of two spaces."""

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.designs import name_classes, settle_plan
from sepclr_med.analysis.associations.questions import ask
from sepclr_med.analysis.associations.similarity import compare_similarity
from sepclr_med.analysis.associations.whole_space import SpacePredictor
from sepclr_med.analysis.participants import Participants

SITES, SHARES = ["a", "b", "c", "d"], [0.5, 0.25, 0.15, 0.1]
N_FACTORS = 8
SPACE_PERMUTATIONS, PAIR_PERMUTATIONS = 399, 199
MEASURES = ("continuous", "ordinal", "binary", "categorical", "follows_site")


def make_cohort(seed, n):
    """Site, age and sex move factors and variables; beyond them no factor goes with any variable."""
    rng = np.random.default_rng([seed, n])
    site = rng.choice(4, n, p=SHARES)
    age = rng.uniform(20, 70, n)
    sex = rng.integers(0, 2, n)
    rows = pd.DataFrame({"age": age, "sex": np.where(sex, "F", "M"), "site": np.array(SITES)[site]})
    standard = (age - 45) / 14.4

    def moved(noise):
        columns = noise.shape[1]
        by_site = rng.normal(size=(4, columns)) * 0.8
        return noise + by_site[site] + np.outer(standard, rng.normal(size=columns)) * 0.7 + 0.3 * sex[:, None]

    mixing = rng.normal(size=(N_FACTORS, N_FACTORS)) + np.eye(N_FACTORS)
    spaces = {space: moved(rng.normal(size=(n, N_FACTORS)) @ mixing / 3) for space in ("salient", "common")}
    latent = moved(rng.normal(size=(n, 6)))
    rows["continuous"] = latent[:, 0]
    rows["ordinal"] = np.searchsorted(np.quantile(latent[:, 1], [0.4, 0.7, 0.9]), latent[:, 1])
    rows["binary"] = np.where(latent[:, 2] > np.quantile(latent[:, 2], 0.6), "yes", "no")
    rows["categorical"] = np.array(["x", "y", "z"])[latent[:, 3:6].argmax(axis=1)]
    rows["follows_site"] = np.array([0.0, 2.0, -1.0, 1.0])[site] + 0.5 * rng.normal(size=n)
    names = {space: [f"{space}_{k:03}" for k in range(N_FACTORS)] for space in spaces}
    return Participants(rows, spaces, names, np.ones(n, dtype=bool))


def study_space(seed, n):
    """Return p and p_free of cross-validated ridge, by kind of variable."""
    people = make_cohort(seed, n)
    plan = settle_plan(people.rows, MEASURES, ["age", "sex"], ["site"])
    rows = name_classes(people.rows, plan)
    predictor = SpacePredictor(plan, "salient", people.spaces["salient"], {}, "site", SPACE_PERMUTATIONS, 0, seed)
    found = {}
    for name in MEASURES:
        within, free, _ = predictor.test(ask(rows, name, plan.covariates, plan.blocks))
        found[f"space, {name}"] = (within.p_value, free.p_value)
    return found


def study_similarity(seed, n):
    """Return p and p_free of Mantel tests without covariates, of partial ones, and of the contrast."""
    people = make_cohort(seed, n)
    asked = {"blocks": ["site"], "n_permutations": PAIR_PERMUTATIONS, "n_bootstrap": 0, "seed": seed}
    both = {"methods": ["spearman"], "dissimilarities": ["euclidean", "cosine"]}
    one = {"methods": ["kendall"], "dissimilarities": ["euclidean"], "spaces": ["salient"]}
    adjusted = {"covariates": ["age", "sex"]}
    # Without covariates age is a true link of any two things that it moves: only what site moves is asked.
    tables = [
        compare_similarity(people, ["follows_site"], **asked, **both),
        compare_similarity(people, ["follows_site"], **asked, **one),
        compare_similarity(people, MEASURES, **asked, **both, **adjusted),
        compare_similarity(people, ["continuous", "categorical"], **asked, **one, **adjusted),
    ]
    found = {}
    for table, label in zip(tables, ["Mantel", "Mantel", "partial Mantel", "Mantel, adjusted"], strict=True):
        for row in table[table["space"] != "common"].itertuples():
            kind = "Kendall" if row.method.startswith("Kendall") else "Spearman"
            contrast = "contrast, " if row.space == "salient - common" else ""
            found[f"{label}, {kind}, {contrast}{row.dissimilarity}, {row.variable}"] = (row.p_value, row.p_free)
    return found


STUDIES = {"space": study_space, "similarity": study_similarity}
