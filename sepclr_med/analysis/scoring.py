"""One variable, one space, one probe: who fits, who is scored, and what is said when there is too little data."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sepclr_med.analysis.probes import (
    Folds,
    Kind,
    Units,
    average_sessions,
    cross_folds,
    held_out_fold,
    predict_out_of_sample,
    predict_training_mean,
)
from sepclr_med.analysis.resampling import Metric, auc, balanced_accuracy, mae, r2, score_with_intervals
from sepclr_med.analysis.spaces import Space
from sepclr_med.analysis.variables import Variable, values_of

COLUMNS = ["variable", "space", "metric", "value", "ci_low", "ci_high", "chance", "n"]
METRICS: dict[Kind, dict[str, Metric]] = {
    "classification": {"balanced_accuracy": balanced_accuracy, "auc": auc},
    "regression": {"r2": r2, "mae": mae},
}
MIN_SCORED = 3
MIN_FITTED = 5
MIN_FITTED_PER_CLASS = 2
FEW_PER_CLASS = 5


@dataclass(frozen=True)
class Scheme:
    """Who fits and who is scored: ``train`` and the part ``held_out``, or everyone in turn when it is none."""

    held_out: str | None
    notes: tuple[str, ...]


class _NotScoredError(Exception):
    """Too little data for one probe; the text says what is missing."""


def choose_scheme(split: pd.Series) -> Scheme:
    """Choose who is scored from the parts that are there: ``test``, else ``val``, else everyone in turn.

    Examples
    --------
    >>> choose_scheme(pd.Series(["train", "val", "train"])).held_out
    'val'
    """
    parts = set(split.dropna())
    if {"train", "test"} <= parts:
        return Scheme("test", ("Fitted on the train split, scored on the test split.",))
    if {"train", "val"} <= parts:
        note = (
            "There is no test split: fitted on the train split, scored on the val split, which may have chosen epochs."
        )
        return Scheme("val", (note,))
    note = (
        "There is no held-out split beside a train split: scored by cross-validation of the probes over participants."
    )
    if "train" in parts:
        warning = "In-sample warning: the encoder saw these rows in training, so every figure is too good."
        return Scheme(None, (note, warning))
    return Scheme(None, (note,))


def score_variable(
    space: Space, variable: Variable, target: Sequence[str] | None, scheme: Scheme, n_bootstrap: int, seed: int
) -> tuple[list[dict[str, object]], list[str]]:
    """Probe one variable in one space.

    Parameters
    ----------
    space : Space
        Factors and the manifest's rows.
    variable : Variable
        What is asked.
    target : sequence of str or None
        Diagnoses of patients, for variables asked among them only.
    scheme : Scheme
        Who fits and who is scored.
    n_bootstrap, seed : int
        Resamples behind the intervals; seed of folds and resamples.

    Returns
    -------
    list of dict
        One record per metric, with the columns of the table; values are missing where there is too little data.
    list of str
        What must be said about them.
    """
    units = _units(space, variable, target, scheme)
    remarks: list[str] = []
    metrics = METRICS[variable.kind]
    try:
        if variable.kind == "classification":
            units, remarks = _set_rare_classes_aside(units, scheme)
        _require_enough(units, variable.kind, scheme)
    except _NotScoredError as reason:
        values = dict.fromkeys(metrics, (np.nan, np.nan, np.nan))
        chance = dict.fromkeys(metrics, np.nan)
        remarks = [f"n/a, {reason}"]
    else:
        folds = held_out_fold(units, scheme.held_out) if scheme.held_out else cross_folds(units, variable.kind, seed)
        # A generator per variable: its interval does not depend on which other variables are asked.
        rng = np.random.default_rng([seed, zlib.crc32(variable.name.encode())])
        prediction = predict_out_of_sample(units, variable.kind, folds, seed)
        values = score_with_intervals(
            metrics, prediction.truth, prediction.scores, prediction.participants, n_bootstrap, rng
        )
        chance = _chance(units, variable.kind, folds)
    n = _scored(units, scheme).n_participants
    records = [
        dict(zip(COLUMNS, (variable.name, space.name, metric, *values[metric], chance[metric], n), strict=True))
        for metric in metrics
    ]
    return records, remarks


def _units(space: Space, variable: Variable, target: Sequence[str] | None, scheme: Scheme) -> Units:
    values = values_of(space.rows, variable, target)
    split = space.rows["split"]
    if scheme.held_out is None:
        # Everyone takes turns, so sessions of one participant in no split and in a split are still one participant.
        split = pd.Series("all", index=split.index)
    else:
        values = values.where(split.isin(["train", scheme.held_out]))
    return average_sessions(space.features, values, space.rows["participant_id"], split, variable.kind)


def _fitted(units: Units, scheme: Scheme) -> Units:
    return units.take(units.splits == "train") if scheme.held_out else units


def _scored(units: Units, scheme: Scheme) -> Units:
    return units.take(units.splits == scheme.held_out) if scheme.held_out else units


def _set_rare_classes_aside(units: Units, scheme: Scheme) -> tuple[Units, list[str]]:
    """Keep the classes that can be fitted and scored; a class on one side only can be neither right nor wrong."""
    fitted = pd.Series(_fitted(units, scheme).truth).value_counts()
    scored = pd.Series(_scored(units, scheme).truth).value_counts()
    # In cross-validation each class must be left with enough participants when a fold is taken out.
    needed = MIN_FITTED_PER_CLASS if scheme.held_out else MIN_FITTED_PER_CLASS + 1
    part = scheme.held_out or "scored"
    lacking = {
        str(label): f"{fitted.get(label, 0)} to fit on and {scored.get(label, 0)} in {part}"
        for label in np.unique(units.truth)
        if fitted.get(label, 0) < needed or scored.get(label, 0) < 1
    }
    kept = units.take(~np.isin(units.truth.astype(str), list(lacking)))
    aside = ", ".join(f"{label} ({counts})" for label, counts in lacking.items())
    n_classes = len(np.unique(kept.truth))
    if n_classes < 2:
        raise _NotScoredError(
            f"fewer than two classes have {needed} participants to fit on and 1 in {part}"
            + (f": {aside}" if aside else "; there is one class only")
        )
    remarks = [f"scored over the other {n_classes} classes, set aside as too rare: {aside}."] if lacking else []
    few = [f"{label} ({n})" for label, n in scored.items() if str(label) not in lacking and n < FEW_PER_CLASS]
    if few:
        remarks.append(f"few participants are scored in {', '.join(few)}: the interval is narrower than the doubt.")
    return kept, remarks


def _require_enough(units: Units, kind: Kind, scheme: Scheme) -> None:
    fitted, scored = _fitted(units, scheme), _scored(units, scheme)
    part = scheme.held_out or "scored"
    if scored.n_participants < MIN_SCORED:
        raise _NotScoredError(f"{scored.n_participants} {part} participants with a value, {MIN_SCORED} needed.")
    needed = MIN_FITTED if scheme.held_out else MIN_FITTED + MIN_SCORED
    if fitted.n_participants < needed:
        raise _NotScoredError(f"{fitted.n_participants} participants with a value to fit on, {needed} needed.")
    if kind == "regression" and (np.ptp(fitted.truth) == 0 or np.ptp(scored.truth) == 0):
        raise _NotScoredError("all participants of one part have the same value.")


def _chance(units: Units, kind: Kind, folds: Folds) -> dict[str, float]:
    """Score the predictor that ignores the features: the most frequent class, or the training mean."""
    if kind == "classification":
        return {"balanced_accuracy": 1 / len(np.unique(units.truth)), "auc": 0.5}
    truth = units.truth[np.concatenate([scored for _, scored in folds])]
    blind = predict_training_mean(units, folds)
    everyone = np.ones((1, len(truth)))
    return {name: float(metric(truth, blind, everyone)[0]) for name, metric in METRICS[kind].items()}
