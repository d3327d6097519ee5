"""Who is left out together in cross-fitting, a fold of participants or a site, and which models that makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from sepclr_med.cohort.allocation import number_relatives
from sepclr_med.cohort.balance import participants_of
from sepclr_med.cohort.splits import assign_splits, without_test
from sepclr_med.errors import ConfigError, ManifestError, Problem, RunError
from sepclr_med.rundir import RunDir, read_json


@dataclass(frozen=True)
class Job:
    """One model of a cross-fit.

    Parameters
    ----------
    fold : str
        Whom it never sees.
    seed : int
    """

    fold: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder under ``models``.

        Examples
        --------
        >>> Job("2", 0).name
        'fold-2_seed-0'
        """
        word = "".join(c if c.isalnum() or c in "-." else "+" for c in self.fold)
        return f"fold-{word}_seed-{self.seed}"


def read_plan(run: RunDir) -> dict[str, Any]:
    """Return the folds and seeds of a cross-fit, and once it was embedded, the ``reference`` its spaces are laid over.

    Raises
    ------
    RunError
        When ``crossfit.json`` is none.
    """
    plan = read_json(run.cross_fit, {"folds": list, "seeds": list})
    if {type(fold) for fold in plan["folds"]} - {str} or {type(seed) for seed in plan["seeds"]} - {int}:
        raise RunError(f"{run.cross_fit}: folds should be texts and seeds whole numbers; mend or delete it")
    if not isinstance(plan.get("reference", {}), dict):
        raise RunError(f"{run.cross_fit}: reference should have model and model_id; mend or delete it")
    return plan


def find_unfinished(run: RunDir) -> list[Job]:
    """Return the models that a cross-fit was planned with and that have not ended their training.

    Raises
    ------
    RunError
        As for :func:`read_plan`.
    """
    plan = read_plan(run)
    jobs = [Job(fold, seed) for seed in plan["seeds"] for fold in plan["folds"]]
    return [job for job in jobs if not _has_ended(RunDir(run.job(job.name)))]


def _has_ended(model: RunDir) -> bool:
    # Training writes itself down once all its epochs are done and everything is fitted.
    try:
        steps = read_json(model.provenance, {"steps": list})["steps"]
    except RunError:
        return False
    return any(isinstance(step, dict) and step.get("step") == "fit" for step in steps)


def assign_crossfolds(manifest: pd.DataFrame, n_folds: int, stratify: list[str], seed: int = 0) -> pd.DataFrame:
    """Divide everyone outside the test set among folds.

    Parameters
    ----------
    manifest : DataFrame
        Rows whose ``split`` is ``test`` take no part and are left out of the result. Folds that the manifest has are
        kept.
    n_folds : int
    stratify : list of str
        As for :func:`sepclr_med.assign_splits`.
    seed : int, default=0

    Returns
    -------
    DataFrame
        The rows that take part, with ``fold``.

    Raises
    ------
    ConfigError
        When the manifest has folds, but not as many.
    """
    rows = without_test(manifest)
    if "fold" in rows and rows["fold"].notna().any():
        found = sorted(rows["fold"].dropna().astype(str).unique())
        if len(found) != n_folds or rows["fold"].isna().any():
            fix = f"--folds {len(found)}, or delete the column"
            got = f"{len(found)} folds, {int(rows['fold'].isna().sum())} images without"
            raise ConfigError(
                "folds: not those of the manifest", [Problem("other folds", column="fold", got=got, fix=fix)]
            )
        return rows
    drawn = assign_splits(rows, 0.0, 0.0, stratify, n_folds=n_folds, seed=seed, overwrite=True)
    return rows.assign(fold=drawn["fold"].to_numpy())


def assign_site_folds(manifest: pd.DataFrame) -> pd.DataFrame:
    """Make a fold of every site, for everyone outside the test set.

    Raises
    ------
    ManifestError
        Without two sites, with images of unknown site, or participants or families at several.
    """
    rows = without_test(manifest)
    if "site" not in rows or rows["site"].nunique() < 2:
        few = Problem("fewer than two sites", column="site", fix="--folds N divides participants instead")
        raise ManifestError("leave-site-out: no site can be left out", [few])
    unknown = [
        Problem("no site", participant_id=who, column="site", fix="fill it in, or take the row out")
        for who in rows.loc[rows["site"].isna(), "participant_id"].unique()
    ]
    people = participants_of(rows)
    unit = pd.Series(number_relatives(rows, people.index), index=people.index)
    sites = rows["site"].groupby(rows["participant_id"].map(unit)).nunique()
    spread = [
        Problem("a family or participant at several sites", participant_id=str(who), column="site",
                fix="leave-site-out would train on relatives of those it leaves out: keep one site of them")
        for who in people.index[unit.map(sites).gt(1)]
    ]  # fmt: skip
    if unknown or spread:
        raise ManifestError("leave-site-out: not every participant has one site", unknown + spread)
    return rows.assign(fold=rows["site"].astype(str))


def leave_out(rows: pd.DataFrame, fold: str) -> pd.DataFrame:
    """Return the manifest of the models that never see a fold: its rows are ``test``, all others ``train``.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["a", "b"], "fold": ["0", "1"]})
    >>> leave_out(rows, "1")["split"].tolist()
    ['train', 'test']
    """
    return rows.assign(split=rows["fold"].astype(str).eq(fold).map({True: "test", False: "train"}))
