"""``check``: every image opened, the table and the design looked at, before anyone spends a GPU day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.cohort.balance import ROLES, site_table, table_one
from sepclr_med.cohort.consistency import check_overlap, check_participants
from sepclr_med.cohort.control_names import find_swapped_groups
from sepclr_med.cohort.design import judge_acquisition, judge_design
from sepclr_med.cohort.facts_file import read_images
from sepclr_med.cohort.faults import FAULTS, find_faults
from sepclr_med.cohort.images import ImageFacts
from sepclr_med.cohort.manifest import assign_roles
from sepclr_med.cohort.misplaced import suggest_path
from sepclr_med.cohort.outliers import find_outliers
from sepclr_med.errors import ManifestError, Problem

SEVERITIES = ("error", "warning", "info")
PROBLEM_COLUMNS = ("severity", "code", "file", "row", "column", "participant_id", "message", "got", "allowed", "fix")
OBLIQUE_DEGREES = 0.5
SHOWN_ROWS, LAST_WORDS = 30, 3
NOTHING_FOUND = "Nothing in the design stands out: groups, sites, age, sex and head size are balanced as far as known."
NOT_JUDGED = "Not looked at: one of the groups is empty (see the errors)."


@dataclass(frozen=True)
class CheckResult:
    """What ``check`` found.

    Parameters
    ----------
    problems : list of Problem
        Errors first, then warnings and remarks, by row.
    table_one, site_table : DataFrame
        See :func:`~sepclr_med.cohort.balance.table_one` and :func:`~sepclr_med.cohort.balance.site_table`.
    verdicts : list of str
        The design in plain words: the finding, what it costs, what can be done.
    n_images : int
        Images named in the manifest.
    n_usable : int
        Those that can be read and have a content.
    """

    problems: list[Problem]
    table_one: pd.DataFrame
    site_table: pd.DataFrame
    verdicts: list[str]
    n_images: int
    n_usable: int

    @property
    def ok(self) -> bool:
        """Whether nothing must be mended before training."""
        return all(problem.severity != "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain types that JSON knows; missing is None, infinite is text."""
        return {
            "ok": self.ok,
            "n_images": self.n_images,
            "n_usable": self.n_usable,
            "verdicts": self.verdicts,
            "problems": _records(problems_table(self)),
            "table_one": _records(self.table_one),
            "site_table": _records(self.site_table),
        }


def check_cohort(
    manifest: pd.DataFrame,
    background: Sequence[str],
    target: Sequence[str],
    n_jobs: int = -1,
    cache_file: str | Path | None = None,
) -> CheckResult:
    """Open every image once, compare them with each other, and say what the design lets the method learn.

    Parameters
    ----------
    manifest : DataFrame
        From :func:`sepclr_med.read_manifest`; what was found while reading it is taken over.
    background, target : sequence of str
        Diagnoses of the controls and of the patients.
    n_jobs : int, default=-1
        Images read at a time; -1 means one per core.
    cache_file : path or None, default=None
        Remembers what was read, so that after an interruption only the rest is; see
        :class:`sepclr_med.cohort.facts_file.FactsFile`.

    Returns
    -------
    CheckResult
        With every problem; nothing in the data makes it raise.

    Raises
    ------
    VolumeError
        When a reading process is killed, in practice for lack of memory.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": ["a"], "image_path": ["/absent.nii"], "diagnosis": ["control"]})
    >>> sorted({problem.code for problem in check_cohort(rows, ["control"], ["patient"]).problems})
    ['missing_file', 'unknown_diagnosis']
    """
    role, unknown = _roles(manifest, background, target)
    named = manifest[manifest["image_path"].notna()]
    known, trouble = read_images(named["image_path"].tolist(), n_jobs, cache_file)
    facts = named["image_path"].map(known)
    usable = facts[[found.usable for found in facts]]
    tables = table_one(manifest, role), site_table(manifest, role)
    # Without both groups there is no design, and what kept them from being formed is an error of its own.
    formed = set(ROLES) <= set(role.dropna())
    design = judge_design(manifest, role) + _judge_images(manifest, role, usable) if formed else []
    problems = [
        *manifest.attrs.get("problems", []),
        *unknown,
        *find_swapped_groups(manifest, background, target),
        *check_participants(manifest, role),
        *check_overlap(manifest),
        *_image_problems(manifest, facts),
        *find_outliers(manifest.loc[usable.index], list(usable), partial(_place, manifest)),
        *design,
        *([Problem("what was read could not be remembered", got=trouble, severity="info")] if trouble else []),
    ]
    problems.sort(key=lambda problem: (SEVERITIES.index(problem.severity), problem.row or 0))
    verdicts = [_speak(problem) for problem in design] or [NOTHING_FOUND if formed else NOT_JUDGED]
    return CheckResult(problems, *tables, verdicts, n_images=len(named), n_usable=len(usable))


def problems_table(result: CheckResult) -> pd.DataFrame:
    """Return all problems as a table, columns ``severity code file row column participant_id message got allowed fix``.

    Examples
    --------
    >>> found = CheckResult([Problem("cut short", row=3)], pd.DataFrame(), pd.DataFrame(), [], 1, 0)
    >>> problems_table(found)[["severity", "row", "message"]].values.tolist()
    [['error', 3, 'cut short']]
    """
    rows = [[getattr(problem, name) for name in PROBLEM_COLUMNS] for problem in result.problems]
    table = pd.DataFrame(rows, columns=list(PROBLEM_COLUMNS))
    return table.astype({"row": "Int64"})


def _roles(manifest: pd.DataFrame, background: Sequence[str], target: Sequence[str]) -> tuple[pd.Series, list[Problem]]:
    try:
        role = assign_roles(manifest, background, target)
        return role, _neither(manifest, role)
    except ManifestError as error:
        # Without one of the groups, the images and the other group can still be looked at.
        roles = {**dict.fromkeys(map(str, target), "target"), **dict.fromkeys(map(str, background), "background")}
        diagnosis = manifest.get("diagnosis", pd.Series(None, index=manifest.index, dtype=object))
        return diagnosis.map(roles).astype(object).rename("role"), list(error.problems)


def _neither(manifest: pd.DataFrame, role: pd.Series) -> list[Problem]:
    left_out = manifest.loc[role.isna(), "diagnosis"].value_counts(dropna=False)
    if left_out.empty:
        return []
    counts = zip(left_out.index, left_out, strict=True)
    got = ", ".join(f"{'n/a' if pd.isna(name) else name} ({count} rows)" for name, count in counts)
    message = "rows in neither group: their images are checked, but nothing is learned from them"
    return [Problem(message, column="diagnosis", got=got, code="no_group", severity="info")]


def _place(manifest: pd.DataFrame, label: int, **words: Any) -> Problem:
    row = manifest.loc[label]
    place: dict[str, Any] = {"file": str(row["image_path"]), "participant_id": str(row["participant_id"])}
    return Problem(**place, row=int(label) + 2, column="image_path", **words)


def _image_problems(manifest: pd.DataFrame, facts: pd.Series) -> list[Problem]:
    problems = []
    for label, found in zip(facts.index, facts, strict=True):
        for code, got in find_faults(found).items():
            fault = FAULTS[code]
            near = suggest_path(found.path) if code == "missing_file" else ""
            words = {"message": fault.message, "allowed": fault.allowed, "severity": fault.severity}
            words["fix"] = near or fault.fix
            problems.append(_place(manifest, label, got=got, code=code, **words))
    if len(facts) > 1 and all(found.failure == "missing_file" for found in facts):
        usual = "paths are relative to the manifest's folder, or to --bids-root when given"
        fix = suggest_path(str(manifest["image_path"].loc[facts.index[0]])) or usual
        problems.append(Problem("none of the images is where the manifest says", column="image_path", fix=fix))
    oblique = [found.obliquity for found in facts if found.obliquity >= OBLIQUE_DEGREES]
    if oblique:
        message = f"{len(oblique)} images are oblique, by up to {max(oblique):.1f} degrees"
        fix = "nothing: preprocessing follows the header"
        problems.append(Problem(message, column="image_path", fix=fix, code="oblique", severity="info"))
    return problems


def _judge_images(manifest: pd.DataFrame, role: pd.Series, usable: pd.Series) -> list[Problem]:
    """Ask whether the groups were scanned alike, at sites that have both: the others are told of already."""
    if "site" in manifest:
        groups = role.groupby(manifest["site"]).nunique()
        usable = usable[~manifest.loc[usable.index, "site"].isin(groups.index[groups == 1])]
    pictures = any(found.is_picture for found in usable)
    what = "size or colours of the pictures" if pictures else "voxel size or orientation"
    return judge_acquisition(role.loc[usable.index], usable.map(_protocol), what)


def _protocol(found: ImageFacts) -> str:
    if not found.is_picture:
        return f"{np.round(found.spacing, 1)} {found.orientation}"
    # In steps of the square root of two: photographs are cut to any size, and what counts is resolution.
    return f"{round(float(np.log2(np.prod(found.shape[:2]))))} {found.mode}"


def _speak(problem: Problem) -> str:
    remedies = f" What can be done: {problem.fix}." if problem.fix else ""
    return f"{problem.message}.{remedies}"


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): _plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else str(float(value))
    return int(value) if isinstance(value, np.integer) else value


def format_check(result: CheckResult) -> Any:
    """Return the result as tables for a terminal, to be printed by ``rich``.

    Errors and warnings come first, 30 rows at most; the design is told at the end, where it is read.
    """
    from rich.console import Group
    from rich.text import Text

    told = set(result.verdicts)
    single = [problem for problem in result.problems if _speak(problem) not in told]
    counts = {severity: sum(problem.severity == severity for problem in result.problems) for severity in SEVERITIES}
    said = f"{counts['error']} errors, {counts['warning']} warnings, {counts['info']} remarks"
    more = [f"... and {len(single) - SHOWN_ROWS} more (--output writes all)"] if len(single) > SHOWN_ROWS else []
    return Group(
        f"{result.n_usable} of {result.n_images} images can be used: {said}",
        *([_grid("problems", pd.DataFrame(map(_short, single[:SHOWN_ROWS])))] if single else []),
        *more,
        _grid("groups (counted in participants)", _readable(result.table_one)),
        *([_grid("sites (participants)", result.site_table)] if len(result.site_table) else []),
        "What the design lets the method learn:",
        *(Text(f"- {verdict}") for verdict in result.verdicts),
    )


def summarise_check(result: CheckResult, manifest: str, follows: str) -> list[str]:
    """Return the last words of a check: the first errors again, or the command that comes next.

    Examples
    --------
    >>> found = CheckResult([], pd.DataFrame(), pd.DataFrame(), [], 1, 1)
    >>> summarise_check(found, "manifest.tsv", "sepclr-med split manifest.tsv")
    ['no errors; next: sepclr-med split manifest.tsv']
    """
    errors = [problem for problem in result.problems if problem.severity == "error"]
    warned = [problem for problem in result.problems if problem.code == "swapped_groups"]
    if not errors:
        return [*(f"warning: {problem}" for problem in warned), f"no errors; next: {follows}"]
    more = [f"  ... and {len(errors) - LAST_WORDS} more above"] if len(errors) > LAST_WORDS else []
    head = f"error: {manifest}: {len(errors)} problem(s) must be mended before training"
    # Verdicts on the design are paragraphs, and stand right above.
    return [head, *(f"  {_first_sentence(problem)}" for problem in errors[:LAST_WORDS]), *more]


def _first_sentence(problem: Problem) -> Problem:
    first, _, rest = problem.message.partition(". ")
    return replace(problem, message=first, got="", allowed="") if rest else problem


def _grid(title: str, table: pd.DataFrame) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table(*map(str, table.columns), title=title, title_justify="left")
    for values in table.itertuples(index=False):
        grid.add_row(*(Text(str(value)) for value in values))
    return grid


def _short(problem: Problem) -> dict[str, str]:
    what = [f'column "{problem.column}"' if problem.column else "", problem.message, problem.got]
    return {
        "": problem.severity,
        "row": str(problem.row or ""),
        "participant": problem.participant_id,
        "what": ": ".join(part for part in what if part),
        "what to do": problem.fix,
        "file": Path(problem.file).name,
    }


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "variable": np.where(table["level"] == "", table["variable"], "  " + table["level"]),
            "statistic": table["statistic"],
            **{
                role: [_figure(*row) for row in table[["statistic", role, f"{role}_spread"]].to_numpy()]
                for role in ROLES
            },
            "missing": [
                "" if np.isnan(b) else f"{b:.0f} / {t:.0f}"
                for b, t in table[["missing_background", "missing_target"]].to_numpy(float)
            ],
            "difference (SMD)": ["" if np.isnan(d) else f"{d:.2f}" for d in table["smd"]],
        }
    )


def _figure(statistic: str, value: float, spread: float) -> str:
    if np.isnan(value):
        return "n/a"
    if np.isnan(spread):
        return f"{value:.4g}"
    return f"{value:.1f} ({spread:.1f})" if statistic.startswith("mean") else f"{value:.0f} ({spread:.0f} %)"
