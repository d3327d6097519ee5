"""Where in the brain each simulated component sits, and how salient atrophy is planted into a grey-matter map.

Every component is a set of smooth spots given in MNI millimetres, so the same planting works on any grid: a simulated
cohort of 6 mm voxels and real maps of 1.5 mm alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

SUBTYPES = ("A", "B")

# (x, y, z, width): centre in MNI mm and Gaussian standard deviation in mm; x > 0 stands for both hemispheres.
Spot = tuple[float, float, float, float]

COMPONENTS: Mapping[str, Sequence[Spot]] = {
    "age": (
        (40, 34, 26, 16),  # dorsolateral prefrontal
        (10, 52, 14, 15),  # medial prefrontal
        (30, 44, -10, 13),  # orbitofrontal
        (56, -16, -4, 15),  # superior and middle temporal
        (38, 4, 2, 11),  # insula
        (13, 10, 12, 9),  # caudate, beside the ventricles
        (12, -18, 10, 9),  # thalamus
        (26, -22, -14, 9),  # hippocampus
        (42, -46, 46, 14),  # inferior parietal
    ),
    "ventricles": (
        (11, 20, 6, 9),  # frontal horn
        (14, -8, 20, 9),  # body
        (22, -38, 14, 9),  # atrium
        (32, -22, -12, 6),  # temporal horn
        (0, -14, 4, 7),  # third ventricle
    ),
    "pattern_more": (
        (14, -88, 4, 14),  # occipital
        (26, -62, 54, 13),  # superior parietal
        (54, -8, 8, 12),  # superior temporal, perisylvian
        (34, 50, 6, 11),  # frontal pole
    ),
    "pattern_less": (
        (28, -64, -36, 14),  # cerebellum
        (42, -12, 50, 12),  # sensorimotor
        (8, -52, 30, 11),  # precuneus
        (44, -60, -14, 11),  # fusiform
    ),
    "common": (
        (38, 8, -2, 12),  # insula
        (12, -20, 8, 10),  # thalamus
        (6, 6, 38, 12),  # middle cingulate
        (48, -54, 30, 14),  # angular gyrus
    ),
    "A": (
        (26, -20, -16, 9),  # hippocampus
        (24, -4, -20, 9),  # amygdala
        (36, 12, -30, 11),  # temporal pole
        (54, -28, -18, 13),  # middle and inferior temporal
        (30, -38, -14, 9),  # parahippocampal
    ),
    "B": (
        (8, 42, 14, 12),  # anterior cingulate, medial frontal
        (40, 32, 28, 13),  # dorsolateral prefrontal
        (24, 38, -14, 11),  # orbitofrontal
        (13, 12, 8, 8),  # caudate
        (26, 8, -2, 8),  # putamen
    ),
}


def component_map(name: str, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Return a component's weight per voxel: 1 in the core of its spots, falling smoothly to 0.

    The spots are united as ``1 - prod(1 - g_k)`` with ``g_k`` the Gaussian of spot k, so that neighbours merge and no
    weight exceeds 1.

    Parameters
    ----------
    name : str
        Key of ``COMPONENTS``.
    shape : tuple of 3 int
        Voxels per axis.
    affine : array (4, 4)
        Voxel indices to MNI mm.

    Returns
    -------
    array of float32, shape (X, Y, Z)
        Weights in [0, 1]; read-only, because equal grids share it.

    Examples
    --------
    >>> weights = component_map("A", (3, 3, 3), np.diag([26.0, -20.0, -16.0, 1.0]))
    >>> float(weights[1, 1, 1]) > 0.99
    True
    """
    return _cached_map(name, tuple(int(n) for n in shape), np.asarray(affine, dtype=float).tobytes())


def plant_atrophy(
    grey_matter: np.ndarray,
    affine: np.ndarray,
    subtype: str,
    severity: float,
    atrophy: float = 0.35,
    common_atrophy: float = 0.3,
) -> np.ndarray:
    """Remove the grey matter that a patient of this subtype and severity has lost.

    ``y = x (1 - severity * common_atrophy * m_common) (1 - severity * atrophy * m_subtype)`` per voxel, with the maps m
    of :func:`component_map`.

    Parameters
    ----------
    grey_matter : array (X, Y, Z)
        Grey-matter map in MNI space.
    affine : array (4, 4)
        Voxel indices to MNI mm.
    subtype : {"A", "B"}
        A: medial and lateral temporal. B: frontal, cingulate and striatal.
    severity : float
        0 (nothing) to 1.
    atrophy, common_atrophy : float
        Fraction lost at severity 1 in the core of the subtype's regions, and of the regions all patients share.

    Returns
    -------
    array (X, Y, Z)
        New array.

    Examples
    --------
    >>> left = plant_atrophy(np.ones((1, 1, 1)), np.diag([1.0, 1, 1, 1]), "B", severity=0.0)
    >>> float(left[0, 0, 0])
    1.0
    """
    shape = grey_matter.shape
    common = component_map("common", shape, affine)
    specific = component_map(subtype, shape, affine)
    return grey_matter * (1 - severity * common_atrophy * common) * (1 - severity * atrophy * specific)


def salient_maps(
    shape: tuple[int, ...], affine: np.ndarray, atrophy: float, common_atrophy: float
) -> dict[str, np.ndarray]:
    """Return the planted truth: fraction of grey matter lost at severity 1, per component."""
    amounts = {"common": common_atrophy, **dict.fromkeys(SUBTYPES, atrophy)}
    names = {"common": "common", **{subtype: f"subtype{subtype}" for subtype in SUBTYPES}}
    return {names[name]: amount * component_map(name, shape, affine) for name, amount in amounts.items()}


def world_coordinates(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Return the MNI coordinates of all voxels, float32, shape (3, X, Y, Z), in mm."""
    indices = np.indices(shape, dtype=np.float32)
    rotation, shift = affine[:3, :3].astype(np.float32), affine[:3, 3].astype(np.float32)
    return np.tensordot(rotation, indices, axes=1) + shift[:, None, None, None]


@lru_cache(maxsize=16)
def _cached_map(name: str, shape: tuple[int, ...], affine: bytes) -> np.ndarray:
    x, y, z = world_coordinates(shape, np.frombuffer(affine).reshape(4, 4))
    spared = np.ones(shape, dtype=np.float32)
    for cx, cy, cz, width in COMPONENTS[name]:
        for side in {cx, -cx}:
            squared = (x - side) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
            spared *= 1 - np.exp(squared / np.float32(-2 * width**2))
    weights = 1 - spared
    weights.setflags(write=False)
    return weights
