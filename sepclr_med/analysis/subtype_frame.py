"""From factors to the coordinates in which groups are sought: where a participant lies, or which way it deviates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from sepclr_med.analysis.canonical import CanonicalFactors, count_leading_factors

Geometry: TypeAlias = Literal["position", "direction"]

MOST_FACTORS = 6
ROWS_PER_FACTOR = 10
LEAST_BACKGROUND = 20


@dataclass(frozen=True)
class Frame:
    r"""How factors become coordinates; fitted on training rows, applied to any.

    Factors are projected on the leading canonical factors of the fitted target rows. ``position``: these are taken as
    they are, in the unit of the space. ``direction``: they are taken from the background's centre, in units of the
    background's covariance, and divided by their length: :math:`w = (y - m_b) \Sigma_b^{-1/2}`, :math:`u = w / |w|`.
    Length is how far a participant lies from the background, direction is which way.

    Parameters
    ----------
    canonical : CanonicalFactors
        With the leading factors only.
    geometry : {"position", "direction"}
        What the coordinates are.
    origin : array of shape (k,)
        Centre of the fitted target rows, or of the background.
    scaling : array of shape (k, k)
        What deviations from the origin are multiplied with.
    usual_length : float
        95% of the background rows are nearer than this; NaN for ``position``.
    """

    canonical: CanonicalFactors
    geometry: Geometry
    origin: np.ndarray
    scaling: np.ndarray
    usual_length: float

    def locate(self, features: np.ndarray) -> np.ndarray:
        """Return scaled deviations from the origin, shape (n, k)."""
        return (self.canonical.transform(features) - self.origin) @ self.scaling

    def arrange(self, located: np.ndarray) -> np.ndarray:
        """Return coordinates of what :meth:`locate` gives: as they are, or on the unit sphere."""
        if self.geometry == "position":
            return located
        length = np.linalg.norm(located, axis=1, keepdims=True)
        return located / np.where(length > 0, length, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "canonical": self.canonical.to_dict(),
            "geometry": self.geometry,
            "origin": self.origin.tolist(),
            "scaling": self.scaling.tolist(),
            "usual_length": None if np.isnan(self.usual_length) else self.usual_length,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Frame:
        """Return what :meth:`to_dict` gave."""
        length = values["usual_length"]
        return cls(
            CanonicalFactors.from_dict(values["canonical"]),
            values["geometry"],
            np.asarray(values["origin"], dtype=float),
            np.asarray(values["scaling"], dtype=float),
            float("nan") if length is None else float(length),
        )


def fit_leading(features: np.ndarray, n_factors: int | None = None) -> CanonicalFactors:
    """Fit the leading canonical factors: before the largest drop of variance, two to six, ten rows to a factor.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(100, 5)) * [9, 6, 5, 0.1, 0.1]
    >>> fit_leading(rows).loadings_.shape
    (5, 3)
    """
    every = CanonicalFactors().fit(features)
    if n_factors is None:
        most = int(np.clip(len(features) // ROWS_PER_FACTOR, 1, MOST_FACTORS))
        n_factors = count_leading_factors(every.variance_, least=min(2, most), most=most)
    return CanonicalFactors(n_factors=min(n_factors, len(every.variance_))).fit(features)


def fit_position(features: np.ndarray, canonical: CanonicalFactors) -> Frame:
    """Return the frame of positions, from the target rows given."""
    scores = canonical.transform(features)
    return Frame(canonical, "position", scores.mean(axis=0), np.eye(scores.shape[1]), float("nan"))


def fit_direction(background: np.ndarray, canonical: CanonicalFactors) -> Frame | None:
    """Return the frame of directions from the background rows given, or None when they are too few.

    The background's covariance is estimated with Ledoit and Wolf's shrinkage.
    """
    from sklearn.covariance import LedoitWolf

    scores = canonical.transform(background)
    if scores.shape[1] < 2 or len(scores) < max(LEAST_BACKGROUND, 5 * scores.shape[1]):
        return None
    if not scores.std(axis=0).all():
        return None
    # Shrinkage towards a sphere is sensible only among factors of like size.
    spread = scores.std(axis=0)
    covariance = LedoitWolf().fit(scores / spread).covariance_
    scaling = np.diag(1 / spread) @ np.linalg.cholesky(np.linalg.inv(covariance))
    origin = scores.mean(axis=0)
    lengths = np.linalg.norm((scores - origin) @ scaling, axis=1)
    return Frame(canonical, "direction", origin, scaling, float(np.quantile(lengths, 0.95)))
