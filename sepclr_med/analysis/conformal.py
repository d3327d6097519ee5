"""Ranks among people a model was not fitted on, as p-values, and several of them as one."""

from __future__ import annotations

import numpy as np


def conformal_p(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    r"""Return the conformal p-value of each score, larger scores being stranger.

    .. math:: p = \frac{1 + \#\{i: c_i \geq s\}}{n + 1}

    A new score that is exchangeable with the calibration scores has p at or below any level with at most that
    probability (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005).

    Parameters
    ----------
    scores : array of shape (m,)
    calibration : array of shape (n,)
        Scores of rows that the score was not fitted on.

    Examples
    --------
    >>> conformal_p(np.array([0.0, 2.5, 9.0]), np.array([1.0, 2.0, 3.0]))
    array([1.  , 0.5 , 0.25])
    """
    ordered = np.sort(calibration)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return (1 + at_least) / (len(ordered) + 1)


def combine_p(p: np.ndarray) -> np.ndarray:
    r"""Return one p-value for those of several models, whatever they have to do with one another.

    .. math:: p = \frac{1}{2} - \frac{1}{\pi} \arctan \frac{1}{k} \sum_j \tan \pi (\tfrac{1}{2} - p_j)

    The Cauchy combination (Liu and Xie, J Am Stat Assoc 2020), whose level holds approximately in the tail. The mean
    of the p-values, or the p-value of a mean over models, would be small far too seldom.

    Parameters
    ----------
    p : array of shape (k, m)
        Above 0. Above 0.99 they count as 0.99: one model that finds a row entirely usual must not outweigh all others.

    Returns
    -------
    array of shape (m,)
        For k = 1 the p-values themselves.

    Examples
    --------
    >>> combine_p(np.array([[0.02, 0.5], [0.04, 0.5], [0.5, 0.5]])).round(3).tolist()
    [0.04, 0.5]
    """
    if len(p) == 1:
        return p[0]
    return 0.5 - np.arctan(np.tan(np.pi * (0.5 - np.minimum(p, 0.99))).mean(axis=0)) / np.pi


def conformal_any(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Return one p-value for several scores: of the strangest of them.

    Each score is measured from its median in robust standard deviations (1.4826 times the median absolute deviation),
    both over the calibration rows and the new row together, and the largest is ranked. New and old rows are treated
    alike, so the p-value holds whatever the scores have to do with one another. Ranks of single scores would not do:
    with c of them up to c calibration rows are the strangest in something.

    Parameters
    ----------
    scores : array of shape (m, c)
    calibration : array of shape (n, c)
        The same scores of rows that they were not fitted on.

    Examples
    --------
    >>> calibration = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    >>> conformal_any(np.array([[9.0, 0.0], [2.0, 2.0]]), calibration)
    array([0.25, 1.  ])
    """
    found = np.empty(len(scores))
    for place, score in enumerate(scores):
        together = np.vstack([calibration, score])
        away = together - np.median(together, axis=0)
        spread = 1.4826 * np.median(np.abs(away), axis=0)
        strangest = (away / np.where(spread > 0, spread, np.inf)).max(axis=1)
        found[place] = (strangest >= strangest[-1]).mean()
    return found
