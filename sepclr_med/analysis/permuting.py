"""P-values of scores: how often the same predictions, or the same probes, do as well on exchanged answers.

Answers are exchanged between participants of one block (site), so that a space that reads the site, and a variable that
differs between sites, do not look like a link. Where the answers that are scored had no part in any fit, the
predictions stay as they are and only the answers move. In cross-validation everybody's answer had a part in somebody
else's probe, and fixed predictions give false-positive rates that are off either way: of 300 to 400 null data sets, 2%
at the 5% level for ridge regression with its penalty, 10% for logistic regression on 32 factors with n = 200. There the
probes are fitted anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sepclr_med.analysis.probes import predict_many
from sepclr_med.analysis.units import Folds, Kind, Units

PERMUTATIONS_AT_ONCE = 250
TOLERANCE = 1e-12
# Below the smallest step between two balanced accuracies.
TIE_BREAK = 1e-6


def p_of_predictions(
    names: Sequence[str], truth: np.ndarray, scores: np.ndarray, permutations: np.ndarray
) -> dict[str, float]:
    """Compare each score with the scores of the same predictions for exchanged answers.

    Parameters
    ----------
    names : sequence of {"balanced_accuracy", "auc", "r2", "mae", "spearman"}
        Scores wanted.
    truth : array of shape (n,)
        Numbers, or classes as integers; no part of any fit.
    scores : array of shape (n,) or (n, k)
        Predicted numbers, or the probability of each class.
    permutations : int array of shape (K, n)
        Each row an order of the n answers.

    Returns
    -------
    dict of str to float
        One-sided, ``(1 + number at least as good) / (K + 1)``; of equal balanced accuracies the one with the larger
        area under the curve is the better.

    Examples
    --------
    >>> truth = np.arange(9.0)
    >>> orders = np.argsort(np.random.default_rng(0).random((999, 9)), axis=1)
    >>> p_of_predictions(["r2", "spearman"], truth, truth + 0.1, orders)
    {'r2': 0.001, 'spearman': 0.001}
    """
    counts = dict.fromkeys(names, 0)
    observed = {name: _SCORES[name](truth[None], scores[None])[0] for name in names}
    for start in range(0, len(permutations), PERMUTATIONS_AT_ONCE):
        moved = truth[permutations[start : start + PERMUTATIONS_AT_ONCE]]
        for name in names:
            counts[name] += _as_good(_SCORES[name](moved, scores[None]), observed[name], name)
    return {name: (1 + count) / (len(permutations) + 1) for name, count in counts.items()}


def p_of_probes(
    names: Sequence[str], units: Units, kind: Kind, folds: Folds, permutations: np.ndarray
) -> dict[str, float]:
    """Compare each score with the scores of probes fitted anew, in the same folds, for exchanged answers.

    Numbers are predicted by the ridge probe itself, its penalty chosen anew each time. For classes a logistic
    regression per permutation would take hours: the probe tested is ridge regression on class membership, each class's
    prediction divided by its share of those fitted on. Its p-value is valid for the question whether the space holds
    anything of the variable; the score beside it is the logistic one.

    Parameters
    ----------
    names : sequence of str
        Scores wanted.
    units : Units
        All rows.
    kind : {"classification", "regression"}
        What the values are.
    folds : list of (int array, int array)
        Positions to fit on and to score on.
    permutations : int array of shape (K, n)
        Each row an order of all rows.

    Returns
    -------
    dict of str to float
    """
    classes, answers = np.unique(units.truth, return_inverse=True)
    answers = answers.ravel() if kind == "classification" else units.truth
    n_classes = len(classes) if kind == "classification" else 0
    scored = np.concatenate([rows for _, rows in folds])
    rows = np.vstack([np.arange(len(answers)), permutations])
    counts = dict.fromkeys(names, -1)
    observed: dict[str, float] = {}
    for start in range(0, len(rows), PERMUTATIONS_AT_ONCE):
        moved = answers[rows[start : start + PERMUTATIONS_AT_ONCE]]
        predicted = _refit(units.features, moved, folds, n_classes)
        for name in names:
            values = _SCORES[name](moved[:, scored], predicted)
            observed.setdefault(name, values[0])
            counts[name] += _as_good(values, observed[name], name)
    return {name: (1 + count) / (len(permutations) + 1) for name, count in counts.items()}


def _refit(features: np.ndarray, answers: np.ndarray, folds: Folds, n_classes: int) -> np.ndarray:
    """Return predictions of shape (K, n) for numbers, (K, n, k) for classes."""
    if not n_classes:
        return predict_many(features, answers.T, folds).T
    # The last class is what the others leave.
    member = (answers[:, :, None] == np.arange(n_classes - 1)).astype(float)
    targets = member.transpose(1, 0, 2).reshape(len(features), -1)
    predicted = predict_many(features, targets, folds).reshape(-1, len(answers), n_classes - 1)
    share = np.concatenate(
        [np.broadcast_to(member[:, fitted].mean(axis=1), (len(scored), *member.shape[::2])) for fitted, scored in folds]
    )
    predicted, share = (
        np.concatenate([part, 1 - part.sum(axis=2, keepdims=True)], axis=2) for part in (predicted, share)
    )
    return (predicted / np.maximum(share, 1e-6)).transpose(1, 0, 2)


def _as_good(values: np.ndarray, observed: float, name: str) -> int:
    if name == "mae":
        return int((values <= observed + TOLERANCE * abs(observed)).sum())
    return int((values >= observed - TOLERANCE).sum())


def _balanced_accuracy(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return balanced accuracy, equal ones in the order of their areas under the curve.

    With few participants it has so few values that ties alone would bring the false-positive rate from 5% to 2%.
    """
    right = scores.argmax(axis=2) == truth
    shares = [(right & (truth == c)).sum(axis=1) / (truth == c).sum(axis=1) for c in range(scores.shape[2])]
    return np.mean(shares, axis=0) + TIE_BREAK * _auc(truth, scores)


def _auc(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    n_classes = scores.shape[2]
    areas = []
    for c in [1] if n_classes == 2 else range(n_classes):
        positive = truth == c
        n_positive = positive.sum(axis=1)
        won = (rankdata(scores[:, :, c], axis=1) * positive).sum(axis=1) - n_positive * (n_positive + 1) / 2
        areas.append(won / (n_positive * (truth.shape[1] - n_positive)))
    return np.mean(areas, axis=0)


def _r2(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    centred = truth - truth.mean(axis=1, keepdims=True)
    return 1 - np.square(truth - scores).sum(axis=1) / np.square(centred).sum(axis=1)


def _mae(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    return np.abs(truth - scores).mean(axis=1)


def _spearman(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    one, other = (rankdata(values, axis=1) - (truth.shape[1] + 1) / 2 for values in (truth, scores))
    scale = np.sqrt(np.square(one).sum(axis=1) * np.square(other).sum(axis=1))
    return (one * other).sum(axis=1) / np.where(scale > 0, scale, 1.0)


_SCORES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "balanced_accuracy": _balanced_accuracy,
    "auc": _auc,
    "r2": _r2,
    "mae": _mae,
    "spearman": _spearman,
}
