"""From a run folder to plain values: every file that is there, read once, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.crossfolds import find_unfinished
from sepclr_med.cohort.splits import without_test
from sepclr_med.config import read_yaml
from sepclr_med.errors import RunError, UserError
from sepclr_med.opening import hides_test, ledger_entries
from sepclr_med.report.wording import without_paths
from sepclr_med.rundir import RunDir, read_json

IDS = ("participant_id", "session_id", "run", "family_id", "fold", "split", "model_id")
CLASSES = ("diagnosis", "site", "scanner", "sex", "qc")
LINKS = (
    "factor space variable measure method",
    "n n_missing estimate ci_low ci_high statistic p_value p_free p_fwe p_fwe_free p_fdr mde",
    "effect family note",
)
# Table: (file, text columns it must have, numbers, further text columns). A number that is absent is missing.
TABLES: dict[str, tuple[str, str, str, str]] = {
    "problems": ("check/problems.tsv", "severity message", "row", "code column got allowed fix participant_id file"),
    "table_one": (
        "check/table_one.tsv",
        "variable statistic",
        "background background_spread target target_spread missing_background missing_target smd",
        "level",
    ),
    "history": ("history.tsv", "", "epoch", ""),
    "separation": (
        "analysis/separation.tsv",
        "variable space metric",
        "value ci_low ci_high chance p_value n",
        "scheme measure",
    ),
    "links": ("analysis/links.tsv", "factor variable", LINKS[1], "space measure method effect family note"),
    "sites": ("analysis/sites.tsv", "factor variable site", "n estimate ci_low ci_high tau2 i2 q p_heterogeneity", ""),
    "prediction": (
        "analysis/prediction.tsv",
        "variable predictors metric",
        "value ci_low ci_high chance p_value p_free n",
        "scheme measure",
    ),
    "similarity": (
        "analysis/similarity.tsv",
        "variable space",
        "n estimate ci_low ci_high statistic p_value p_free",
        "measure dissimilarity method note",
    ),
    "stability": (
        "analysis/stability.tsv",
        "space factor stable",
        "n n_seeds icc icc_low icc_high icc_mean icc_folds icc_folds_low icc_folds_high seed_spread",
        "",
    ),
    "space_stability": (
        "analysis/space_stability.tsv",
        "space",
        "n cka n_leading largest_angle overlap overlap_chance",
        "compared seeds",
    ),
    "reading_stability": (
        "analysis/reading_stability.tsv",
        "space variable",
        "n n_seeds r2 icc icc_low icc_high icc_mean",
        "",
    ),
    "criteria": (
        "analysis/subtypes_criteria.tsv",
        "model",
        "k bic silhouette silhouette_null_95 p_value stability_bootstrap stability_split_half smallest_share",
        "",
    ),
    "subtype_links": ("analysis/subtypes_links.tsv", "factor variable", LINKS[1], "space measure method effect note"),
}
OBJECTS = {
    "check": "check/check.json",
    "card": "analysis/card.json",
    "reference": "checkpoints/reference.json",
    "cross_fit": "crossfit.json",
    "controls": "controls/controls.json",
    "link": "analysis/link.json",
    "subtypes": "analysis/subtypes.json",
    "maps": "maps/maps.json",
    "simulation": "cohort/simulation.json",
}
SPACES = {"common": "common", "salient": "salient", "canonical": "canonical", "voxel_pca": "voxelpca"}


def collect_run(run_dir: str | Path) -> dict[str, Any]:
    r"""Read whatever a run folder holds.

    Parameters
    ----------
    run_dir : path
        Folder of the run; any of its files may be absent.

    Returns
    -------
    dict
        ``name`` (of the folder), ``config`` (dict), ``steps`` (list of dict, from ``provenance.json``), ``objects``
        (JSON files by name), ``tables`` (DataFrame by name, with every documented column), ``manifest`` and
        ``assignments`` (DataFrame or None), ``embeddings`` and ``sidecars`` (by space), ``files`` (relative names of
        what is there), ``unfinished`` (names of the models that a cross-fit still lacks) and ``faults`` (a sentence for
        each file that is there and cannot be read).

    Raises
    ------
    RunError
        When the folder does not exist or holds nothing a report could be made from.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "history.tsv").write_text("epoch\ttrain_total\n1\t2.5\n")
    ...     collect_run(folder)["tables"]["history"]["train_total"].tolist()
    [2.5]
    """
    run = RunDir(run_dir)
    if not run.path.is_dir():
        raise RunError(f"{run.path}: no such folder; name the folder of a run, such as runs/demo")
    files = sorted(p.relative_to(run.path).as_posix() for p in _reported(run.path))
    if not files:
        raise RunError(f"{run.path}: not a run folder, or nothing has been run there yet; start with `sepclr-med run`")
    faults: list[str] = []
    reader = _Reader(run.path, faults)
    tables = {name: reader.table(*what) for name, what in TABLES.items()}
    objects = {name: reader.object(path) for name, path in OBJECTS.items()}
    spaces = {space: reader.frame(f"embeddings/desc-{label}_embedding.tsv") for space, label in SPACES.items()}
    sidecars = {space: reader.object(f"embeddings/desc-{label}_embedding.json") for space, label in SPACES.items()}
    entries = _read_ledger(run, faults)
    if entries:
        objects["ledger"] = {"entries": entries}
    manifest, assignments = reader.frame("data/manifest.tsv"), reader.frame("analysis/subtypes.tsv")
    if hides_test(run):
        spaces = {space: _shown(table) for space, table in spaces.items()}
        manifest, assignments = _shown(manifest), _shown(assignments)
    return {
        "path": run.path,
        "name": run.path.resolve().name,
        "config": reader.config(run.config),
        "steps": records(reader.object("provenance.json"), "steps"),
        "objects": {name: content for name, content in objects.items() if content},
        "tables": {name: table for name, table in tables.items() if table is not None},
        "manifest": manifest,
        "assignments": assignments,
        "embeddings": {s: t for s, t in spaces.items() if t is not None and "participant_id" in t},
        "sidecars": sidecars,
        "files": files,
        "unfinished": _find_unfinished(run, faults) if objects["cross_fit"] else [],
        "faults": faults,
    }


def records(content: Any, key: str) -> list[dict[str, Any]]:
    """Return the list of objects under a key, and nothing when it is something else.

    Examples
    --------
    >>> records({"verdicts": [{"text": "a"}, 3]}, "verdicts"), records(None, "verdicts")
    ([{'text': 'a'}], [])
    """
    found = content.get(key) if isinstance(content, Mapping) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def texts(content: Any, key: str) -> list[str]:
    """Return the texts under a key.

    Examples
    --------
    >>> texts({"notes": ["a", None]}, "notes"), texts({"notes": "a"}, "notes")
    (['a'], ['a'])
    """
    found = content.get(key) if isinstance(content, Mapping) else None
    if isinstance(found, str):
        return [found]
    return [str(entry) for entry in found if isinstance(entry, (str, int, float))] if isinstance(found, list) else []


def dig(content: Any, *keys: str, default: Any = None) -> Any:
    """Return a nested value, or the default when any step is absent or missing.

    Examples
    --------
    >>> dig({"training": {"epochs": 25}}, "training", "epochs"), dig({}, "training", "epochs", default=0)
    (25, 0)
    """
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return default if content is None else content


def _read_ledger(run: RunDir, faults: list[str]) -> list[dict[str, Any]]:
    try:
        return ledger_entries(run) or []
    except UserError as error:
        faults.append(f"data/seal.json: {without_paths(error)}")
        return [] if run.cross_fit.is_file() else [{"event": "sealed"}]


def _find_unfinished(run: RunDir, faults: list[str]) -> list[str]:
    try:
        return [job.name for job in find_unfinished(run)]
    except RunError:
        faults.append(f"{run.cross_fit.name}: is not the plan of a cross-fit.")
        return []


def _shown(table: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if table is None else without_test(table)


def _reported(root: Path) -> list[Path]:
    patterns = (
        "*.yaml",
        "*.json",
        "*.tsv",
        "*.png",
        "check/*",
        "data/*",
        "embeddings/*",
        "analysis/*",
        "maps/*",
        "controls/*",
    )
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return [path for path in found if not path.name.startswith(".")]


class _Reader:
    """Reads files of one folder; what is absent is None, what cannot be read becomes a fault."""

    def __init__(self, root: Path, faults: list[str]):
        self.root = root
        self.faults = faults

    def frame(self, name: str) -> pd.DataFrame | None:
        path = self.root / name
        if not path.is_file():
            return None
        try:
            ids = dict.fromkeys((*IDS, *CLASSES), str)
            return pd.read_csv(path, sep="\t", dtype=ids, na_values=["n/a", ""], keep_default_na=False)
        except pd.errors.EmptyDataError:
            # The history of a method that is fitted in one step.
            return None
        except (OSError, ValueError) as error:
            # pandas' parser errors are ValueErrors.
            self.faults.append(f"{name}: cannot be read as a table ({str(error).splitlines()[0]}).")
            return None

    def table(self, name: str, texts: str, numbers: str, others: str) -> pd.DataFrame | None:
        table = self.frame(name)
        if table is None:
            return None
        if absent := [column for column in texts.split() if column not in table]:
            self.faults.append(f"{name}: columns {', '.join(absent)} are absent; it was left out.")
            return None
        for column in numbers.split():
            table[column] = pd.to_numeric(table[column], errors="coerce") if column in table else float("nan")
        for column in (texts + " " + others).split():
            table[column] = table[column].astype(object).where(table[column].notna(), "") if column in table else ""
            table[column] = table[column].map(str)
        return table

    def object(self, name: str) -> dict[str, Any]:
        path = self.root / name
        if not path.is_file():
            return {}
        try:
            return dict(read_json(path, {}))
        except RunError:
            self.faults.append(f"{name}: cannot be read as JSON.")
            return {}

    def config(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            return {}
        try:
            return dict(read_yaml(path))
        except (UserError, OSError, TypeError, ValueError):
            self.faults.append(f"{path.name}: cannot be read as a configuration.")
            return {}
