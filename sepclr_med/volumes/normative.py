"""The normative reference: how far an image lies from what controls of the same age, sex and site look like.

A voxelwise linear model on covariates and the leading components of what it leaves are fitted on training background
rows. A *deviation* is what they do not explain, in standard deviations of the background,

``(x - B d - Q W Q' (x - B d)) / sd``  with  ``d = (1, age, age^2, sex, site)``.

Effects that are *pooled* (of the site, by default) are taken to be the same in targets, who then help to estimate them.
In all others targets count as far as their effects look the same (:mod:`sepclr_med.volumes.normative_regression`).

All fits happen in the space of participants (``K = X X'``), so that choosing the number of components by the likelihood
of held-out background costs no further look at the images. Training rows are rendered by references that were fitted
without them: residuals of a row that took part in its own fit are smaller, and an encoder would learn that instead of
the disease.

Normative models as such: Marquand et al., Biol Psychiatry 2016, doi:10.1016/j.biopsych.2015.12.023; W-scores: Jack et
al., Neurology 1997, and La Joie et al., J Neurosci 2012. Likelihood of probabilistic principal components: Tipping and
Bishop, J R Stat Soc B 1999.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils import gen_batches
from torch import Tensor

from sepclr_med.volumes.normative_design import Design, learn_design
from sepclr_med.volumes.normative_fit import Weights, choose_components, fit_weights, gram_matrix
from sepclr_med.volumes.standardisation import LARGEST_SCORE, SMALLEST_RELATIVE_STD, fit_standardisation

CHUNK = 32


@dataclass(frozen=True)
class NormativeReference:
    """References fitted without each fold, and last the one fitted on the whole training background.

    Parameters
    ----------
    design : Design
    coefficients : Tensor of shape (F + 1, p, C * X * Y * Z)
        Voxelwise regression of the raw volumes on the design.
    components : Tensor of shape (F + 1, k, C * X * Y * Z)
        Orthonormal; what they explain is taken away with their weights.
    weights : Tensor of shape (F + 1, k)
        1 takes a component away whole; less shrinks it.
    inverse_std : Tensor of shape (C * X * Y * Z,)
        Of held-out background deviations; zero where the background never varies.
    folds : dict of str to int
        Fold of each training participant; everyone else is rendered by the last reference.
    facts : dict
        How it was chosen, for people.
    """

    design: Design
    coefficients: Tensor
    components: Tensor
    weights: Tensor
    inverse_std: Tensor
    folds: dict[str, int]
    facts: dict[str, Any]

    @property
    def last(self) -> int:
        """Number of the reference that was fitted on the whole training background."""
        return len(self.coefficients) - 1

    def fold_of(self, table: pd.DataFrame) -> np.ndarray:
        """Return the number of each row's reference."""
        return table["participant_id"].map(self.folds).fillna(self.last).to_numpy(dtype=np.int64, copy=True)

    def to(self, device: torch.device) -> NormativeReference:
        """Return the same reference on another device."""
        moved = (t.to(device) for t in (self.coefficients, self.components, self.weights, self.inverse_std))
        return NormativeReference(self.design, *moved, self.folds, self.facts)

    def residual(self, volumes: Tensor, design: Tensor, fold: Tensor) -> Tensor:
        """Return what the reference does not explain, in the unit of the volumes.

        Parameters
        ----------
        volumes : Tensor of shape (B, C, X, Y, Z)
            Raw preprocessed volumes, float32.
        design : Tensor of shape (B, p)
        fold : Tensor of shape (B,), on the CPU
            From :meth:`fold_of`.
        """
        flat = volumes.flatten(1).clone()
        for number in fold.unique().tolist():
            rows = (fold == number).nonzero()[:, 0].to(flat.device)
            left = torch.addmm(flat[rows], design[rows], self.coefficients[number], alpha=-1)
            if len(self.components[number]):
                components = self.components[number]
                left = torch.addmm(left, left @ components.T * self.weights[number], components, alpha=-1)
            flat[rows] = left
        return flat.reshape(volumes.shape)

    def __call__(self, volumes: Tensor, design: Tensor, fold: Tensor) -> Tensor:
        """Return deviations, arguments as for :meth:`residual`."""
        flat = self.residual(volumes, design, fold).flatten(1) * self.inverse_std
        return flat.clamp_(-LARGEST_SCORE, LARGEST_SCORE).reshape(volumes.shape)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON facts for a checkpoint."""
        names = ("coefficients", "components", "weights", "inverse_std")
        tensors = {name: getattr(self, name) for name in names}
        return tensors, {"design": self.design.state(), "folds": self.folds, "facts": self.facts}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> NormativeReference:
        """Return the reference that :meth:`state` described."""
        names = ("coefficients", "components", "weights", "inverse_std")
        coefficients, components, weights, inverse_std = (tensors[name] for name in names)
        n, _, n_voxels = coefficients.shape
        if components.shape != (n, weights.shape[1], n_voxels) or len(weights) != n or inverse_std.shape != (n_voxels,):
            raise ValueError("its parts differ in shape")
        folds = dict(state["folds"])
        if not all(type(fold) is int and 0 <= fold < n for fold in folds.values()):
            raise ValueError(f"folds are numbers from 0 to {n - 1}")
        design = Design.from_state(state["design"])
        return cls(design, coefficients, components, weights, inverse_std, folds, dict(state["facts"]))


@dataclass(frozen=True)
class Rendering:
    """A reference and what it must know of each row of a manifest.

    Parameters
    ----------
    reference : NormativeReference
    design : Tensor of shape (N, p)
    fold : Tensor of shape (N,), on the CPU
    """

    reference: NormativeReference
    design: Tensor
    fold: Tensor

    def __call__(self, volumes: Tensor, rows: np.ndarray) -> Tensor:
        """Return deviations of raw volumes, which are these rows of the manifest."""
        rows = torch.from_numpy(np.asarray(rows))
        return self.reference(volumes, self.design[rows.to(self.design.device)], self.fold[rows])

    def to(self, device: torch.device) -> Rendering:
        """Return the same rendering on another device."""
        return Rendering(self.reference.to(device), self.design.to(device), self.fold)


def render_with(reference: NormativeReference, table: pd.DataFrame) -> Rendering:
    """Say how the images of a manifest are rendered.

    Raises
    ------
    ManifestError
        When covariates are missing, or of a site whose controls the reference does not know.
    """
    design = torch.from_numpy(reference.design.encode(table))
    return Rendering(reference, design, torch.from_numpy(reference.fold_of(table)))


def fit_normative(
    load: Callable[[np.ndarray], np.ndarray],
    table: pd.DataFrame,
    is_background: np.ndarray,
    folds: np.ndarray,
    covariates: list[str],
    n_components: int | str = "auto",
    model: str = "pca",
    pooled: Collection[str] = (),
    borrow: bool = False,
) -> NormativeReference:
    """Fit the reference on the background rows of a training part.

    Parameters
    ----------
    load : callable
        Maps row numbers (of ``table``) to raw volumes of shape (n, C, X, Y, Z).
    table : DataFrame
        Training rows: ``participant_id``, the covariates and, with ``pooled`` or ``borrow``, ``diagnosis``.
    is_background : bool array of shape (n,)
    folds : int array of shape (n,)
        Fold of each row, 0 to F - 1; relatives and sessions share one.
    covariates : list of str
        Columns of the design.
    n_components : int or "auto", default="auto"
        Leading background components taken away; "auto" is the number with the highest likelihood of held-out
        background rows.
    model : {"pca", "ppca"}, default="pca"
        Whether they are taken away whole, or shrunk by (eigenvalue - noise) / eigenvalue.
    pooled : collection of str, default=()
        Covariates whose effects are taken to be the same in every diagnosis: targets help to estimate them, with an
        intercept and effects of the other covariates of their own.
    borrow : bool, default=False
        Let targets help with the other effects as well, as far as theirs look the same.

    Returns
    -------
    NormativeReference

    Raises
    ------
    ManifestError
        When covariates are missing, or a site has targets and (almost) no controls.
    """
    background = np.flatnonzero(is_background)
    design = learn_design(table.iloc[background], covariates)
    shared = design.columns_of(pooled)
    rows = np.arange(len(table)) if borrow or shared.any() else background
    encoded, groups, fold = design.encode(table)[rows], _number_groups(table, is_background)[rows], folds[rows]
    products = gram_matrix(load, rows)
    n_voxels = int(np.prod(load(rows[:1]).shape[1:]))
    # Air is no evidence of how noisy images are.
    n_varying = int((fit_standardisation(load, background).inverse_std != 0).sum())
    chosen, facts = choose_components(products, encoded, fold, groups, shared, n_varying, borrow, n_components)
    numbers = sorted(set(folds.tolist()))
    parts = [*(fold != number for number in numbers), np.ones(rows.size, bool)]
    fits = [fit_weights(products, encoded, part, groups, shared, chosen, n_varying, borrow) for part in parts]
    coefficients, components = _to_voxels(load, rows, fits, n_voxels)
    weights = torch.from_numpy(np.stack([fit.shrinkage if model == "ppca" else np.ones(chosen) for fit in fits]))
    where = {str(who): numbers.index(fold) for who, fold in zip(table["participant_id"], folds, strict=True)}
    blank = torch.ones(n_voxels)
    facts |= {"covariates": list(covariates), "model": model, "n_background": int(background.size)}
    facts |= {"pooled": [name for name in covariates if name in pooled]}
    if borrow:
        own = [name for name in covariates if name not in pooled]
        facts["borrowed"] = {name: round(float(fits[-1].borrowed[design.columns_of([name])].min()), 2) for name in own}
    reference = NormativeReference(design, coefficients, components, weights.float(), blank, where, facts)
    return _with_spread(reference, load, background, encoded[groups == 0], table.iloc[background])


def _number_groups(table: pd.DataFrame, is_background: np.ndarray) -> np.ndarray:
    """Return 0 for background rows, one number for each diagnosis of the others."""
    if "diagnosis" not in table:
        return np.where(is_background, 0, 1)
    return np.where(is_background, 0, 1 + pd.factorize(table["diagnosis"])[0])


def _to_voxels(
    load: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, fits: list[Weights], n_voxels: int
) -> tuple[Tensor, Tensor]:
    """Turn weights of participants into maps, in one pass over the images."""
    by_row = torch.from_numpy(np.stack([np.vstack([fit.coefficients, fit.components]) for fit in fits])).float()
    maps = torch.zeros(*by_row.shape[:2], n_voxels)
    for chunk in gen_batches(rows.size, CHUNK):
        volumes = torch.from_numpy(load(rows[chunk])).flatten(1).float()
        maps += by_row[:, :, chunk] @ volumes
    p = len(fits[0].coefficients)
    return maps[:, :p].contiguous(), maps[:, p:].contiguous()


def _with_spread(
    reference: NormativeReference,
    load: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    design: np.ndarray,
    table: pd.DataFrame,
) -> NormativeReference:
    """Add the voxelwise standard deviation of deviations of background rows from references without them."""
    fold = torch.from_numpy(reference.fold_of(table))
    total = torch.zeros(reference.inverse_std.shape, dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in gen_batches(rows.size, CHUNK):
        volumes = torch.from_numpy(load(rows[chunk])).float()
        left = reference.residual(volumes, torch.from_numpy(design[chunk]), fold[chunk]).flatten(1).double()
        total += left.sum(dim=0)
        squares += left.square().sum(dim=0)
    std = (squares / rows.size - (total / rows.size).square()).clamp(min=0).sqrt()
    varies = std > 1e-6
    floor = SMALLEST_RELATIVE_STD * std[varies].median() if varies.any() else 1.0
    inverse = torch.where(varies, 1 / std.clamp(min=floor), 0.0).float()
    tensors, state = reference.state()
    return NormativeReference.from_state({**tensors, "inverse_std": inverse}, state)
