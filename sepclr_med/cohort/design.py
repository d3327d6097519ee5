"""What the design of a cohort lets the method learn, said in plain words before anyone trains on it.

Whatever differs between the groups is salient to the method, a scanner or an age gap as much as a disease. Every
finding says what it costs and what can be done.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from sepclr_med.cohort.balance import (
    ROLES,
    cramers_v,
    is_measured,
    participants_of,
    site_table,
    standardised_difference,
)
from sepclr_med.cohort.image_kinds import suggest_preset
from sepclr_med.errors import Problem

# The usual thresholds of balance diagnostics (Austin 2009; Stuart, Lee and Leacy 2013).
SMALL_DIFFERENCE, LARGE_DIFFERENCE = 0.1, 0.25
WEAK_ASSOCIATION, STRONG_ASSOCIATION = 0.1, 0.3
FEW_PARTICIPANTS, MODEST_PARTICIPANTS = 20, 50
SHOWN_SITES = 10
# Of the normative reference: twice the folds of volumes.normative.folds; of each site and class.
FEWEST_CONTROLS, FEWEST_OF_A_CLASS = 10, 3
NUISANCE = {"age": "age", "sex": "sex", "tiv": "head size (tiv)"}

COST_OF_ONE_GROUP = {
    "target only": (
        "Where only patients were scanned, {column} and disease are inseparable: whatever that scanner does to an "
        "image is seen in patients alone, so the salient space will encode the scanner and call it disease"
    ),
    "background only": (
        "Where only controls were scanned, {column} and disease are inseparable: an image from elsewhere is more often "
        "a patient's, so the salient space will encode scanner differences, and held-out figures will flatter"
    ),
}
REMEDIES_SEPARABLE = (
    "adjust for it in every analysis of the embeddings; match the groups by leaving rows out; report it beside every "
    "salient finding"
)
REMEDIES_SITE = (
    "leave these rows out; or add participants of the other group from the same scanner; or keep them and read no "
    "salient factor that tracks the site as disease (evaluate shows which do). Harmonisation and covariates cannot "
    "separate what never occurs apart"
)


def judge_design(manifest: pd.DataFrame, role: pd.Series) -> list[Problem]:
    """Return what the design would make the salient space encode: group sizes, sites, age, sex and head size, splits.

    Parameters
    ----------
    manifest : DataFrame
        One row per image; counted in participants.
    role : Series
        "background", "target" or missing for each row.

    Returns
    -------
    list of Problem
        ``message`` is the finding and its cost, ``fix`` the remedies. Errors: nobody in a group, or every site with
        one group only.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["a", "b"], "site": ["A", "B"]})
    >>> [problem.code for problem in judge_design(rows, pd.Series(["background", "target"]))][:2]
    ['few_participants', 'one_group_site']
    """
    people = participants_of(manifest.assign(role=role)[role.notna()])
    groups = {name: people[people["role"] == name] for name in ROLES}
    empty = [name for name, group in groups.items() if group.empty]
    if empty:
        return [_empty_group(name) for name in empty]
    return [
        *_judge_sizes(groups),
        *_judge_sites(manifest, role, "site"),
        *_judge_sites(manifest, role, "scanner"),
        *_judge_nuisance(groups),
        *_judge_parts(manifest, role),
        *_judge_reference(manifest, role),
        *_judge_absent(manifest, role),
    ]


def judge_acquisition(role: pd.Series, values: pd.Series, what: str) -> list[Problem]:
    """Say when a property of the images, such as their voxel size, goes with the group.

    Parameters
    ----------
    role, values : Series
        Group and property of each image.
    what : str
        Name of the property.

    Examples
    --------
    >>> role = pd.Series(["background", "target"] * 10)
    >>> print(judge_acquisition(role, role.map({"background": "1 mm", "target": "2 mm"}), "voxel size")[0].got)
    Cramer's V 1.00
    """
    v = cramers_v(role, values)
    if not v >= STRONG_ASSOCIATION:
        return []
    message = (
        f"{what} goes with the group (association V {v:.2f}). The salient space can tell the groups by resolution and "
        "interpolation, not by anatomy"
    )
    fix = "reconstruct all images alike, or restrict the cohort to one protocol"
    return [Problem(message, got=f"Cramer's V {v:.2f}", fix=fix, code="acquisition_group", severity="warning")]


def _empty_group(name: str) -> Problem:
    costs = {
        "background": "there are no controls: nothing says what is common, so no variation can be called salient",
        "target": "there are no patients: there is no salient variation to learn",
    }
    fix = f"name their diagnosis in --{name}, or add participants; a public cohort of the same kind of images may serve"
    return Problem(costs[name], column="diagnosis", fix=fix, code=f"no_{name}")


def _judge_sizes(groups: dict[str, pd.DataFrame]) -> list[Problem]:
    small = {name: len(group) for name, group in groups.items() if len(group) < MODEST_PARTICIPANTS}
    if not small:
        return []
    cost = (
        "The encoders will memorise individuals, and held-out figures will be noise"
        if min(small.values()) < FEW_PARTICIPANTS
        else "Held-out figures will have wide intervals, and weak salient factors will not be found"
    )
    counts = " and ".join(f"{name} has {count}" for name, count in small.items())
    fix = (
        "add participants (for background also from public cohorts of the same kind of images, scanned alike), do not "
        "divide them but cross-fit (fit --folds 5 --seeds 3), and believe intervals, not point estimates"
    )
    return [
        Problem(
            f"few participants: {counts}. {cost}",
            column="diagnosis",
            allowed=f"{MODEST_PARTICIPANTS} or more in each group",
            fix=fix,
            code="few_participants",
            severity="warning",
        )
    ]


def _judge_sites(manifest: pd.DataFrame, role: pd.Series, column: str) -> list[Problem]:
    table = site_table(manifest, role, column)
    table = table[table[column] != "n/a"]
    if len(table) < 2:
        return []
    v = _site_association(manifest, role, column)
    alone = table[table["groups"] != "both"]
    if alone.empty:
        return _judge_imbalance(table, v, column)
    every = len(alone) == len(table)
    said = [cost.format(column=column) for groups, cost in COST_OF_ONE_GROUP.items() if groups in set(alone["groups"])]
    if every:
        said.append(f"This holds for every {column}: no result of this cohort could be told from a scanner effect")
    return [
        Problem(
            f"{column} with one group only: {_name_sites(alone, column)}. {'. '.join(said)}",
            column=column,
            got=f"Cramer's V of group and {column} {v:.2f}",
            allowed=f"both groups at every {column}",
            fix=REMEDIES_SITE,
            code=f"one_group_{column}",
            severity="error" if every else "warning",
        )
    ]


def _name_sites(table: pd.DataFrame, column: str) -> str:
    named = [
        f'"{site}" ({background + target} participants, {groups})'
        for site, background, target, groups in table[[column, *ROLES, "groups"]].head(SHOWN_SITES).to_numpy()
    ]
    more = [f"and {len(table) - SHOWN_SITES} more"] if len(table) > SHOWN_SITES else []
    return ", ".join(named + more)


def _site_association(manifest: pd.DataFrame, role: pd.Series, column: str) -> float:
    once = ~manifest.assign(role=role).duplicated(["participant_id", column, "role"])
    return cramers_v(role[once], manifest.loc[once, column])


def _judge_imbalance(table: pd.DataFrame, v: float, column: str) -> list[Problem]:
    if not v >= WEAK_ASSOCIATION:
        return []
    share = table["target"] / (table["background"] + table["target"])
    low: Any = share.idxmin()
    high: Any = share.idxmax()
    strength = "strongly" if v >= STRONG_ASSOCIATION else "somewhat"
    message = (
        f'group goes {strength} with {column}: from {share[low]:.0%} patients at "{table.loc[low, column]}" to '
        f'{share[high]:.0%} at "{table.loc[high, column]}" (association V {v:.2f}). The salient space will encode '
        f"{column} in part"
    )
    fix = (
        f"stratify the split by diagnosis and {column} (the default); {REMEDIES_SEPARABLE}; test with --leave-site-out"
    )
    got = f"Cramer's V {v:.2f}"
    return [Problem(message, column=column, got=got, fix=fix, code=f"{column}_imbalance", severity="warning")]


def _judge_nuisance(groups: dict[str, pd.DataFrame]) -> list[Problem]:
    problems = []
    for column, name in NUISANCE.items():
        if column not in groups["background"]:
            continue
        background, target = (groups[role][column] for role in ROLES)
        difference = standardised_difference(background, target)
        if not abs(difference) > SMALL_DIFFERENCE:
            continue
        large = abs(difference) > LARGE_DIFFERENCE
        size, contrast = "clearly" if large else "slightly", _contrast(background, target)
        cost = (
            f"The salient space will encode {name}, and a salient factor may be nothing else"
            if large
            else f"The salient space may encode some {name}"
        )
        problems.append(
            Problem(
                f"{name} differs {size} between groups: {contrast}, standardised difference {difference:.2f}. {cost}",
                column=column,
                got=f"standardised difference {difference:.2f}",
                allowed=f"below {SMALL_DIFFERENCE} (clear above {LARGE_DIFFERENCE})",
                fix=REMEDIES_SEPARABLE + ("; or divide the maps by tiv" if column == "tiv" else ""),
                code=f"{column}_difference",
                severity="warning",
            )
        )
    return problems


def _contrast(background: pd.Series, target: pd.Series) -> str:
    if is_measured(background):
        return f"background {background.mean():.1f} (SD {background.std():.1f}), " + (
            f"target {target.mean():.1f} (SD {target.std():.1f})"
        )
    before, after = (group.value_counts(normalize=True) for group in (background, target))
    level: Any = after.sub(before, fill_value=0).abs().idxmax()
    return f"{level} in {before.get(level, 0):.0%} of background and {after.get(level, 0):.0%} of target"


def _judge_parts(manifest: pd.DataFrame, role: pd.Series) -> list[Problem]:
    """Find splits that lack a group; without one in train there is nothing to contrast."""
    if "split" not in manifest or manifest["split"].isna().all():
        return []
    problems = []
    for split, roles in role.groupby(manifest["split"]):
        problems += [
            Problem(
                f"split {split} has no {name} participants: "
                + ("nothing can be contrasted" if split == "train" else "its figures cannot compare the groups"),
                column="split",
                fix="run split again with --stratify diagnosis,site and larger shares",
                code="split_without_group",
                severity="error" if split == "train" else "warning",
            )
            for name in ROLES
            if not (roles == name).any()
        ]
    return problems


def _judge_reference(manifest: pd.DataFrame, role: pd.Series) -> list[Problem]:
    """Say what the normative reference, the default for maps in template space, will refuse."""
    if "image_path" in manifest and suggest_preset(manifest["image_path"].dropna()) == "t1w":
        return []
    used = manifest[role.notna()]
    known = [name for name in (*NUISANCE, "site") if name in used and used[name].notna().any()]
    lacking = {name: int(count) for name, count in used[known].isna().sum().items() if count}
    said = [f"rows without a value ({', '.join(f'{name} {n}' for name, n in lacking.items())})"] if lacking else []
    fitted = role == "background"
    if "split" in manifest and manifest["split"].notna().any():
        fitted &= manifest["split"] == "train"
    controls = participants_of(manifest[fitted])
    too_few = len(controls) < FEWEST_CONTROLS
    said += [f"{len(controls)} training controls, of {FEWEST_CONTROLS} that it needs"] * too_few
    rare: set[str] = set()
    for name in [name for name in known if name in ("sex", "site")]:
        counts = controls[name].value_counts().reindex(used[name].dropna().unique(), fill_value=0)
        few = counts[counts < FEWEST_OF_A_CLASS]
        rare |= {name} if len(few) else set()
        said += [
            f'{name} "{at}" with {n} training controls, of {FEWEST_OF_A_CLASS} that it needs' for at, n in few.items()
        ]
    if not said:
        return []
    left = [] if too_few else [name for name in known if name not in rare | set(lacking)]
    fix = _mend_reference(too_few, lacking=bool(lacking), rare=rare, left=left)
    message = f"fit with preset vbm will refuse this (the normative reference): {'; '.join(said)}"
    return [Problem(message, fix=fix, code="reference", severity="warning")]


def _mend_reference(too_few: bool, lacking: bool, rare: set[str], left: list[str]) -> str:
    """Say what lets the reference be fitted: rows, sites, or ``left``, the columns that it can be given as they are."""
    ways = ["add controls"] * too_few + ["leave these rows out"] * (lacking or bool(rare))
    ways += ["merge small sites"] * ("site" in rare)
    ways += [f"use the other columns alone: --set 'volumes.normative.covariates=[{','.join(left)}]'"] * bool(left)
    return ", or ".join([*ways, "do without a reference: --set method.name=sepclr_paper"])


def _judge_absent(manifest: pd.DataFrame, role: pd.Series) -> list[Problem]:
    absent = [
        name for name in ("site", *NUISANCE) if name not in manifest or manifest.loc[role.notna(), name].isna().all()
    ]
    if not absent:
        return []
    message = f"the manifest has no {', '.join(absent)}: whether the groups differ in it is not known"
    fix = "add what is known; reviewers ask, and later steps adjust for it"
    return [Problem(message, fix=fix, code="not_checked", severity="info")]
