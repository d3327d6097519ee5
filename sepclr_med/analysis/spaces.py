"""Embeddings joined to the manifest, image by image, by their ids and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sepclr_med.cohort.embeddings import factor_columns
from sepclr_med.cohort.manifest import KEY
from sepclr_med.cohort.rows import fold_ids
from sepclr_med.cohort.splits import check_overlap
from sepclr_med.errors import ManifestError, Problem

SPLITS = ["train", "val", "test"]
FACTOR = re.compile(r"(.*?)_?(\d+)", re.DOTALL)
ALLOWED = "ids, and numeric factors that share a name and differ in its number, such as salient_000, PC_3 or z1"
MISSING = "n/a"


@dataclass(frozen=True)
class Space:
    """One space's factors beside what the manifest says about the same images.

    Parameters
    ----------
    name : str
        Such as ``salient``.
    rows : DataFrame
        The manifest's columns, with the embedding's ``split``; the index holds positions in the manifest.
    features : array of shape (n, d)
        Factors, one row per row of ``rows``.
    """

    name: str
    rows: pd.DataFrame
    features: np.ndarray


def join_spaces(embeddings: Mapping[str, pd.DataFrame], manifest: pd.DataFrame) -> list[Space]:
    """Join every embedding table to the manifest on ``participant_id``, ``session_id`` and ``run``.

    A column of the three that one table lacks counts as ``n/a`` there.

    Parameters
    ----------
    embeddings : mapping of str to DataFrame
        One table per space: ids, ``split`` if any, and factors. Factors may have any one name with a number each
        (``salient_000``, ``PC_3``, ``z1``), whichever program made them.
    manifest : DataFrame
        As :func:`sepclr_med.read_manifest` gives it, or any table with ``participant_id``.

    Returns
    -------
    list of Space

    Raises
    ------
    ManifestError
        With every embedding that has no row in the manifest, every id that is not a string or not unique, every
        column that is not a factor or has the name of a column of the manifest (an answer would be among the
        questions), every value that is not finite, and every participant or family that is in two
        splits.

    Examples
    --------
    >>> manifest = pd.DataFrame({"participant_id": ["01", "02"], "age": [30.0, 40.0]})
    >>> table = pd.DataFrame({"participant_id": ["02"], "split": ["test"], "salient_000": [0.5]})
    >>> join_spaces({"salient": table}, manifest)[0].rows[["participant_id", "age", "split"]]
      participant_id   age split
    1             02  40.0  test
    """
    if not embeddings:
        fix = "run `sepclr-med embed RUN_DIR` first"
        raise ManifestError("no embeddings were given", [Problem("no space to look at", fix=fix)])
    tables = {"manifest": manifest, **{f"{name} embedding": table for name, table in embeddings.items()}}
    _refuse([problem for file, table in tables.items() for problem in _id_problems(table, file)])
    _refuse([problem for name, table in embeddings.items() for problem in _table_problems(table, name, manifest)])

    known = image_keys(manifest)
    places = {name: known.get_indexer(image_keys(table)) for name, table in embeddings.items()}
    _refuse(
        [problem for name, table in embeddings.items() for problem in _unmatched(table, name, places[name], manifest)]
    )

    spaces = [_space(name, table, manifest, places[name]) for name, table in embeddings.items()]
    columns = [column for column in (*KEY, "family_id", "split") if column in manifest or column == "split"]
    _refuse(check_overlap(pd.concat([space.rows[columns] for space in spaces]).drop_duplicates()))
    return spaces


def image_keys(table: pd.DataFrame) -> pd.MultiIndex:
    """Return what names each image: participant, session and run, ``n/a`` where a column is absent or a value missing.

    Examples
    --------
    >>> image_keys(pd.DataFrame({"participant_id": ["01"], "run": [None]})).tolist()
    [('01', 'n/a', 'n/a')]
    """
    absent = pd.Series(MISSING, index=table.index, dtype=object)
    return pd.MultiIndex.from_arrays([_text(table[column]) if column in table else absent for column in KEY])


def all_rows(spaces: list[Space]) -> pd.DataFrame:
    """Return the manifest's rows that any space has."""
    seen = pd.concat([space.rows for space in spaces])
    return seen[~seen.index.duplicated()].sort_index()


def describe_coverage(spaces: list[Space], manifest: pd.DataFrame) -> list[str]:
    """Say which images are not in every table, and whose split is not the manifest's."""
    notes = []
    covered = set().union(*(space.rows.index for space in spaces))
    if len(covered) < len(manifest):
        notes.append(f"{len(manifest) - len(covered)} of {len(manifest)} images of the manifest have no embedding.")
    for space in spaces:
        if absent := len(covered) - len(space.rows):
            notes.append(f"{space.name} has no row for {absent} images that other spaces have: compare with care.")
    if "split" in manifest:
        named = _text(manifest["split"]).to_numpy()
        moved = {
            place
            for space in spaces
            for place, here in zip(space.rows.index, space.rows["split"], strict=True)
            if named[place] not in (here, MISSING)
        }
        if moved:
            notes.append(
                f"{len(moved)} images have another split in the manifest than in the embeddings; the embeddings' "
                "split, that of the fitted run, is used."
            )
    return notes


def _space(name: str, table: pd.DataFrame, manifest: pd.DataFrame, places: np.ndarray) -> Space:
    rows = manifest.reset_index(drop=True).iloc[places].copy()
    rows["split"] = _split(table).to_numpy()
    return Space(name, rows, table[factor_columns(table)].to_numpy(dtype=float))


def _text(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), MISSING)


def _split(table: pd.DataFrame) -> pd.Series:
    if "split" not in table:
        return pd.Series(None, index=table.index, dtype=object)
    split = table["split"].astype(object)
    return split.where(split.notna() & (split != MISSING), None)


def _id_problems(table: pd.DataFrame, file: str) -> list[Problem]:
    if "participant_id" not in table:
        return [Problem("no participant_id", file=file, allowed="one row per image, named by participant_id")]
    numbers = [
        column
        for column in KEY
        if column in table and pd.api.types.infer_dtype(table[column], skipna=True) not in ("string", "empty")
    ]
    fix = "read the table with these columns as strings: 001 must stay 001"
    problems = [
        Problem("ids are not strings", file=file, column=column, got=str(table[column].iloc[0]), fix=fix)
        for column in numbers
        if table[column].notna().any()
    ]
    keys = image_keys(table)
    repeated = np.flatnonzero(keys.duplicated(keep="first"))
    for place in repeated:
        got = " ".join(str(part) for part in keys[int(place)] if part != MISSING)
        problems.append(
            Problem("row is there twice", file=file, row=int(place) + 2, got=got, fix="keep one row per image")
        )
    return problems


def _table_problems(table: pd.DataFrame, name: str, manifest: pd.DataFrame) -> list[Problem]:
    file = f"{name} embedding"
    factors = factor_columns(table)
    named = _share_a_name(factors)
    strange = [c for c in factors if c not in named or not pd.api.types.is_numeric_dtype(table[c])]
    problems = [Problem("not a factor", file=file, column=str(c), allowed=ALLOWED, fix="drop it") for c in strange]
    problems += [
        Problem("a factor has the name of a column of the manifest", file=file, column=str(c), fix="rename or drop it")
        for c in factors
        if c in manifest and c not in strange
    ]
    if not factors:
        problems.append(Problem("no factors", file=file, allowed=ALLOWED))
    if problems:
        return problems
    finite = np.isfinite(table[factors].to_numpy(dtype=float, na_value=np.nan)).all(axis=1)
    for place in np.flatnonzero(~finite):
        who = str(table["participant_id"].iloc[place])
        fix = "look at the image with `sepclr-med check`, then embed again"
        problems.append(Problem("factors are not finite", file=file, row=int(place) + 2, participant_id=who, fix=fix))
    split = _split(table)
    unknown = split[split.notna() & ~split.isin(SPLITS)]
    allowed = ", ".join([*SPLITS, MISSING])
    problems += [Problem("unknown split", file=file, column="split", got=str(s), allowed=allowed) for s in set(unknown)]
    return problems


def _share_a_name(columns: list[str]) -> set[str]:
    """Return the columns that are one name with a number each; of several such names, the one most columns have."""
    found = {column: FACTOR.fullmatch(str(column)) for column in columns}
    names = Counter(match[1] for match in found.values() if match)
    most = names.most_common(1)[0][0] if names else None
    return {column for column, match in found.items() if match and match[1] == most}


def _unmatched(table: pd.DataFrame, name: str, places: np.ndarray, manifest: pd.DataFrame) -> list[Problem]:
    keys = image_keys(table)
    fix = "give the manifest these embeddings were made from"
    if alike := _differ_in_spelling(table["participant_id"][places < 0], manifest["participant_id"]):
        fix = "write the ids alike in both tables, as text: spreadsheets drop leading zeros"
        got, file = f"{alike[0]} here, {alike[1]} in the manifest", f"{name} embedding"
        message = f"{(places < 0).sum():,} embedding(s) without a row in the manifest, whose ids are spelt otherwise"
        return [Problem(message, file=file, column="participant_id", got=got, fix=fix)]
    return [
        Problem(
            "embedding without a row in the manifest",
            file=f"{name} embedding",
            row=int(place) + 2,
            participant_id=str(keys[int(place)][0]),
            got=" ".join(f"{c}={part}" for c, part in zip(KEY, keys[int(place)], strict=True) if part != MISSING),
            fix=fix,
        )
        for place in np.flatnonzero(places < 0)
    ]


def _differ_in_spelling(absent: pd.Series, known: pd.Series) -> tuple[str, str] | None:
    """Return one id and what the manifest calls it, where every id that is absent is there in another spelling."""
    named = dict(zip(fold_ids(known), known, strict=True))
    folded = fold_ids(absent)
    # An id that is there as it is written lacks another session or run, not another spelling.
    if absent.empty or absent.isin(known).any() or not folded.isin(named).all():
        return None
    return str(absent.iloc[0]), str(named[folded.iloc[0]])


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise ManifestError(f"{len(problems)} problem(s) between embeddings and manifest", problems)
