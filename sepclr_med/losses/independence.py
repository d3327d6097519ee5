"""How dependent are two spaces? Estimators without parameters of their own, to be minimised.

Each takes rows of both spaces, (n, d_c) and (n, d_s), and returns a scalar that is zero, or lowest, when they are
independent. Terms run in float32 outside autocast, as in :mod:`sepclr_med.losses.pairwise`.

HSIC and the distance correlation are the bias-corrected ones: their expectation is zero for independent spaces of any
size. Without the correction independent spaces of 8, 32 and 128 rows (32 dimensions each) have an HSIC of 0.63, 0.31
and 0.11, and minimising that flattens a space instead of making it independent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sepclr_med.losses.pairwise import in_full_precision, joint_entropy, mean_log_kernel

SMALLEST = 1e-12


@in_full_precision
def hsic(c: Tensor, s: Tensor) -> Tensor:
    r"""Normalised Hilbert-Schmidt independence criterion (Gretton et al. 2005), bias-corrected (Song et al. 2012).

    .. math:: \frac{\langle \tilde K, \tilde L \rangle}{\lVert \tilde K \rVert \, \lVert \tilde L \rVert}

    with Gaussian kernels K and L as wide as the median distance. The tilde is U-centring (Székely and Rizzo 2014): the
    diagonal does not count, and the rows of what is left sum to zero.

    Parameters
    ----------
    c : Tensor of shape (n, d_c)
    s : Tensor of shape (n, d_s)

    Returns
    -------
    Tensor
        Scalar, at most 1; below 0 by chance; 0 for fewer than four rows, which say nothing.

    Examples
    --------
    >>> x = torch.randn(50, 3)
    >>> round(float(hsic(x, 2 * x)), 4)
    1.0
    """
    return _cosine(_u_centred(_kernel(c)), _u_centred(_kernel(s)))


@in_full_precision
def distance_correlation(c: Tensor, s: Tensor) -> Tensor:
    r"""Squared distance correlation (Székely, Rizzo and Bakirov 2007), bias-corrected (Székely and Rizzo 2014).

    The cosine of U-centred distance matrices, as in :func:`hsic`.

    Examples
    --------
    >>> x = torch.randn(50, 3)
    >>> round(float(distance_correlation(x, 2 * x)), 4)
    1.0
    """
    return _cosine(_u_centred(_distances(c)), _u_centred(_distances(s)))


@in_full_precision
def mmd_independence(c: Tensor, s: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy between the joint rows and rows whose partner was exchanged.

    The exchange shifts ``s`` by one row, which in a batch of random order is a random pairing: the same batch always
    gives the same value.

    Examples
    --------
    >>> x = torch.randn(50, 1)
    >>> float(mmd_independence(x, x)) > float(mmd_independence(x, torch.randn(50, 1)))
    True
    """
    return mmd(torch.cat([c, s], dim=1), torch.cat([c, s.roll(1, dims=0)], dim=1))


@in_full_precision
def mmd(u: Tensor, v: Tensor) -> Tensor:
    r"""Squared maximum mean discrepancy of two samples (Gretton et al. 2012), biased and so never below zero.

    .. math:: \overline{k(u, u')} + \overline{k(v, v')} - 2 \overline{k(u, v)}

    with a sum of Gaussian kernels half, once and twice as wide as the median distance of all rows.

    Parameters
    ----------
    u : Tensor of shape (n, d)
    v : Tensor of shape (m, d)

    Examples
    --------
    >>> x = torch.randn(30, 2)
    >>> float(mmd(x, x)) < 1e-6 < float(mmd(x, x + 3))
    True
    """
    squared = _squared_distances(torch.cat([u, v]))
    width = _median(squared)
    kernel = sum(torch.exp(-squared / (2 * factor * width)) for factor in (0.25, 1.0, 4.0)) / 3
    n = len(u)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


@in_full_precision
def kernel_mutual_information(c: Tensor, s: Tensor, temperature: float = 0.5) -> Tensor:
    r"""k-MI: mutual information by the kernel density estimates behind k-JEM.

    .. math:: \hat I = \hat H(c) + \hat H(s) - \hat H(c, s), \qquad
       \hat H(u) = -\frac{1}{n} \sum_i \log \frac{1}{n} \sum_j k(u_i, u_j)

    Each row's pair with itself is included. For comparison only: minimising it may lower the entropies instead.

    Examples
    --------
    >>> x = 3 * torch.randn(200, 1)
    >>> float(kernel_mutual_information(x, x)) > float(kernel_mutual_information(x, 3 * torch.randn(200, 1)))
    True
    """
    return joint_entropy(c, s, temperature) - mean_log_kernel(c, temperature) - mean_log_kernel(s, temperature)


def _squared_distances(u: Tensor) -> Tensor:
    # Differences instead of a matrix product: small distances keep their digits, and the diagonal has a gradient.
    return (u[:, None, :] - u[None, :, :]).square().sum(dim=2)


def _distances(u: Tensor) -> Tensor:
    return (_squared_distances(u) + SMALLEST).sqrt()


def _kernel(u: Tensor) -> Tensor:
    squared = _squared_distances(u)
    return torch.exp(-squared / (2 * _median(squared)))


def _median(squared: Tensor) -> Tensor:
    # Off the diagonal; the width is a yardstick, not something to be optimised.
    apart = squared.detach()[~torch.eye(len(squared), dtype=torch.bool, device=squared.device)]
    return apart.median().clamp(min=SMALLEST)


def _u_centred(matrix: Tensor) -> Tensor:
    n = len(matrix)
    if n < 4:
        return 0 * matrix
    off = 1 - torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    matrix = matrix * off
    mean = matrix.sum(dim=0) / (n - 2)
    return (matrix - mean - mean[:, None] + mean.sum() / (n - 1)) * off


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    scale = one.square().sum().clamp(min=SMALLEST).sqrt() * other.square().sum().clamp(min=SMALLEST).sqrt()
    return (one * other).sum() / scale
