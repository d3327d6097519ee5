r"""SimCLR on everyone (Chen et al., ICML 2020): what sets images apart, whoever they belong to.

The normalised temperature-scaled cross-entropy of :func:`sepclr_med.losses.contrastive.nt_xent` on L2-normalised heads,
temperature 0.1:

.. math:: L = -\frac{1}{2n} \sum_i \log \frac{\exp(z_i \cdot z_{p(i)} / t)}{\sum_{j \neq i} \exp(z_i \cdot z_j / t)}

with z the heads of all 2n views and p(i) the other view of the same image. One space, exported as the salient one.

Paper: arXiv 2002.05709. Ours: SepCLR's projector, a fixed temperature, and batches that hold as many controls as
patients, which is the only role of groups.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from sepclr_med.cohort.labels import Labels
from sepclr_med.config import Config
from sepclr_med.losses.contrastive import nt_xent
from sepclr_med.methods.shapes import encoder_shape
from sepclr_med.networks import SingleNetwork

SPACES = ("salient",)
N_VIEWS = 2
TEMPERATURE = 0.1


class Terms(NamedTuple):
    """The ``total``, which is all there is."""

    total: Tensor


def build_network(config: Config, in_channels: int, spatial_size: tuple[int, ...]) -> nn.Module:
    """Return one encoder and its head."""
    shape = encoder_shape(config, in_channels, spatial_size)
    return SingleNetwork(dim=config.method.salient_dim, head_hidden=config.network.head_hidden, **shape)


def build_loss(config: Config, labels: Labels, shape: tuple[int, ...]) -> nn.Module:
    """Return the objective."""
    return SimCLRObjective()


class SimCLRObjective(nn.Module):
    """The contrast of two views of an image with all other images of the batch."""

    terms, salient_columns = Terms, None

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        """Return the terms of one batch; groups and labels have no role."""
        return Terms(nt_xent(*views, TEMPERATURE))
