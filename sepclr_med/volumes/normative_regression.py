"""The regression of the normative reference on covariates: whose effects, and how far patients help to estimate them.

A covariate acts on controls and on patients. Where it does the same to both, patients halve the error of its map, which
is what an image of a new participant still shows of that covariate; where a disease changes it, their estimate would
bias what is normal. So every effect is estimated in each group, and the groups are weighed as in a random-effects
meta-analysis: by the precision of each estimate, where that of patients also counts how far the two maps differ beyond
what chance does (DerSimonian and Laird, Control Clin Trials 1986). Maps that differ count for nothing, maps that do not
count fully.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Of the background's leading components, which are few dimensions with most of the variance, so that whether two maps
# differ would be decided by them alone.
SHARE_SET_ASIDE = 0.1
# Of the resolution of an effect, which is 1 where the rows determine it and below where other columns could take its
# place.
RESOLVED = 1 - 1e-6


class Regression(NamedTuple):
    """Maps of effects as weighted sums of images.

    ``weights`` (p, n) gives the effects; ``borrowed`` (p,) the share of each that comes from patients.
    """

    weights: np.ndarray
    borrowed: np.ndarray


def fit_regression(
    products: np.ndarray,
    design: np.ndarray,
    fitted: np.ndarray,
    groups: np.ndarray,
    pooled: np.ndarray,
    n_voxels: int,
    borrow: bool = True,
) -> Regression:
    r"""Return the regression of images on a design as weights of images, ``effects = weights @ images``.

    Of each group's own estimates :math:`b_g` of one effect, with mean variance :math:`v_g` over voxels,

    .. math:: b = \frac{\sum_g b_g / (v_g + \tau_g^2)}{\sum_g 1 / (v_g + \tau_g^2)}, \qquad
       \tau_g^2 = \max\left(0, \overline{(b_g - b_0)^2} - E\right), \quad \tau_0^2 = 0

    with E what the mean square would be by chance.

    Parameters
    ----------
    products : array of shape (n, n)
        From :func:`sepclr_med.volumes.normative_fit.gram_matrix`.
    design : array of shape (n, p)
        The intercept first.
    fitted : bool array of shape (n,)
        Rows to fit on; the weights of the others are zero.
    groups : int array of shape (n,)
        0 for background.
    pooled : bool array of shape (p,)
        Columns with one effect in all groups; of the others each group has its own.
    n_voxels : int
    borrow : bool, default=True
        Whether other groups count in effects that are not pooled.

    Returns
    -------
    Regression

    Examples
    --------
    >>> design, everyone = np.column_stack([np.ones(4), [0, 0, 1, 1]]), np.ones(4, bool)
    >>> images = np.array([[1.0], [1.0], [3.0], [3.0]])
    >>> found = fit_regression(images @ images.T, design, everyone, np.zeros(4), np.zeros(2, bool), 1)
    >>> (found.weights @ images).ravel()
    array([1., 2.])
    """
    n_columns, own = design.shape[1], np.flatnonzero(~pooled)
    others = [g for g in np.unique(groups[fitted]) if g and (fitted & (groups == g)).sum() >= 2 * own.size]
    others = others if borrow or pooled.any() else []
    inside = np.flatnonzero(fitted & np.isin(groups, [0, *others]))
    group, rows = groups[inside], design[inside].astype(float)
    whole = [np.where((group[:, None] == 0) | pooled, rows, 0)]
    whole += [rows[:, own] * (group == other)[:, None] for other in others]
    stacked = np.hstack(whole)
    found = np.linalg.pinv(stacked)
    weights, borrowed = found[:n_columns].copy(), np.zeros(n_columns)
    if borrow and others:
        estimates = [found[own], *np.split(found[n_columns:], len(others))]
        within = products[np.ix_(inside, inside)]
        shares = _shares(within, stacked, found, group, estimates, n_voxels)
        weights[own] = sum(share[:, None] * estimate for share, estimate in zip(shares, estimates, strict=True))
        borrowed[own] = 1 - shares[0]
        # What is normal is what controls are on average, whoever helped with the slopes.
        background = group == 0
        weights[0] = background / background.sum() - rows[background, 1:].mean(axis=0) @ weights[1:]
        borrowed[0] = 0.0
    everywhere = np.zeros((n_columns, len(design)))
    everywhere[:, inside] = weights
    return Regression(everywhere, borrowed)


def residual_products(
    products: np.ndarray, design: np.ndarray, coefficients: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the products of all pairs of residuals of some rows."""
    # As many columns as the design has, so that nothing grows like the cube of the number of images.
    explained, fitted = design[rows], coefficients @ products
    crossed = explained @ fitted[:, rows]
    return products[np.ix_(rows, rows)] - crossed - crossed.T + explained @ (fitted @ coefficients.T) @ explained.T


def leading(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k largest eigenvalues, the largest first, and their vectors as columns."""
    values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(values)[::-1][:k]
    return np.maximum(values[order], 1e-12 * max(values.max(), 1e-12)), vectors[:, order]


def _shares(
    products: np.ndarray,
    design: np.ndarray,
    found: np.ndarray,
    group: np.ndarray,
    estimates: list[np.ndarray],
    n_voxels: int,
) -> np.ndarray:
    """Return how much each group's estimate counts, (groups, effects)."""
    background = np.flatnonzero(group == 0)
    residuals = residual_products(products, design, found, np.arange(len(group)))
    k = int(SHARE_SET_ASIDE * background.size)
    values, vectors = leading(residuals[np.ix_(background, background)], k)
    scaled = (vectors / np.sqrt(values)).T
    # Products of the set-aside components with residuals, and with the images themselves.
    with_residuals = scaled @ residuals[background]
    with_images = scaled @ (products[background] - design[background] @ (found @ products))
    left = (np.diag(residuals) - np.square(with_residuals).sum(axis=0)) / (n_voxels - k)
    numbers, n_effects = np.unique(group), len(estimates[0])
    noise = np.empty(len(group))
    for number in numbers:
        here = group == number
        noise[here] = left[here].sum() / max(1, here.sum() - n_effects)
    variance = np.stack([np.square(estimate) @ noise for estimate in estimates])
    for place, estimate in enumerate(estimates[1:], start=1):
        apart = estimate - estimates[0]
        size = np.einsum("ij,jk,ik->i", apart, products, apart, optimize=True)
        size = (size - np.square(apart @ with_images.T).sum(axis=1)) / (n_voxels - k)
        variance[place] += np.maximum(0, size - np.square(apart) @ noise)
    precision = 1 / np.maximum(variance, 1e-12 * max(variance.max(), 1e-300))
    # A group of one sex says nothing of sex: its estimate is what pinv makes of nothing.
    resolved = np.einsum("ij,ji->i", found, design) > RESOLVED
    of_others = resolved[design.shape[1] - (len(estimates) - 1) * n_effects :]
    precision[1:] *= of_others.reshape(-1, n_effects)
    return precision / precision.sum(axis=0)
