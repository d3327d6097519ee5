"""Which labels are of controls and which of patients, where they come as a list and not as a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
        When neither is given, a label is in neither or both, or a group is empty.

    Examples
    --------
    >>> find_targets(np.array(["HC", "MDD", "BD"]), "HC", None).tolist()
    [False, True, True]
    """
    if labels is None:
        raise ConfigError("fit: requires y to be passed, but the target y is None", [])
    if labels.ndim != 1:
        raise ConfigError("fit: y", [Problem(f"{labels.ndim} dimensions", allowed="one label for each image")])
    seen = sorted(set(map(str, labels.tolist())))
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
    return np.isin([str(label) for label in labels.tolist()], groups["target"])


def _as_labels(given: Any) -> list[str]:
    if given is None:
        return []
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray | set):
        return [str(given)]
    return [str(label) for label in given]
