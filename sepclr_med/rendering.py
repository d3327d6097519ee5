"""What the salient encoder of a run sees: its normative reference, fitted once and kept beside the weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from sepclr_med.checkpoint import fitting, load_checkpoint, save_checkpoint
from sepclr_med.config import Config
from sepclr_med.errors import ManifestError, Problem
from sepclr_med.methods import needs_reference
from sepclr_med.rundir import RunDir
from sepclr_med.volumes.normative import NormativeReference, Rendering, fit_normative, render_with
from sepclr_med.volumes.site_effects import SiteEffect, render_at_sites

logger = logging.getLogger(__name__)

FOLDS_TO_CHOOSE = 5
# In simulated cohorts the reference pays at 25, with real brains it did not at 24 (docs/ablation.md).
FEW_CONTROLS = 50


def fit_reference(
    run: RunDir,
    load: Callable[[np.ndarray], np.ndarray],
    table: pd.DataFrame,
    is_target: np.ndarray,
    train: np.ndarray,
    config: Config,
) -> None:
    """Fit the normative reference of a run on its training background, unless it is in use or not needed.

    Parameters
    ----------
    run : RunDir
    load : callable
        Maps row numbers of ``table`` to raw volumes.
    table : DataFrame
        The rows of the run.
    is_target : bool array
    train : int array
        Training rows.
    config : Config

    Raises
    ------
    ManifestError
        When covariates are missing, a site has targets and no controls, or there are too few controls.
    """
    # One without a checkpoint beside it may be of other images or settings, from a start that ended before training.
    if not needs_reference(config) or (run.reference.is_file() and run.checkpoint().is_file()):
        return
    settings = config.volumes.normative
    covariates = [name for name in settings.covariates if name in table and table[name].notna().any()]
    if absent := sorted(set(settings.covariates) - set(covariates)):
        logger.warning("the normative reference does without %s: no such column", ", ".join(absent))
    rows = table.iloc[train].reset_index(drop=True)
    n_controls = rows.loc[~is_target[train], "participant_id"].nunique()
    if n_controls < FEW_CONTROLS:
        logger.warning(
            "the normative reference has %d training controls to learn from, which is few: compare with "
            'method.name=sepclr_paper (of SepCLREstimator: method="sepclr_paper"), which did no worse with 24 '
            "real ones (docs/ablation.md)",
            n_controls,
        )
    in_sample = settings.folds == 1
    folds = assign_folds(rows, ~is_target[train], FOLDS_TO_CHOOSE if in_sample else settings.folds)
    reference = fit_normative(
        lambda places: load(train[places]),
        rows,
        ~is_target[train],
        folds,
        covariates,
        settings.n_components,
        settings.model,
        settings.pooled,
        settings.borrow,
    )
    tensors, state = reference.state()
    save_checkpoint(run.reference, tensors, {**state, "folds": {}} if in_sample else state)


def load_rendering(
    run: RunDir,
    table: pd.DataFrame,
    config: Config,
    site_effects: Mapping[str, SiteEffect] | None = None,
    shifted: int | None = None,
) -> Rendering | None:
    """Return how images of a manifest are rendered for the salient encoder of a run; None where it has no reference.

    Parameters
    ----------
    run : RunDir
    table : DataFrame
    config : Config
    site_effects : mapping of site to SiteEffect or None, default=None
        Sites added to the reference.
    shifted : int or None, default=None
        As for :func:`sepclr_med.volumes.site_effects.render_at_sites`.

    Raises
    ------
    ManifestError
        When covariates are missing, or of a site whose controls the reference does not know.
    RunError
        When the reference cannot be read.
    """
    if not needs_reference(config):
        return None
    reference = load_reference(run)
    try:
        if site_effects:
            return render_at_sites(reference, site_effects, table, shifted)
        return render_with(reference, table)
    except ManifestError as error:
        summary = f"{run.reference}: this normative reference cannot be used for these rows"
        raise ManifestError(summary, error.problems) from error


def load_reference(run: RunDir) -> NormativeReference:
    """Return the normative reference of a run that has one.

    Raises
    ------
    RunError
        When it cannot be read.
    """
    tensors, state = load_checkpoint(run.reference)
    with fitting(run.reference):
        return NormativeReference.from_state(tensors, state)


def assign_folds(rows: pd.DataFrame, is_background: np.ndarray, n_folds: int) -> np.ndarray:
    """Divide training rows among folds: relatives and sessions together, groups and sites in equal shares.

    Raises
    ------
    ManifestError
        With fewer background participants than two per fold.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": list("abcdefgh")})
    >>> sorted(assign_folds(rows, np.arange(8) < 4, 2).tolist())
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    families = rows["participant_id"].astype(str)
    if "family_id" in rows:
        families = rows["family_id"].astype(object).where(rows["family_id"].notna(), families).astype(str)
    n = families[is_background].nunique()
    if n < 2 * n_folds:
        fix = "use fewer volumes.normative.folds, more controls, or method.salient_input=plain"
        few = Problem(f"{n} training background participants", allowed=f"{2 * n_folds} or more", fix=fix)
        raise ManifestError("volumes.normative: too few controls to say what is normal", [few])
    site = rows["site"].astype(str) if "site" in rows else pd.Series("", index=rows.index)
    people = pd.DataFrame({"family": families, "is_target": ~is_background, "site": site})
    # A family counts as its controls do: of each site and group they are dealt out one by one, so that no reference
    # lacks all controls of a site.
    people = people.sample(frac=1, random_state=0).sort_values(["is_target", "site"], kind="stable")
    dealt = people["family"].drop_duplicates()
    return families.map(pd.Series(np.arange(len(dealt)) % n_folds, index=dealt)).to_numpy(dtype=np.int64, copy=True)
