"""All scores of disentanglement of several spaces in one table, beside chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.disentanglement import (
    N_PERMUTATIONS,
    background_salient_norm,
    cross_space_leakage,
    dci,
    mutual_information_gap,
    sap,
    silhouette,
    usable_parts,
)
from sepclr_med.errors import UserError
from sepclr_med.progress import report_progress

COLUMNS = ["score", "space", "variable", "value", "chance", "n"]
ALL = "all"


def disentanglement_table(
    spaces: Mapping[str, np.ndarray],
    truth: pd.DataFrame,
    is_target: np.ndarray,
    train_rows: np.ndarray,
    test_rows: np.ndarray,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute every score of disentanglement for every space, on held-out participants, beside chance.

    Parameters
    ----------
    spaces : mapping of str to array of shape (n, d)
        Factors of the same participants; ``common`` and ``salient``, if there, are also predicted from each other.
    truth : DataFrame of n rows
        Numbers, or classes (text, category, bool). What background lacks is scored among those who have it.
    is_target : bool array of shape (n,)
    train_rows, test_rows : int or bool array
        Whom to fit on and whom to score.
    seed : int, default=0
        Of forests and permutations.

    Returns
    -------
    DataFrame
        ``score space variable value chance n``. Scores: ``mig``, ``sap``, ``dci_disentanglement``,
        ``dci_completeness``, ``dci_informativeness``, ``silhouette`` (of classes; ``all``: of background against
        target), ``norm_ratio``, ``norm_auc``, and
        ``leakage_r2``, where ``variable`` is the space that is read from ``space``. ``variable`` is ``all`` for means
        and whole spaces. ``chance`` is the mean over five exchanges of answers within each part, everything fitted
        anew. ``n`` counts the scored: 0, and no value, where a variable has too few participants.

    Raises
    ------
    UserError
        When lengths differ or somebody is in both parts.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(300, 3))
    >>> truth, is_target = pd.DataFrame({"severity": x[:, 0]}), np.arange(300) % 2 == 1
    >>> table = disentanglement_table({"salient": x}, truth, is_target, np.arange(200), np.arange(200, 300))
    >>> print(*table[(table.score == "sap") & (table.variable == "severity")].round(1).iloc[0])
    sap salient severity 1.0 0.0 100
    """
    from threadpoolctl import threadpool_limits

    parts = np.arange(len(truth))[train_rows], np.arange(len(truth))[test_rows]
    if {len(rows) for rows in (*spaces.values(), is_target)} - {len(truth)} or np.intersect1d(*parts).size:
        raise UserError("disentanglement: spaces, truth and is_target have the same rows, train and test share none")
    answers = {ALL: np.asarray(is_target, dtype=bool)}
    answers |= {str(name): _keep_usable(column, *parts) for name, column in truth.items()}
    rng, tables = np.random.default_rng(seed), []
    moved = [{name: _exchange(values, parts, rng) for name, values in answers.items()} for _ in range(N_PERMUTATIONS)]
    # Matrices this small are slower on several threads than on one.
    with threadpool_limits(1), report_progress("disentanglement", len(spaces)) as advance:
        for space, factors in spaces.items():
            value = _all_scores(factors, answers, *parts, seed)
            chance = pd.concat([_all_scores(factors, each, *parts, seed) for each in moved], axis=1).mean(axis=1)
            tables.append(pd.DataFrame({"value": value, "chance": chance}).assign(space=space))
            advance(space)
        if {"common", "salient"} <= set(spaces):
            leaks = cross_space_leakage(spaces["common"], spaces["salient"], *parts, seed)
            rows = pd.MultiIndex.from_product([["leakage_r2"], leaks])
            tables.append(pd.DataFrame(list(leaks.values()), rows, ["value", "chance"]).assign(space=[*leaks][::-1]))
    table = pd.concat(tables).rename_axis(["score", "variable"]).reset_index()
    counts = {name: int((~pd.isna(values[parts[1]])).sum()) for name, values in answers.items()}
    return table.assign(n=[counts.get(name, counts[ALL]) for name in table["variable"]])[COLUMNS]


def _all_scores(
    factors: np.ndarray, answers: dict[str, np.ndarray], train: np.ndarray, test: np.ndarray, seed: int
) -> pd.Series:
    truth = {name: values for name, values in answers.items() if name != ALL}
    asked = {name: values[test] for name, values in truth.items()}
    disentanglement, completeness, informativeness = dci(factors, truth, train, test, seed)
    is_target = answers[ALL].astype(bool)
    centre = factors[train][~is_target[train]].mean(axis=0) if not is_target[train].all() else np.nan
    norm_ratio, norm_auc = background_salient_norm(factors[test], is_target[test], centre)
    scores = {
        "mig": mutual_information_gap(factors[test], asked)[0],
        "sap": sap(factors, truth, train, test)[0],
        "dci_completeness": completeness,
        "dci_informativeness": informativeness,
    }
    scores = {score: {**values, ALL: _mean(values)} for score, values in scores.items()}
    scores["silhouette"] = {name: silhouette(factors[test], v) for name, v in asked.items() if v.dtype == object}
    scores["silhouette"][ALL] = silhouette(factors[test], is_target[test])
    whole = {"dci_disentanglement": disentanglement, "norm_ratio": norm_ratio, "norm_auc": norm_auc}
    scores |= {score: {ALL: value} for score, value in whole.items()}
    return pd.Series({(score, name): value for score, values in scores.items() for name, value in values.items()})


def _keep_usable(column: np.ndarray | pd.Series, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    values, *parts = usable_parts(column, train, test)
    used = np.isin(np.arange(len(values)), np.concatenate(parts))
    missing: Any = None if values.dtype == object else np.nan
    return np.where(used, values, missing)


def _exchange(values: np.ndarray, parts: tuple[np.ndarray, ...], rng: np.random.Generator) -> np.ndarray:
    """Exchange answers among those of a part who have one, so that no class becomes too rare to be scored."""
    moved = values.copy()
    for rows in parts:
        known = rows[~pd.isna(values[rows])]
        moved[known] = rng.permutation(values[known])
    return moved


def _mean(values: Mapping[str, float]) -> float:
    return float(pd.Series(values, dtype=float).mean())
