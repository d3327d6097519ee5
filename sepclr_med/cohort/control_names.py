"""Which diagnoses are usually those of controls: to offer a choice, and to doubt one; never to make it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

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


def suggest_groups(known: Sequence[str], background: Sequence[str], target: Sequence[str]) -> str:
    """Return the options that name the groups, in which words that are no diagnosis gave way to the likeliest one.

    Parameters
    ----------
    known : sequence of str
        The diagnoses that there are.
    background, target : sequence of str
        What was given for each role.

    Examples
    --------
    >>> suggest_groups(["control", "depr"], ["Control"], ["patient"])
    '--background control --target depr'
    """
    back = _nearest(background, known) or find_controls(known)
    rest = [name for name in known if name not in back]
    return shlex.join(group_options(back, _nearest(target, rest) or rest))


def _nearest(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the known name next to each, without those that are next to none."""
    folded = {fold_name(name): name for name in known}
    near = [[name] if name in known else get_close_matches(fold_name(name), folded, n=1) for name in names]
    return list(dict.fromkeys(folded.get(found[0], found[0]) for found in near if found))


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
