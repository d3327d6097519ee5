"""Out-of-sample predictions of one variable from covariates, from a space, and from both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from sepclr_med.analysis.probes import fit_probe
from sepclr_med.analysis.units import Folds, Kind, Units

Predictors: TypeAlias = Literal["covariates", "space", "covariates + space"]
# Values of the rows fitted on and of those left out, from what the first alone tell.
Values: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class FoldPredictions:
    """What was said about the participants left out, in the order of the folds.

    Parameters
    ----------
    truth : array of shape (m,)
        Numbers, or classes as integers.
    scores : dict of str to array of shape (m,) or (m, k)
        By predictors: numbers, or the probability of each class; ``chance`` is the mean of those fitted on.
    rows : int array of shape (m,)
        Whom.
    """

    truth: np.ndarray
    scores: dict[str, np.ndarray]
    rows: np.ndarray


def predict_folds(
    units: Units, kind: Kind, design: np.ndarray, folds: Folds, seed: int = 0, values: Values | None = None
) -> FoldPredictions:
    """Predict every fold's participants from the others.

    In each fold the factors are freed of the covariates by least squares fitted on the others. The space alone predicts
    from what is left. Numbers: covariates by least squares; with the space, ridge regression of their residual on the
    freed factors is added. Classes: logistic regression on covariates, on freed factors, on both. Penalties are chosen
    among those fitted on.

    Parameters
    ----------
    units : Units
        Features are the factors; truth is numbers, or classes as text.
    kind : {"classification", "regression"}
        What the truth is.
    design : array of shape (n, q)
        Covariates, the intercept first. With the intercept alone the space is the only predictor.
    folds : list of (int array, int array)
        Positions to fit on and to score on.
    seed : int, default=0
        Of the probes' own cross-validation.
    values : callable or None, default=None
        Gives the values of the rows fitted on and left out of each fold, where they depend on it (a battery).

    Returns
    -------
    FoldPredictions

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> people = np.arange(60).astype(str)
    >>> folds = [(np.arange(40), np.arange(40, 60))]
    >>> found = predict_folds(Units(x, x[:, 0] + 5, people, people), "regression", np.ones((60, 1)), folds)
    >>> bool(np.abs(found.scores["space"] - found.truth).max() < 0.01)
    True
    """
    classes = np.unique(units.truth) if kind == "classification" else np.empty(0)
    truths, said = [], []
    for fitted, scored in folds:
        known, asked = values(fitted, scored) if values else (units.truth[fitted], units.truth[scored])
        side = replace(units.take(fitted), truth=known)
        slopes = np.linalg.lstsq(design[fitted], units.features[fitted], rcond=None)[0]
        left = units.features - design @ slopes
        predict = _predict_numbers if kind == "regression" else _predict_classes
        said.append(predict(side, left[fitted], left[scored], design[fitted], design[scored], classes, seed))
        truths.append(asked if kind == "regression" else np.searchsorted(classes, asked))
    scores = {name: np.concatenate([part[name] for part in said]) for name in said[0]}
    return FoldPredictions(np.concatenate(truths), scores, np.concatenate([scored for _, scored in folds]))


def _predict_numbers(
    side: Units,
    seen: np.ndarray,
    asked: np.ndarray,
    design: np.ndarray,
    design_asked: np.ndarray,
    classes: np.ndarray,
    seed: int,
) -> dict[str, np.ndarray]:
    said = {"chance": np.full(len(asked), side.truth.mean())}
    said["space"] = fit_probe(replace(side, features=seen), "regression", seed).predict(asked)
    if design.shape[1] == 1:
        return said
    intercepts = np.linalg.lstsq(design, side.truth, rcond=None)[0]
    residual = replace(side, features=seen, truth=side.truth - design @ intercepts)
    said["covariates"] = design_asked @ intercepts
    said["covariates + space"] = said["covariates"] + fit_probe(residual, "regression", seed).predict(asked)
    return said


def _predict_classes(
    side: Units,
    seen: np.ndarray,
    asked: np.ndarray,
    design: np.ndarray,
    design_asked: np.ndarray,
    classes: np.ndarray,
    seed: int,
) -> dict[str, np.ndarray]:
    def probabilities(features: np.ndarray, features_asked: np.ndarray) -> np.ndarray:
        probe = fit_probe(replace(side, features=features), "classification", seed)
        found = np.zeros((len(asked), len(classes)))
        found[:, np.searchsorted(classes, probe.classes_)] = probe.predict_proba(features_asked)
        return found

    shares = np.array([(side.truth == label).mean() for label in classes])
    said = {"chance": np.tile(shares, (len(asked), 1)), "space": probabilities(seen, asked)}
    if design.shape[1] == 1:
        return said
    covariates, covariates_asked = design[:, 1:], design_asked[:, 1:]
    said["covariates"] = probabilities(covariates, covariates_asked)
    both = np.hstack([covariates, seen]), np.hstack([covariates_asked, asked])
    said["covariates + space"] = probabilities(*both)
    return said
