r"""y-aware contrastive learning (Dufumier et al., MICCAI 2021, arXiv 2106.08808).

SimCLR in which images of similar labels attract one another: :func:`sepclr_med.losses.contrastive.kernel_info_nce`,
averaged over ``method.common_attributes``; without any, over age. Continuous labels are standardised and weighed by a
Gaussian kernel, discrete ones by equality:

.. math:: L = -\frac{1}{2n} \sum_i \sum_{j \neq i} v_{ij}
    \log \frac{\exp(z_i \cdot z_j / t)}{\sum_{l \neq i} \exp(z_i \cdot z_l / t)}, \quad
    v_{ij} = \frac{w_{ij}}{\sum_{l \neq i} w_{il}}, \quad w_{ij} = e^{-(y_i - y_j)^2 / (2 \cdot 0.025)}

and w is 1 for the other view of i. One space, exported as the salient one.

Ours: several labels at once; a missing label is like no other; both groups of one cohort, where the paper trains on a
large healthy population. The squared bandwidth 0.025 on standardised labels is that of Louiset et al. 2024, not of
this paper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sepclr_med.cohort.labels import Labels, Wanted
from sepclr_med.config import Config
from sepclr_med.losses.contrastive import kernel_info_nce, label_likeness
from sepclr_med.methods.simclr import N_VIEWS, SPACES, TEMPERATURE, Terms, build_network

__all__ = ["N_VIEWS", "SPACES", "build_loss", "build_network", "find_labels"]


def find_labels(config: Config) -> list[Wanted]:
    """Return the columns by which images are alike."""
    by = config.method.common_attributes or {"age": "continuous"}
    return [Wanted("common", name, kind) for name, kind in by.items()]


def build_loss(config: Config, labels: Labels, shape: tuple[int, ...]) -> nn.Module:
    """Return the objective."""
    places = [(labels.places["common", label.column], label.kind) for label in find_labels(config)]
    return YAwareObjective(places)


class YAwareObjective(nn.Module):
    """The contrast of images with all others, attracted by likeness of each label.

    Parameters
    ----------
    places : list of (slice, {"continuous", "discrete"})
        Where each label lies, and its kind.
    """

    terms, salient_columns = Terms, None

    def __init__(self, places: list[tuple[slice, str]]) -> None:
        super().__init__()
        self.places = places

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        """Return the terms of one batch; groups have no role."""
        like = [label_likeness(labels[:, place][:, 0], kind) for place, kind in self.places]
        return Terms(torch.stack([kernel_info_nce(*views, likeness, TEMPERATURE) for likeness in like]).mean())
