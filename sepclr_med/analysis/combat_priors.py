"""Empirical Bayes for ComBat: one site's shifts and scales, drawn towards their distribution over features."""

from __future__ import annotations

import numpy as np

TOLERANCE = 1e-6
MOST_ITERATIONS = 1000


def shrink_parametric(
    rows: np.ndarray, shift: np.ndarray, scale: np.ndarray, mean_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    r"""Shrink under a normal prior of shifts and an inverse gamma prior of scales, moments from the features.

    Iterates the two conditional posterior means (Johnson 2007, equations 3.1 and 3.2):
    :math:`\gamma^* = (n\tau^2\hat\gamma + \delta^{*2}\bar\gamma) / (n\tau^2 + \delta^{*2})` and
    :math:`\delta^{*2} = (\theta + \tfrac12\sum_j (z_j - \gamma^*)^2) / (n/2 + \lambda - 1)`.

    Parameters
    ----------
    rows : array of shape (n, features)
        Standardised values of the site's participants.
    shift, scale : array of shape (features,)
        Mean and variance of ``rows``.
    mean_only : bool, default=False
        Whether the scale stays as it is.

    Returns
    -------
    array of shape (features,)
        Shrunken shifts.
    array of shape (features,)
        Shrunken scales (variances).

    Examples
    --------
    >>> rows = np.array([[1.0, 2.0, 4.0], [3.0, 2.5, 5.0], [2.0, 1.0, 4.5]])
    >>> shift, scale = shrink_parametric(rows, rows.mean(axis=0), rows.var(axis=0, ddof=1))
    >>> shift.round(2), scale.round(2)
    (array([2.07, 1.9 , 4.38]), array([0.63, 0.55, 0.49]))
    """
    n, centre, spread = len(rows), shift.mean(), shift.var(ddof=1)
    if mean_only:
        return (n * spread * shift + scale * centre) / (n * spread + scale), scale
    mean, variance = scale.mean(), scale.var(ddof=1)
    if variance <= 0:
        return (n * spread * shift + scale * centre) / (n * spread + scale), scale
    form, size = (2 * variance + mean**2) / variance, (mean * variance + mean**3) / variance
    new_shift, new_scale = shift, scale
    for _ in range(MOST_ITERATIONS):
        old = new_shift, new_scale
        new_shift = (n * spread * shift + new_scale * centre) / (n * spread + new_scale)
        squares = ((rows - new_shift) ** 2).sum(axis=0)
        new_scale = (size + squares / 2) / (n / 2 + form - 1)
        change = max(np.abs(new_shift - old[0]).max(), np.abs(new_scale - old[1]).max())
        if change < TOLERANCE:
            break
    return new_shift, new_scale


def shrink_nonparametric(
    rows: np.ndarray, shift: np.ndarray, scale: np.ndarray, mean_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Shrink with the other features' estimates as the prior.

    Each feature's shift and scale become the mean over all other features' pairs, weighted by how likely they make the
    feature's own values (Johnson 2007, section 3.2.2).

    Parameters
    ----------
    rows, shift, scale, mean_only
        As for :func:`shrink_parametric`.

    Returns
    -------
    array of shape (features,)
        Shrunken shifts.
    array of shape (features,)
        Shrunken scales.
    """
    n, n_features = rows.shape
    squares = (rows**2).sum(axis=0)[:, None] - 2 * n * shift[:, None] * shift + n * shift**2
    log_weight = -n / 2 * np.log(2 * np.pi * scale) - squares / (2 * scale)
    log_weight[np.arange(n_features), np.arange(n_features)] = -np.inf
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    return weight @ shift, (scale if mean_only else weight @ scale)
