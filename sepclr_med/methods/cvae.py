r"""Contrastive VAE: salient factors are null for the background (Abid and Zou 2019, arXiv 1902.04601).

.. math:: L = E[-\log p(x | c, s)]_{target} + E[-\log p(x | c, 0)]_{background}
   + \beta (KL(c) + KL(s)_{target}) + w_{matching} \, TC(c, s)_{target}

with TC the density-ratio estimate of total correlation (:class:`sepclr_med.losses.critics.DensityRatio`). As everywhere
in this family here, the variance of the image is its maximum-likelihood value over the batch, encoders are two networks
of the configured backbone, and the critic has an optimiser step of the same learning rate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sepclr_med.cohort.labels import Labels
from sepclr_med.config import Config
from sepclr_med.losses.critics import DensityRatio
from sepclr_med.methods.autoencoding import VAENetwork, VAERows, build_vae
from sepclr_med.methods.contrastive_vae import ContrastiveVAEObjective

SPACES = ("common", "salient")
N_VIEWS = 1


def build_network(config: Config, in_channels: int, spatial_size: tuple[int, ...]) -> VAENetwork:
    """Return two encoders and one decoder."""
    return build_vae(config, in_channels, spatial_size)


def build_loss(config: Config, labels: Labels, shape: tuple[int, ...]) -> nn.Module:
    """Return the objective."""
    method = config.method
    return CVAEObjective(method.common_dim, method.salient_dim, math.prod(shape), method.beta, method.w_matching)


class CVAEObjective(ContrastiveVAEObjective):
    """Evidence lower bounds of both groups and total correlation of both spaces of the target."""

    def __init__(self, common_dim: int, salient_dim: int, n_voxels: int, beta: float, w_matching: float) -> None:
        super().__init__(common_dim, salient_dim, n_voxels, beta, w_matching)
        self.critic = DensityRatio(common_dim, salient_dim)

    def matching(self, rows: VAERows, is_target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimated total correlation, and what fits its critic."""
        targets = is_target.nonzero()[:, 0]
        c, s = rows.common.draw[targets], rows.salient.draw[targets]
        return self.critic.estimate(c, s).clamp(min=0), self.critic.fitting_loss(c, s)

    def background_divergence(self, rows: VAERows) -> Tensor:
        """Return nothing: background salient factors are not used at all."""
        return torch.zeros_like(rows.without)
