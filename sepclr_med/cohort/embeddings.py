"""Embedding tables as a BIDS derivative: one row per image, one TSV per space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med import __version__
from sepclr_med.errors import RunError
from sepclr_med.rundir import write_json, write_table

ID_COLUMNS = ["participant_id", "session_id", "run", "split", "fold", "model_id"]
SPACES = {"common": "common", "salient": "salient", "voxel_pca": "voxelpca"}
SPACE_TEXT = {
    "common": "Representation of what patients and controls share, before the head.",
    "salient": "Representation of what varies among patients only, before the head. Axes are arbitrary up to rotation.",
    "voxel_pca": "Scores of a principal component analysis of the preprocessed voxels of the training rows: the plain "
    "baseline.",
}


def write_embeddings(tables: Mapping[str, pd.DataFrame], folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write every space as ``desc-<space>_embedding.tsv`` with its JSON sidecar and the dataset description.

    Parameters
    ----------
    tables : mapping of {"common", "salient", "voxel_pca"} to DataFrame
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
        path = folder / f"desc-{SPACES[space]}_embedding.tsv"
        factors = factor_columns(table)
        sidecar = {
            "Description": SPACE_TEXT[space],
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


SPLIT_LEVELS = {
    "train": "seen in training",
    "val": "watched during training, never fitted",
    "test": "held out",
    "n/a": "not part of the run's cohort",
}


def read_embeddings(folder: Path) -> dict[str, pd.DataFrame]:
    """Read what :func:`write_embeddings` wrote; ids stay strings.

    Raises
    ------
    RunError
        When the folder has no embedding table.
    """
    tables = {}
    for space, label in SPACES.items():
        path = Path(folder) / f"desc-{label}_embedding.tsv"
        if path.is_file():
            ids = dict.fromkeys(ID_COLUMNS, str)
            tables[space] = pd.read_csv(path, sep="\t", dtype=ids, na_values=["n/a"], keep_default_na=False)
    if not tables:
        raise RunError(f"{folder}: no embeddings there; run `sepclr-med embed RUN_DIR` first")
    return tables


def factor_columns(table: pd.DataFrame) -> list[str]:
    """Return the names of the factors of an embedding table.

    Examples
    --------
    >>> factor_columns(pd.DataFrame(columns=["participant_id", "model_id", "salient_000"]))
    ['salient_000']
    """
    return [column for column in table.columns if column not in ID_COLUMNS]
