"""A handful of numbers that say what a preprocessed image looks like, to find those unlike the training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sepclr_med.volumes.standardisation import Standardisation

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
QUANTILE_VOXELS = 10_000
# Of the largest value of the mean map, where no standardisation says which voxels vary.
EMPTY_SHARE = 0.05
WORDS = {
    "image_mean": "mean intensity",
    "image_sd": "spread of intensities",
    **{f"image_q{100 * q:02.0f}": f"{100 * q:.0f}th percentile of intensities" for q in QUANTILES},
    "image_likeness": "correlation with the mean training image",
    "image_asymmetry": "agreement of left and right with the mean training image",
    "image_departure": "distance from the mean training image, voxel by voxel",
}


@dataclass(frozen=True)
class MeanImage:
    """What images are compared with.

    Parameters
    ----------
    mean : Tensor of shape (C, X, Y, Z)
        Of training images.
    inside : Tensor of shape (C, X, Y, Z), bool
        Voxels that are looked at.
    inverse_std : Tensor of shape (C, X, Y, Z)
        One over the standard deviation of training controls; ones where it is not known.
    """

    mean: Tensor
    inside: Tensor
    inverse_std: Tensor


def find_mean_image(
    standardisation: Standardisation | None, training_mean: Tensor, shape: tuple[int, ...]
) -> MeanImage:
    """Return the mean image of a run.

    Parameters
    ----------
    standardisation : Standardisation or None
        Of the run; with one, mean and mask are those of training controls.
    training_mean : Tensor of shape (C * X * Y * Z,)
        Mean of training images, used without standardisation.
    shape : tuple of int
        (C, X, Y, Z).
    """
    if standardisation is not None:
        inverse_std = standardisation.inverse_std
        return MeanImage(standardisation.mean, inverse_std > 0, inverse_std)
    mean = training_mean.reshape(shape)
    return MeanImage(mean, mean.abs() > EMPTY_SHARE * mean.abs().max(), torch.ones_like(mean))


class ImageStatistics:
    """Statistics of raw preprocessed volumes, over the voxels inside.

    Parameters
    ----------
    compared : MeanImage
        On the device of the volumes.

    Examples
    --------
    >>> mean = torch.arange(24.0).reshape(1, 2, 3, 4)
    >>> describe = ImageStatistics(MeanImage(mean, mean >= 0, torch.ones_like(mean)))
    >>> found = tabulate_statistics(describe(torch.stack([mean, mean.flip(1)])))
    >>> found[["image_mean", "image_likeness", "image_asymmetry", "image_departure"]].round(2).values.tolist()
    [[11.5, 1.0, 1.0, 0.0], [11.5, -0.5, -1.0, 12.0]]
    """

    def __init__(self, compared: MeanImage) -> None:
        self.inside = compared.inside.flatten().nonzero()[:, 0]
        # Quantiles of evenly spaced voxels are those of all within their error, and sorting is what takes time.
        n_steps = max(1, -(-len(self.inside) // QUANTILE_VOXELS))
        self.spread = slice(None, None, n_steps)
        left, right = _halves(compared.inside, 1)
        self.pairs = (left | right).flatten().nonzero()[:, 0]
        self.mean = compared.mean.flatten()[self.inside]
        self.scale = compared.inverse_std.flatten()[self.inside]
        self.odd = _odd_part(compared.mean, 1).flatten()[self.pairs]

    def __call__(self, volumes: Tensor) -> Tensor:
        """Return the statistics of a batch, in the order of :data:`WORDS`.

        Parameters
        ----------
        volumes : Tensor of shape (B, C, X, Y, Z), float32

        Returns
        -------
        Tensor of shape (B, 9)
            Mean, standard deviation and quantiles; correlation with the mean image; correlation of what is left when
            the mirror image is subtracted (about -1 when left and right are exchanged); root mean square of the
            deviations from the mean image. Quantiles are of every k-th voxel, at most 10,000.
        """
        values = volumes.flatten(1).index_select(1, self.inside)
        odd = _odd_part(volumes, 2).flatten(1).index_select(1, self.pairs)
        points = torch.tensor(QUANTILES, device=values.device)
        # A row at a time: torch takes quantiles of up to 16 million values.
        quantiles = torch.stack([torch.quantile(row, points) for row in values[:, self.spread]])
        departure = ((values - self.mean) * self.scale).square_().mean(dim=1).sqrt()
        mean = values.mean(dim=1, keepdim=True)
        values -= mean
        spread, centred = values.norm(dim=1), self.mean - self.mean.mean()
        likeness = (values @ centred) / _positive(spread * centred.norm())
        asymmetry = (odd @ self.odd) / _positive(odd.norm(dim=1) * self.odd.norm())
        sd = spread / max(1, values.shape[1] - 1) ** 0.5
        return torch.column_stack([mean, sd, quantiles, likeness, asymmetry, departure])


def tabulate_statistics(found: Tensor | np.ndarray) -> pd.DataFrame:
    """Return what :class:`ImageStatistics` gives, as columns ``image_mean``, ``image_sd``, ... for each image."""
    return pd.DataFrame(np.asarray(found), columns=list(WORDS))


def _halves(volume: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the left half and the mirror image of the right one; the first spatial axis runs from left to right."""
    n, half = volume.shape[axis], volume.shape[axis] // 2
    return volume.narrow(axis, 0, half), volume.narrow(axis, n - half, half).flip(axis)


def _odd_part(volume: Tensor, axis: int) -> Tensor:
    """Return the left half of what is left when the mirror image is subtracted; the right half is its negative."""
    left, right = _halves(volume, axis)
    return left - right


def _positive(values: Tensor) -> Tensor:
    return values.clamp_min(torch.finfo(torch.float32).tiny)
