r"""A variational autoencoder of everyone, with one space (Kingma and Welling, ICLR 2014, arXiv 1312.6114).

.. math:: L = E_q[-\log p(x | z)] + \beta \, KL(q(z | x) \,\|\, N(0, I))

Ours: the variance of the image is its maximum-likelihood value over the batch
(:func:`sepclr_med.losses.variational.image_nll`) instead of a constant. Both groups are treated alike; what is exported
is the mean, as the salient space.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from sepclr_med.cohort.labels import Labels
from sepclr_med.config import Config
from sepclr_med.losses.variational import gaussian_kl, image_nll
from sepclr_med.methods.autoencoding import VAENetwork, build_vae, read_rows

SPACES = ("salient",)
N_VIEWS = 1


class Terms(NamedTuple):
    """The ``total``, per voxel, and its parts in nats per image."""

    total: Tensor
    reconstruction: Tensor
    divergence: Tensor


def build_network(config: Config, in_channels: int, spatial_size: tuple[int, ...]) -> VAENetwork:
    """Return one encoder and one decoder."""
    return build_vae(config, in_channels, spatial_size, one_space=True)


def build_loss(config: Config, labels: Labels, shape: tuple[int, ...]) -> nn.Module:
    """Return the negative evidence lower bound."""
    return VAEObjective(config.method.salient_dim, math.prod(shape), config.method.beta)


class VAEObjective(nn.Module):
    """Negative evidence lower bound of everyone.

    Parameters
    ----------
    salient_dim, n_voxels : int
    beta : float, default=1
    variance : float or None, default=None
        As for :func:`sepclr_med.losses.variational.image_nll`.
    """

    terms, salient_columns = Terms, None

    def __init__(self, salient_dim: int, n_voxels: int, beta: float = 1.0, variance: float | None = None) -> None:
        super().__init__()
        self.salient_dim, self.n_voxels, self.beta, self.variance = salient_dim, n_voxels, beta, variance

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        """Return the terms of one batch; groups and labels have no role."""
        rows = read_rows(views[0].float(), 0, self.salient_dim)
        reconstruction = image_nll(rows.with_salient, self.n_voxels, self.variance).mean()
        divergence = gaussian_kl(rows.salient.mean, rows.salient.log_variance).mean()
        return Terms((reconstruction + self.beta * divergence) / self.n_voxels, reconstruction, divergence)
