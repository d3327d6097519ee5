"""A handful of numbers that say what a preprocessed image looks like, to find those unlike the training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.utils import gen_batches
from torch import Tensor

from sepclr_med.volumes.standardisation import Standardisation

CHUNK = 32
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
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


def describe_images(load: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, compared: MeanImage) -> pd.DataFrame:
    """Return statistics of each image, over the voxels inside.

    Parameters
    ----------
    load : callable
        Maps row numbers to raw preprocessed volumes.
    rows : int array of shape (n,)
    compared : MeanImage

    Returns
    -------
    DataFrame
        A row for each image, columns ``image_mean``, ``image_sd``, ``image_q05`` to ``image_q95``, ``image_likeness``
        (correlation with the mean image), ``image_asymmetry`` (correlation of what is left when the mirror image is
        subtracted: about -1 when left and right are exchanged) and ``image_departure`` (root mean square of the
        deviations from the mean image).

    Examples
    --------
    >>> mean = torch.arange(24.0).reshape(1, 2, 3, 4)
    >>> volumes = np.stack([mean.numpy(), mean.flip(1).numpy()])
    >>> compared = MeanImage(mean, mean >= 0, torch.ones_like(mean))
    >>> found = describe_images(lambda rows: volumes[rows], np.arange(2), compared)
    >>> found[["image_mean", "image_likeness", "image_asymmetry", "image_departure"]].round(2).values.tolist()
    [[11.5, 1.0, 1.0, 0.0], [11.5, -0.5, -1.0, 12.0]]
    """
    inside = compared.inside.flatten()
    # The first spatial axis runs from left to right.
    either = (compared.inside | compared.inside.flip(1)).flatten()
    mean, odd = compared.mean.flatten()[inside], _odd_part(compared.mean).flatten()[either]
    scale = compared.inverse_std.flatten()[inside]
    found = []
    for chunk in gen_batches(rows.size, CHUNK):
        volumes = torch.from_numpy(load(rows[chunk])).float()
        values, odd_values = volumes.flatten(1)[:, inside], _odd_part(volumes, 2).flatten(1)[:, either]
        columns = [values.mean(dim=1), values.std(dim=1)]
        columns += list(np.quantile(values.numpy(), QUANTILES, axis=1))
        columns += [_correlate(values, mean), _correlate(odd_values, odd)]
        columns.append(((values - mean) * scale).square().mean(dim=1).sqrt())
        found.append(np.column_stack([np.asarray(column) for column in columns]))
    return pd.DataFrame(np.concatenate(found) if found else np.empty((0, len(WORDS))), columns=list(WORDS))


def _odd_part(volume: Tensor, axis: int = 1) -> Tensor:
    return volume - volume.flip(axis)


def _correlate(rows: Tensor, one: Tensor) -> Tensor:
    rows, one = rows - rows.mean(dim=1, keepdim=True), one - one.mean()
    return (rows @ one) / (rows.norm(dim=1) * one.norm()).clamp_min(torch.finfo(torch.float32).tiny)
