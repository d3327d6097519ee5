"""Who fits and who is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from sepclr_med.analysis.units import Folds, Kind, Units, cross_folds, held_out_fold, site_folds

SchemeName: TypeAlias = Literal["held-out", "cross-validated", "leave-site-out"]

MIN_FITTED = 5
MIN_FITTED_PER_CLASS = 2


@dataclass(frozen=True)
class Scheme:
    """Who fits and who is scored: ``train`` and the part ``held_out``, or everyone in turn when it is none.

    Parameters
    ----------
    name : {"held-out", "cross-validated", "leave-site-out"}
        As tables call it.
    held_out : str or None
        The part that is scored.
    notes : tuple of str, default=()
        What must be said about it.
    in_sample : bool, default=False
        Whether the encoder was trained on those who are scored.
    """

    name: SchemeName
    held_out: str | None
    notes: tuple[str, ...] = ()
    in_sample: bool = False

    @property
    def refits(self) -> bool:
        """Whether those who are scored are also, in another fold, those who are fitted on."""
        return self.held_out is None


def choose_scheme(split: pd.Series) -> Scheme:
    """Choose who is scored from the parts that are there: ``test``, else ``val``, else everyone in turn.

    Examples
    --------
    >>> choose_scheme(pd.Series(["train", "val", "train"])).held_out
    'val'
    """
    parts = set(split.dropna())
    if {"train", "test"} <= parts:
        return Scheme("held-out", "test", ("Fitted on the train split, scored on the test split.",))
    if {"train", "val"} <= parts:
        note = (
            "There is no test split: fitted on the train split, scored on the val split, which may have chosen epochs."
        )
        return Scheme("held-out", "val", (note,))
    note = (
        "There is no held-out split beside a train split: scored by nested cross-validation of the probes over "
        "participants."
    )
    if "train" in parts:
        warning = "In-sample warning: the encoder saw these rows in training, so every figure is too good."
        return Scheme("cross-validated", None, (note, warning), in_sample=True)
    return Scheme("cross-validated", None, (note,))


def leave_site_out(rows: pd.DataFrame, scheme: Scheme) -> Scheme | None:
    """Return the scheme that scores each site by probes of the other sites; none with fewer than two sites."""
    if "site" not in rows or rows["site"].nunique() < 2:
        return None
    one = rows.groupby("participant_id")["site"].nunique().eq(1)
    notes = ["Leave-site-out: each site's participants are predicted by probes fitted on the other sites."]
    if not one.all():
        notes.append(f"Leave-site-out leaves out {int((~one).sum())} participants with several sites or none.")
    return Scheme("leave-site-out", scheme.held_out, tuple(notes))


def folds_of(units: Units, kind: Kind, scheme: Scheme, seed: int) -> tuple[Folds, list[str]]:
    """Divide the rows as a scheme asks; sites whose probes would have too little to fit on are left out and named.

    Parameters
    ----------
    units : Units
        All rows.
    kind : {"classification", "regression"}
        What the values are.
    scheme : Scheme
        Who fits and who is scored.
    seed : int
        Seed of the division.

    Returns
    -------
    list of (int array, int array)
        Positions to fit on and to score on; empty when no site can be scored.
    list of str
        Remarks.
    """
    if scheme.name == "held-out":
        return held_out_fold(units, str(scheme.held_out)), []
    if scheme.name == "cross-validated":
        return cross_folds(units, kind, seed), []
    kept: Folds = []
    left_out = []
    for site, fold in zip(*site_folds(units, scheme.held_out), strict=True):
        if _can_be_fitted(units.take(fold[0]), units, kind):
            kept.append(fold)
        else:
            left_out.append(site)
    remark = f"leave-site-out: the other sites have too little to fit on for {', '.join(left_out)}."
    return kept, [remark] if left_out and kept else []


def _can_be_fitted(fitted: Units, units: Units, kind: Kind) -> bool:
    if fitted.n_participants < MIN_FITTED:
        return False
    if kind == "regression":
        return fitted.truth.min() < fitted.truth.max()
    counts = pd.Series(fitted.truth.astype(str)).value_counts()
    return all(counts.get(str(label), 0) >= MIN_FITTED_PER_CLASS for label in set(units.truth))
