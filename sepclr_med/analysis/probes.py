"""Linear probes: how much of a variable a straight line through a space can read.

A probe never sees whom it is scored on: filling in, scaling, weights and the strength of the penalty come from the
participants it is fitted on alone. The unit is the participant; sessions are averaged before anything is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sepclr_med.analysis.units import Folds, Kind, Units, cross_folds

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

PENALTIES = np.logspace(-2, 5, 15)
INVERSE_PENALTIES = np.logspace(-3, 1, 5)
# Newton steps need a matrix of d x d per class: a gain of half the time below this size, a loss above.
MOST_FEATURES_FOR_NEWTON = 200
TARGETS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Prediction:
    """Out-of-sample predictions.

    Parameters
    ----------
    truth : array of shape (n,)
        Numbers, or classes as integers.
    scores : array of shape (n,) or (n, k)
        Predicted numbers, or the probability of each class.
    rows : int array of shape (n,)
        Position of each in the units.
    """

    truth: np.ndarray
    scores: np.ndarray
    rows: np.ndarray


def fit_probe(units: Units, kind: Kind, seed: int = 0) -> Pipeline:
    """Fit a linear probe on all rows given; nothing else is looked at.

    A missing feature (covariates have them, embeddings do not) becomes the mean of the others. Features are
    standardised. Classes: logistic regression, classes weighted to count alike, the penalty that gives the best
    balanced accuracy in participant-grouped cross-validation. Numbers: ridge regression, the penalty with the smallest
    leave-one-participant-out error.

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
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline

    if kind == "regression":
        return make_pipeline(*_preparation(), RidgeCV(alphas=PENALTIES)).fit(units.features, units.truth)
    probe = make_pipeline(*_preparation(), _logistic(units))
    best = _choose_inverse_penalty(units, cross_folds(units, kind, seed))
    return probe.set_params(logisticregression__C=best).fit(units.features, units.truth)


def predict_out_of_sample(units: Units, kind: Kind, folds: Folds, seed: int = 0) -> Prediction:
    """Fit on one side of every fold and predict the other.

    Parameters
    ----------
    units : Units
        All rows.
    kind : {"classification", "regression"}
        What the values are.
    folds : list of (int array, int array)
        Positions to fit on and to score on.
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
    return Prediction(truth, np.concatenate(scores), rows)


def predict_many(features: np.ndarray, targets: np.ndarray, folds: Folds) -> np.ndarray:
    """Predict many numbers at once by the ridge probe, each with a penalty of its own.

    The same as fitting the probe of numbers once per column, as matrix products: what a thousand permutations of one
    variable, or all factors of another space, need.

    Parameters
    ----------
    features : array of shape (n, d)
        What is predicted from.
    targets : array of shape (n, m)
        What is predicted.
    folds : list of (int array, int array)
        Positions to fit on and to score on.

    Returns
    -------
    array of shape (number of scored rows, m)
        In the order of the folds.

    Examples
    --------
    >>> x = np.arange(20.0)[:, None]
    >>> fold = [(np.arange(15), np.arange(15, 20))]
    >>> predict_many(x, np.hstack([2 * x, 5 - x]), fold).round(1)[0]
    array([ 30., -10.])
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline

    step = max(1, TARGETS_AT_ONCE // len(features))
    predicted = []
    for fitted, scored in folds:
        prepare = make_pipeline(*_preparation()).fit(features[fitted])
        seen, asked = prepare.transform(features[fitted]), prepare.transform(features[scored])
        parts = [
            RidgeCV(alphas=PENALTIES, alpha_per_target=True)
            .fit(seen, targets[fitted, start : start + step])
            .predict(asked)
            .reshape(len(scored), -1)
            for start in range(0, targets.shape[1], step)
        ]
        predicted.append(np.concatenate(parts, axis=1))
    return np.concatenate(predicted)


def predict_training_mean(units: Units, folds: Folds) -> np.ndarray:
    """Return what a predictor blind to the features says: each fold's training mean, in the order of the folds."""
    return np.concatenate([np.full(len(scored), units.truth[fitted].mean()) for fitted, scored in folds])


def _logistic(units: Units) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    solver = "newton-cholesky" if units.features.shape[1] <= MOST_FEATURES_FOR_NEWTON else "lbfgs"
    return LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-3, solver=solver)


def _choose_inverse_penalty(units: Units, folds: Folds) -> float:
    """Return the penalty of the best mean balanced accuracy; of equals, the strongest.

    What ``GridSearchCV`` over the whole pipeline finds; preparing each fold once instead of once per penalty makes it
    three times faster, and this is where nearly all the time goes.
    """
    from sklearn.pipeline import make_pipeline

    classes = np.unique(units.truth)
    totals = np.zeros(len(INVERSE_PENALTIES))
    for fitted, scored in folds:
        prepare = make_pipeline(*_preparation()).fit(units.features[fitted])
        seen, asked = prepare.transform(units.features[fitted]), prepare.transform(units.features[scored])
        member = units.truth[scored][:, None] == classes
        sizes = member.sum(axis=0)
        logistic = _logistic(units)
        for place, penalty in enumerate(INVERSE_PENALTIES):
            guess = logistic.set_params(C=penalty).fit(seen, units.truth[fitted]).predict(asked)
            right = (member & (guess == units.truth[scored])[:, None]).sum(axis=0)
            totals[place] += np.mean(right[sizes > 0] / sizes[sizes > 0])
    # Means over the same folds in another order would differ in the last digit and break ties at random.
    return float(INVERSE_PENALTIES[np.argmax(np.round(totals, 9))])


def _preparation() -> list[Any]:
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    return [SimpleImputer(keep_empty_features=True), StandardScaler()]
