"""What linear methods share: a network without training, and second moments of the two groups without long matrices.

Axes are weighted sums of training images, ``axes = A X``, so that everything is solved in the space of participants:
any eigenvector with a non-zero eigenvalue of a combination of covariances lies there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor, nn

from sepclr_med.config import Config
from sepclr_med.method_settings import MethodConfig
from sepclr_med.networks import split_inputs
from sepclr_med.volumes.normative_fit import gram_matrix
from sepclr_med.volumes.reader import VolumeReader

CHUNK = 32
# Of the largest eigenvalue; products are rounded to float32.
SMALLEST_SHARE = 1e-6


class LinearSpaces(NamedTuple):
    """What a linear network gives for a batch."""

    spaces: dict[str, Tensor]


class LinearNetwork(nn.Module):
    """Scores ``(x - mean) @ axes.T`` on the salient rendering of an image, one set of axes per space.

    Parameters
    ----------
    dims : dict of str to int
        Factors of each space.
    in_channels : int
    spatial_size : tuple of int

    Examples
    --------
    >>> LinearNetwork({"salient": 3}, 1, (4, 4, 4))(torch.zeros(2, 1, 4, 4, 4)).spaces["salient"].shape
    torch.Size([2, 3])
    """

    def __init__(self, dims: dict[str, int], in_channels: int, spatial_size: tuple[int, ...]) -> None:
        super().__init__()
        self.names, self.in_channels = list(dims), in_channels
        n_voxels = in_channels * int(np.prod(spatial_size))
        self.register_buffer("mean", torch.zeros(n_voxels))
        for name, dim in dims.items():
            self.register_buffer(f"{name}_axes", torch.zeros(dim, n_voxels))

    def forward(self, volumes: Tensor) -> LinearSpaces:
        """Return the scores of every space."""
        centred = split_inputs(volumes, self.in_channels)[1].flatten(1) - self.mean
        return LinearSpaces({name: centred @ getattr(self, f"{name}_axes").T for name in self.names})


class Moments(NamedTuple):
    """Training images of both groups, seen through an orthonormal basis of their span.

    ``basis`` (r, n) holds weights of the images; ``background`` and ``target`` (n_group, r) are coordinates of centred
    images; ``mean`` (n,) are the weights of what is subtracted at embedding.
    """

    basis: np.ndarray
    background: np.ndarray
    target: np.ndarray
    mean: np.ndarray


def measure_moments(read: VolumeReader, rows: np.ndarray, is_target: np.ndarray) -> Moments:
    """Return coordinates of the training images, each group centred on its own mean.

    Parameters
    ----------
    read : VolumeReader
    rows : int array of shape (n,)
        Training rows.
    is_target : bool array of shape (n,)
    """
    channels = read.cached.array.shape[1]
    products = gram_matrix(lambda some: split_inputs(read(some), channels)[1].cpu().numpy(), rows)
    n = rows.size
    centring = np.eye(n)
    for group in (is_target, ~is_target):
        centring[np.ix_(group, group)] -= 1 / group.sum()
    values, vectors = np.linalg.eigh(centring @ products @ centring.T)
    kept = values > SMALLEST_SHARE * values.max()
    coordinates = vectors[:, kept] * np.sqrt(values[kept])
    basis = (vectors[:, kept] / np.sqrt(values[kept])).T @ centring
    return Moments(basis, coordinates[~is_target], coordinates[is_target], np.full(n, 1 / n))


def put_axes(
    network: LinearNetwork, read: VolumeReader, rows: np.ndarray, mean: np.ndarray, weights: dict[str, np.ndarray]
) -> None:
    """Turn weights of training images into the network's axes, in one pass over the images.

    Parameters
    ----------
    network : LinearNetwork
    read : VolumeReader
    rows : int array of shape (n,)
    mean : array of shape (n,)
        Weights of the mean image.
    weights : dict of str to array of shape (k, n)
        Of each space; fewer than its factors leaves the last ones at zero.
    """
    with torch.no_grad():
        for name, value in (("mean", mean[None]), *((f"{space}_axes", found) for space, found in weights.items())):
            buffer = getattr(network, name)
            total = torch.zeros(len(value), network.mean.numel())
            for chunk in gen_batches(rows.size, CHUNK):
                images = split_inputs(read(rows[chunk]), network.in_channels)[1].flatten(1).cpu()
                total += torch.from_numpy(value[:, chunk]).float() @ images
            buffer.view(-1, network.mean.numel())[: len(total)] = total


def fit_contrastive(
    network: LinearNetwork,
    read: VolumeReader,
    rows: np.ndarray,
    is_target: np.ndarray,
    method: MethodConfig,
    sweep: np.ndarray,
    find_axes: Callable[[Moments, float, int], np.ndarray],
    largest: float = np.inf,
) -> dict[str, Any]:
    """Put background axes and contrastive axes of the training rows into the network.

    Parameters
    ----------
    network : LinearNetwork
    read : VolumeReader
    rows : int array of shape (n,)
        Training rows.
    is_target : bool array of shape (n,)
    method : MethodConfig
    sweep : array of float
        Contrasts to choose from where ``method.contrast`` is ``auto``.
    find_axes : callable
        Maps moments, a contrast and a number of factors to salient axes in the coordinates of the moments.
    largest : float, default=inf
        Larger contrasts are cut to this.
    """
    moments = measure_moments(read, rows, is_target)
    k = method.salient_dim
    contrast = choose_contrast(moments, k, sweep) if method.contrast == "auto" else min(float(method.contrast), largest)
    common = leading_axes(covariance(moments.background), method.common_dim)
    axes = {"common": common @ moments.basis, "salient": find_axes(moments, contrast, k) @ moments.basis}
    put_axes(network, read, rows, moments.mean, axes)
    return {"contrast": contrast}


def contrastive_axes(moments: Moments, contrast: float, k: int) -> np.ndarray:
    """Return the k leading axes of the target's covariance less so much of the background's."""
    return leading_axes(covariance(moments.target) - contrast * covariance(moments.background), k)


def choose_contrast(moments: Moments, k: int, sweep: np.ndarray) -> float:
    """Return the contrast whose axes hold most target variance that is not background variance."""
    target, background = covariance(moments.target), covariance(moments.background)
    excess = target / np.trace(target) - background / np.trace(background)

    def gained(contrast: float) -> float:
        axes = leading_axes(target - contrast * background, k)
        return float(np.trace(axes @ excess @ axes.T))

    return float(max(sweep, key=gained))


def leading_axes(matrix: np.ndarray, k: int) -> np.ndarray:
    """Return the k eigenvectors of a symmetric matrix with the largest eigenvalues, as rows.

    Examples
    --------
    >>> abs(leading_axes(np.diag([1.0, 3.0, 2.0]), 2))
    array([[0., 1., 0.],
           [0., 0., 1.]])
    """
    values, vectors = np.linalg.eigh(matrix)
    return vectors[:, np.argsort(values)[::-1][:k]].T


def covariance(coordinates: np.ndarray) -> np.ndarray:
    """Return the covariance of centred rows."""
    return coordinates.T @ coordinates / max(1, len(coordinates) - 1)


def build_linear(config: Config, in_channels: int, spatial_size: tuple[int, ...], *spaces: str) -> LinearNetwork:
    """Return the unfitted network of a linear method."""
    sizes = {"common": config.method.common_dim, "salient": config.method.salient_dim}
    return LinearNetwork({name: sizes[name] for name in spaces}, in_channels, spatial_size)
