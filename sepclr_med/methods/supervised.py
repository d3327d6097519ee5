r"""Supervised diagnosis: the representation before the last layers of a classifier. No paper.

Cross-entropy of the diagnosis d (each value of ``cohort.background`` and ``cohort.target`` is a class), averaged over
images and both views:

.. math:: L = -\log \mathrm{softmax}(f(x))_d

A ceiling for telling groups apart; what varies among patients is learned only as far as it helps with that. One space,
exported as the salient one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sepclr_med.cohort.labels import Labels, Wanted
from sepclr_med.config import Config
from sepclr_med.losses.contrastive import masked_cross_entropy
from sepclr_med.methods.shapes import encoder_shape
from sepclr_med.methods.simclr import N_VIEWS, SPACES, Terms
from sepclr_med.networks import SingleNetwork

__all__ = ["N_VIEWS", "SPACES", "build_loss", "build_network", "find_labels"]


def find_labels(config: Config) -> list[Wanted]:
    """Return the diagnosis."""
    return [Wanted("supervised", "diagnosis", "discrete")]


def build_network(config: Config, in_channels: int, spatial_size: tuple[int, ...]) -> nn.Module:
    """Return one encoder and a head with an output per diagnosis."""
    n_classes = len(config.cohort.background) + len(config.cohort.target)
    return SingleNetwork(
        dim=config.method.salient_dim,
        head_dim=n_classes,
        normalise=False,
        head_hidden=config.network.head_hidden,
        **encoder_shape(config, in_channels, spatial_size),
    )


def build_loss(config: Config, labels: Labels, shape: tuple[int, ...]) -> nn.Module:
    """Return the objective."""
    return SupervisedObjective(labels.places["supervised", "diagnosis"])


class SupervisedObjective(nn.Module):
    """Cross-entropy of the diagnosis.

    Parameters
    ----------
    place : slice
        Where its code lies among the labels.
    """

    terms, salient_columns = Terms, None

    def __init__(self, place: slice) -> None:
        super().__init__()
        self.place = place

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        """Return the terms of one batch."""
        known = labels[:, self.place][:, 0]
        return Terms(torch.stack([masked_cross_entropy(view, known) for view in views]).mean())
