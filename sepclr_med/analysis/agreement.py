"""Agreement of repeated measurements of the same participants: single scores, and whole spaces."""

from __future__ import annotations

import numpy as np
from scipy.stats import f as f_distribution

from sepclr_med.analysis.resampling import LEVEL

NEGLIGIBLE = 1e-12


def intraclass_correlation(scores: np.ndarray) -> dict[str, np.ndarray]:
    r"""Return ICC(2,1), absolute agreement of single replicates, and ICC(2,k), that of their mean.

    Participants and replicates are both taken to be random. With the mean squares of participants (R), replicates (C)
    and the rest (E), ``ICC(2,1) = (R - E) / (R + (k - 1) E + k (C - E) / n)`` and ``ICC(2,k) = (R - E) / (R + (C - E) /
    n)``.

    Parameters
    ----------
    scores : array of shape (k, n, d)
        k >= 2 replicates of n participants and d factors.

    Returns
    -------
    dict of str to array of shape (d,)
        ``icc``, ``icc_low``, ``icc_high`` (95% interval) and ``icc_mean``; missing where nothing varies.

    References
    ----------
    Shrout and Fleiss (1979), Psychol Bull 86, 420-428.

    Examples
    --------
    >>> scores = np.array([[1.0, 2, 3, 4], [1.1, 2.1, 2.9, 4.2]])[:, :, None]
    >>> intraclass_correlation(scores)["icc"].round(2)
    array([0.99])
    """
    k, n, _ = scores.shape
    grand = scores.mean(axis=(0, 1))
    people, models = scores.mean(axis=0), scores.mean(axis=1)
    between = k * np.square(people - grand).sum(axis=0) / (n - 1)
    drift = n * np.square(models - grand).sum(axis=0) / (k - 1)
    rest = np.square(scores - people - models[:, None] + grand).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    varies = between + rest > NEGLIGIBLE * np.square(scores).mean(axis=(0, 1)).clip(NEGLIGIBLE)
    with np.errstate(divide="ignore", invalid="ignore"):
        single = (between - rest) / (between + (k - 1) * rest + k * (drift - rest) / n)
        mean = (between - rest) / (between + (drift - rest) / n)
        # Satterthwaite's degrees of freedom of what stands beside the participants.
        a, b = k * single / (n * (1 - single)), 1 + k * single * (n - 1) / (n * (1 - single))
        freedom = np.square(a * drift + b * rest) / (
            np.square(a * drift) / (k - 1) + np.square(b * rest) / ((n - 1) * (k - 1))
        )
        tail = 1 - (1 - LEVEL) / 2
        down, up = f_distribution.ppf(tail, n - 1, freedom), f_distribution.ppf(tail, freedom, n - 1)
        beside = k * drift + (k * n - k - n) * rest
        low = n * (between - down * rest) / (down * beside + n * between)
        high = n * (up * between - rest) / (beside + n * up * between)
    found = {"icc": single, "icc_low": low, "icc_high": high, "icc_mean": mean}
    return {name: np.where(varies, values, np.nan) for name, values in found.items()}


def debiased_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Return the linear centred kernel alignment of two tables of factors, without the bias of few participants.

    1 for spaces that differ by rotation and size only, 0 on average for independent ones, whatever n. The U-centred
    estimate of HSIC (Song et al., JMLR 2012, doi:10.5555/2188385.2343691) in the index of Kornblith et al., ICML 2019.

    Parameters
    ----------
    one, other : array of shape (n, d) and (n, e)
        The same participants, four or more.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(30, 3))
    >>> round(debiased_cka(x, -2 * x[:, ::-1]), 6)
    1.0
    """
    left, right = (_u_centre(side @ side.T) for side in (one, other))
    size = np.sqrt((left * left).sum() * (right * right).sum())
    return float((left * right).sum() / size) if size > 0 else float("nan")


def _u_centre(kernel: np.ndarray) -> np.ndarray:
    n = len(kernel)
    kernel = kernel - np.diag(np.diag(kernel))
    rows = kernel.sum(axis=0) / (n - 2)
    centred = kernel - rows - rows[:, None] + kernel.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    return centred
