"""What must be the same in all rows of a participant, or of a family, and is not."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from sepclr_med.cohort.allocation import number_relatives
from sepclr_med.errors import Problem

TWO_GROUPS = Problem(
    "participant is in both groups", column="diagnosis", code="two_groups", fix="keep the rows of one group"
)
TWO_DIAGNOSES = Problem(
    "participant has several diagnoses",
    column="diagnosis",
    fix="correct it, or leave it when the diagnosis changed between visits",
    code="two_diagnoses",
    severity="warning",
)
TWO_SEXES = Problem(
    "participant has several sexes", column="sex", code="two_sexes", fix="correct the rows that are wrong"
)


def check_participants(manifest: pd.DataFrame, role: pd.Series) -> list[Problem]:
    """Find participants whose rows contradict each other: two sexes, two diagnoses, both groups.

    A change of diagnosis within a group is a warning, because diagnoses do change between visits.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["a", "a"], "sex": ["F", "M"]})
    >>> [problem.got for problem in check_participants(rows, pd.Series(["target", "target"]))]
    ['F (row 2), M (row 3)']
    """
    people = manifest["participant_id"]
    problems = find_contradictions(people, people, role, TWO_GROUPS)
    if "diagnosis" in manifest:
        rest = ~people.isin([problem.participant_id for problem in problems])
        problems += find_contradictions(people[rest], people[rest], manifest.loc[rest, "diagnosis"], TWO_DIAGNOSES)
    if "sex" in manifest:
        problems += find_contradictions(people, people, manifest["sex"], TWO_SEXES)
    return problems


def check_overlap(manifest: pd.DataFrame) -> list[Problem]:
    """Find participants and families that are in two splits, or in two folds.

    Parameters
    ----------
    manifest : DataFrame
        One row per image; without ``split`` and ``fold`` there is nothing to find.

    Returns
    -------
    list of Problem
        One error per participant, and one per family that no participant in it explains.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["a", "a"], "split": ["train", "test"]})
    >>> print(check_overlap(rows)[0])
    row 3, a, column "split": participant is in several splits; got "train (row 2), test (row 3)"; ...
    """
    divided = [column for column in ("split", "fold") if column in manifest]
    return [problem for column in divided for problem in _check_division(manifest, column)]


def find_contradictions(participant: pd.Series, group: pd.Series, values: pd.Series, problem: Problem) -> list[Problem]:
    """Find groups of rows that have more than one value.

    Parameters
    ----------
    participant, group, values : Series
        Participant id, group (the participant again, or its family) and value of each row, aligned; rows with a missing
        value do not contradict.
    problem : Problem
        What to say; row, participant and values are filled in.

    Returns
    -------
    list of Problem
        One per group, at the first row that differs from the group's first.

    Examples
    --------
    >>> ids = pd.Series(["a", "a", "b"])
    >>> [found.row for found in find_contradictions(ids, ids, pd.Series(["x", "y", "x"]), Problem("differs"))]
    [3]
    """
    several = values.groupby(group).nunique()
    suspects = values[group.isin(several.index[several > 1])].dropna()
    found = []
    for _, own in suspects.groupby(group.loc[suspects.index], sort=False):
        stray = own.index[own != own.iloc[0]][0]
        once = own.drop_duplicates()
        got = ", ".join(f"{value} (row {label + 2})" for label, value in zip(once.index, once, strict=True))
        found.append(replace(problem, row=int(stray) + 2, participant_id=str(participant[stray]), got=got))
    return found


def _check_division(manifest: pd.DataFrame, column: str) -> list[Problem]:
    people = manifest["participant_id"]
    problem = Problem(
        f"participant is in several {column}s",
        column=column,
        allowed="one",
        fix="run split again with --overwrite, or give all its rows the same value",
        code=f"{column}_overlap",
    )
    found = find_contradictions(people, people, manifest[column], problem)
    if "family_id" not in manifest:
        return found
    # A family whose members are each in one place; those of a scattered member are told apart once it is mended.
    rest = manifest[manifest[column].notna() & ~people.isin([each.participant_id for each in found])]
    members = pd.Index(rest["participant_id"].unique())
    family = rest["participant_id"].map(pd.Series(number_relatives(rest, members), index=members))
    apart = replace(problem, message=f"family is in several {column}s")
    return found + find_contradictions(rest["participant_id"], family, rest[column], apart)
