"""Terms of variational autoencoders, one value per row: closed-form divergences and the likelihood of an image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST_VARIANCE = 1e-6


def gaussian_kl(mean: Tensor, log_variance: Tensor, prior_std: float = 1.0) -> Tensor:
    r"""Kullback-Leibler divergence of a diagonal normal distribution from a centred isotropic one.

    .. math:: \frac{1}{2} \sum_d \left( \frac{\sigma_d^2 + \mu_d^2}{\sigma_0^2} - 1 - \log \frac{\sigma_d^2}{\sigma_0^2}
       \right)

    Parameters
    ----------
    mean, log_variance : Tensor of shape (n, d)
    prior_std : float, default=1
        Standard deviation of the prior.

    Returns
    -------
    Tensor of shape (n,)
        Nats.

    Examples
    --------
    >>> gaussian_kl(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([1.])
    """
    scaled = log_variance - 2 * math.log(prior_std)
    return (scaled.exp() + mean.square() / prior_std**2 - 1 - scaled).sum(dim=1) / 2


def image_nll(squared_error: Tensor, n_voxels: int, variance: float | None = None) -> Tensor:
    r"""Negative log-likelihood of images under a normal distribution around their reconstruction.

    .. math:: \frac{D}{2} \log 2 \pi \sigma^2 + \frac{\lVert x - \hat x \rVert^2}{2 \sigma^2}

    Parameters
    ----------
    squared_error : Tensor of shape (n,)
        Summed over voxels.
    n_voxels : int
        D.
    variance : float or None, default=None
        None means its maximum-likelihood value over the rows (Rybkin et al., ICML 2021, arXiv 2006.13202), so that no
        weight between image and prior need be chosen.

    Returns
    -------
    Tensor of shape (n,)
        Nats.

    Examples
    --------
    >>> image_nll(torch.tensor([2.0]), n_voxels=2, variance=1.0)
    tensor([2.8379])
    """
    if variance is None:
        best = (squared_error.mean() / n_voxels).clamp(min=SMALLEST_VARIANCE)
        # At the optimum the gradient through the variance vanishes.
        return n_voxels / 2 * (math.log(2 * math.pi) + best.log()) + squared_error / (2 * best)
    return n_voxels / 2 * math.log(2 * math.pi * variance) + squared_error / (2 * variance)


def sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Draw from a diagonal normal distribution, differentiable in its parameters."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)
