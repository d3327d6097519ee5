"""Groups of patients: sought in training participants, given to everyone, linked on those that are tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.links import link_factors
from sepclr_med.analysis.linkage import Linkage
from sepclr_med.analysis.participants import Participants, mean_factors
from sepclr_med.analysis.subtypes import Subtypes, find_subtypes
from sepclr_med.errors import ManifestError
from sepclr_med.rundir import as_written, read_json

SMALLEST_GROUP = 5
NUISANCES = ("site", "scanner", "sex")
LEVEL, MUCH = 0.05, 0.3


@dataclass(frozen=True)
class SubtypeStudy:
    """What ``link`` writes about subtypes.

    Parameters
    ----------
    facts : dict
        The verdict, and all that assigns new participants; for ``subtypes.json``.
    tables : dict of str to DataFrame
        ``subtypes`` (one row per target participant), ``subtypes_criteria``, ``subtypes_links``, as far as there are.
    """

    facts: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def study_subtypes(
    found: Linkage, described: Mapping[str, Any] | None = None, measures: Mapping[str, str] | None = None
) -> SubtypeStudy:
    """Seek subtypes in the salient space of training targets, and link them on the participants that were tested.

    Parameters
    ----------
    found : Linkage
        Its participants, and the settings that the links of subtypes share.
    described, measures : mapping or None, default=None
        As for :func:`sepclr_med.analysis.linkage.link`.

    Returns
    -------
    SubtypeStudy
        With fewer than twenty training targets, only a verdict that says so.
    """
    people, settings = found.people, found.settings
    features = pd.DataFrame(people.spaces["salient"], columns=people.factors["salient"])
    training = (people.rows["split"] == "train").to_numpy()
    fitted = training if training.any() else np.ones(len(people), dtype=bool)
    background = fitted & ~people.is_target
    try:
        subtypes = find_subtypes(
            features, fitted & people.is_target, background if background.any() else None, seed=settings["seed"]
        )
    except ManifestError as error:
        return SubtypeStudy({"verdict": f"Subtypes were not sought: {error.problems[0]}", "n_groups": None}, {})
    assigned = subtypes.assign(features[people.is_target])
    ids = people.rows.loc[people.is_target, ["participant_id", "split"]]
    tables = {"subtypes": pd.concat([ids, assigned], axis=1), "subtypes_criteria": subtypes.criteria}
    facts = {**subtypes.to_dict(), "fitted_on": "training targets" if training.any() else "all targets"}
    if subtypes.n_groups > 1:
        for warning in _follow_nuisances(assigned["group"], people.rows[people.is_target]):
            facts["verdict"] += f" {warning}"
        links = _link_groups(found, subtypes, described, measures)
        tables |= {"subtypes_links": links} if len(links) else {}
    return SubtypeStudy(facts, tables)


def assign_subtypes(facts_file: str | Path, salient: pd.DataFrame) -> pd.DataFrame | None:
    """Assign new participants to the groups that a run found.

    Parameters
    ----------
    facts_file : path
        ``RUN_DIR/analysis/subtypes.json``.
    salient : DataFrame
        Embeddings of the same model; images of one participant are averaged.

    Returns
    -------
    DataFrame or None
        ``participant_id group probability ...``; None when the run found a continuum or did not seek groups.
    """
    facts = read_json(facts_file, {})
    if not facts.get("groups"):
        return None
    means = mean_factors(salient)
    with as_written(facts_file):
        assigned = Subtypes.from_dict(facts).assign(means.reset_index(drop=True))
    return pd.concat([means.index.to_series(name="participant_id").reset_index(drop=True), assigned], axis=1)


def _follow_nuisances(group: pd.Series, rows: pd.DataFrame) -> list[str]:
    """Say where groups are much the same as sites, scanners or sexes."""
    from scipy.stats import chi2_contingency
    from scipy.stats.contingency import association

    said = []
    for name in (name for name in NUISANCES if name in rows):
        counts = pd.crosstab(group.to_numpy(), rows[name].to_numpy()).to_numpy()
        if min(counts.shape) < 2:
            continue
        strength, p_value = association(counts, method="cramer"), chi2_contingency(counts, correction=False).pvalue
        if strength > MUCH and p_value < LEVEL / len(NUISANCES):
            said.append(
                f"But the groups follow {name} (Cramer's V {strength:.2f}, p {p_value:.1g}): they may be no more."
            )
    return said


def _link_groups(
    found: Linkage, subtypes: Subtypes, described: Mapping[str, Any] | None, measures: Mapping[str, str] | None
) -> pd.DataFrame:
    """Each group, as belonging to it or not, against each variable; of two groups one says it all."""
    tested, settings = found.tested, found.settings
    features = pd.DataFrame(tested.spaces["salient"], columns=tested.factors["salient"])
    group = subtypes.assign(features)["group"]
    sizes = group.value_counts()
    names = sorted(name for name in sizes.index if sizes[name] >= SMALLEST_GROUP)
    names = names[1:] if subtypes.n_groups == 2 else names
    if not names or len(sizes) < 2:
        return pd.DataFrame()
    members = np.column_stack([(group == name).to_numpy(dtype=float) for name in names])
    people: Participants = tested.with_space("subtypes", members, names)
    links, _, _ = link_factors(
        people,
        "subtypes",
        settings["variables"],
        settings["covariates"],
        settings["blocks"],
        {name: family for family, members in settings["families"].items() for name in members},
        settings["n_permutations"],
        settings["seed"],
        families=settings["kin"],
        measures=measures,
        described=described,
    )
    return links
