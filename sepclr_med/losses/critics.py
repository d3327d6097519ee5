"""Estimators of dependence that learn: each has weights of its own, fitted on embeddings that feel nothing of it.

A critic is called for its estimate, with its weights held still, and :meth:`fitting_loss` trains it, with the
embeddings held still. Both parts are added to one loss, so one optimiser does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

HIDDEN = 64
LARGEST_LOG_VARIANCE = 5.0


class Critic(nn.Module):
    """What both estimators share: an estimate through weights that are held still."""

    def estimate(self, c: Tensor, s: Tensor) -> Tensor:
        """Return the estimated dependence; its gradient reaches the embeddings only."""
        still = {name: weight.detach() for name, weight in self.named_parameters()}
        return functional_call(self, still, (c.float(), s.float()))


class CLUB(Critic):
    r"""Contrastive log-ratio upper bound of mutual information, variational (Cheng et al., ICML 2020).

    .. math:: \hat I = \frac{1}{n} \sum_i \log q(s_i | c_i) - \frac{1}{n^2} \sum_{ij} \log q(s_j | c_i)

    with q a normal distribution whose mean and variance a small network computes from c, fitted by its likelihood.

    Parameters
    ----------
    common_dim, salient_dim : int

    Examples
    --------
    >>> CLUB(3, 2).estimate(torch.randn(8, 3), torch.randn(8, 2)).shape
    torch.Size([])
    """

    def __init__(self, common_dim: int, salient_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(common_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * salient_dim))

    def _conditional(self, c: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(c.device.type, enabled=False):
            mean, log_variance = self.layers(c).chunk(2, dim=1)
        return mean, LARGEST_LOG_VARIANCE * torch.tanh(log_variance / LARGEST_LOG_VARIANCE)

    def forward(self, c: Tensor, s: Tensor) -> Tensor:
        """Return the bound for these rows."""
        mean, log_variance = self._conditional(c)
        # The normalising constants of both sums cancel.
        precision = (-log_variance).exp()
        own = ((s - mean).square() * precision).sum(dim=1).mean()
        # mean_j |s_j - m|^2 = |m|^2 - 2 m.mean(s) + mean |s|^2, dimension by dimension.
        others = (mean.square() - 2 * mean * s.mean(dim=0) + s.square().mean(dim=0)) * precision
        return (others.sum(dim=1).mean() - own) / 2

    def fitting_loss(self, c: Tensor, s: Tensor) -> Tensor:
        """Return the negative log-likelihood of q, up to a constant."""
        c, s = c.detach().float(), s.detach().float()
        mean, log_variance = self._conditional(c)
        return ((s - mean).square() * (-log_variance).exp() + log_variance).sum(dim=1).mean() / 2


class DensityRatio(Critic):
    r"""Total correlation of two spaces by a density ratio (Sugiyama et al. 2012; Kim and Mnih 2018).

    A classifier D tells joint rows from rows whose partner was exchanged; at its optimum

    .. math:: I(c; s) = E_{p(c, s)} [\log D / (1 - D)]

    Parameters
    ----------
    common_dim, salient_dim : int

    Examples
    --------
    >>> DensityRatio(3, 2).fitting_loss(torch.randn(8, 3), torch.randn(8, 2)).shape
    torch.Size([])
    """

    def __init__(self, common_dim: int, salient_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(common_dim + salient_dim, HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(HIDDEN, 1),
        )

    def forward(self, c: Tensor, s: Tensor) -> Tensor:
        """Return the mean logarithm of the ratio over joint rows."""
        return self._logits(c, s).mean()

    def fitting_loss(self, c: Tensor, s: Tensor) -> Tensor:
        """Return the classifier's cross-entropy."""
        c, s = c.detach().float(), s.detach().float()
        joint, exchanged = self._logits(c, s), self._logits(c, s.roll(1, dims=0))
        return (nn.functional.softplus(-joint).mean() + nn.functional.softplus(exchanged).mean()) / 2

    def _logits(self, c: Tensor, s: Tensor) -> Tensor:
        with torch.autocast(c.device.type, enabled=False):
            return self.layers(torch.cat([c, s], dim=1))[:, 0]
