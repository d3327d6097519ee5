"""Which labels are of controls and which of patients, where they come as a list and not as a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.cohort.tables import MISSING
from sepclr_med.errors import ConfigError, Problem


def find_targets(labels: np.ndarray | None, background: Any, target: Any) -> np.ndarray:
    """Return which labels are of patients, shape (n,), bool.

    Parameters
    ----------
    labels : ndarray of shape (n,)
    background, target : label, sequence of labels or None
        One of the two is enough.

    Raises
    ------
    ConfigError
        When neither is given, a label is missing, in neither or both, or a group is empty.

    Examples
    --------
    >>> find_targets(np.array(["HC", "MDD", "BD"]), "HC", None).tolist()
    [False, True, True]
    """
    if labels is None:
        raise ConfigError("fit: requires y to be passed, but the target y is None", [])
    if labels.ndim != 1:
        raise ConfigError("fit: y", [Problem(f"{labels.ndim} dimensions", allowed="one label for each image")])
    # Whose diagnosis is not known belongs to neither group, and must not become a patient because "the others" are.
    missing = [number for number, label in enumerate(labels.tolist()) if pd.isna(label) or str(label) in MISSING]
    if missing:
        got, fix = f"y[{missing[0]}]", "leave these images out, with their rows of X and covariates"
        raise ConfigError("fit: y", [Problem(f"{len(missing)} labels are missing", got=f"{got} first", fix=fix)])
    words = [_as_word(label) for label in labels.tolist()]
    seen = sorted(set(words))
    groups = {name: _as_labels(given) for name, given in (("background", background), ("target", target))}
    if not groups["background"] and not groups["target"]:
        fix = f'SepCLREstimator(background="{seen[0]}")' if seen else "background=..."
        wrong = Problem("who are the controls?", got=", ".join(seen[:10]), allowed="labels of y", fix=fix)
        raise ConfigError("fit: name the label of controls (background) or of patients (target)", [wrong])
    for name, other in (("background", "target"), ("target", "background")):
        groups[name] = groups[name] or [label for label in seen if label not in groups[other]]
    problems = [
        Problem(
            f"y has the label {label}, which is neither background nor target",
            allowed=", ".join(groups["background"] + groups["target"]),
        )
        for label in seen
        if label not in groups["background"] + groups["target"]
    ]
    problems += [Problem(f"no label of y is {name}", got=", ".join(groups[name]) or "none", allowed=", ".join(seen))
                 for name in groups if not set(groups[name]) & set(seen)]  # fmt: skip
    if both := sorted(set(groups["background"]) & set(groups["target"])):
        problems.append(Problem(f"{', '.join(both)} is background and target", fix="keep it in one"))
    if problems:
        raise ConfigError("fit: labels and groups do not agree", problems)
    return np.isin(words, groups["target"])


def _as_labels(given: Any) -> list[str]:
    if given is None:
        return []
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray | set):
        return [_as_word(given)]
    return [_as_word(label) for label in given]


def _as_word(label: Any) -> str:
    """Return a label as text; 1 and 1.0 are one label, as a column with gaps makes of whole numbers."""
    return str(int(label)) if isinstance(label, float | np.floating) and float(label).is_integer() else str(label)
