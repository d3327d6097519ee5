"""Contrastive terms with partners chosen by view or by label: SimCLR, y-aware, supervised attributes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sepclr_med.losses.pairwise import in_full_precision, uniformity

# Squared bandwidth of the kernel between values of a continuous, standardised label (Louiset et al. 2024).
LABEL_BANDWIDTH = 0.025


@in_full_precision
def nt_xent(u_1: Tensor, u_2: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Normalised temperature-scaled cross-entropy of SimCLR (Chen et al., ICML 2020).

    .. math:: -\frac{1}{2 n} \sum_i \log
       \frac{\exp(z_i \cdot z_{p(i)} / \tau)}{\sum_{j \ne i} \exp(z_i \cdot z_j / \tau)}

    Parameters
    ----------
    u_1, u_2 : Tensor of shape (n, d)
        L2-normalised heads of both views.
    temperature : float, default=0.1

    Returns
    -------
    Tensor
        Scalar.

    Examples
    --------
    >>> round(float(nt_xent(torch.eye(2), torch.eye(2), 1.0)), 4)
    0.5514
    """
    labels = torch.arange(len(u_1), device=u_1.device)
    return kernel_info_nce(u_1, u_2, (labels[:, None] == labels).to(u_1.dtype), temperature)


@in_full_precision
def kernel_info_nce(u_1: Tensor, u_2: Tensor, likeness: Tensor, temperature: float = 0.1) -> Tensor:
    r"""y-aware InfoNCE (Dufumier et al., MICCAI 2021); with labels that are equal or not, SupCon (Khosla et al. 2020).

    .. math:: -\frac{1}{2n} \sum_i \sum_{j \ne i} \frac{w_{ij}}{\sum_{l \ne i} w_{il}}
       \log \frac{\exp(z_i \cdot z_j / \tau)}{\sum_{l \ne i} \exp(z_i \cdot z_l / \tau)}

    over the 2n views, with the other view of the same image always weighed 1.

    Parameters
    ----------
    u_1, u_2 : Tensor of shape (n, d)
        L2-normalised heads of both views.
    likeness : Tensor of shape (n, n)
        Weights w between images.
    temperature : float, default=0.1

    Returns
    -------
    Tensor
        Scalar.

    Examples
    --------
    >>> alike = torch.ones(2, 2)
    >>> round(float(kernel_info_nce(torch.eye(2), torch.eye(2), alike, 1.0)), 4)
    1.2181
    """
    z = torch.cat([u_1, u_2])
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    log_share = (logits - logits.logsumexp(dim=1, keepdim=True)).fill_diagonal_(0.0)
    weights = likeness.clone().fill_diagonal_(1.0).repeat(2, 2).fill_diagonal_(0.0)
    return -((weights * log_share).sum(dim=1) / weights.sum(dim=1)).mean()


def label_likeness(labels: Tensor, kind: str, bandwidth: float = LABEL_BANDWIDTH) -> Tensor:
    r"""Return how alike every two labels are: :math:`\exp(-(y_i - y_j)^2 / (2 b))`, or 1 where discrete ones are equal.

    A missing label (NaN) is like nothing.

    Examples
    --------
    >>> label_likeness(torch.tensor([0.0, 0.0, 1.0, torch.nan]), "discrete")
    tensor([[1., 1., 0., 0.],
            [1., 1., 0., 0.],
            [0., 0., 1., 0.],
            [0., 0., 0., 0.]])
    """
    difference = labels[:, None] - labels
    like = torch.exp(-difference.square() / (2 * bandwidth)) if kind == "continuous" else (difference == 0).float()
    return torch.nan_to_num(like, nan=0.0)


@in_full_precision
def attribute_alignment(column_1: Tensor, column_2: Tensor, likeness: Tensor, temperature: float = 0.5) -> Tensor:
    r"""Pull one salient dimension together where labels are alike, and spread it out otherwise.

    .. math:: \frac{\sum_{ij} w_{ij} (s_i - s_j)^2}{2 \tau \sum_{ij} w_{ij}} + U(s)

    averaged over views (i from one, j from the other), with U the uniformity of the column. The weights are normalised
    here, where the published script sums them.

    Parameters
    ----------
    column_1, column_2 : Tensor of shape (n,)
        The dimension in both views.
    likeness : Tensor of shape (n, n)
        From :func:`label_likeness`.
    temperature : float, default=0.5

    Returns
    -------
    Tensor
        Scalar.
    """
    squared = (column_1[:, None] - column_2).square()
    pull = (likeness * squared).sum() / (2 * temperature * likeness.sum().clamp(min=1))
    spread = uniformity(column_1[:, None], temperature) + uniformity(column_2[:, None], temperature)
    return pull + spread / 2


@in_full_precision
def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of rows with a label (not NaN), zero without any.

    Examples
    --------
    >>> masked_cross_entropy(torch.zeros(3, 2), torch.tensor([0.0, 1.0, torch.nan]))
    tensor(0.6931)
    """
    known = ~labels.isnan()
    each = F.cross_entropy(logits, torch.nan_to_num(labels).long(), reduction="none")
    return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)
