"""The card beside the table: verdicts in words, how far patients lie from controls, what ties the two spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.exchangeability import draw_permutations
from sepclr_med.analysis.baselines import join_both
from sepclr_med.analysis.dependence import cross_predict, measure_dependence
from sepclr_med.analysis.metrics import auc
from sepclr_med.analysis.permuting import p_of_predictions
from sepclr_med.analysis.resampling import score_with_intervals
from sepclr_med.analysis.schemes import Scheme, choose_scheme, folds_of
from sepclr_med.analysis.scoring import Effort, exchange_blocks
from sepclr_med.analysis.spaces import Space, all_rows, join_spaces
from sepclr_med.analysis.units import Kind, Units, average_sessions
from sepclr_med.analysis.variables import Groups, Over, listed
from sepclr_med.analysis.verdicts import give_verdicts

MIN_PARTICIPANTS = 20
MOST_PARTICIPANTS = 2000
MEASURES = ("distance_correlation", "hsic", "salient_from_common", "common_from_salient")


def separation_card(
    embeddings: Mapping[str, pd.DataFrame],
    manifest: pd.DataFrame,
    table: pd.DataFrame,
    target: Sequence[str] | None = None,
    background: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Put the separation table into words, and measure what it leaves out.

    Parameters
    ----------
    embeddings, manifest, target, background, n_bootstrap, n_permutations, seed
        As for :func:`sepclr_med.evaluate`.
    table : DataFrame
        What that returned.

    Returns
    -------
    dict
        Plain values, ready for JSON:

        - ``verdicts``: list of ``space variable level text``, level one of good, info, warning;
        - ``salient_norm``: median length of the salient embedding of controls and patients, the area under the curve
          that it tells them apart by, with interval and p-value; the same about the mean of the controls that were
          fitted on in ``from_background_mean``; empty without two groups;
        - ``dependence``: list of ``measure group value chance p_value n`` for distance correlation, HSIC and the R2 of
          each space predicted from the other, among held-out target participants and among everyone held out;
          ``chance`` is the mean over permutations;
        - ``scheme``, ``notes``, ``target``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> manifest = pd.DataFrame({"participant_id": [f"{i:03}" for i in range(90)], "age": rng.uniform(20, 80, 90)})
    >>> split = ["train", "train", "test"] * 30
    >>> x = rng.normal(size=90)
    >>> tables = {
    ...     name: pd.DataFrame({"participant_id": manifest["participant_id"], "split": split, f"{name}_000": x})
    ...     for name in ("common", "salient")
    ... }
    >>> from sepclr_med import evaluate
    >>> card = separation_card(tables, manifest, evaluate(tables, manifest, n_bootstrap=0), n_bootstrap=0)
    >>> card["dependence"][0]["measure"], round(card["dependence"][0]["value"], 3)
    ('distance_correlation', 1.0)
    >>> card["verdicts"][-1]["level"]
    'warning'
    """
    from threadpoolctl import threadpool_limits

    effort = Effort(n_bootstrap, n_permutations, seed)
    groups = Groups(listed(target), listed(background))
    spaces = join_spaces(embeddings, manifest)
    scheme = choose_scheme(all_rows(spaces)["split"])
    notes: list[str] = []
    with threadpool_limits(1):
        norm = _salient_norm(spaces, groups, scheme, effort)
        dependence = _dependence(spaces, groups, scheme, effort, notes)
    said = {"salient_norm": norm, "dependence": dependence}
    has_sites = _has_sites(spaces)
    verdicts = give_verdicts(table, said, in_sample=scheme.in_sample, has_sites=has_sites)
    return _plain(
        {
            "verdicts": verdicts,
            **said,
            "scheme": scheme.notes[0],
            "notes": [*table.attrs.get("notes", ()), *notes],
            "target": list(groups.target or ()),
        }
    )


def _has_sites(spaces: list[Space]) -> bool:
    rows = all_rows(spaces)
    return "site" in rows and len(rows["site"].dropna().unique()) > 1


def _salient_norm(spaces: list[Space], groups: Groups, scheme: Scheme, effort: Effort) -> dict[str, Any]:
    """Compare the length of the salient embedding between controls and patients."""
    salient = next((space for space in spaces if space.name == "salient"), None)
    if salient is None or groups.target is None:
        return {}
    is_target = groups.members(salient.rows, "target")
    known = is_target | groups.members(salient.rows, "background")
    group = pd.Series(np.where(is_target, "target", "background"), index=salient.rows.index).where(known)
    units = _average(salient, group, scheme)
    fitted, scored = _parts(units, scheme)
    if min((scored.truth == name).sum() for name in ("target", "background")) < 3:
        return {}
    found = _norms(scored, scored.features, effort)
    centre = fitted.features[fitted.truth == "background"]
    if len(centre):
        found["from_background_mean"] = _norms(scored, scored.features - centre.mean(axis=0), effort)
    return found


def _norms(units: Units, vectors: np.ndarray, effort: Effort) -> dict[str, Any]:
    length = np.linalg.norm(vectors, axis=1)
    truth = (units.truth == "target").astype(int)
    scores = np.column_stack([-length, length])
    rng = effort.rng("salient_norm", 0)
    value, low, high = score_with_intervals({"auc": auc}, truth, scores, units.families, effort.n_bootstrap, rng)["auc"]
    orders = _orders(units, effort)
    return {
        "median_background": float(np.median(length[truth == 0])),
        "median_target": float(np.median(length[truth == 1])),
        "auc": value,
        "ci_low": low,
        "ci_high": high,
        "p_value": p_of_predictions(["auc"], truth, scores, orders)["auc"] if len(orders) else np.nan,
        "n_background": int((truth == 0).sum()),
        "n_target": int((truth == 1).sum()),
    }


def _dependence(
    spaces: list[Space], groups: Groups, scheme: Scheme, effort: Effort, notes: list[str]
) -> list[dict[str, Any]]:
    both = join_both(spaces)
    if both is None:
        return []
    n_common = next(space.features.shape[1] for space in spaces if space.name == "common")
    overs: tuple[Over, ...] = ("everyone",) if groups.target is None else ("target", "everyone")
    records = []
    for over in overs:
        asked = pd.Series(0.0, index=both.rows.index).where(groups.members(both.rows, over))
        units = _average(both, asked, scheme, number=True)
        records += _depend(_thin(units, over, effort, notes), n_common, over, scheme, effort, notes)
    return records


def _depend(
    units: Units, n_common: int, over: str, scheme: Scheme, effort: Effort, notes: list[str]
) -> list[dict[str, Any]]:
    fitted, scored = _parts(units, scheme)
    n = len(scored.truth)
    if min(n, len(fitted.truth)) < MIN_PARTICIPANTS:
        notes.append(f"Dependence of common and salient among {over}: fewer than {MIN_PARTICIPANTS} participants.")
        return []
    orders = _orders(scored, effort)
    common, salient = np.split(scored.features, [n_common], axis=1)
    found = measure_dependence(common, salient, orders)
    # Everyone is scored, in the order of the folds, or only those held out.
    folds, _ = folds_of(units, "regression", scheme, effort.seed)
    common, salient = np.split(units.features, [n_common], axis=1)
    found["salient_from_common"] = cross_predict(common, salient, folds, orders, scheme.refits)
    found["common_from_salient"] = cross_predict(salient, common, folds, orders, scheme.refits)
    return [
        {"measure": name, "group": over, **dict(zip(("value", "chance", "p_value"), found[name], strict=True)), "n": n}
        for name in MEASURES
    ]


def _average(space: Space, values: pd.Series, scheme: Scheme, number: bool = False) -> Units:
    rows = space.rows
    split = rows["split"] if scheme.held_out else pd.Series("all", index=rows.index)
    values = values.where(split.isin(["train", scheme.held_out])) if scheme.held_out else values
    kind: Kind = "regression" if number else "classification"
    people, site, family = rows["participant_id"], rows.get("site"), rows.get("family_id")
    return average_sessions(space.features, values, people, split, kind, site, family)


def _parts(units: Units, scheme: Scheme) -> tuple[Units, Units]:
    if scheme.held_out is None:
        return units, units
    return units.take(units.splits == "train"), units.take(units.splits == scheme.held_out)


def _thin(units: Units, over: str, effort: Effort, notes: list[str]) -> Units:
    """Keep as many as a matrix of all pairs has room for."""
    if len(units.truth) <= MOST_PARTICIPANTS:
        return units
    kept = effort.rng(f"thin {over}", 2).choice(len(units.truth), MOST_PARTICIPANTS, replace=False)
    notes.append(f"Dependence among {over}: of a random {MOST_PARTICIPANTS} of {len(units.truth)} participants.")
    return units.take(np.sort(kept))


def _orders(units: Units, effort: Effort) -> np.ndarray:
    n = len(units.truth)
    if effort.n_permutations == 0:
        return np.empty((0, n), dtype=int)
    blocks = exchange_blocks(units, "")
    return draw_permutations(effort.n_permutations, blocks, units.families.astype(str), effort.rng("card", 1), n)


def _plain(content: Any) -> Any:
    """Replace numbers that JSON does not know."""
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
