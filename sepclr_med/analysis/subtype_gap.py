"""Is there a gap between groups, or one continuum of any shape?

A cloud of participants is one continuum when its density has a single mode, however long, skewed or curved it is. The
test asks how deep the valley is that parts the two best separated modes, and how often a continuum shows one as deep.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

NEIGHBOURS = 10
MOST_POINTS = 500
ENOUGH = 20
FLAT = np.log(1.02)
WIDEST = 6.0
N_BISECTIONS = 12


@dataclass(frozen=True)
class Gap:
    """The valley between groups and how it compares with a continuum.

    Parameters
    ----------
    depth : float
        Logarithm of the lower peak's density over the density of the pass between the peaks; 0 without a second mode.
    p_value : float
        Share of samples from a continuum with a valley as deep: the larger of the two references.
    bandwidth : float
        Smoothing, in standard deviations, at which the second mode disappears.
    n_null : int
        Samples drawn from the smoothed data.
    """

    depth: float
    p_value: float
    bandwidth: float
    n_null: int


def valley_depth(points: np.ndarray, bandwidth: float | None = None, min_share: float = 0.1) -> float:
    r"""Measure the deepest valley of a Gaussian kernel density between two modes.

    Participants are joined to their nearest neighbours and by the minimum spanning tree; the pass between two modes is
    the highest path along these links, its height the lowest density on it. Depth is
    :math:`\log(\text{lower peak} / \text{pass})`. A mode counts when at least ``min_share`` of the participants
    climb to it, so a few outliers are no group.

    Parameters
    ----------
    points : array of shape (n, d)
        Participants; one unit is the same in every column.
    bandwidth : float or None, default=None
        Standard deviation of the kernel in units of the points' root mean square deviation; none means the
        normal reference rule with the points' effective dimension.
    min_share : float, default=0.1
        Smallest group, as a share of the participants.

    Returns
    -------
    float
        0 when there is one mode.

    References
    ----------
    Chazal, Guibas, Oudot and Skraba (2013), Journal of the ACM 60: prominence of modes on a neighbour graph.

    Examples
    --------
    >>> line = np.linspace(-1, 1, 50)[:, None]
    >>> valley_depth(line), valley_depth(np.sign(line) * 4 + line) > 1
    (0.0, True)
    """
    scaled = points / _spread(points)
    return _depth(scaled, _links(scaled), bandwidth or reference_bandwidth(scaled), min_share)


def measure_gap(
    points: np.ndarray, n_null: int = 199, min_share: float = 0.1, seed: int = 0, on_sphere: bool = False
) -> Gap:
    """Test one continuum against separated groups.

    Two references, and the larger p-value of the two. The first is Silverman's: the kernel estimate with the smallest
    bandwidth that leaves one mode, drawn by a smoothed bootstrap; it follows long, skewed and heavy-tailed clouds. The
    second is three quarters of a circle on which participants lie evenly, since thin curved clouds lose their thinness
    in the first and have deep valleys by chance; an almost closed ring has deeper ones still and may be cut. The test
    is careful: it misses groups that touch.

    Parameters
    ----------
    points : array of shape (n, d)
        Participants; of more than 500, an evenly drawn 500 are looked at.
    n_null : int, default=199
        Samples from each reference; the smallest p-value is 1 / (n_null + 1). Of the first, drawing stops once twenty
        samples reached the valley's depth (Besag and Clifford 1991).
    min_share : float, default=0.1
        Smallest group.
    seed : int, default=0
        Seed of the samples.
    on_sphere : bool, default=False
        Whether points are directions: samples are then put back on the sphere.

    Returns
    -------
    Gap

    References
    ----------
    Silverman (1981), Journal of the Royal Statistical Society B 43, 97-99.

    Examples
    --------
    >>> two = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0, 0], [8, 0]], 30, axis=0)
    >>> measure_gap(two, n_null=19).p_value, measure_gap(two[:30], n_null=19).p_value > 0.1
    (0.05, True)
    """
    rng = np.random.default_rng(seed)
    if len(points) > MOST_POINTS:
        points = points[np.sort(rng.permutation(len(points))[:MOST_POINTS])]
    scaled = points / _spread(points)
    links = _links(scaled)
    depth = _depth(scaled, links, reference_bandwidth(scaled), min_share)
    if depth <= FLAT:
        return Gap(depth, 1.0, 0.0, 0)
    bandwidth = _critical_bandwidth(scaled, links, min_share)
    even = np.asarray(_even_depths(len(scaled), n_null, min_share))
    p_even = (1 + int((even >= depth - 1e-12).sum())) / (n_null + 1)
    reached = drawn = 0
    while drawn < n_null and reached < ENOUGH:
        reached += valley_depth(_continuum(scaled, bandwidth, rng, on_sphere), None, min_share) >= depth - 1e-12
        drawn += 1
    p_smooth = reached / drawn if reached == ENOUGH else (1 + reached) / (n_null + 1)
    return Gap(depth, max(p_even, p_smooth), bandwidth, drawn)


def reference_bandwidth(points: np.ndarray) -> float:
    """Return the normal reference rule's kernel width, for the effective dimension of the points."""
    variances = np.linalg.eigvalsh(np.atleast_2d(np.cov(points.T)))
    dimension = variances.sum() ** 2 / (variances**2).sum()
    return float((4 / (dimension + 2) / len(points)) ** (1 / (dimension + 4)))


@lru_cache(maxsize=32)
def _even_depths(n: int, n_null: int, min_share: float) -> tuple[float, ...]:
    rng = np.random.default_rng(n)
    angles = rng.uniform(0, 1.5 * np.pi, (n_null, n))
    return tuple(valley_depth(np.stack([np.cos(a), np.sin(a)], 1), None, min_share) for a in angles)


def _spread(points: np.ndarray) -> float:
    return float(np.sqrt(points.var(axis=0).mean())) or 1.0


def _links(points: np.ndarray) -> np.ndarray:
    from scipy.sparse.csgraph import minimum_spanning_tree
    from scipy.spatial.distance import pdist, squareform

    distances = squareform(pdist(points))
    n_near = min(NEIGHBOURS, len(points) - 1)
    near = np.argpartition(distances, n_near, axis=1)[:, : n_near + 1]
    own = np.repeat(np.arange(len(points)), n_near + 1)
    # Equal points have distance 0, which a sparse graph takes for no link.
    tree = minimum_spanning_tree(distances + 1e-12).tocoo()
    pairs = np.concatenate([np.stack([own, near.ravel()], 1), np.stack([tree.row, tree.col], 1)])
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0)


def _depth(points: np.ndarray, links: np.ndarray, bandwidth: float, min_share: float) -> float:
    height = _density(points, points, bandwidth)
    ends = points[links[:, 0]], points[links[:, 1]]
    passes = np.minimum(height[links[:, 0]], height[links[:, 1]])
    # A link shorter than the kernel hides no valley beside its middle.
    long = np.flatnonzero(((ends[0] - ends[1]) ** 2).sum(axis=1) > bandwidth**2)
    for share, chosen in ((0.5, np.arange(len(links))), (0.25, long), (0.75, long)):
        between = share * ends[0][chosen] + (1 - share) * ends[1][chosen]
        passes[chosen] = np.minimum(passes[chosen], _density(between, points, bandwidth))
    rising = passes >= np.minimum(height[links[:, 0]], height[links[:, 1]]) * (1 - 1e-9)
    mass = _climbers(height, links[rising])
    return _deepest(height, links, passes, mass, min_share * len(points))


def _density(where: np.ndarray, points: np.ndarray, bandwidth: float) -> np.ndarray:
    from scipy.spatial.distance import cdist

    total = np.empty(len(where))
    for start in range(0, len(where), 4096):
        block = slice(start, start + 4096)
        total[block] = np.exp(cdist(where[block], points, "sqeuclidean") / (-2 * bandwidth**2)).sum(axis=1)
    return total


def _climbers(height: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Count who climbs to each point over links that only rise; all climb to modes."""
    order = np.arange(len(height))
    best = order.copy()
    both = np.concatenate([links, links[:, ::-1]])
    both = both[np.argsort(height[both[:, 1]], kind="stable")]
    uphill = both[height[both[:, 1]] > height[both[:, 0]]]
    best[uphill[:, 0]] = uphill[:, 1]
    while not np.array_equal(best, best[best]):
        best = best[best]
    return np.bincount(best, minlength=len(height)).astype(float)


def _deepest(height: np.ndarray, links: np.ndarray, passes: np.ndarray, mass: np.ndarray, smallest: float) -> float:
    parent = list(range(len(height)))
    deepest = 0.0

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    peak, mass = height.copy(), mass.copy()
    for link in np.argsort(-passes, kind="stable"):
        first, second = root(int(links[link, 0])), root(int(links[link, 1]))
        if first == second:
            continue
        if peak[first] < peak[second]:
            first, second = second, first
        if min(mass[first], mass[second]) >= smallest:
            deepest = max(deepest, float(np.log(peak[second] / max(passes[link], 1e-300))))
        parent[second] = first
        mass[first] += mass[second]
    return deepest


def _critical_bandwidth(points: np.ndarray, links: np.ndarray, min_share: float) -> float:
    low, high = 0.02, WIDEST
    for _ in range(N_BISECTIONS):
        middle = float(np.sqrt(low * high))
        if _depth(points, links, middle, min_share) > FLAT:
            low = middle
        else:
            high = middle
    return high


def _continuum(points: np.ndarray, bandwidth: float, rng: np.random.Generator, on_sphere: bool) -> np.ndarray:
    sample = points[rng.integers(len(points), size=len(points))] + bandwidth * rng.normal(size=points.shape)
    if on_sphere:
        return sample / np.linalg.norm(sample, axis=1, keepdims=True)
    centre = points.mean(axis=0)
    covariance = np.atleast_2d(np.cov(points.T)) + 1e-12 * np.eye(points.shape[1])
    wide = np.linalg.cholesky(covariance + bandwidth**2 * np.eye(points.shape[1]))
    shrink = np.linalg.cholesky(covariance) @ np.linalg.inv(wide)
    return centre + (sample - centre) @ shrink.T
