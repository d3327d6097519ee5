"""What is mapped: a factor of a space, a canonical factor (a weighted sum of factors), or a clinical variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sepclr_med.anatomy.sample import add_factors, is_class
from sepclr_med.cohort.embeddings import ID_COLUMNS, factor_columns, read_embeddings
from sepclr_med.errors import ManifestError, Problem, RunError, did_you_mean
from sepclr_med.rundir import read_json

CANONICAL = "canonical"
ENCODERS = ("common", "salient")
N_DEFAULT = 2
NOT_VARIABLES = {*ID_COLUMNS, "image_path", "mask_path", "diagnosis"}


@dataclass(frozen=True)
class MappedFactor:
    """Something that has one number per participant.

    Parameters
    ----------
    name : str
        Such as ``salient_003``, ``canonical_000`` or ``severity``.
    space : str
        ``salient``, ``common``, ``canonical``, ``voxel_pca``; ``variable`` for a column of the manifest.
    encoder : {"common", "salient"} or None
        Which encoder gives it; None where none does.
    weights : float array (d,) or None
        ``value = (representation - centre) @ weights``.
    centre : float array (d,) or None
    levels : tuple of str
        The two classes of a variable that has classes: the first counts as 0, the second as 1.
    """

    name: str
    space: str
    encoder: str | None = None
    weights: np.ndarray | None = None
    centre: np.ndarray | None = None
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunTables:
    """Embedding tables of a run, canonical factors among them, and what the sidecars say.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Space to table.
    loadings : float array (d, k) or None
        Of the canonical factors.
    centre : float array (d,) or None
    checkpoint : str or None
        Which weights the embeddings were made with.
    """

    tables: Mapping[str, pd.DataFrame]
    loadings: np.ndarray | None
    centre: np.ndarray | None
    checkpoint: str | None


def read_tables(folder: Path) -> RunTables:
    """Read the embeddings of a run and, where there are any, its canonical factors.

    Raises
    ------
    RunError
        When there are no embeddings, or a sidecar does not fit its table.
    """
    tables = {space: table for space, table in read_embeddings(folder).items() if space != CANONICAL}
    path = folder / f"desc-{CANONICAL}_embedding.tsv"
    loadings = centre = None
    if path.is_file() and path.with_suffix(".json").is_file():
        ids = dict.fromkeys(ID_COLUMNS, str)
        tables[CANONICAL] = pd.read_csv(path, sep="\t", dtype=ids, na_values=["n/a"], keep_default_na=False)
        facts = read_json(path.with_suffix(".json"))
        try:
            loadings, centre = np.asarray(facts["Loadings"], float), np.asarray(facts["Centre"], float)
            fits = loadings.shape == (centre.size, len(factor_columns(tables[CANONICAL])))
        except (KeyError, ValueError, TypeError):
            fits = False
        if not fits:
            raise RunError(f"{path.with_suffix('.json')}: no Loadings and Centre that fit the table; embed again")
    sidecar = folder / "desc-salient_embedding.json"
    checkpoint = read_json(sidecar, {}).get("Checkpoint") if sidecar.is_file() else None
    return RunTables(tables, loadings, centre, checkpoint)


def default_factors(manifest: pd.DataFrame, run: RunTables, target: Sequence[str]) -> list[str]:
    """Return the first two canonical factors, or the two salient factors that vary most among training targets."""
    if CANONICAL in run.tables:
        return factor_columns(run.tables[CANONICAL])[:N_DEFAULT]
    if "salient" not in run.tables:
        raise RunError("explain: the run has no salient embedding; name the factors, or embed again")
    table = run.tables["salient"]
    names = factor_columns(table)
    joined = add_factors(manifest, table, names)
    seen = joined["diagnosis"].isin(list(target)) & (joined["split"] == "train")
    spread = joined.loc[seen if seen.sum() > 1 else joined.index, names].std()
    return list(spread.sort_values(ascending=False).index[:N_DEFAULT])


def resolve_factors(names: Sequence[str], manifest: pd.DataFrame, run: RunTables) -> list[MappedFactor]:
    """Return what each name stands for.

    Parameters
    ----------
    names : sequence of str
        Factors or columns of the manifest; a column that is named like a factor is a factor.
    manifest : DataFrame
    run : RunTables

    Raises
    ------
    ManifestError
        Naming every unknown name with the nearest known one, and every column that is neither a number nor has two
        classes.
    """
    known = {name: space for space, table in run.tables.items() for name in factor_columns(table)}
    columns = [str(column) for column in manifest.columns if column not in NOT_VARIABLES]
    found, problems = [], []
    for name in dict.fromkeys(names):
        if name in known:
            found.append(_factor(name, known[name], run))
        elif name in columns:
            levels = _levels(manifest[name])
            problems += [_not_two(name, levels)] if levels and len(levels) != 2 else []
            found.append(MappedFactor(name, "variable", levels=levels))
        else:
            allowed = "a factor such as salient_000, or a column of the manifest"
            fix = did_you_mean(name, [*known, *columns])
            problems.append(Problem("no such factor or variable", column=name, allowed=allowed, fix=fix))
    if problems:
        raise ManifestError(f"explain: {len(problems)} name(s) cannot be mapped", problems)
    return found


def join_values(manifest: pd.DataFrame, factors: Sequence[MappedFactor], run: RunTables) -> pd.DataFrame:
    """Return the manifest with a column of numbers for each factor."""
    joined = manifest.reset_index(drop=True)
    for space in dict.fromkeys(factor.space for factor in factors if factor.space != "variable"):
        mine = [factor.name for factor in factors if factor.space == space]
        joined = add_factors(joined.drop(columns=mine, errors="ignore"), run.tables[space], mine)
    return joined


def values_of(rows: pd.DataFrame, factor: MappedFactor) -> np.ndarray:
    """Return one number per participant, missing where there is none; of two classes the second in order is 1."""
    values = rows[factor.name]
    if not factor.levels:
        return values.to_numpy(dtype=float, na_value=np.nan)
    return np.where(values.isna(), np.nan, (values.astype(str) == factor.levels[1]).astype(float))


def _factor(name: str, space: str, run: RunTables) -> MappedFactor:
    place = factor_columns(run.tables[space]).index(name)
    if space == CANONICAL:
        return MappedFactor(name, space, "salient", run.loadings[:, place], run.centre)
    if space not in ENCODERS:
        return MappedFactor(name, space)
    size = len(factor_columns(run.tables[space]))
    return MappedFactor(name, space, space, np.eye(size)[place], np.zeros(size))


def _levels(values: pd.Series) -> tuple[str, ...]:
    return tuple(sorted(values.dropna().astype(str).unique())) if is_class(values) else ()


def _not_two(name: str, levels: Sequence[str]) -> Problem:
    fix = "make a column for one class against the others"
    shown = f"{len(levels)} classes: {', '.join(levels[:5])}"
    return Problem("cannot be one map", column=name, got=shown, allowed="numbers, or two classes", fix=fix)
