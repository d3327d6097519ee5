"""Whether a factor is one of the cohort or of one training: agreement of participants' scores across models.

Models of a cross-fit differ in their seed and in whom they left out, and their spaces are laid over one another
(:mod:`sepclr_med.analysis.alignment`) before anything is compared. Nothing here looks at a clinical variable, so that
factors may be set aside by what it finds without any effect on later p-values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import subspace_angles

from sepclr_med.analysis.agreement import debiased_cka, intraclass_correlation
from sepclr_med.analysis.canonical import rotate_table
from sepclr_med.analysis.participants import Participants, mean_factors
from sepclr_med.analysis.probes import predict_many
from sepclr_med.analysis.units import Units, cross_folds

GOOD = 0.75
LEADING_SHARE = 0.9
MOST_COMPARED = 2000
FOLDS_COMPARED = "unseen, seen"
COLUMNS = {
    "seeds": ("icc", "icc_low", "icc_high", "icc_mean"),
    "folds": ("icc_folds", "icc_folds_low", "icc_folds_high"),
}

# What to name: seeds, or folds. Each entry has the tables of one replicate, by space.
Replicates = Mapping[str, Sequence[Mapping[str, pd.DataFrame]]]


def factor_stability(
    replicates: Replicates, tested: Participants, spaces: Sequence[str], smallest: float = GOOD
) -> pd.DataFrame:
    """Return how far models agree on each factor of the tested participants.

    Parameters
    ----------
    replicates : mapping of str to sequence of (mapping of str to DataFrame)
        ``seeds``: each seed's embeddings; ``folds``: those by models that never saw a participant, and those by models
        that did. Aligned.
    tested : Participants
        Whose scores are compared; sessions averaged.
    spaces : sequence of str
    smallest : float, default=0.75
        Least agreement of a stable factor ("good" in Koo and Li, J Chiropr Med 2016, doi:10.1016/j.jcm.2016.02.012): of
        the mean over seeds, which is what is tested, and of held-out with seen participants.

    Returns
    -------
    DataFrame
        ``space factor n n_seeds``, ``icc icc_low icc_high`` (single seeds), ``icc_mean`` (mean over seeds),
        ``icc_folds icc_folds_low icc_folds_high``, ``seed_spread`` (standard deviation of a participant's score over
        seeds, the median over participants, in standard deviations of the mean score between participants), and
        ``stable``.
    """
    found = []
    for space in spaces:
        names = tested.factors[space]
        table = pd.DataFrame({"space": space, "factor": names, "n": len(tested)})
        table["n_seeds"] = len(replicates.get("seeds", ()))
        figures = {kind: _agreement(tables, tested, space) for kind, tables in replicates.items()}
        for kind, columns in COLUMNS.items():
            values = figures.get(kind, {})
            for column in columns:
                table[column] = values.get(column.replace("_folds", ""), np.full(len(names), np.nan))
        table["seed_spread"] = _spread_over(replicates.get("seeds", ()), tested, space)
        known = table[["icc_mean", "icc_folds"]].dropna(axis=1, how="all")
        table["stable"] = (known >= smallest).all(axis=1)
        found.append(table)
    return pd.concat([pd.DataFrame(), *found], ignore_index=True)


def study_stability(
    replicates: Replicates,
    people: Participants,
    tested: Participants,
    factors: Sequence[str],
    variables: Sequence[str],
    rotated: tuple[pd.DataFrame, dict[str, Any]] | None,
    smallest: float,
    seed: int,
) -> tuple[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame], Participants, list[str]]:
    """Compare the models of a cross-fit, and leave out the factors on which they do not agree.

    Parameters
    ----------
    replicates : mapping
        As for :func:`factor_stability`; empty for a single model, of which nothing is known.
    people, tested : Participants
        Everyone, and whom tests are about.
    factors : sequence of str
        Spaces whose factors are to be tested.
    variables : sequence of str
        What is read from the salient space.
    rotated : (DataFrame, dict) or None
        From :func:`sepclr_med.analysis.canonical.canonical_table`, when canonical factors are among them.
    smallest : float
        Least agreement; 0 keeps every factor.
    seed : int

    Returns
    -------
    tuple of DataFrame
        From :func:`factor_stability`, :func:`space_stability` and :func:`reading_stability`.
    Participants
        The tested, with stable factors.
    list of str
        What was set aside.
    """
    if not replicates:
        return (pd.DataFrame(), pd.DataFrame(), pd.DataFrame()), tested, []
    replicates = rotate_replicates(replicates, rotated[1]) if rotated else replicates
    # What only patients have is compared among them; what everyone has among everyone.
    asked = [(tested, list(factors)), (people, [space for space in ("common",) if space in people.spaces])]
    stability = pd.concat([factor_stability(replicates, who, spaces, smallest) for who, spaces in asked])
    asked[0] = (tested, ["salient"])
    spaces = pd.concat([space_stability(replicates, who, spaces, seed) for who, spaces in asked])
    reading = reading_stability(replicates, tested, "salient", variables, seed)
    stable, notes = keep_stable(tested, stability, factors) if smallest > 0 else (tested, [])
    return (stability, spaces, reading), stable, notes


def keep_stable(tested: Participants, stability: pd.DataFrame, spaces: Sequence[str]) -> tuple[Participants, list[str]]:
    """Leave the unstable factors of these spaces out, and say which.

    Parameters
    ----------
    tested : Participants
    stability : DataFrame
        From :func:`factor_stability`.
    spaces : sequence of str

    Returns
    -------
    Participants
        A space without a stable factor has none.
    list of str
        Notes.
    """
    notes = []
    for space in spaces:
        stable = stability.loc[stability["space"] == space, "stable"].to_numpy(bool)
        names = np.array(tested.factors[space], dtype=object)
        tested = tested.with_space(space, tested.spaces[space][:, stable], names[stable].tolist())
        if not stable.all():
            notes.append(
                f"{stable.sum()} of {len(stable)} {space} factors are stable across trainings and are tested; set "
                f"aside: {_say_runs(names, ~stable)}. --smallest-icc 0 tests them all"
            )
    return tested, notes


def rotate_replicates(replicates: Replicates, facts: Mapping[str, Any]) -> dict[str, list[dict[str, pd.DataFrame]]]:
    """Give every replicate the canonical factors that were fitted on the embeddings themselves.

    Parameters
    ----------
    replicates : mapping
        As for :func:`factor_stability`.
    facts : mapping
        The second of :func:`sepclr_med.analysis.canonical.canonical_table`.
    """
    return {
        kind: [{**tables, "canonical": rotate_table(tables["salient"], facts)} for tables in several]
        for kind, several in replicates.items()
    }


def space_stability(replicates: Replicates, people: Participants, spaces: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Return how alike whole spaces of different models are, which no rotation changes.

    Parameters
    ----------
    replicates : mapping
        As for :func:`factor_stability`.
    people : Participants
        Whose scores are compared; of more than 2,000 a random 2,000.
    spaces : sequence of str
    seed : int, default=0

    Returns
    -------
    DataFrame
        One row per space and pair that was ``compared``, two seeds and, over the folds, models that never saw a
        participant with those that did: ``cka`` (:func:`debiased_cka`), ``n_leading`` (principal components that hold
        90% of the variance of the first), ``largest_angle`` (degrees) and ``overlap`` (mean squared cosine) of the
        leading subspaces in the space of participants, ``overlap_chance`` (of random ones).
    """
    n = len(people)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:MOST_COMPARED])
    rows = []
    for space in spaces:
        for kind, tables in replicates.items():
            scores = [each[chosen] for each in _scores(tables, people, space)]
            for one, other in combinations(range(len(scores)), 2):
                compared = FOLDS_COMPARED if kind == "folds" else f"seeds {one}, {other}"
                rows.append({"space": space, "compared": compared} | _likeness(scores[one], scores[other]))
    return pd.DataFrame(rows)


def _likeness(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    left, right = one - one.mean(axis=0), other - other.mean(axis=0)
    k = _count_leading(left)
    angles = subspace_angles(*(np.linalg.svd(side, full_matrices=False)[0][:, :k] for side in (left, right)))
    return {
        "n": len(left),
        "cka": debiased_cka(left, right),
        "n_leading": k,
        "largest_angle": float(np.degrees(angles.max())),
        "overlap": float(np.square(np.cos(angles)).mean()),
        "overlap_chance": k / (len(left) - 1),
    }


def reading_stability(
    replicates: Replicates, tested: Participants, space: str, variables: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """Return how far seeds agree on what is read of each variable from a whole space.

    Each seed's space predicts the variable by ridge regression, cross-validated over participants with relatives
    undivided; what is compared are these predictions. A class of two is read as 0 and 1; of more than two nothing is.

    Returns
    -------
    DataFrame
        ``space variable n n_seeds r2`` (of the seeds' mean prediction), ``icc icc_low icc_high icc_mean``.
    """
    scores, rows = _scores(replicates.get("seeds", ()), tested, space), []
    for variable in variables:
        values = _as_numbers(tested.rows[variable])
        known = np.flatnonzero(np.isfinite(values))
        if known.size < 10 or len(scores) < 2:
            continue
        people = tested.rows["participant_id"]
        related = tested.rows.get("family_id", people)
        ids, families = people.to_numpy(), related.where(related.notna(), people).to_numpy()
        units = Units(scores[0][known], values[known], ids[known], np.full(known.size, None), families=families[known])
        folds = cross_folds(units, "regression", seed)
        read = np.stack([predict_many(each[known], values[known][:, None], folds) for each in scores])
        truth = values[known][np.concatenate([scored for _, scored in folds])]
        left = np.square(truth - read.mean(axis=0)[:, 0]).sum() / np.square(truth - truth.mean()).sum()
        agreement = {name: float(value[0]) for name, value in intraclass_correlation(read).items()}
        facts = {"space": space, "variable": variable, "n": known.size, "n_seeds": len(scores), "r2": 1 - left}
        rows.append(facts | agreement)
    return pd.DataFrame(rows)


def _say_runs(names: np.ndarray, chosen: np.ndarray) -> str:
    """Name the chosen, neighbours as ``first to last``."""
    places = np.flatnonzero(chosen)
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return ", ".join(names[run[0]] if len(run) == 1 else f"{names[run[0]]} to {names[run[-1]]}" for run in runs)


def _agreement(tables: Sequence[Mapping[str, pd.DataFrame]], tested: Participants, space: str) -> dict[str, np.ndarray]:
    scores = _scores(tables, tested, space)
    return intraclass_correlation(np.stack(scores)) if len(scores) > 1 else {}


def _spread_over(tables: Sequence[Mapping[str, pd.DataFrame]], tested: Participants, space: str) -> np.ndarray | float:
    if len(tables) < 2:
        return np.nan
    scores = np.stack(_scores(tables, tested, space))
    between = scores.mean(axis=0).std(axis=0, ddof=1)
    return np.median(scores.std(axis=0, ddof=1), axis=0) / np.where(between > 0, between, np.nan)


def _scores(tables: Sequence[Mapping[str, pd.DataFrame]], people: Participants, space: str) -> list[np.ndarray]:
    """Return each replicate's factors of these participants."""
    who = people.rows["participant_id"].astype(str)
    return [mean_factors(each[space]).loc[who.tolist(), people.factors[space]].to_numpy(float) for each in tables]


def _as_numbers(values: pd.Series) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values.to_numpy(float)
    codes, levels = pd.factorize(values.astype(object).where(values.notna(), None), sort=True)
    return np.where(codes >= 0, codes, np.nan) if len(levels) == 2 else np.full(len(values), np.nan)


def _count_leading(centred: np.ndarray) -> int:
    variance = np.square(np.linalg.svd(centred, compute_uv=False))
    return int(np.searchsorted(np.cumsum(variance) / variance.sum(), LEADING_SHARE)) + 1
