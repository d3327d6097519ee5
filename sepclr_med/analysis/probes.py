"""Linear probes: how much of a variable a straight line through a space can read.

A probe never sees whom it is scored on: scaling, weights and the strength of the penalty come from training
participants alone. The unit is the participant; sessions are averaged before anything is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Kind: TypeAlias = Literal["classification", "regression"]
Folds: TypeAlias = list[tuple[np.ndarray, np.ndarray]]

PENALTIES = np.logspace(-2, 5, 15)
INVERSE_PENALTIES = np.logspace(-3, 1, 5)
N_FOLDS = 5


@dataclass(frozen=True)
class Units:
    """What is probed: one row per participant (and per class, where a participant's sessions differ in class).

    Parameters
    ----------
    features : array of shape (n, d)
        Embeddings, averaged over sessions.
    truth : array of shape (n,)
        Numbers, or class labels as strings.
    participants : array of shape (n,)
        Whom each row belongs to.
    splits : array of shape (n,)
        The part each row belongs to.
    """

    features: np.ndarray
    truth: np.ndarray
    participants: np.ndarray
    splits: np.ndarray

    def take(self, rows: np.ndarray) -> Units:
        """Return the chosen rows, given as a mask or as positions."""
        return Units(self.features[rows], self.truth[rows], self.participants[rows], self.splits[rows])

    @property
    def n_participants(self) -> int:
        """Different participants among the rows."""
        return len(np.unique(self.participants))


@dataclass(frozen=True)
class Prediction:
    """Out-of-sample predictions.

    Parameters
    ----------
    truth : array of shape (n,)
        Numbers, or classes as integers.
    scores : array of shape (n,) or (n, k)
        Predicted numbers, or the probability of each class.
    participants : array of shape (n,)
        Whom each row belongs to.
    """

    truth: np.ndarray
    scores: np.ndarray
    participants: np.ndarray


def probe_kind(values: pd.Series) -> Kind:
    """Say how a column is probed: numbers with more than two different values by regression, the rest as classes.

    Examples
    --------
    >>> probe_kind(pd.Series([61.5, 70.0, 33.0]))
    'regression'
    >>> probe_kind(pd.Series([0.0, 1.0, None])), probe_kind(pd.Series(["F", "M", "O"]))
    ('classification', 'classification')
    """
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return "regression" if numeric and values.nunique() > 2 else "classification"


def average_sessions(
    features: np.ndarray, values: pd.Series, participants: pd.Series, splits: pd.Series, kind: Kind
) -> Units:
    """Average the rows of each participant; rows without a value are left out first.

    Features are averaged, numbers too. A participant with sessions in different classes (scanned at two sites, say)
    keeps one row per class.

    Parameters
    ----------
    features : array of shape (n, d)
        Embeddings of images.
    values, participants, splits : Series of length n
        The variable, whom the image shows, and the part it belongs to.
    kind : {"classification", "regression"}
        What the values are.

    Returns
    -------
    Units
        Sorted by participant, so that the order of the table never matters.

    Examples
    --------
    >>> units = average_sessions(
    ...     np.array([[1.0], [3.0], [5.0]]),
    ...     pd.Series([10.0, 20.0, None]),
    ...     pd.Series(["01", "01", "02"]),
    ...     pd.Series(["train", "train", "test"]),
    ...     "regression",
    ... )
    >>> units.features, units.truth, units.participants
    (array([[2.]]), array([15.]), array(['01'], dtype=object))
    """
    known = values.notna().to_numpy()
    values = values[known].astype(float if kind == "regression" else str)
    table = pd.DataFrame(
        {"participant": participants[known].astype(str), "split": splits[known].astype(str), "value": values}
    )
    keys = ["participant", "split"] if kind == "regression" else ["participant", "split", "value"]
    grouped = pd.concat([table.reset_index(drop=True), pd.DataFrame(features[known])], axis=1).groupby(keys, sort=True)
    means = grouped.mean().reset_index()
    factors = means[list(range(features.shape[1]))].to_numpy(dtype=float)
    kept = means["value"].to_numpy(dtype=float if kind == "regression" else object)
    return Units(factors, kept, means["participant"].to_numpy(object), means["split"].to_numpy(object))


def held_out_fold(units: Units, held_out: str) -> Folds:
    """Return the one fold that fits on the ``train`` part and scores on the part ``held_out``."""
    return [(np.flatnonzero(units.splits == "train"), np.flatnonzero(units.splits == held_out))]


def cross_folds(units: Units, kind: Kind, seed: int = 0) -> Folds:
    """Return up to five folds in which no participant is on both sides, each class spread over all of them.

    Parameters
    ----------
    units : Units
        At least two participants per class.
    kind : {"classification", "regression"}
        What the values are.
    seed : int, default=0
        Seed of the division.

    Returns
    -------
    list of (int array, int array)
        Positions to fit on and to score on.
    """
    from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold

    smallest = pd.Series(units.truth).value_counts().min() if kind == "classification" else len(units.truth)
    n_folds = int(np.clip(smallest, 2, N_FOLDS))
    if kind == "regression":
        return list(KFold(n_folds, shuffle=True, random_state=seed).split(units.features))
    if units.n_participants == len(units.truth):
        # With one row each no participant can be divided, and grouping would only cost time.
        return list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(units.features, units.truth))
    divide = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return list(divide.split(units.features, units.truth, units.participants))


def fit_probe(units: Units, kind: Kind, seed: int = 0) -> Pipeline:
    """Fit a linear probe on all rows given; nothing else is looked at.

    Features are standardised. Classes: logistic regression, classes weighted to count alike, the penalty that gives
    the best balanced accuracy in participant-grouped cross-validation. Numbers: ridge regression, the penalty with
    the smallest leave-one-participant-out error.

    Parameters
    ----------
    units : Units
        Training participants; for classes at least two participants of each.
    kind : {"classification", "regression"}
        What the values are.
    seed : int, default=0
        Seed of the cross-validation.

    Returns
    -------
    Pipeline
        With ``predict``, and ``predict_proba`` for classes.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> people = np.arange(60).astype(str)
    >>> probe = fit_probe(Units(x, 3 * x[:, 0] + 50, people, people), "regression")
    >>> probe.predict(np.array([[1.0, 0.0]])).round(1)
    array([53.])
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "regression":
        return make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES)).fit(units.features, units.truth)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-3)),
        {"logisticregression__C": INVERSE_PENALTIES},
        scoring="balanced_accuracy",
        cv=cross_folds(units, kind, seed),
    )
    return search.fit(units.features, units.truth).best_estimator_


def predict_out_of_sample(units: Units, kind: Kind, folds: Folds, seed: int = 0) -> Prediction:
    """Fit on one side of every fold and predict the other.

    Parameters
    ----------
    units : Units
        All rows.
    kind : {"classification", "regression"}
        What the values are.
    folds : list of (int array, int array)
        From :func:`held_out_fold` or :func:`cross_folds`.
    seed : int, default=0
        Seed of the probes' own cross-validation.

    Returns
    -------
    Prediction
        In the order of the folds.
    """
    classes = np.unique(units.truth) if kind == "classification" else np.empty(0)
    scores = []
    for fitted, scored in folds:
        probe = fit_probe(units.take(fitted), kind, seed)
        if kind == "regression":
            scores.append(probe.predict(units.features[scored]))
        else:
            probabilities = np.zeros((len(scored), len(classes)))
            probabilities[:, np.searchsorted(classes, probe.classes_)] = probe.predict_proba(units.features[scored])
            scores.append(probabilities)
    rows = np.concatenate([scored for _, scored in folds])
    truth = np.searchsorted(classes, units.truth[rows]) if kind == "classification" else units.truth[rows]
    return Prediction(truth, np.concatenate(scores), units.participants[rows])


def predict_training_mean(units: Units, folds: Folds) -> np.ndarray:
    """Return what a predictor blind to the features says: each fold's training mean, in the order of the folds."""
    return np.concatenate([np.full(len(scored), units.truth[fitted].mean()) for fitted, scored in folds])
