"""Random views of a whole batch at once, on the batch's device.

Every part draws one set of parameters per volume from the given generator and acts on all volumes in a few kernels. A
part whose probability is zero costs nothing. Rotation, scaling, shift, flip, resized crop and elastic deformation are
one interpolation.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812

from sepclr_med.config import ViewsConfig


def draw_views(volumes: Tensor, views: ViewsConfig, generator: Generator) -> Tensor:
    """Return one random view of every volume.

    Parameters
    ----------
    volumes : Tensor of shape (B, C, X, Y) or (B, C, X, Y, Z)
        Preprocessed images, float32. All channels of a volume share the geometry.
    views : ViewsConfig
        Probabilities and ranges.
    generator : torch.Generator
        On the device of ``volumes``; the views depend on its state only.

    Returns
    -------
    Tensor
        Same shape. For two views pass the batch twice: ``draw_views(torch.cat([x, x]), ...)``.

    Examples
    --------
    >>> volumes = torch.rand(2, 1, 8, 10, 8)
    >>> still = ViewsConfig(affine=0, elastic=0, noise=0, cutout=0)
    >>> torch.equal(draw_views(volumes, still, torch.Generator()), volumes)
    True
    """
    draw = _Draw(volumes, generator)
    if views.affine or views.flip or views.crop or views.elastic:
        volumes = _resample(volumes, _draw_affine(draw, views), _draw_displacement(draw, views))
    if views.blur:
        volumes = _blur(volumes, draw.uniform(views.blur_sigma / 4, views.blur_sigma, 1) * draw.chosen(views.blur))
    if views.bias_field:
        volumes = volumes * _draw_bias_field(draw, views)
    if views.gamma:
        volumes = _gamma(volumes, (draw.symmetric(views.gamma_range, 1) * draw.chosen(views.gamma)).exp())
    if views.intensity or views.noise:
        volumes = _change_intensity(volumes, draw, views)
    if views.cutout:
        volumes = volumes * _draw_cutout(draw, views)
    return volumes


class _Draw:
    """Per-volume random numbers of one batch."""

    def __init__(self, volumes: Tensor, generator: Generator):
        self.n, self.shape = volumes.shape[0], tuple(volumes.shape[2:])
        self.spatial_dims, self.device, self.generator = len(self.shape), volumes.device, generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(self.n, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def symmetric(self, largest: float, *shape: int) -> Tensor:
        return self.uniform(-largest, largest, *shape)

    def chosen(self, probability: float) -> Tensor:
        return (self.uniform(0, 1, 1) < probability).float()

    def over_voxels(self, values: Tensor) -> Tensor:
        return values.reshape(self.n, *[1] * (self.spatial_dims + 1))


def _draw_affine(draw: _Draw, views: ViewsConfig) -> Tensor:
    """Return (B, d, d + 1) maps from output to input coordinates, both in [-1, 1], axes in array order."""
    d = draw.spatial_dims
    moved, cropped = draw.chosen(views.affine), draw.chosen(views.crop)
    angles = draw.symmetric(torch.pi * views.rotation / 180, d * (d - 1) // 2) * moved
    # The exponential of an antisymmetric matrix is a rotation in any number of dimensions.
    skew = torch.zeros(draw.n, d, d, device=draw.device)
    first, second = torch.triu_indices(d, d, offset=1)
    skew[:, first, second], skew[:, second, first] = angles, -angles
    edge = 1 - draw.uniform(0, 1 - views.crop_scale, 1) * cropped
    scaling = (1 + draw.symmetric(views.scaling, d) * moved) * edge
    mirror = torch.ones(draw.n, d, device=draw.device)
    mirror[:, :1] = 1 - 2 * draw.chosen(views.flip)
    shift = draw.symmetric(2 * views.translation, d) * moved + draw.symmetric(1, d) * (1 - edge)
    # Rotate in voxels, not in [-1, 1]: a rotation must not shear a grid with unequal edges.
    size = torch.tensor(draw.shape, device=draw.device, dtype=torch.float32)
    matrix = torch.matrix_exp(skew) * size / size[:, None] * (scaling * mirror)[:, None, :]
    return torch.cat([matrix, shift[:, :, None]], dim=2)


def _draw_displacement(draw: _Draw, views: ViewsConfig) -> Tensor | None:
    """Return a smooth displacement of every voxel in [-1, 1] coordinates, shape (B, d, X, Y, Z)."""
    if not views.elastic:
        return None
    size = torch.tensor(draw.shape, device=draw.device, dtype=torch.float32)
    controls = [max(4, round(length / views.elastic_length) + 1) for length in draw.shape]
    coarse = torch.randn(draw.n, draw.spatial_dims, *controls, generator=draw.generator, device=draw.device)
    strength = draw.over_voxels(draw.uniform(0, views.elastic_std, 1) * draw.chosen(views.elastic))
    coarse = coarse * strength * (2 / size).reshape(1, -1, *[1] * draw.spatial_dims)
    mode = "trilinear" if draw.spatial_dims == 3 else "bilinear"
    return F.interpolate(coarse, size=draw.shape, mode=mode, align_corners=True)


def _resample(volumes: Tensor, affine: Tensor, displacement: Tensor | None) -> Tensor:
    d = affine.shape[1]
    # grid_sample orders coordinates from the last array axis to the first.
    affine = torch.cat([affine[:, :, :d].flip(1, 2), affine[:, :, d:].flip(1)], dim=2)
    grid = F.affine_grid(affine, list(volumes.shape), align_corners=False)
    if displacement is not None:
        grid = grid + displacement.flip(1).movedim(1, -1)
    return F.grid_sample(volumes, grid, align_corners=False)


def _blur(volumes: Tensor, sigma: Tensor) -> Tensor:
    n, channels, *shape = volumes.shape
    reach = max(1, int(3 * float(sigma.max()) + 0.5))
    offsets = torch.arange(-reach, reach + 1, device=volumes.device)
    # A vanishing sigma gives the identity kernel, so volumes that were not chosen pass unchanged.
    kernels = torch.softmax(-offsets.square() / (2 * sigma.square() + 1e-6), dim=1).repeat_interleave(channels, dim=0)
    flat = volumes.reshape(1, n * channels, *shape)
    convolve = F.conv3d if len(shape) == 3 else F.conv2d
    for axis in range(len(shape)):
        edge = [-1 if a == axis else 1 for a in range(len(shape))]
        padding = [reach if a == axis else 0 for a in range(len(shape))]
        flat = convolve(flat, kernels.reshape(n * channels, 1, *edge), padding=padding, groups=n * channels)
    return flat.reshape(volumes.shape)


def _draw_bias_field(draw: _Draw, views: ViewsConfig) -> Tensor:
    coarse = draw.symmetric(views.bias_strength, 1, *[3] * draw.spatial_dims)
    mode = "trilinear" if draw.spatial_dims == 3 else "bilinear"
    field = F.interpolate(coarse, size=draw.shape, mode=mode, align_corners=True)
    return (field * draw.over_voxels(draw.chosen(views.bias_field))).exp()


def _gamma(volumes: Tensor, gamma: Tensor) -> Tensor:
    voxels = volumes.flatten(1)
    low, high = voxels.min(dim=1, keepdim=True).values, voxels.max(dim=1, keepdim=True).values
    width = (high - low).clamp(min=1e-6)
    return (((voxels - low) / width).clamp(min=1e-6) ** gamma * width + low).reshape(volumes.shape)


def _change_intensity(volumes: Tensor, draw: _Draw, views: ViewsConfig) -> Tensor:
    std = draw.over_voxels(volumes.flatten(1).std(dim=1))
    chosen = draw.over_voxels(draw.chosen(views.intensity))
    gain = 1 + draw.over_voxels(draw.symmetric(views.intensity_scale, 1)) * chosen
    shift = draw.over_voxels(draw.symmetric(views.intensity_shift, 1)) * chosen
    volumes = volumes * gain + shift * std
    if views.noise:
        level = draw.over_voxels(draw.uniform(0, views.noise_std, 1) * draw.chosen(views.noise))
        noise = torch.randn(volumes.shape, generator=draw.generator, device=draw.device)
        volumes = torch.addcmul(volumes, noise, level * std)
    return volumes


def _draw_cutout(draw: _Draw, views: ViewsConfig) -> Tensor:
    size = torch.tensor(draw.shape, device=draw.device)
    half = views.cutout_size * size / 2 * draw.chosen(views.cutout)
    centre = draw.uniform(0, 1, draw.spatial_dims) * size
    inside = torch.ones(draw.n, 1, *draw.shape, dtype=torch.bool, device=draw.device)
    for axis, length in enumerate(draw.shape):
        position = torch.arange(length, device=draw.device) + 0.5
        within = (position - centre[:, axis, None]).abs() < half[:, axis, None]
        inside = inside & within.reshape(draw.n, 1, *[length if a == axis else 1 for a in range(len(draw.shape))])
    return (~inside).float()
