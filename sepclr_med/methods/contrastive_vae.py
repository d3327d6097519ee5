"""The objective that contrastive VAEs share; each says how it treats the background and how spaces are kept apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sepclr_med.losses.pairwise import require_both_groups
from sepclr_med.losses.variational import gaussian_kl, image_nll
from sepclr_med.methods.autoencoding import VAERows, read_rows


class Terms(NamedTuple):
    """The ``total``, per voxel, and its parts in nats per image (``matching`` in its own unit, unweighted)."""

    total: Tensor
    reconstruction: Tensor
    common_divergence: Tensor
    salient_divergence: Tensor
    matching: Tensor


class ContrastiveVAEObjective(nn.Module):
    """``reconstruction + beta * divergences + w_matching * matching``.

    The background is decoded from its common factors and a null salient vector, the target from both.

    Parameters
    ----------
    common_dim, salient_dim, n_voxels : int
    beta, w_matching : float
    variance : float or None, default=None
        As for :func:`sepclr_med.losses.variational.image_nll`.
    """

    terms = Terms

    def __init__(
        self,
        common_dim: int,
        salient_dim: int,
        n_voxels: int,
        beta: float = 1.0,
        w_matching: float = 100.0,
        variance: float | None = None,
    ) -> None:
        super().__init__()
        self.dims, self.n_voxels = (common_dim, salient_dim), n_voxels
        self.beta, self.w_matching, self.variance = beta, w_matching, variance
        # Means of the salient space, whose lengths are logged.
        self.salient_columns = slice(3 * common_dim, 3 * common_dim + salient_dim)

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        """Return the terms of one batch; labels have no role."""
        require_both_groups(is_target)
        is_target = is_target.to(views[0].device, non_blocking=True)
        rows = read_rows(views[0].float(), *self.dims)
        error = torch.where(is_target, rows.with_salient, rows.without)
        reconstruction = image_nll(error, self.n_voxels, self.variance).mean()
        common = gaussian_kl(rows.common.mean, rows.common.log_variance).mean()
        of_target = gaussian_kl(rows.salient.mean, rows.salient.log_variance)
        salient = torch.where(is_target, of_target, self.background_divergence(rows)).mean()
        matching, fitting = self.matching(rows, is_target)
        total = reconstruction + self.beta * (common + salient) + self.w_matching * matching
        return Terms(total / self.n_voxels + fitting, reconstruction, common, salient, matching)

    def background_divergence(self, rows: VAERows) -> Tensor:
        """Return what each row would pay for salient factors as a member of the background, (n,)."""
        raise NotImplementedError

    def matching(self, rows: VAERows, is_target: Tensor) -> tuple[Tensor, Tensor]:
        """Return what keeps distributions or spaces in their place, and what fits a critic."""
        raise NotImplementedError
