r"""SepVAE (Louiset, Duchesnay, Grigis, Dufumier, Gori, MIDL 2024, arXiv 2307.06206).

As the contrastive VAE (:mod:`sepclr_med.methods.cvae`), and

- the salient factors of the background have a narrow prior, :math:`N(0, \sigma_b^2 I)` with ``background_std``;
- a linear classifier tells targets from background by their salient means (binary cross-entropy);
- the dependence of both spaces is a density ratio over everyone, of which only positive values are paid.

.. math::
    L = E[-\log p(x | c, s)]_{target} + E[-\log p(x | c, 0)]_{background}
    + \beta (KL(c) + KL(s \| N(0, I))_{target} + KL(s \| N(0, \sigma_b^2 I))_{background})
    + w (TC(c, s)_+ + BCE(s))

The released code fixes the background's log-variance and penalises its mean; here the divergence from the narrow prior
does both. Classifier and dependence share one weight.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sepclr_med.cohort.labels import Labels
from sepclr_med.config import Config
from sepclr_med.losses.critics import DensityRatio
from sepclr_med.losses.variational import gaussian_kl
from sepclr_med.methods.autoencoding import VAERows
from sepclr_med.methods.contrastive_vae import ContrastiveVAEObjective
from sepclr_med.methods.cvae import N_VIEWS, SPACES, build_network

__all__ = ["N_VIEWS", "SPACES", "build_loss", "build_network"]


def build_loss(config: Config, labels: Labels, shape: tuple[int, ...]) -> nn.Module:
    """Return the objective."""
    method = config.method
    dims = (method.common_dim, method.salient_dim, math.prod(shape))
    return SepVAEObjective(*dims, method.beta, method.w_matching, method.background_std)


class SepVAEObjective(ContrastiveVAEObjective):
    """Evidence lower bounds with a narrow background prior, a salient classifier, and independence of the spaces."""

    def __init__(
        self, common_dim: int, salient_dim: int, n_voxels: int, beta: float, w_matching: float, background_std: float
    ) -> None:
        super().__init__(common_dim, salient_dim, n_voxels, beta, w_matching)
        self.critic, self.background_std = DensityRatio(common_dim, salient_dim), background_std
        self.classifier = nn.Linear(salient_dim, 1)

    def matching(self, rows: VAERows, is_target: Tensor) -> tuple[Tensor, Tensor]:
        """Return dependence and the classifier's cross-entropy, and what fits the critic."""
        c, s = rows.common.draw, rows.salient.draw
        logits = self.classifier(rows.salient.mean)[:, 0]
        told = nn.functional.binary_cross_entropy_with_logits(logits, is_target.to(logits.dtype))
        # Batches hold one group after the other: partners must be exchanged between the groups too.
        order = torch.randperm(len(c), generator=torch.Generator().manual_seed(0)).to(c.device)
        return self.critic.estimate(c, s).clamp(min=0) + told, self.critic.fitting_loss(c[order], s[order])

    def background_divergence(self, rows: VAERows) -> Tensor:
        """Return the divergence from the narrow prior."""
        return gaussian_kl(rows.salient.mean, rows.salient.log_variance, self.background_std)
