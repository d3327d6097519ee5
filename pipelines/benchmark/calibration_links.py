"""Null studies of the factor-by-variable tests: nothing is linked, but sites, age and sex move everything."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.exchangeability import draw_permutations
from sepclr_med.analysis.associations.links import link_factors
from sepclr_med.analysis.associations.null_models import null_scores
from sepclr_med.analysis.associations.testing import test_factors
from sepclr_med.analysis.participants import Participants, design_matrix

N_PERMUTATIONS = 999
N_FACTORS = 8
SITE_SHARES = (0.45, 0.30, 0.15, 0.10)
MEASURES = ("continuous", "ordinal", "binary", "categorical")
FOLLOWS_SITE = "follows site only"


def draw_cohort(seed: int, n: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw participants and factors: four unbalanced sites, correlated factors that follow site, age and sex.

    Parameters
    ----------
    seed, n : int
        Same seed and n, same cohort.

    Returns
    -------
    DataFrame
        Columns ``participant_id centre age sex``. The block column is not called site, so that ``link_factors`` does
        not spend its time on one estimate per site.
    array of shape (n, 8)
        Sites differ in mean and in spread.
    """
    rng = np.random.default_rng([seed, n, 0])
    site = draw_sites(rng, n)
    rows = pd.DataFrame(
        {"participant_id": [f"{place:04}" for place in range(n)], "centre": np.array(list("ABCD"))[site]}
    )
    rows["age"] = rng.normal(45, 12, n) + 5 * site
    rows["sex"] = np.where(rng.random(n) < 0.4 + 0.1 * site, "F", "M")
    mixing = rng.normal(size=(N_FACTORS, N_FACTORS)) / np.sqrt(N_FACTORS) + 0.6
    noise = rng.normal(size=(n, N_FACTORS)) @ mixing
    noise *= np.array([1.0, 1.3, 0.8, 1.5])[site][:, None]
    return rows, noise + nuisance(rows, rng, N_FACTORS, site_size=1.0)


def draw_sites(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return a site for each participant: shares as in ``SITE_SHARES``, order at random."""
    counts = np.round(np.array(SITE_SHARES) * n).astype(int)
    counts[0] += n - counts.sum()
    return rng.permutation(np.repeat(np.arange(len(counts)), counts))


def nuisance(rows: pd.DataFrame, rng: np.random.Generator, n_columns: int, site_size: float) -> np.ndarray:
    """Return what site, age and sex do to ``n_columns`` quantities of unit noise."""
    site = pd.factorize(rows["centre"], sort=True)[0]
    slopes = rng.normal(size=(2, n_columns))
    offsets = site_size * rng.normal(size=(4, n_columns))
    age = (rows["age"].to_numpy() - 50) / 12
    woman = (rows["sex"] == "F").to_numpy(dtype=float)
    return offsets[site] + 0.5 * np.outer(age, slopes[0]) + 0.5 * np.outer(woman, slopes[1])


def add_variables(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Add a variable of each measure; noise of their own, and the same nuisance as the factors have."""
    n = len(rows)
    rng = np.random.default_rng([seed, n, 1])
    latent = nuisance(rows, rng, 4, site_size=0.7) + rng.logistic(size=(n, 4)) / 1.8
    values = {
        "continuous": latent[:, 0],
        "ordinal": np.searchsorted(np.quantile(latent[:, 1], [0.3, 0.6, 0.85]), latent[:, 1]),
        "binary": np.where(latent[:, 2] > np.quantile(latent[:, 2], 0.6), "yes", "no"),
        "categorical": np.array(["one", "two", "three"])[
            (np.column_stack([np.zeros(n), latent[:, 3], 0.5 * latent[:, 3]]) + rng.gumbel(size=(n, 3))).argmax(axis=1)
        ],
        "heavy-tailed": nuisance(rows, rng, 1, 0.7)[:, 0] + rng.standard_t(2, size=n),
        FOLLOWS_SITE: 1.5 * rng.normal(size=4)[pd.factorize(rows["centre"])[0]] + rng.normal(size=n),
    }
    return rows.assign(**values)


def link(rows: pd.DataFrame, factors: np.ndarray, variables: list[str], seed: int, **options) -> pd.DataFrame:
    """Run ``link_factors`` as a user would, permuting within ``centre``."""
    names = [f"salient_{place:03}" for place in range(factors.shape[1])]
    people = Participants(rows, {"salient": factors}, {"salient": names}, np.ones(len(rows), dtype=bool))
    settings = {"covariates": ["age", "sex"], "blocks": ["centre"], "n_permutations": N_PERMUTATIONS, "seed": seed}
    return link_factors(people, "salient", variables, **(settings | options))[0]


def study(seed: int, n: int) -> dict[str, float | tuple[float, float]]:
    """Return the p-values of one null study, for most tests beside the one without blocks."""
    rows, factors = draw_cohort(seed, n)
    rows = add_variables(rows, seed)
    family_of = dict.fromkeys(MEASURES, "clinical")
    variables = [*MEASURES, FOLLOWS_SITE]
    links = link(rows, factors, variables, seed, family_of=family_of, measures={"ordinal": "ordinal"})
    first = links[links["factor"] == "salient_000"].set_index("variable")
    found = {name: (first.loc[name, "p_value"], first.loc[name, "p_free"]) for name in variables}
    smallest = links.groupby("variable")["p_fwe"].min()
    found |= {f"{name}, largest of {N_FACTORS} factors": smallest[name] for name in (*MEASURES, FOLLOWS_SITE)}
    found["false discovery rate, 4 variables"] = links.loc[links["family"] == "clinical", "p_fdr"].min()
    robust = link(rows, factors[:, :1], ["heavy-tailed"], seed, robust=True).iloc[0]
    found["robust"] = (robust["p_value"], robust["p_free"])
    return found | study_families(seed, n)


def study_families(seed: int, n: int) -> dict[str, tuple[float, float]]:
    """Return the p-value with siblings moving together, and the one that takes them for strangers."""
    rng = np.random.default_rng([seed, n, 2])
    family = np.repeat(np.arange(n), rng.choice([1, 2, 3], n, p=[0.4, 0.4, 0.2]))[:n]
    centre = np.array(list("ABC"))[rng.choice(3, n, p=[0.5, 0.3, 0.2])][family]
    age = rng.normal(45, 12, n)
    rows = pd.DataFrame(
        {"centre": centre, "family_id": family.astype(str), "age": age, "sex": rng.choice(["F", "M"], n)}
    )
    shared = rng.normal(size=(n, 2))[family]
    own = rng.normal(size=(n, 2))
    value, factor = (1.5 * shared + own + 0.03 * age[:, None]).T
    found = link(rows.assign(value=value), factor[:, None], ["value"], seed, families="family_id").iloc[0]
    return {"families": (found["p_value"], found["p_free"])}


def quick_study(seed: int, n: int) -> dict[str, float | tuple[float, float]]:
    """Return p-values of the same null studies from the parts of ``link`` alone: the version in the tests."""
    rows, factors = draw_cohort(seed, n)
    rows = add_variables(rows, seed)
    rng = np.random.default_rng([seed, n, 3])
    blocked, free = (design_matrix(rows, ["age", "sex", *blocks]) for blocks in (["centre"], []))
    within, anyhow = (draw_permutations(199, labels, None, rng, n=n) for labels in (rows["centre"], None))
    found: dict[str, float | tuple[float, float]] = {}
    for name in (*MEASURES, "heavy-tailed", FOLLOWS_SITE):
        measure = name if name in MEASURES else "continuous"
        scores = null_scores(rows[name], measure, blocked, robust=name == "heavy-tailed").scores
        tests = test_factors(factors, scores, blocked, within)
        found[name] = tests.p_value[0]
        found[f"{name}, largest of {N_FACTORS} factors"] = tests.p_fwe.min()
    scores = null_scores(rows[FOLLOWS_SITE], "continuous", free).scores
    found[FOLLOWS_SITE] = (found[FOLLOWS_SITE], test_factors(factors, scores, free, anyhow).p_value[0])
    return found


STUDIES = {"links": study}
