"""One model's space laid over another's: factors of different trainings have axes of their own.

Orthogonal Procrustes (Schönemann, Psychometrika 1966): the rotation or reflection that brings one table of factors
closest to another, over participants that both models were trained on. Tables are centred and brought to one size
first, because neither the origin nor the unit of a space means anything across trainings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.linalg import orthogonal_procrustes

from sepclr_med.analysis.spaces import image_keys
from sepclr_med.cohort.embeddings import factor_columns

SMALLEST_SIZE = 1e-12


@dataclass(frozen=True)
class Alignment:
    """How a space is moved: ``(x - centre) @ rotation * scale + origin``.

    Parameters
    ----------
    centre : array of shape (d,)
    rotation : array of shape (d, d)
    scale : float
    origin : array of shape (d,)
    """

    centre: np.ndarray
    rotation: np.ndarray
    scale: float
    origin: np.ndarray

    def __call__(self, factors: np.ndarray) -> np.ndarray:
        """Return factors in the space that was aligned to, (n, d)."""
        return (factors - self.centre) @ self.rotation * self.scale + self.origin


def align(factors: np.ndarray, reference: np.ndarray) -> Alignment:
    """Return how one model's factors are laid over another's.

    Parameters
    ----------
    factors, reference : array of shape (n, d)
        The same participants, in the same order, in both spaces.

    Returns
    -------
    Alignment

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> reference = rng.normal(size=(20, 3))
    >>> turned = 5 * reference @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 1
    >>> bool(np.allclose(align(turned, reference)(turned), reference))
    True
    """
    centre, origin = factors.mean(axis=0), reference.mean(axis=0)
    moved, wanted = factors - centre, reference - origin
    rotation, _ = orthogonal_procrustes(moved, wanted)
    # The ratio of sizes, not the least-squares scale: that one shrinks what agrees badly.
    scale = np.linalg.norm(wanted) / max(np.linalg.norm(moved), SMALLEST_SIZE)
    return Alignment(centre, rotation, float(scale), origin)


def align_tables(tables: Mapping[str, pd.DataFrame], reference: Mapping[str, pd.DataFrame]) -> dict[str, Alignment]:
    """Return how each space of a model is laid over the reference model's, over rows that both were trained on.

    Parameters
    ----------
    tables, reference : mapping of space to DataFrame
        Embeddings of the same images by two models, with ``split``.

    Returns
    -------
    dict of str to Alignment
    """
    found = {}
    for space, table in tables.items():
        ours, theirs = (side.set_index(image_keys(side)) for side in (table, reference[space]))
        ours, theirs = (side[side["split"] == "train"] for side in (ours, theirs))
        both = ours.index.intersection(theirs.index)
        factors = factor_columns(table)
        found[space] = align(ours.loc[both, factors].to_numpy(float), theirs.loc[both, factors].to_numpy(float))
    return found
