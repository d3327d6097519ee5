"""The deterministic steps that MONAI lacks: anti-aliasing, one-pass resampling, foreground, robust scaling.

Each is a MONAI dictionary transform, so the presets and lists from a recipe mix them with MONAI's own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, SpatialResample
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from sepclr_med.errors import Problem
from sepclr_med.volumes.loading import UnusableImageError

LARGEST_BRAIN_ML = 2500.0
FOREGROUND_STEP_MM = 3.0
CLIP_PERCENTILES = (1.0, 99.0)
PERCENTILE_SAMPLES = 1_000_000


class AntiAliasd(MapTransform):
    r"""Blur each axis just enough for a coarser grid.

    The blur turns the voxel's own point spread into the coarser voxel's, both taken as Gaussians with full width at
    half maximum equal to the voxel size [1]_: :math:`\sigma^2 = (t^2 - s^2) / (8 \ln 2)`, with source voxel s and
    target voxel t in mm. Axes already as coarse as the target are left alone.

    Parameters
    ----------
    keys : str or sequence of str
        Images, channel first, with an affine in mm.
    spacing : float
        Voxel size of the grid to come, in mm.

    References
    ----------
    .. [1] Cardoso et al., Scale factor point spread function matching: beyond aliasing in image resampling,
           MICCAI 2015.
    """

    def __init__(self, keys: str | Sequence[str], spacing: float):
        super().__init__(keys)
        self.spacing = spacing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each image blurred."""
        data = dict(data)
        for key in self.key_iterator(data):
            sigma = blur_sigma(affine_of(data[key]), self.spacing)
            if any(sigma):
                # scipy is several times faster than a 3-D convolution in torch on a CPU, and releases the GIL.
                blurred = ndimage.gaussian_filter(data[key].numpy(), (0.0, *sigma), mode="nearest", truncate=3.0)
                data[key] = MetaTensor(torch.from_numpy(blurred), meta=data[key].meta)
        return data


class ResampleToGridd(MapTransform):
    """Interpolate once, linearly, onto one fixed grid in world (mm) coordinates; outside the image is zero.

    Parameters
    ----------
    keys : str or sequence of str
        Images, channel first.
    affine : array (4, 4)
        Voxel to mm, of the grid.
    spatial_size : sequence of 3 int
        Voxels per axis of the grid.
    """

    def __init__(self, keys: str | Sequence[str], affine: np.ndarray, spatial_size: Sequence[int]):
        super().__init__(keys)
        self.affine = np.asarray(affine, dtype=float)
        self.spatial_size = tuple(spatial_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each image on the grid."""
        data = dict(data)
        for key in self.key_iterator(data):
            data[key] = resample(data[key], self.affine, self.spatial_size)
        return data


class Foregroundd(MapTransform):
    """Put a binary mask of the brain or head beside the image, on the image's grid.

    A mask that came with the data is used. Otherwise everything that differs from a constant background, if that is
    no larger than a brain (2.5 L); otherwise the largest object above Otsu's threshold, holes filled.

    Parameters
    ----------
    keys : str
        The image, channel first.
    mask_key : str, default="mask"
        Where the mask is, or will be.
    """

    def __init__(self, keys: str | Sequence[str], mask_key: str = "mask"):
        super().__init__(keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the mask, float32 zeros and ones (1, X, Y, Z)."""
        data = dict(data)
        image = data[self.first_key(data)]
        if image.min() == image.max():
            raise UnusableImageError(constant_image(float(image.min())))
        if self.mask_key in data:
            given = data[self.mask_key]
            same = given.shape == image.shape and np.allclose(affine_of(given), affine_of(image), atol=1e-4)
            mask = (given if same else resample(given, affine_of(image), image.shape[1:])).numpy()[0] > 0.5
        else:
            mask = find_foreground(image.numpy()[0], affine_of(image))
        if not mask.any():
            raise UnusableImageError(
                Problem(
                    "the mask holds no voxel of the image",
                    fix="check that mask_path belongs to this image and is above 0.5 inside",
                    code="empty_mask",
                )
            )
        data[self.mask_key] = MetaTensor(torch.from_numpy(mask[None].astype(np.float32)), meta=image.meta)
        return data


class ResampleToHeadd(MapTransform):
    """Interpolate once onto a box around the mask, along the image's own axes.

    The box is centred on the mask's bounding box; an axis on which the mask is longer than the box keeps the
    superior end (a neck is cut, never the top of the head) or, for the other two axes, the middle.

    Parameters
    ----------
    keys : sequence of str
        Images to resample, oriented RAS; all go onto one grid.
    spacing : float
        Voxel size in mm.
    spatial_size : sequence of 3 int
        Voxels per axis.
    mask_key : str, default="mask"
        The mask that places the box.
    """

    def __init__(self, keys: str | Sequence[str], spacing: float, spatial_size: Sequence[int], mask_key: str = "mask"):
        super().__init__(keys)
        self.spacing = spacing
        self.spatial_size = tuple(spatial_size)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the images on the box."""
        data = dict(data)
        mask = data[self.mask_key]
        target = head_affine(mask.numpy()[0] > 0.5, affine_of(mask), self.spacing, self.spatial_size)
        for key in self.key_iterator(data):
            data[key] = resample(data[key], target, self.spatial_size)
        return data


class ScaleForegroundd(MapTransform):
    """Scale the foreground from its 1st and 99th percentile to 0 and 1, clip, and set everything else to 0.

    Parameters
    ----------
    keys : str or sequence of str
        Images, channel first.
    mask_key : str, default="mask"
        The foreground, above 0.5, on the same grid.
    """

    def __init__(self, keys: str | Sequence[str], mask_key: str = "mask"):
        super().__init__(keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each image in 0..1."""
        data = dict(data)
        inside = data[self.mask_key][0] > 0.5
        for key in self.key_iterator(data):
            low, high = _percentiles(data[key][:, inside].numpy())
            if not high > low:
                raise UnusableImageError(constant_image(low))
            data[key] = ((data[key] - low) / (high - low)).clamp(0, 1) * inside
        return data


def constant_image(value: float) -> Problem:
    """Return the problem of an image without content."""
    return Problem(
        "the image has the same value everywhere",
        got=f"{value:.6g}",
        fix="look at the file: it is empty, or lies outside the box (vbm needs images in MNI space)",
        code="constant",
    )


def affine_of(image: torch.Tensor) -> np.ndarray:
    """Return the 4x4 affine of an image, voxel to mm."""
    return np.asarray(image.affine, dtype=float)


def blur_sigma(affine: np.ndarray, spacing: float) -> tuple[float, ...]:
    """Return sigma in voxels per axis that takes the voxels of ``affine`` to ``spacing`` mm; 0 where none is needed.

    Examples
    --------
    >>> [round(float(s), 3) for s in blur_sigma(np.diag([2.0, 2.0, 4.0, 1.0]), 4.0)]
    [0.736, 0.736, 0.0]
    """
    source = voxel_sizes(affine)
    return tuple(np.sqrt(np.maximum(spacing**2 - source**2, 0) / (8 * np.log(2))) / source)


def resample(image: torch.Tensor, affine: np.ndarray, spatial_size: Sequence[int]) -> torch.Tensor:
    """Interpolate linearly onto a grid in world coordinates; outside the image is zero."""
    resampler = SpatialResample(mode="bilinear", padding_mode="zeros", dtype=torch.float32)
    return resampler(image, dst_affine=torch.as_tensor(affine), spatial_size=tuple(spatial_size))


def find_foreground(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the brain of a skull-stripped image, or the head of a whole one, as booleans (X, Y, Z)."""
    background = _border_value(image)
    if background is not None:
        different = image != background
        if different.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000 <= LARGEST_BRAIN_ML:
            return different
    return _largest_object(image, affine)


def head_affine(mask: np.ndarray, affine: np.ndarray, spacing: float, spatial_size: Sequence[int]) -> np.ndarray:
    """Return the affine of a box of ``spatial_size`` voxels around ``mask``, along the axes of ``affine``."""
    sizes = voxel_sizes(affine)
    others = ((1, 2), (0, 2), (0, 1))
    ends = np.array([np.flatnonzero(mask.any(axis=axes))[[0, -1]] for axes in others], dtype=float)
    low, high = ends[:, 0] - 0.5, ends[:, 1] + 0.5
    extent = np.asarray(spatial_size) * spacing / sizes
    first_edge = (low + high - extent) / 2
    first_edge[2] = max(first_edge[2], high[2] - extent[2])
    target = np.eye(4)
    target[:3, :3] = affine[:3, :3] / sizes * spacing
    target[:3, 3] = apply_affine(affine, first_edge + 0.5 * spacing / sizes)
    return target


def _border_value(image: np.ndarray) -> float | None:
    faces = [np.take(image, end, axis=axis).ravel() for axis in range(image.ndim) for end in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    return values[counts.argmax()] if counts.max() >= counts.sum() / 2 else None


def _largest_object(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Find the head on a coarse copy, where noise is averaged away, and bring it back to the image's grid."""
    sigma = blur_sigma(affine, FOREGROUND_STEP_MM)
    coarse = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=2.0)
    steps = [max(1, round(FOREGROUND_STEP_MM / size)) for size in voxel_sizes(affine)]
    coarse = coarse[tuple(slice(None, None, step) for step in steps)]
    labels, n_objects = ndimage.label(coarse > otsu_threshold(coarse))
    if n_objects == 0:
        return np.zeros(image.shape, dtype=bool)
    largest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    filled = ndimage.binary_fill_holes(largest)
    for axis, (step, length) in enumerate(zip(steps, image.shape, strict=True)):
        filled = np.repeat(filled, step, axis=axis).take(range(length), axis=axis)
    return filled


def otsu_threshold(values: np.ndarray, n_bins: int = 256) -> float:
    """Return the threshold that separates two classes of values best (Otsu 1979: largest between-class variance).

    Values above the 99th percentile are counted at it, so that a few very bright voxels do not stretch the bins.

    Examples
    --------
    >>> bool(1 < otsu_threshold(np.array([0.0, 1, 0, 1, 9, 10, 9, 10])) < 9)
    True
    """
    clipped = np.minimum(values, np.percentile(values, 99))
    counts, edges = np.histogram(clipped, bins=n_bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    gap = sums[-1] - sums[:-1]
    between = below * above * (sums[:-1] / np.maximum(below, 1) - gap / np.maximum(above, 1)) ** 2
    return float(edges[1 + between.argmax()])


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    step = max(1, values.size // PERCENTILE_SAMPLES)
    low, high = np.percentile(values.ravel()[::step], CLIP_PERCENTILES)
    return float(low), float(high)
