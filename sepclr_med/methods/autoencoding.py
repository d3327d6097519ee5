"""What the VAE family shares: encoders that give distributions, one decoder, and rows that say how well it does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from monai.networks.nets import Generator
from torch import Tensor, nn

from sepclr_med.config import Config
from sepclr_med.losses.variational import sample
from sepclr_med.methods.shapes import encoder_shape
from sepclr_med.networks import build_backbone, channels_last, split_inputs

UPSAMPLINGS = 3
LARGEST_LOG_VARIANCE = 8.0


class Latent(NamedTuple):
    """A space's distribution for each row, and one draw from it."""

    mean: Tensor
    log_variance: Tensor
    draw: Tensor


class VAERows(NamedTuple):
    """What the losses see of each image.

    ``with_salient`` and ``without`` are the summed squared errors of the image decoded from both draws, and from the
    common draw and a null salient vector.
    """

    common: Latent
    salient: Latent
    with_salient: Tensor
    without: Tensor


class VAEEmbeddings(NamedTuple):
    """What the network gives for a batch."""

    common: Tensor
    salient: Tensor
    rows: Tensor

    @property
    def spaces(self) -> dict[str, Tensor]:
        """What is exported: means, of the spaces there are."""
        found = {"common": self.common, "salient": self.salient}
        return {name: values for name, values in found.items() if values.shape[1]}


class VAENetwork(nn.Module):
    """Encoders of both spaces and one decoder.

    Parameters
    ----------
    common_dim, salient_dim : int
        Sizes of the spaces; a ``common_dim`` of 0 leaves one space.
    spatial_size : tuple of int
        Voxels per axis.
    backbone, spatial_dims, in_channels, width, norm
        As for :class:`sepclr_med.networks.SepCLRNetwork`.

    Examples
    --------
    >>> VAENetwork(3, 2, (16, 16, 16), "small")(torch.zeros(2, 1, 16, 16, 16)).rows.shape
    torch.Size([2, 17])
    """

    def __init__(
        self,
        common_dim: int,
        salient_dim: int,
        spatial_size: tuple[int, ...],
        backbone: str | Callable[..., nn.Module] = "resnet18",
        spatial_dims: int = 3,
        in_channels: int = 1,
        width: int = 8,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.common_dim, self.salient_dim, self.in_channels = common_dim, salient_dim, in_channels
        self.spatial_size = tuple(spatial_size)
        shape = (spatial_dims, in_channels, width, norm)
        if common_dim:
            self.common_encoder = build_backbone(backbone, 2 * common_dim, *shape)
        self.salient_encoder = build_backbone(backbone, 2 * salient_dim, *shape)
        start = [math.ceil(length / 2**UPSAMPLINGS) for length in spatial_size]
        self.decoder = Generator(
            (common_dim + salient_dim,),
            (8 * width, *start),
            (4 * width, 2 * width, in_channels),
            (2,) * UPSAMPLINGS,
            num_res_units=0,
            act="RELU",
            norm="BATCH" if norm == "batch" else ("GROUP", {"num_groups": 2}),
        )

    def forward(self, volumes: Tensor) -> VAEEmbeddings:
        """Encode, draw, and decode twice: with the salient draw, and with a null vector in its place."""
        plain, deviation = split_inputs(volumes, self.in_channels)
        salient = self._encode(self.salient_encoder, deviation)
        common = self._encode(self.common_encoder, plain) if self.common_dim else Latent(*[salient.mean[:, :0]] * 3)
        null = torch.zeros_like(salient.draw)
        errors = [self._error(plain, torch.cat([common.draw, s], dim=1)) for s in (salient.draw, null)]
        rows = torch.cat([*common, *salient, torch.stack(errors, dim=1)], dim=1)
        return VAEEmbeddings(common.mean, salient.mean, rows)

    def decode(self, latent: Tensor) -> Tensor:
        """Return images of shape (n, in_channels, X, Y, Z)."""
        images = self.decoder(latent)
        if images.shape[2:] != self.spatial_size:
            images = nn.functional.interpolate(images, size=self.spatial_size)
        return images

    def _encode(self, encoder: nn.Module, volumes: Tensor) -> Latent:
        mean, log_variance = encoder(channels_last(volumes)).float().chunk(2, dim=1)
        log_variance = LARGEST_LOG_VARIANCE * torch.tanh(log_variance / LARGEST_LOG_VARIANCE)
        return Latent(mean, log_variance, sample(mean, log_variance))

    def _error(self, images: Tensor, latent: Tensor) -> Tensor:
        return (self.decode(latent).float() - images).square().flatten(1).sum(dim=1)


def read_rows(rows: Tensor, common_dim: int, salient_dim: int) -> VAERows:
    """Return the parts of a row of :class:`VAENetwork`."""
    sizes = [*[common_dim] * 3, *[salient_dim] * 3, 1, 1]
    parts = rows.split(sizes, dim=1)
    return VAERows(Latent(*parts[:3]), Latent(*parts[3:6]), parts[6][:, 0], parts[7][:, 0])


def build_vae(config: Config, in_channels: int, spatial_size: tuple[int, ...], one_space: bool = False) -> VAENetwork:
    """Return the network of a method of this family."""
    method = config.method
    common_dim = 0 if one_space else method.common_dim
    return VAENetwork(common_dim, method.salient_dim, spatial_size, **encoder_shape(config, in_channels, spatial_size))
