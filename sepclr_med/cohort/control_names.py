"""Which diagnoses are usually those of controls: to offer a choice, and to doubt one; never to make it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from sepclr_med.cohort.columns import fold_name
from sepclr_med.errors import Problem

CONTROL_NAMES = (
    *("control", "controls", "healthy", "healthy control", "healthy controls", "health", "normal", "normal control"),
    *("hc", "cn", "nc", "hv", "ctrl", "ctl", "con", "cont", "td", "tdc", "typically developing", "unaffected"),
    *("healthy volunteer", "healthy volunteers", "healthy comparison", "no known disorder"),
)
_FOLDED = {fold_name(name) for name in CONTROL_NAMES}


def find_controls(levels: Iterable[str]) -> list[str]:
    """Return the diagnoses whose name is a usual one for controls, in their order.

    Examples
    --------
    >>> find_controls(["MDD", "Healthy_Controls", "SCZ"])
    ['Healthy_Controls']
    """
    return [level for level in levels if fold_name(str(level)) in _FOLDED]


def group_options(background: Sequence[str], target: Sequence[str]) -> list[str]:
    """Return the options of a command that name the diagnoses of each role, with a word to replace where there is none.

    Examples
    --------
    >>> group_options(["HC"], ["MDD", "SCZ"])
    ['--background', 'HC', '--target', 'MDD,SCZ']
    """
    return ["--background", ",".join(background) or "CONTROLS", "--target", ",".join(target) or "PATIENTS"]


def find_swapped_groups(manifest: pd.DataFrame, background: Sequence[str], target: Sequence[str]) -> list[Problem]:
    """Warn when controls, by their name, are the target while the background has none.

    Parameters
    ----------
    manifest : DataFrame
        With a ``diagnosis`` column.
    background, target : sequence of str
        Diagnoses of each role.

    Examples
    --------
    >>> table = pd.DataFrame({"diagnosis": ["HC", "MDD"]})
    >>> print(find_swapped_groups(table, ["MDD"], ["HC"])[0])
    column "diagnosis": the groups may be swapped: "HC" is a usual name for controls, and is given as target; got
    "--background MDD --target HC"; fix: give controls as background and patients as target: --background HC
    --target MDD
    """
    there = set(manifest["diagnosis"].dropna()) if "diagnosis" in manifest else set()
    swapped = [name for name in find_controls(target) if name in there]
    if not swapped or find_controls(background):
        return []
    return [
        Problem(
            f'the groups may be swapped: "{swapped[0]}" is a usual name for controls, and is given as target',
            column="diagnosis",
            got=" ".join(group_options(background, target)),
            fix=f"give controls as background and patients as target: {' '.join(group_options(target, background))}",
            code="swapped_groups",
            severity="warning",
        )
    ]
