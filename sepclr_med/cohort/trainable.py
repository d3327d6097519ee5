"""What a manifest needs before anything is trained on it."""

from __future__ import annotations

import logging

import pandas as pd

from sepclr_med.cohort.control_names import find_swapped_groups
from sepclr_med.cohort.manifest import assign_roles
from sepclr_med.cohort.named_columns import require_named_columns
from sepclr_med.cohort.splits import check_overlap
from sepclr_med.config import Config
from sepclr_med.errors import ManifestError, Problem

logger = logging.getLogger(__name__)


def require_trainable(manifest: pd.DataFrame, config: Config) -> pd.Series:
    """Return the role of each row, or say why the manifest cannot be trained on.

    Parameters
    ----------
    manifest : DataFrame
        From :func:`sepclr_med.read_manifest`.
    config : Config

    Returns
    -------
    Series
        ``background``, ``target`` or missing, as :func:`sepclr_med.cohort.manifest.assign_roles` gives it.

    Raises
    ------
    ConfigError
        When settings name columns that the manifest does not have.
    ManifestError
        Without a ``split`` column, with participants or families in several splits, or with too few of a group.
    """
    require_named_columns(manifest, config)
    if "split" not in manifest:
        missing = Problem("no such column", column="split", fix="sepclr-med split MANIFEST -o NEW_MANIFEST")
        raise ManifestError("manifest: not divided into train, val and test", [missing])
    require_apart(manifest)
    roles = assign_roles(manifest, config.cohort.background, config.cohort.target)
    require_both_groups(roles[manifest["split"] == "train"])
    for problem in find_swapped_groups(manifest, config.cohort.background, config.cohort.target):
        logger.warning("%s", problem)
    idle = int((manifest["split"].isna() | roles.isna()).sum())
    if idle:
        logger.warning("%d of %d rows are not used: no split, or a diagnosis in neither group", idle, len(manifest))
    if config.evaluation.checkpoint == "best":
        require_both_groups(roles[manifest["split"] == "val"], "val", "evaluation.checkpoint=best is chosen there")
    return roles


def require_apart(manifest: pd.DataFrame) -> None:
    """Raise :class:`ManifestError` when a participant or a family is in several splits, or in several folds.

    Examples
    --------
    >>> require_apart(pd.DataFrame({"participant_id": ["a", "b"], "split": ["train", "test"]}))
    """
    overlap = [problem for problem in check_overlap(manifest) if problem.severity == "error"]
    if overlap:
        raise ManifestError("manifest: the same participant or family is in several splits", overlap)


def require_both_groups(roles: pd.Series, split: str = "train", why: str = "") -> None:
    """Raise :class:`ManifestError` when a split has fewer than two rows of a group."""
    counts = roles.value_counts()
    fix = why or "look at --background and --target, divide again with a smaller --test-size, or add participants"
    few = [
        Problem(f"{counts.get(role, 0)} {role} rows in the {split} split", column="split", allowed="2 or more", fix=fix)
        for role in ("background", "target")
        if counts.get(role, 0) < 2
    ]
    if few:
        raise ManifestError(f"manifest: too few rows with an image in the {split} split", few)
