"""Does each factor stand for one thing, and does each space keep to its own? Scores against a known truth.

They were made for simulated data, where what varies is known. With a few hundred participants most of them are above
zero for noise, by how much depends on the number of factors: no value says anything without the chance beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sepclr_med.analysis.dependence import cross_predict
from sepclr_med.analysis.schemes import MIN_FITTED, MIN_FITTED_PER_CLASS

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

N_PERMUTATIONS = 5
N_TREES = 50
ROWS_PER_LEAF = 5
ROWS_PER_CELL = 5


def mutual_information_gap(
    factors: np.ndarray, truth: Mapping[str, np.ndarray], most_bins: int = 20
) -> tuple[dict[str, float], float]:
    r"""Mutual information gap (Chen et al. 2018, Isolating sources of disentanglement in variational autoencoders).

    With j and k the two factors that tell most of v: :math:`(I(z_j; v) - I(z_k; v)) / H(v)`. Bins have equal counts, so
    that the upward bias of :math:`I` does not depend on the shape of a factor's distribution.

    Parameters
    ----------
    factors : array of shape (n, d)
        Factors of n participants.
    truth : mapping of str to array of shape (n,)
        Numbers or classes; participants without a value do not count.
    most_bins : int, default=20
        Fewer below 2000 participants: in 20 bins a hundred of them share half of the entropy with noise.

    Returns
    -------
    dict of str to float
        One for a variable that one factor tells wholly and no other at all; missing with one factor.
    float
        Their mean.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(2000, 3))
    >>> gaps, mean = mutual_information_gap(x, {"own": x[:, 0], "shared": x[:, 1] + x[:, 2]})
    >>> {name: round(gap, 2) for name, gap in gaps.items()}
    {'own': 0.97, 'shared': 0.0}
    """
    from sklearn.metrics import mutual_info_score

    gaps = {}
    for name, values in truth.items():
        values = _as_truth(values)
        known = ~pd.isna(values)
        n_bins = int(np.clip(np.sqrt(known.sum() / ROWS_PER_CELL), 2, most_bins))
        answer = _cut(values[known], n_bins)
        entropy = mutual_info_score(answer, answer) if known.any() else 0.0
        told = [mutual_info_score(_cut(factor, n_bins), answer) for factor in factors[known].T] if entropy > 0 else []
        gaps[name] = _gap(told) / entropy if told else np.nan
    return gaps, _mean(gaps)


def dci(
    factors: np.ndarray, truth: Mapping[str, np.ndarray], train_rows: np.ndarray, test_rows: np.ndarray, seed: int = 0
) -> tuple[float, dict[str, float], dict[str, float]]:
    r"""Disentanglement, completeness, informativeness (Eastwood and Williams 2018), by random forests.

    With :math:`R_{ij}` the importance of factor i for variable j, :math:`R_i` its sum over variables and :math:`H_m`
    the entropy to base m: disentanglement :math:`\sum_i R_i (1 - H_m(R_{i1} / R_i, ..)) / \sum_i R_i`, completeness
    :math:`1 - H_d(R_{1j}, ..)`. A variable that the space does not hold spreads over all factors and counts as much as
    one that it holds: ask a salient space for what belongs there.

    Parameters
    ----------
    factors, truth
        As for :func:`mutual_information_gap`; classes with too few participants are left out.
    train_rows, test_rows, seed : int or bool array, int or bool array, int
        Whom to fit on and whom to score, as positions or masks; seed of the forests.

    Returns
    -------
    float
        Disentanglement: one where each factor serves one variable; missing with fewer than two variables.
    dict of str to float
        Completeness: one where one factor serves the variable; missing with one factor.
    dict of str to float
        Informativeness: held-out R2 of numbers, balanced accuracy of classes.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(300, 4))
    >>> truth = {"age": x[:, 0], "sex": np.where(x[:, 1] > 0, "F", "M")}
    >>> disentanglement, completeness, informativeness = dci(x, truth, np.arange(200), np.arange(200, 300))
    >>> round(disentanglement, 1), round(completeness["age"], 1), round(informativeness["age"], 1)
    (1.0, 1.0, 1.0)
    """
    importance, completeness, informativeness = [], dict.fromkeys(truth, np.nan), dict.fromkeys(truth, np.nan)
    for name, values in truth.items():
        values, fitted, scored = usable_parts(values, train_rows, test_rows)
        if len(scored):
            forest = _forest(values, factors, fitted, seed)
            importance.append(forest.feature_importances_)
            completeness[name] = _concentration(importance[-1][None])
            informativeness[name] = _score(values[scored], forest.predict(factors[scored]))
    return _concentration(np.transpose(importance)) if importance else np.nan, completeness, informativeness


def sap(
    factors: np.ndarray, truth: Mapping[str, np.ndarray], train_rows: np.ndarray, test_rows: np.ndarray
) -> tuple[dict[str, float], float]:
    """Separated attribute predictability (Kumar et al. 2018): the score of the best factor less that of the second.

    A factor's score is held out: R2 of a line through it for numbers, balanced accuracy of a logistic regression on it
    for classes. Parameters are those of :func:`dci`.

    Returns
    -------
    dict of str to float
        About one at most, for two classes a half; missing with one factor or too few participants.
    float
        Their mean.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(300, 3))
    >>> gaps, mean = sap(x, {"own": x[:, 0], "shared": x[:, 1] + x[:, 2]}, np.arange(200), np.arange(200, 300))
    >>> {name: round(gap, 1) for name, gap in gaps.items()}
    {'own': 1.0, 'shared': 0.0}
    """
    gaps = {}
    for name, values in truth.items():
        values, fitted, scored = usable_parts(values, train_rows, test_rows)
        gaps[name] = _gap(_read_singly(factors[fitted], values[fitted], factors[scored], values[scored]))
    return gaps, _mean(gaps)


def background_salient_norm(
    salient: np.ndarray, is_target: np.ndarray, centre: np.ndarray | float = 0.0
) -> tuple[float, float]:
    """Compare the lengths of embeddings: training pulls the heads of background to the null vector.

    Parameters
    ----------
    salient, is_target : array of shape (n, d), bool array of shape (n,)
        Factors, and who is a patient.
    centre : array of shape (d,) or float, default=0
        Where lengths are measured from. Factors before a head gather around a point that need not be zero: the mean of
        training background.

    Returns
    -------
    float
        Mean norm of background over mean norm of target: zero for a perfect null, one for no difference.
    float
        Area under the ROC curve of the norm for telling targets; both are missing with one group.

    Examples
    --------
    >>> background_salient_norm(np.array([[0.0, 1.0], [3.0, 4.0], [0.0, 5.0]]), np.array([False, True, True]))
    (0.2, 1.0)
    """
    from sklearn.metrics import roc_auc_score

    is_target, norms = np.asarray(is_target, dtype=bool), np.linalg.norm(salient - centre, axis=1)
    if is_target.all() or not norms[is_target].any():
        return np.nan, np.nan
    return float(norms[~is_target].mean() / norms[is_target].mean()), float(roc_auc_score(is_target, norms))


def silhouette(factors: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette (Rousseeuw 1987) of given classes among standardised factors.

    Participants without a class do not count; missing with fewer than two classes, or two participants in any.

    Examples
    --------
    >>> round(silhouette(np.array([[0.0], [1.0], [9.0], [10.0]]), np.array(["a", "a", "b", "b"])), 3)
    0.889
    """
    from sklearn.metrics import silhouette_score
    from sklearn.preprocessing import StandardScaler

    known = ~pd.isna(labels)
    classes = np.asarray(labels)[known].astype(str)
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 2:
        return np.nan
    return float(silhouette_score(StandardScaler().fit_transform(factors[known]), classes))


def cross_space_leakage(
    common: np.ndarray, salient: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Predict each space from the other on held-out participants: :func:`cross_predict`.

    Returns
    -------
    dict of {"common", "salient"} to (float, float)
        R2 of this space from the other, and its mean over permutations of participants, fitted anew.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(300, 6))
    >>> leaks = cross_space_leakage(x[:, :3], x[:, 2:], np.arange(200), np.arange(200, 300))
    >>> {name: round(r2, 1) for name, (r2, _) in leaks.items()}
    {'common': 0.4, 'salient': 0.2}
    """
    rng, everyone = np.random.default_rng(seed), np.arange(len(common))
    orders = np.array([rng.permutation(everyone) for _ in range(N_PERMUTATIONS)])
    pairs = {"common": (salient, common), "salient": (common, salient)}
    folds = [(everyone[train_rows], everyone[test_rows])]
    return {name: cross_predict(*pair, folds, orders, refits=True)[:2] for name, pair in pairs.items()}


def _as_truth(values: np.ndarray | pd.Series) -> np.ndarray:
    column = pd.Series(values)
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(dtype=float, na_value=np.nan)
    return column.astype(object).map(str, na_action="ignore").to_numpy(dtype=object)


def usable_parts(
    column: np.ndarray | pd.Series, train_rows: np.ndarray, test_rows: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return the truth, and whom to fit on and to score on: nobody where a part has too few or one value."""
    values = _as_truth(column)
    everyone, known = np.arange(len(values)), ~pd.isna(values)
    parts = [everyone[rows][known[rows]] for rows in (train_rows, test_rows)]
    if values.dtype == object:
        counts = [pd.Series(values[rows]).value_counts() for rows in parts]
        frequent = set.intersection(*(set(count.index[count >= MIN_FITTED_PER_CLASS]) for count in counts))
        parts = [rows[np.isin(values[rows], list(frequent))] for rows in parts]
    enough = all(len(rows) >= MIN_FITTED and len(np.unique(values[rows])) > 1 for rows in parts)
    return values, *(parts if enough else [rows[:0] for rows in parts])


def _forest(values: np.ndarray, features: np.ndarray, fitted: np.ndarray, seed: int) -> BaseEstimator:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.utils.class_weight import compute_sample_weight

    classes = values.dtype == object
    forest = RandomForestClassifier() if classes else RandomForestRegressor()
    # All factors at every node: a node without the right one would make the others look important.
    forest.set_params(n_estimators=N_TREES, min_samples_leaf=ROWS_PER_LEAF, max_features=None, random_state=seed)
    # Not class_weight: scikit-learn 1.9 takes the class "1" for a number there, and fails.
    weights = compute_sample_weight("balanced" if classes else None, values[fitted])
    return forest.fit(features[fitted], values[fitted], weights)


def _read_singly(features: np.ndarray, values: np.ndarray, asked: np.ndarray, truth: np.ndarray) -> list[float]:
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if not len(truth):
        return []
    scaler = StandardScaler().fit(features)
    # Scaled together: a pipeline for each factor would spend its time on checks.
    columns = zip(scaler.transform(features).T[:, :, None], scaler.transform(asked).T[:, :, None], strict=True)
    classes = values.dtype == object
    model = LogisticRegression(class_weight="balanced", solver="newton-cholesky") if classes else LinearRegression()
    return [_score(truth, model.fit(seen, values).predict(new)) for seen, new in columns]


def _score(truth: np.ndarray, predicted: np.ndarray) -> float:
    from sklearn.metrics import balanced_accuracy_score, r2_score

    return float((balanced_accuracy_score if truth.dtype == object else r2_score)(truth, predicted))


def _cut(values: np.ndarray, n_bins: int) -> np.ndarray:
    levels, places = np.unique(values, return_inverse=True)
    if values.dtype == object or len(levels) <= n_bins:
        return places
    return np.searchsorted(np.quantile(values, np.linspace(0, 1, n_bins + 1)[1:-1]), values, side="right")


def _concentration(shares: np.ndarray) -> float:
    """Return one less the normalised entropy of each row, rows weighted by their sums."""
    from scipy.stats import entropy

    sums = shares.sum(axis=1)
    if shares.shape[1] < 2 or not sums.any():
        return np.nan
    return float(np.average(1 - entropy(shares[sums > 0], axis=1, base=shares.shape[1]), weights=sums[sums > 0]))


def _gap(values: Sequence[float]) -> float:
    best = np.sort(values)[::-1]
    return float(best[0] - best[1]) if len(best) > 1 else np.nan


def _mean(values: Mapping[str, float]) -> float:
    return float(pd.Series(values, dtype=float).mean())
