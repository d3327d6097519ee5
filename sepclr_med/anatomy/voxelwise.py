"""Voxelwise regression of images on a factor, with permutation p-values corrected over the whole brain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from sepclr_med.errors import UserError
from sepclr_med.progress import report_progress

SMALLEST_DOF = 5
# A fixed number of parts, each with its own seed, so that p-values do not depend on how many processors there are.
PARTS = 8
BLOCK_BYTES = 256 << 20


@dataclass(frozen=True)
class VoxelMaps:
    """Maps of one factor; vectors over the voxels of the mask, in its order.

    Parameters
    ----------
    t : float array (V,)
        Two-sided t of the factor beside the covariates; 0 where the images do not vary.
    beta : float array (V,)
        Change of the image, in its own unit, per standard deviation of the factor.
    neglogp : float array (V,)
        -log10 of p corrected over voxels by the largest absolute t of each permutation.
    tfce_neglogp : float array (V,) or None
        The same by threshold-free cluster enhancement.
    threshold_t : float
        Absolute t above which the corrected p is below ``alpha``.
    neglogp_within : float array (V,) or None
        As ``neglogp``, from permutations that stay within blocks.
    dof : int
        Residual degrees of freedom.
    """

    t: np.ndarray
    beta: np.ndarray
    neglogp: np.ndarray
    tfce_neglogp: np.ndarray | None
    threshold_t: float
    neglogp_within: np.ndarray | None
    dof: int


def map_factor(
    images: np.ndarray,
    factor: np.ndarray,
    confounds: np.ndarray,
    mask: np.ndarray,
    n_permutations: int = 1000,
    tfce: bool = True,
    blocks: np.ndarray | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    n_jobs: int = -1,
) -> VoxelMaps:
    """Regress every voxel on a factor and covariates (``nilearn.mass_univariate.permuted_ols``).

    ``image = intercept + confounds + beta * factor + error``. Both sides are residualised on the confounds and the
    participants' residuals permuted (Freedman and Lane 1983; Anderson and Robinson 2001); the largest absolute t, and
    with ``tfce`` the largest enhanced value (Smith and Nichols 2009), of each permutation give the corrected p,
    ``(1 + number at least as large) / (n_permutations + 1)``. These permutations are free: any participant may take
    any other's place. With ``blocks`` the max-t p is also given for permutations within blocks.

    Parameters
    ----------
    images : float array (n, V)
        Voxels of the mask, one row per participant.
    factor : float array (n,)
    confounds : float array (n, q)
        Without the intercept, of full rank beside it.
    mask : bool array (X, Y, Z)
        With V voxels.
    n_permutations : int, default=1000
    tfce : bool, default=True
        Most of the time goes there.
    blocks : array (n,) or None, default=None
        Such as sites.
    alpha : float, default=0.05
    seed : int, default=0
        One seed, one result, whatever ``n_jobs``.
    n_jobs : int, default=-1
        Processes; -1 means one per core.

    Returns
    -------
    VoxelMaps

    Raises
    ------
    UserError
        With fewer than 5 residual degrees of freedom, or a factor that the confounds explain whole.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> factor, images = rng.normal(size=30), rng.normal(size=(30, 8))
    >>> images[:, 0] += 2 * factor
    >>> maps = map_factor(images, factor, np.empty((30, 0)), np.ones((2, 2, 2), bool), 199, tfce=False, n_jobs=1)
    >>> (maps.neglogp > 1.3).nonzero()[0].tolist(), maps.dof
    ([0], 28)
    """
    n, n_confounds = confounds.shape
    dof = n - n_confounds - 2
    if dof < SMALLEST_DOF:
        raise UserError(
            f"explain: {n} participants are too few for {n_confounds} columns of covariates ({dof} degrees of freedom "
            f"left, {SMALLEST_DOF} needed); adjust for less, or map another split"
        )
    design = np.column_stack([np.ones(n), confounds])
    basis = np.linalg.qr(design)[0]
    rest = factor - basis @ (basis.T @ factor)
    if np.linalg.norm(rest) < 1e-6 * max(np.linalg.norm(factor), 1e-300):
        raise UserError("explain: nothing of the factor is left beside the covariates; adjust for less")
    images = np.asarray(images, dtype=np.float32)
    residuals = images - basis @ (basis.T @ images)
    # A voxel without variance has no t; nilearn would divide by zero.
    varies = np.linalg.norm(residuals, axis=0) > 1e-5 * np.maximum(np.linalg.norm(images, axis=0), 1e-20)
    found = _permute(images[:, varies], factor, confounds, _within(mask, varies), n_permutations, tfce, seed, n_jobs)
    within = None
    if blocks is not None:
        null = max_t_within_blocks(residuals[:, varies], rest, basis, blocks, n_permutations, seed)
        within = _spread(_neglogp(np.abs(found["t"]), null), varies)
    null_t = found["h0_max_t"]
    return VoxelMaps(
        t=_spread(found["t"], varies),
        beta=(rest @ residuals / (rest @ rest) * factor.std(ddof=1)).astype(np.float32),
        neglogp=_spread(_neglogp(np.abs(found["t"]), null_t), varies),
        tfce_neglogp=_spread(_neglogp(np.abs(found["tfce"]), found["h0_max_tfce"]), varies) if tfce else None,
        threshold_t=_threshold(null_t, alpha),
        neglogp_within=within,
        dof=dof,
    )


def max_t_within_blocks(
    residuals: np.ndarray,
    rest: np.ndarray,
    basis: np.ndarray,
    blocks: np.ndarray,
    n_permutations: int,
    seed: int,
) -> np.ndarray:
    """Return the largest absolute t of each permutation that stays within blocks (Freedman-Lane).

    Permuting the images' residuals by P and regressing them on the covariates again is, transposed, a product of the
    permuted regressors with the residuals: with x the factor's residual and Q the covariates' basis,
    ``t^2 = dof c^2 / (s - c^2)``, ``c = x' P y / |x|``, ``s = |y|^2 - |Q' P y|^2``.

    Parameters
    ----------
    residuals : float32 array (n, V)
        Images less what the covariates explain.
    rest : float array (n,)
        The factor less what the covariates explain.
    basis : float array (n, q)
        Orthonormal, intercept included.
    blocks : array (n,)
    n_permutations : int
    seed : int

    Returns
    -------
    float array (n_permutations,)
    """
    n, n_columns = basis.shape
    dof = n - n_columns - 1
    regressors = np.column_stack([rest / np.linalg.norm(rest), basis]).astype(np.float32)
    lengths = np.square(residuals).sum(axis=0)
    rng = np.random.default_rng([seed, 1])
    codes = np.unique(np.asarray(blocks).astype(str), return_inverse=True)[1]
    places = np.argsort(codes, kind="stable")
    at_once = max(1, BLOCK_BYTES // (4 * residuals.shape[1] * (n_columns + 1)))
    largest = []
    for start in range(0, n_permutations, at_once):
        k = min(at_once, n_permutations - start)
        order = np.empty((k, n), dtype=int)
        order[:, places] = np.argsort(codes + rng.random((k, n)), axis=1)
        products = regressors[order].transpose(0, 2, 1).reshape(-1, n) @ residuals
        squares = np.square(products, out=products).reshape(k, n_columns + 1, -1)
        left = lengths - squares.sum(axis=1)
        t_squared = dof * squares[:, 0] / np.maximum(left, 1e-6 * lengths)
        largest.append(np.sqrt(t_squared.max(axis=1)))
    return np.concatenate(largest)


def _permute(
    images: np.ndarray,
    factor: np.ndarray,
    confounds: np.ndarray,
    mask: np.ndarray,
    n_permutations: int,
    tfce: bool,
    seed: int,
    n_jobs: int,
) -> dict[str, np.ndarray]:
    from joblib import Parallel, delayed, effective_n_jobs

    sizes = [len(part) for part in np.array_split(np.arange(n_permutations), PARTS) if len(part)]
    seeds = np.random.SeedSequence(seed).generate_state(len(sizes)) % (2**31 - 1)
    workers = min(effective_n_jobs(n_jobs), len(sizes)) if tfce else 1
    tasks = (
        delayed(_permute_part)(images, factor, confounds, mask, size, tfce, int(part_seed))
        for size, part_seed in zip(sizes, seeds, strict=True)
    )
    parts = []
    with report_progress("permuting", len(sizes)) as advance:
        for part in Parallel(n_jobs=workers, return_as="generator")(tasks):
            parts.append(part)
            advance()
    nulls = [name for name in parts[0] if name.startswith("h0")]
    return {**parts[0], **{name: np.concatenate([part[name] for part in parts]) for name in nulls}}


def _permute_part(
    images: np.ndarray,
    factor: np.ndarray,
    confounds: np.ndarray,
    mask: np.ndarray,
    n_permutations: int,
    tfce: bool,
    seed: int,
) -> dict[str, np.ndarray]:
    import warnings

    from nilearn.maskers import NiftiMasker
    from nilearn.mass_univariate import permuted_ols

    masker = NiftiMasker(nib.Nifti1Image(_cropped(mask).astype(np.uint8), np.eye(4))).fit() if tfce else None
    with warnings.catch_warnings():
        # Remarks on memory order and on parameters that do not concern the user.
        warnings.simplefilter("ignore")
        found = permuted_ols(
            factor[:, None],
            np.asarray(images, dtype=np.float64),
            confounding_vars=confounds if confounds.shape[1] else None,
            model_intercept=True,
            n_perm=n_permutations,
            two_sided_test=True,
            random_state=seed,
            n_jobs=1,
            verbose=0,
            masker=masker,
            tfce=tfce,
            output_type="dict",
        )
    wanted = ("t", "tfce", "h0_max_t", "h0_max_tfce")
    return {name: np.asarray(found[name])[0] for name in wanted if name in found}


def _cropped(mask: np.ndarray) -> np.ndarray:
    """Return the mask's bounding box, because the cost of enhancement grows with the box."""
    spans = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = mask[tuple(slice(span[0], span[-1] + 1) for span in spans)]
    return np.pad(box, 1)


def _within(mask: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    smaller = np.zeros_like(mask)
    smaller[mask] = chosen
    return smaller


def _spread(values: np.ndarray, varies: np.ndarray) -> np.ndarray:
    whole = np.zeros(varies.size, dtype=np.float32)
    whole[varies] = values
    return whole


def _neglogp(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return -log10 of ``(1 + number of null values at least as large) / (K + 1)``."""
    at_least = null.size - np.searchsorted(np.sort(null), values * (1 - 1e-6), side="left")
    return -np.log10((1 + at_least) / (1 + null.size))


def _threshold(null: Sequence[float], alpha: float) -> float:
    """Return the smallest value whose p is at most ``alpha``; infinite when there are too few permutations."""
    allowed = int(np.floor(alpha * (len(null) + 1))) - 1
    return float(np.sort(null)[-allowed - 1]) if allowed >= 0 else float("inf")
