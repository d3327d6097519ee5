"""What must hold for the rows of a manifest together: identified, not twice, and one name per participant."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from sepclr_med.cohort.cells import locate
from sepclr_med.errors import Problem

KEY = ["participant_id", "session_id", "run"]


def check_rows(manifest: pd.DataFrame, file: str) -> list[Problem]:
    """Return what is wrong with rows as a whole: no id or image, the same row or image twice, ids that nearly agree.

    Parameters
    ----------
    manifest : DataFrame
        Typed, indexed by spreadsheet row; absent columns are passed over.
    file : str
        For the messages.

    Returns
    -------
    list of Problem
    """
    ids = manifest.get("participant_id", pd.Series(index=manifest.index, dtype=object))
    problems = []
    for column in ("participant_id", "image_path"):
        if column in manifest:
            empty = manifest[column][manifest[column].isna()]
            absent = Problem("is empty", file=file, column=column, fix="fill it or remove the row", code="empty")
            problems += locate(absent, empty, ids)
    if "diagnosis" in manifest:
        unknown = manifest["diagnosis"][manifest["diagnosis"].isna()]
        fix = "nothing to do if they are only to be embedded; they are in neither group"
        absent = Problem("no diagnosis", file=file, column="diagnosis", fix=fix, code="empty", severity="warning")
        problems += locate(absent, unknown, ids) + _find_commas(manifest["diagnosis"], file)
    return problems + _find_repeats(manifest, ids, file) + find_near_ids(ids.dropna(), file)


def _find_commas(diagnoses: pd.Series, file: str) -> list[Problem]:
    """Warn of diagnoses that no option can name."""
    found = [name for name in diagnoses.dropna().astype(str).unique() if "," in name]
    if not found:
        return []
    message = "commas separate values on the command line, where --background and --target cannot name this diagnosis"
    fix = "rename it, or name it in the recipe: cohort.background and cohort.target are lists"
    got = "; ".join(found[:5])
    return [Problem(message, file, column="diagnosis", got=got, fix=fix, code="comma", severity="warning")]


def _find_repeats(manifest: pd.DataFrame, ids: pd.Series, file: str) -> list[Problem]:
    key = [column for column in KEY if column in manifest]
    if "participant_id" not in key:
        return []
    complete = manifest[ids.notna()]
    same_row, same_key = complete.duplicated(), complete.duplicated(key)
    fix = "remove one"
    problem = Problem("the same row twice", file=file, fix=fix, code="duplicate_row")
    problems = _say_repeats(problem, complete, list(manifest.columns), same_row, ids)
    fix = "remove one, or tell them apart by session_id and run"
    problem = Problem(f"another row has the same {', '.join(key)}", file=file, fix=fix, code="duplicate_id")
    problems += _say_repeats(problem, complete, key, same_key & ~same_row, ids)
    if "image_path" not in manifest:
        return problems
    images = complete[complete["image_path"].notna()]
    again = images.duplicated("image_path") & ~same_key.reindex(images.index)
    fix = "give each row its own image"
    problem = Problem("another row has the same image", file=file, column="image_path", fix=fix, code="duplicate_image")
    return problems + _say_repeats(problem, images, ["image_path"], again, ids)


def _say_repeats(
    problem: Problem, rows: pd.DataFrame, by: list[str], again: pd.Series, ids: pd.Series
) -> list[Problem]:
    if not again.any():
        return []
    numbers = pd.Series(rows.index, index=rows.index)
    first = numbers.groupby([rows[column] for column in by], dropna=False).transform("first")
    said = locate(problem, ids.loc[again.index[again]], ids)
    return [replace(each, got="", message=f"{each.message}; the first is row {first[each.row]}") for each in said]


def fold_ids(ids: pd.Series) -> pd.Series:
    """Return ids without case, ``sub-`` and leading zeros, in which two spellings of one participant agree.

    Examples
    --------
    >>> fold_ids(pd.Series(["sub-001", "1", "Sub-A"])).tolist()
    ['1', '1', 'a']
    """
    bare = ids.astype(str).str.casefold().str.replace(r"^sub-", "", regex=True)
    return bare.str.replace(r"^0+(?=.)", "", regex=True)


def find_near_ids(ids: pd.Series, file: str) -> list[Problem]:
    """Warn of 01 beside sub-01 or 1: one participant under two names would be in training and test at once.

    Examples
    --------
    >>> find_near_ids(pd.Series(["sub-01", "1", "sub-02"]), "a.tsv")[0].got
    'sub-01 and 1'
    """
    names = pd.Series(ids.unique())
    bare = fold_ids(names)
    near = bare.duplicated(keep=False)
    if not near.any():
        return []
    pairs = names[near].groupby(bare[near]).agg(list)
    got = "; ".join(" and ".join(pair) for pair in pairs.head(5)) + ("; ..." if len(pairs) > 5 else "")
    message = f"{len(pairs):,} participant(s) may be there under two names"
    fix = "use one spelling per participant, or they may land in training and test at once"
    place = Problem(message, file, column="participant_id", got=got, fix=fix, code="near_ids", severity="warning")
    return [place]
