"""Embedding tables as a BIDS derivative: one row per image, one TSV per space."""

from __future__ import annotations

import shutil
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med import __version__
from sepclr_med.cohort.cells import as_numbers, locate
from sepclr_med.cohort.tables import raise_errors, read_table
from sepclr_med.errors import Problem, RunError
from sepclr_med.rundir import read_json, write_json, write_table

ID_COLUMNS = ["participant_id", "session_id", "run", "split", "fold", "model_id"]
SPACES = {"common": "common", "salient": "salient", "voxel_pca": "voxelpca"}
DERIVED = {"canonical": "canonical", "image": "image"}
# What the sidecars of everything that one embedding of a cross-fit wrote say alike.
OF_ONE_EMBEDDING = ("Reference", "Ensemble")
NOTICE = (
    "For research only, not for diagnosis: no figure here says whether a person is ill, and none was validated for use "
    "in care."
)
SPACE_TEXT = {
    "common": "Representation of what patients and controls share, before the head.",
    "salient": "Representation of what varies among patients only, before the head. Axes are arbitrary up to rotation.",
    "voxel_pca": "Scores of a principal component analysis of the preprocessed voxels of the training rows: the plain "
    "baseline.",
    "canonical": "Canonical factors: the salient space rotated to the principal axes of the training targets, the most "
    "variable first, the sign of each fixed.",
    "image": "Statistics of the preprocessed image, to find images unlike the training ones; no space of the model.",
}


def tabulate_factors(ids: pd.DataFrame, factors: Mapping[str, np.ndarray]) -> dict[str, pd.DataFrame]:
    """Return a table for each space: the ids, and a column for each factor.

    Examples
    --------
    >>> ids = pd.DataFrame({"participant_id": ["01"]})
    >>> tabulate_factors(ids, {"salient": np.zeros((1, 2))})["salient"].columns.tolist()
    ['participant_id', 'salient_000', 'salient_001']
    """
    names = {space: [f"{space}_{index:03d}" for index in range(rows.shape[1])] for space, rows in factors.items()}
    return {
        space: pd.concat([ids, pd.DataFrame(rows, columns=names[space])], axis=1) for space, rows in factors.items()
    }


def write_embeddings(tables: Mapping[str, pd.DataFrame], folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write every space as ``desc-<space>_embedding.tsv`` with its JSON sidecar and the dataset description.

    Parameters
    ----------
    tables : mapping of {"common", "salient", "voxel_pca", "canonical", "image"} to DataFrame
        Columns ``participant_id session_id split fold model_id`` and one column per factor.
    folder : Path
        Made when absent.
    facts : mapping
        What the sidecars should say about the model; nothing that names the user's disk.

    Returns
    -------
    list of Path
        The tables written.
    """
    folder = Path(folder)
    description = {
        "Name": "sepclr_med embeddings",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "sepclr_med", "Version": __version__}],
        "SourceDatasets": [{"URL": "n/a"}],
    }
    write_json(folder / "dataset_description.json", description)
    written = []
    for space, table in tables.items():
        path = embedding_path(folder, space)
        factors = factor_columns(table)
        sidecar = {
            "Description": SPACE_TEXT[space],
            "Notice": NOTICE,
            "Space": space,
            "NumberOfFactors": len(factors),
            **facts,
            "participant_id": {"Description": "Participant, as in the manifest."},
            "session_id": {"Description": "Session, n/a when there is one."},
            "split": {"Description": "train: the model was fitted on this participant.", "Levels": SPLIT_LEVELS},
            "fold": {"Description": "Cross-validation fold, n/a without."},
            "model_id": {"Description": "First 12 hex digits of the SHA-256 of the weights."},
            f"{factors[0]} ... {factors[-1]}": {"Description": SPACE_TEXT[space], "Units": "arbitrary"},
        }
        write_json(path.with_suffix(".json"), sidecar)
        written.append(write_table(path, table))
    return written


def write_spread(space: str, table: pd.DataFrame, folder: Path) -> Path:
    """Write how far models that were averaged lie apart, ``desc-<space>_spread.tsv`` with its JSON sidecar.

    Parameters
    ----------
    space : str
    table : DataFrame
        The id columns, ``n_models``, and for each factor the standard deviation over models.
    folder : Path
    """
    path = _spread_path(folder, space)
    sidecar = {
        "Description": f"Standard deviation of each {space} factor over the models whose mean is the embedding.",
        "Notice": NOTICE,
        "n_models": {"Description": "Models averaged; n/a factors where it is one."},
    }
    write_json(path.with_suffix(".json"), sidecar)
    return write_table(path, table)


def read_spread(space: str, folder: str | Path) -> pd.DataFrame:
    """Read what :func:`write_spread` wrote; ids stay strings."""
    ids = dict.fromkeys(ID_COLUMNS, str)
    return pd.read_csv(_spread_path(folder, space), sep="\t", dtype=ids, na_values=["n/a"], keep_default_na=False)


def _spread_path(folder: str | Path, space: str) -> Path:
    return Path(folder) / f"desc-{(SPACES | DERIVED)[space]}_spread.tsv"


SPLIT_LEVELS = {
    "train": "seen in training",
    "val": "watched during training, never fitted",
    "test": "held out",
    "n/a": "not part of the run's cohort",
}


def embedding_path(folder: str | Path, space: str) -> Path:
    """Name the table of a space.

    Examples
    --------
    >>> embedding_path("embeddings", "voxel_pca").as_posix()
    'embeddings/desc-voxelpca_embedding.tsv'
    """
    return Path(folder) / f"desc-{(SPACES | DERIVED)[space]}_embedding.tsv"


def read_embeddings(folder: str | Path, spaces: Sequence[str] = tuple(SPACES)) -> dict[str, pd.DataFrame]:
    """Read what :func:`write_embeddings` wrote; ids stay strings.

    Parameters
    ----------
    folder : path
        The derivative.
    spaces : sequence of str, default=("common", "salient", "voxel_pca")
        Those wanted, as far as they are there; ``canonical`` is the salient space once more, rotated, ``image``
        statistics of the preprocessed images.

    Raises
    ------
    ManifestError
        With every problem of a table: no ``participant_id``, a factor that is not a number.
    RunError
        When the folder has no embedding table.
    """
    tables = {}
    for space in spaces:
        path = embedding_path(folder, space)
        if path.is_file():
            tables[space] = _read_factors(path)
    if not tables:
        raise RunError(f"{folder}: no embeddings there; run `sepclr-med embed {Path(folder).parent}` first")
    return tables


def read_replicates(folder: str | Path) -> dict[str, list[dict[str, pd.DataFrame]]]:
    """Read what a cross-fit wrote beside its embeddings, to be compared with one another.

    Parameters
    ----------
    folder : path
        The derivative.

    Returns
    -------
    dict of str to list of (dict of str to DataFrame)
        ``seeds``: the embeddings of each seed, where there are several; ``folds``: the embeddings, by models that never
        saw the participant, and those by models that did. Empty for a single model.

    Raises
    ------
    ManifestError, RunError
        As :func:`read_embeddings`; when one of them is left from an earlier embedding, by other models or laid over
        another one.
    """
    folder, found = Path(folder), {}
    *seeds, seen = _find_replicates(folder)
    if len(seeds) > 1:
        found["seeds"] = [_read_replicate(path, (*OF_ONE_EMBEDDING, "Models")) for path in seeds]
    if seen.is_dir():
        found["folds"] = [read_embeddings(folder), _read_replicate(seen, OF_ONE_EMBEDDING)]
    return found


def keep_replicates(folder: str | Path, names: Container[str]) -> None:
    """Delete what an earlier embedding of a cross-fit wrote beside its embeddings, but for these names.

    Parameters
    ----------
    folder : path
        The derivative.
    names : container of str
        ``seed-0``, ``seed-1``, ..., ``seen``.
    """
    for path in _find_replicates(Path(folder)):
        if path.name not in names and embedding_path(path, "salient").is_file():
            # Renamed first: killed half-way, nothing that could be read is left under its name.
            aside = path.with_name(f".{path.name}.old")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            shutil.rmtree(aside)


def _find_replicates(folder: Path) -> list[Path]:
    """Return the folders of single seeds, and last where that of models that saw the participant belongs."""
    numbered = [path for path in folder.glob("seed-*") if path.name.removeprefix("seed-").isdecimal()]
    return [*sorted(numbered, key=lambda path: int(path.name.removeprefix("seed-"))), folder / "seen"]


def _read_replicate(path: Path, facts: Sequence[str]) -> dict[str, pd.DataFrame]:
    tables = read_embeddings(path)
    for space in tables:
        here, beside = (
            read_json(embedding_path(folder, space).with_suffix(".json"), {}) for folder in (path, path.parent)
        )
        if other := [name for name in facts if here.get(name) != beside.get(name)]:
            raise RunError(
                f"{path}: left from an earlier embedding ({', '.join(other)} of {space} are not as in {path.parent}), "
                f"not to be compared with this one; run `sepclr-med embed {path.parent.parent}` again"
            )
    return tables


def read_any_embeddings(sources: Sequence[str], canonical: bool = False) -> dict[str, pd.DataFrame]:
    """Read embedding tables of any origin.

    Parameters
    ----------
    sources : sequence of str
        Each a CSV or TSV with ``participant_id`` and numeric factors, as ``FILE`` or ``SPACE=FILE``, or a folder that
        :func:`write_embeddings` wrote. A file without a space is the space its BIDS name says, else ``salient``.
    canonical : bool, default=False
        Whether to read from a folder its canonical factors as well, where they are of the models that embedded it.

    Returns
    -------
    dict of str to DataFrame
        Space to table; ids are strings, factors floats.

    Raises
    ------
    ManifestError
        With every problem of a file: no ``participant_id``, a factor that is not a number.
    RunError
        When a file or folder does not exist, or two files are one space.
    """
    tables: dict[str, pd.DataFrame] = {}
    for source in sources:
        named, path = _place_of(source)
        if not path.exists():
            raise RunError(f"{path}: no such embeddings; give a table with participant_id and factors, or a folder")
        if path.is_dir():
            found = read_embeddings(path, [*SPACES, "canonical"] if canonical else tuple(SPACES))
            if not of_same_models(found.get("canonical"), found.get("salient")):
                found.pop("canonical", None)
        else:
            found = {named or _space_of(path): _read_factors(path)}
        if twice := sorted(set(found) & set(tables)):
            raise RunError(f"{path}: {', '.join(twice)} was given twice; name each space, as in common=FILE")
        tables |= found
    return tables


def of_same_models(one: pd.DataFrame | None, other: pd.DataFrame | None) -> bool:
    """Say whether two tables of embeddings are there and are of the same models.

    Examples
    --------
    >>> table = pd.DataFrame({"participant_id": ["01"], "model_id": ["a"]})
    >>> of_same_models(table, table), of_same_models(table, None), of_same_models(table, table.assign(model_id="b"))
    (True, False, False)
    """
    if one is None or other is None:
        return False
    first, second = (set(table["model_id"]) if "model_id" in table else set() for table in (one, other))
    return first == second


def averaged_models(sources: Sequence[str]) -> list[str]:
    """Return which models of a cross-fit the salient embeddings are means over, as their sidecar says; none of others.

    Parameters
    ----------
    sources : sequence of str
        As for :func:`read_any_embeddings`.
    """
    for _, path in map(_place_of, sources):
        table = embedding_path(path, "salient") if path.is_dir() else path
        # Beside a table of other origin any file may have this name.
        with suppress(RunError):
            facts = read_json(table.with_suffix(".json"), {"Space": str, "Models": list})
            if facts["Space"] == "salient":
                return [str(name) for name in facts["Models"]]
    return []


def _place_of(source: str) -> tuple[str, Path]:
    named, _, file = source.rpartition("=")
    return named, Path(file)


def _space_of(path: Path) -> str:
    names = {f"desc-{label}_embedding": space for space, label in (SPACES | DERIVED).items()}
    return names.get(path.stem, "salient")


def _read_factors(path: Path) -> pd.DataFrame:
    raw, problems = read_table(path)
    if "participant_id" not in raw:
        got = ", ".join(raw.columns[:8])
        fix = "one row per image or participant, named by participant_id"
        problems.append(Problem("required column is absent", str(path), 1, "participant_id", got=got, fix=fix))
    elif raw["participant_id"].isna().any():
        empty = raw["participant_id"][raw["participant_id"].isna()]
        nobody = Problem("no participant", str(path), column="participant_id", fix="fill it, or remove the row")
        problems += locate(nobody, empty, empty)
    table = raw.copy()
    for column in factor_columns(raw):
        table[column] = as_numbers(raw[column])
        wrong = raw[column][raw[column].notna() & table[column].isna()]
        ids = raw.get("participant_id", pd.Series("", index=raw.index))
        fix = "factors are numbers; clinical columns belong in the manifest"
        problems += locate(Problem("not a number", str(path), column=column, fix=fix), wrong, ids)
    raise_errors(str(path), problems)
    return table.reset_index(drop=True)


def factor_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of the factors of an embedding table.

    Examples
    --------
    >>> factor_columns(pd.DataFrame(columns=["participant_id", "model_id", "salient_000"]))
    ['salient_000']
    """
    return [column for column in table.columns if column not in ID_COLUMNS]
