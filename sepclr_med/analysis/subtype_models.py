"""Groups of participants as k-means or a Gaussian mixture, in plain numbers that can be written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

Kind: TypeAlias = Literal["kmeans", "gaussian_mixture"]
KINDS: tuple[Kind, ...] = ("kmeans", "gaussian_mixture")
RIDGE = 1e-3


@dataclass(frozen=True)
class GroupModel:
    """Groups, the largest first.

    Parameters
    ----------
    kind : {"kmeans", "gaussian_mixture"}
        How they were found. For ``kmeans`` all groups count alike with one spherical variance, so the likeliest group
        is the nearest.
    weights : array of shape (k,)
        Share of each group.
    means : array of shape (k, d)
        Centres.
    covariances : array of shape (k, d, d)
        Spread of each group.
    bic : float
        Bayesian information criterion, lower is better; NaN for ``kmeans``, which is no likelihood.
    """

    kind: Kind
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    bic: float = float("nan")

    def probabilities(self, points: np.ndarray) -> np.ndarray:
        """Return each group's probability for every row, shape (n, k)."""
        from scipy.special import logsumexp
        from scipy.stats import multivariate_normal

        weights = self.weights if self.kind == "gaussian_mixture" else np.full(len(self.weights), 1 / len(self.weights))
        logs = np.stack(
            [
                np.log(weight) + multivariate_normal.logpdf(points, mean, covariance).reshape(len(points))
                for weight, mean, covariance in zip(weights, self.means, self.covariances, strict=True)
            ],
            axis=1,
        )
        return np.exp(logs - logsumexp(logs, axis=1, keepdims=True))

    def labels(self, points: np.ndarray) -> np.ndarray:
        """Return the likeliest group of every row, from 0."""
        if self.kind == "kmeans":
            return ((points[:, None, :] - self.means) ** 2).sum(axis=2).argmin(axis=1)
        return self.probabilities(points).argmax(axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "kind": self.kind,
            "weights": self.weights.tolist(),
            "means": self.means.tolist(),
            "covariances": self.covariances.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GroupModel:
        """Return what :meth:`to_dict` gave."""
        weights, means, covariances = (np.asarray(values[name], float) for name in ("weights", "means", "covariances"))
        return cls(values["kind"], weights, means, covariances)


def fit_groups(points: np.ndarray, kind: Kind, n_groups: int, seed: int = 0, n_starts: int = 5) -> GroupModel:
    """Find groups.

    Parameters
    ----------
    points : array of shape (n, d)
        Participants.
    kind : {"kmeans", "gaussian_mixture"}
        Mixtures have a full covariance per group, with a thousandth of the points' variance added.
    n_groups : int
        At most n.
    seed : int, default=0
        Seed of the starts.
    n_starts : int, default=5
        The best of so many is kept.

    Returns
    -------
    GroupModel

    Examples
    --------
    >>> points = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    >>> model = fit_groups(points, "kmeans", 2)
    >>> model.means.ravel().round(2), model.labels(points)
    (array([0.1 , 5.05]), array([0, 0, 0, 1, 1]))
    """
    if kind == "kmeans":
        return _fit_kmeans(points, n_groups, seed, n_starts)
    return _fit_mixture(points, n_groups, seed, n_starts)


def label_quickly(points: np.ndarray, n_groups: int, seed: int) -> np.ndarray:
    """Return k-means labels with two starts, for the many samples of a null."""
    import sklearn
    from sklearn.cluster import KMeans

    with sklearn.config_context(skip_parameter_validation=True):
        return KMeans(n_groups, n_init=2, random_state=seed).fit_predict(points)


def _fit_kmeans(points: np.ndarray, n_groups: int, seed: int, n_starts: int) -> GroupModel:
    from sklearn.cluster import KMeans

    fitted = KMeans(n_groups, n_init=n_starts, random_state=seed).fit(points)
    counts = np.bincount(fitted.labels_, minlength=n_groups)
    order = np.argsort(-counts, kind="stable")
    freedom = max(len(points) - n_groups, 1) * points.shape[1]
    variance = max(fitted.inertia_ / freedom, 1e-12)
    covariances = np.repeat(variance * np.eye(points.shape[1])[None], n_groups, axis=0)
    return GroupModel("kmeans", counts[order] / len(points), fitted.cluster_centers_[order], covariances)


def _fit_mixture(points: np.ndarray, n_groups: int, seed: int, n_starts: int) -> GroupModel:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    ridge = RIDGE * float(points.var(axis=0).mean())
    mixture = GaussianMixture(n_groups, n_init=n_starts, reg_covar=ridge, random_state=seed)
    with warnings.catch_warnings():
        # Too many groups for the data need not settle; their criteria show it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(points)
    order = np.argsort(-mixture.weights_, kind="stable")
    bic = float(mixture.bic(points))
    parts = mixture.weights_[order], mixture.means_[order], mixture.covariances_[order]
    return GroupModel("gaussian_mixture", *parts, bic)
