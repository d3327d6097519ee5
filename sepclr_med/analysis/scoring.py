"""One variable, one space, one scheme: the probe's scores, and what is said when there is too little data."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.exchangeability import draw_permutations
from sepclr_med.analysis.baselines import SAME_THING
from sepclr_med.analysis.metrics import METRICS
from sepclr_med.analysis.permuting import p_of_predictions, p_of_probes
from sepclr_med.analysis.probes import Prediction, predict_out_of_sample, predict_training_mean
from sepclr_med.analysis.resampling import score_with_intervals
from sepclr_med.analysis.schemes import MIN_FITTED, MIN_FITTED_PER_CLASS, Scheme, folds_of
from sepclr_med.analysis.spaces import Space
from sepclr_med.analysis.units import Folds, Kind, Units, average_sessions
from sepclr_med.analysis.variables import Groups, Variable, values_of

COLUMNS = [
    *("variable", "measure", "space", "scheme", "metric", "value", "ci_low", "ci_high", "chance", "p_value", "n"),
]
MIN_SCORED = 3
FEW_PER_CLASS = 5


@dataclass(frozen=True)
class Effort:
    """How much chance is drawn on.

    Parameters
    ----------
    n_bootstrap, n_permutations : int
        Resamples behind each interval, permutations behind each p-value; 0 leaves them missing.
    seed : int
        Seed of folds, resamples and permutations.
    """

    n_bootstrap: int = 1000
    n_permutations: int = 1000
    seed: int = 0

    def rng(self, name: str, purpose: int) -> np.random.Generator:
        """Return a generator of its own for each name, so that no figure depends on what else is asked."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode()), purpose])


class _NotScoredError(Exception):
    """Too little data for one probe; the text says what is missing."""


class Answer(NamedTuple):
    """Predictions of one variable from one space, of participants the probe was not fitted on.

    ``families`` are the units of resampling, ``chance`` the score of each metric without features, ``n_fitted`` how
    many participants the probe saw.
    """

    prediction: Prediction
    families: np.ndarray
    chance: dict[str, float]
    n_fitted: int


def answer_variable(space: Space, variable: Variable, groups: Groups, scheme: Scheme, effort: Effort) -> Answer | None:
    """Predict one variable from one space, arguments as for :func:`score_variable`; None with too little data."""
    units = _units(space, variable, groups, scheme)
    try:
        if variable.kind == "classification":
            units, _ = _set_rare_classes_aside(units, scheme)
        _require_enough(units, variable.kind, scheme)
        folds, _ = folds_of(units, variable.kind, scheme, effort.seed)
        _require_scored(units, folds, variable.kind)
    except _NotScoredError:
        return None
    prediction = predict_out_of_sample(units, variable.kind, folds, effort.seed)
    n_fitted = int(np.mean([len(np.unique(units.participants[fitted])) for fitted, _ in folds]))
    return Answer(prediction, units.families[prediction.rows], _chance(units, variable, folds), n_fitted)


def score_variable(
    space: Space, variable: Variable, groups: Groups, scheme: Scheme, effort: Effort
) -> tuple[list[dict[str, object]], list[str]]:
    """Probe one variable in one space.

    Parameters
    ----------
    space : Space
        Factors and the manifest's rows.
    variable : Variable
        What is asked.
    groups : Groups
        Patients and controls.
    scheme : Scheme
        Who fits and who is scored.
    effort : Effort
        Resamples, permutations and seed.

    Returns
    -------
    list of dict
        One record per metric, with the columns of the table; values are missing where there is too little data. None
        where leaving a site out makes no sense or cannot be done.
    list of str
        What must be said about them.
    """
    if scheme.name == "leave-site-out" and variable.name in SAME_THING:
        return [], []
    units = _units(space, variable, groups, scheme)
    metrics = METRICS[variable.measure]
    remarks: list[str] = []
    try:
        if variable.kind == "classification":
            units, remarks = _set_rare_classes_aside(units, scheme)
        _require_enough(units, variable.kind, scheme)
        folds, said = folds_of(units, variable.kind, scheme, effort.seed)
        _require_scored(units, folds, variable.kind)
    except _NotScoredError as reason:
        if scheme.name == "leave-site-out":
            return [], [f"leave-site-out n/a, {reason}"]
        nothing = dict.fromkeys(metrics, np.nan)
        values = dict.fromkeys(metrics, (np.nan, np.nan, np.nan))
        n = _scored(units, scheme).n_participants
        return _records(variable, space.name, scheme, values, nothing, nothing, n), [f"n/a, {reason}"]
    prediction = predict_out_of_sample(units, variable.kind, folds, effort.seed)
    people = units.participants[prediction.rows]
    rng = effort.rng(variable.label, 0)
    # Relatives are drawn together.
    unit = units.families[prediction.rows]
    values = score_with_intervals(metrics, prediction.truth, prediction.scores, unit, effort.n_bootstrap, rng)
    chance = _chance(units, variable, folds)
    p_values, unsaid = _p_values(units, variable, folds, prediction, scheme, effort)
    if scheme.name == "leave-site-out":
        # What a class lacks was said for the main scheme.
        remarks = []
    records = _records(variable, space.name, scheme, values, chance, p_values, len(np.unique(people)))
    return records, [*remarks, *said, *unsaid]


def exchange_blocks(units: Units, variable: str) -> np.ndarray | None:
    """Return the sites within which answers are exchanged; none for the site itself, or where there is one only."""
    if variable in SAME_THING or len(np.unique(units.sites.astype(str))) < 2:
        return None
    return units.sites.astype(str)


def exchange_words(rows: pd.DataFrame, effort: Effort) -> list[str]:
    """Say how p-values were made."""
    if effort.n_permutations == 0:
        return []
    many = f"P-values: {effort.n_permutations} permutations of the scored participants' answers"
    if "site" in rows and len(rows["site"].dropna().unique()) > 1:
        many += " within their site; for site and scanner over all sites"
    return [f"{many}. No correction is made for the number of rows."]


def _records(
    variable: Variable,
    space: str,
    scheme: Scheme,
    values: dict[str, tuple[float, float, float]],
    chance: dict[str, float],
    p_values: dict[str, float],
    n: int,
) -> list[dict[str, object]]:
    head = (variable.label, variable.measure, space, scheme.name)
    return [
        dict(zip(COLUMNS, (*head, metric, *values[metric], chance[metric], p_values[metric], n), strict=True))
        for metric in values
    ]


def _units(space: Space, variable: Variable, groups: Groups, scheme: Scheme) -> Units:
    rows = space.rows
    values = values_of(rows, variable, groups)
    split = rows["split"]
    if scheme.held_out is None:
        # Everyone takes turns, so sessions of one participant in no split and in a split are still one participant.
        split = pd.Series("all", index=split.index)
    else:
        values = values.where(split.isin(["train", scheme.held_out]))
    site, family = rows.get("site"), rows.get("family_id")
    units = average_sessions(space.features, values, rows["participant_id"], split, variable.kind, site, family)
    return units.take(units.has_one_site) if scheme.name == "leave-site-out" else units


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


def _require_scored(units: Units, folds: Folds, kind: Kind) -> None:
    """Refuse what is left when sites were left out: too few to score, or not all of the classes."""
    rows = np.concatenate([scored for _, scored in folds]) if folds else np.empty(0, dtype=int)
    if len(rows) < MIN_SCORED:
        raise _NotScoredError("the other sites have too little to fit on, whichever is left out.")
    left = units.truth[rows]
    if len(np.unique(left)) < (len(np.unique(units.truth)) if kind == "classification" else 2):
        raise _NotScoredError("the sites that can be scored lack a class or have one value.")


def _chance(units: Units, variable: Variable, folds: Folds) -> dict[str, float]:
    """Score the predictor that ignores the features: the most frequent class, or the training mean."""
    if variable.kind == "classification":
        return {"balanced_accuracy": 1 / len(np.unique(units.truth)), "auc": 0.5}
    truth = units.truth[np.concatenate([scored for _, scored in folds])]
    blind = predict_training_mean(units, folds)
    everyone = np.ones((1, len(truth)))
    scores = {name: float(metric(truth, blind, everyone)[0]) for name, metric in METRICS[variable.measure].items()}
    # Means of several folds differ a little, and a rank correlation would make something of it.
    return scores | {"spearman": 0.0}


def _p_values(
    units: Units, variable: Variable, folds: Folds, prediction: Prediction, scheme: Scheme, effort: Effort
) -> tuple[dict[str, float], list[str]]:
    names = list(METRICS[variable.measure])
    moved = units if scheme.refits else units.take(prediction.rows)
    blocks = exchange_blocks(moved, variable.name)
    if effort.n_permutations == 0:
        return dict.fromkeys(names, np.nan), []
    if blocks is not None and not _varies_within(moved.truth, blocks):
        where = f" ({scheme.name})" if scheme.name == "leave-site-out" else ""
        remark = f"no p-value{where}, as it does not vary within any site: it cannot be told apart from the site."
        return dict.fromkeys(names, np.nan), [remark]
    rng = effort.rng(variable.label, 1)
    orders = draw_permutations(effort.n_permutations, blocks, moved.families.astype(str), rng, len(moved.truth))
    if scheme.refits:
        return p_of_probes(names, moved, variable.kind, folds, orders), []
    return p_of_predictions(names, prediction.truth, prediction.scores, orders), []


def _varies_within(truth: np.ndarray, blocks: np.ndarray) -> bool:
    return bool(pd.Series(truth).groupby(blocks).nunique().gt(1).any())
