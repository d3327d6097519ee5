"""How one simulated grey-matter map is made from the MNI152 template: shared anatomy, disease, scanner, noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from sepclr_med.cohort.simulation.files import encode
from sepclr_med.cohort.simulation.people import IMAGE_STREAM, REFERENCE_TIV, SITE_STREAM, stream
from sepclr_med.cohort.simulation.planting import component_map, plant_atrophy, salient_maps, world_coordinates

REFERENCE_AGE = 50.0
# Middle of the box around the MNI152 brain mask, in mm. An even number of voxels about it is also how preprocessing
# lays its grid, so a simulated map of the same spacing passes through without interpolation.
BRAIN_CENTRE = np.array([0.0, -17.0, 5.0])
DEFORMATION_LENGTH = 24.0
NOISE_LENGTH = 12.0
BIAS_LENGTH = 60.0
VENTRICLE_REACH = 5.0
FWHM_PER_SIGMA = 2.3548
# Registration removes most differences of head size from a map in template space; this share of them stays.
REMAINING_SCALE = 0.2


@dataclass(frozen=True)
class Effects:
    """Size of every component; units and defaults are documented in :func:`sepclr_med.cohort.simulate.simulate`."""

    atrophy: float
    common_atrophy: float
    age_effect: float
    ventricle_effect: float
    ventricle_sd: float
    pattern_effect: float
    deformation: float
    site_gain: float
    site_bias: float
    noise: float
    white_noise: float


class SmoothField:
    """Random fields that are smooth over ``length`` mm, with mean 0 and standard deviation 1 at every voxel.

    White noise on a grid of control points is spread by Gaussians, one axis after another; each axis' weights are
    scaled to unit length, which makes the variance of the sum exactly 1.

    Examples
    --------
    >>> field = SmoothField((4, 5, 6), np.diag([6.0, 6, 6, 1]), length=12).draw(np.random.default_rng(0))
    >>> field.shape
    (4, 5, 6)
    """

    def __init__(self, shape: tuple[int, ...], affine: np.ndarray, length: float):
        self.weights = [self._axis(n, affine[axis, axis], affine[axis, 3], length) for axis, n in enumerate(shape)]

    @staticmethod
    def _axis(n_voxels: int, step: float, origin: float, length: float) -> np.ndarray:
        positions = origin + step * np.arange(n_voxels)
        first, last = np.floor(positions.min() / length) - 2, np.ceil(positions.max() / length) + 2
        controls = length * np.arange(first, last + 1)
        weights = np.exp(-0.5 * ((positions[:, None] - controls) / (0.8 * length)) ** 2)
        return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return one field, float32, shape (X, Y, Z)."""
        field = rng.standard_normal([w.shape[1] for w in self.weights], dtype=np.float32)
        for weights in self.weights:
            # Contracting the first axis and appending the result last restores the order after three turns.
            field = np.tensordot(field, weights, axes=(0, 1))
        return field


class SimulatedBrains:
    """Renders a table of participants on one grid; the same row of the same cohort always gives the same image.

    Parameters
    ----------
    people : DataFrame
        Rows of :func:`sepclr_med.cohort.simulation.people.draw_people`.
    n_sites : int
        Number of sites.
    spacing : float
        Voxel size in mm.
    effects : Effects
        Size of every component.
    seed : int
        Seed of the cohort.
    """

    def __init__(self, people: pd.DataFrame, n_sites: int, spacing: float, effects: Effects, seed: int):
        self.people = people.to_dict("records")
        self.effects = effects
        self.seed = seed
        template, self.affine = template_on_grid(spacing)
        self.shape = template.shape
        self.spline = ndimage.spline_filter(template, order=3, output=np.float32)
        self.envelope = np.sqrt(template)
        self.towards_ventricles = _unit_gradient(ventricles_on_grid(spacing), spacing)
        from_origin = world_coordinates(self.shape, self.affine)
        self.from_centre = from_origin - BRAIN_CENTRE.astype(np.float32)[:, None, None, None]
        self.deform = SmoothField(self.shape, self.affine, DEFORMATION_LENGTH)
        self.speckle = SmoothField(self.shape, self.affine, NOISE_LENGTH)
        self.site_response = self._draw_sites(n_sites)

    def paint(self, row: int) -> nib.Nifti1Image:
        """Return the image of one row, stored as uint8 with a slope."""
        return encode(self.render(row), self.affine)

    def render(self, row: int) -> np.ndarray:
        """Return the modulated grey-matter map of one row, float32, shape (X, Y, Z)."""
        participant = self.people[row]
        rng = stream(self.seed, IMAGE_STREAM, row)
        volume = self._shape_of(participant, rng) * self._shared_volume(participant)
        if participant["diagnosis"] == "patient":
            subtype, severity = participant["subtype"], participant["severity"]
            lost = self.effects.atrophy, self.effects.common_atrophy
            volume = plant_atrophy(volume, self.affine, subtype, severity, *lost)
        volume = volume * self.site_response[participant["site"]]
        noise = self.effects.noise * self.speckle.draw(rng)
        noise += self.effects.white_noise * rng.standard_normal(self.shape, dtype=np.float32)
        return np.clip(volume + self.envelope * noise, 0, None).astype(np.float32)

    def truth_images(self) -> dict[str, nib.Nifti1Image]:
        """Return the fractions lost: at severity 1, per decade of age, per unit of ``shared_pattern``."""
        effects = self.effects
        maps = salient_maps(self.shape, self.affine, effects.atrophy, effects.common_atrophy)
        maps["age"] = effects.age_effect * component_map("age", self.shape, self.affine)
        maps["sharedPattern"] = -effects.pattern_effect * self._pattern()
        return {name: encode(lost, self.affine, np.float32) for name, lost in maps.items()}

    def _shape_of(self, participant: Mapping[Any, Any], rng: np.random.Generator) -> np.ndarray:
        """Draw the individual's shape: the template sampled at displaced positions (displacements in mm)."""
        effects = self.effects
        decades = (participant["age"] - REFERENCE_AGE) / 10
        ventricles = effects.ventricle_effect * decades + effects.ventricle_sd * rng.standard_normal()
        zoom = (participant["tiv"] / REFERENCE_TIV) ** (REMAINING_SCALE / 3)
        displacement = effects.deformation * np.stack([self.deform.draw(rng) for _ in range(3)])
        displacement += np.float32(ventricles) * self.towards_ventricles
        displacement += np.float32(1 / zoom - 1) * self.from_centre
        displacement /= self.affine.diagonal()[:3].astype(np.float32)[:, None, None, None]
        positions = np.indices(self.shape, dtype=np.float32) + displacement
        return np.clip(ndimage.map_coordinates(self.spline, positions, order=3, prefilter=False), 0, None)

    def _shared_volume(self, participant: Mapping[Any, Any]) -> np.ndarray:
        """Return the fraction of the template's grey matter that head size, age and the shared pattern leave."""
        decades = (participant["age"] - REFERENCE_AGE) / 10
        age = component_map("age", self.shape, self.affine)
        left = (1 - self.effects.age_effect * age) ** np.float32(decades)
        left *= np.clip(1 + self.effects.pattern_effect * participant["shared_pattern"] * self._pattern(), 0, None)
        return left * (participant["tiv"] / REFERENCE_TIV)

    def _pattern(self) -> np.ndarray:
        more, less = (component_map(f"pattern_{way}", self.shape, self.affine) for way in ("more", "less"))
        return more - less

    def _draw_sites(self, n_sites: int) -> dict[str, np.ndarray]:
        """Draw each site's gain (one number) and bias (a smooth field), multiplied into its images."""
        bias = SmoothField(self.shape, self.affine, BIAS_LENGTH)
        responses = {}
        for number in range(n_sites):
            rng = stream(self.seed, SITE_STREAM, number)
            gain = self.effects.site_gain * rng.standard_normal()
            responses[f"site{number + 1}"] = np.exp(gain + self.effects.site_bias * bias.draw(rng)).astype(np.float32)
        return responses


@lru_cache(maxsize=2)
def template_on_grid(spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nilearn's MNI152 grey-matter template at ``spacing`` mm in its brain box, and the affine (RAS).

    The 1 mm template is smoothed with a Gaussian whose full width at half maximum is the spacing before it is sampled,
    so that nothing finer than the new voxels folds back into them. The box has a margin of a voxel or more and is
    symmetric about the midline.
    """
    from nilearn.datasets import load_mni152_gm_template

    image = load_mni152_gm_template(resolution=1)
    fine = np.asarray(image.dataobj, dtype=np.float32)
    corners = np.array([[where.min(), where.max()] for where in np.nonzero(fine > 0.1)]).T
    reach = np.abs(corners @ image.affine[:3, :3] + image.affine[:3, 3] - BRAIN_CENTRE).max(axis=0)
    half = np.ceil(reach / spacing) + 1
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = BRAIN_CENTRE - (half - 0.5) * spacing
    shape = tuple(int(n) for n in 2 * half)
    return _sampled(fine, image.affine, spacing / FWHM_PER_SIGMA, shape, affine), affine


@lru_cache(maxsize=2)
def ventricles_on_grid(spacing: float) -> np.ndarray:
    """Return a smooth map of the ventricles on the grid of :func:`template_on_grid`.

    It is what the template's brain mask leaves after grey and white matter, near the ventricles' coordinates, spread
    over ``VENTRICLE_REACH`` mm so that its slope points to the ventricles from the tissue around them.
    """
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template

    template, affine = template_on_grid(spacing)
    images = [load(resolution=2) for load in (load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template)]
    mask, grey, white = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    fluid = np.clip(mask - grey - white, 0, None)
    fluid *= component_map("ventricles", fluid.shape, images[0].affine)
    return _sampled(fluid, images[0].affine, max(VENTRICLE_REACH, spacing / FWHM_PER_SIGMA), template.shape, affine)


def _sampled(
    fine: np.ndarray, fine_affine: np.ndarray, sigma: float, shape: tuple[int, ...], affine: np.ndarray
) -> np.ndarray:
    """Smooth an isotropic volume with a Gaussian of ``sigma`` mm and sample it on another grid along the same axes."""
    smooth = ndimage.gaussian_filter(fine, sigma=sigma / fine_affine[0, 0])
    to_fine = np.linalg.inv(fine_affine) @ affine
    sampled = ndimage.affine_transform(smooth, to_fine[:3, :3].diagonal(), to_fine[:3, 3], shape, order=1)
    return np.clip(sampled, 0, 1)


def _unit_gradient(field: np.ndarray, spacing: float) -> np.ndarray:
    gradient = np.stack(np.gradient(field, spacing)).astype(np.float32)
    return gradient / np.linalg.norm(gradient, axis=0).max()
