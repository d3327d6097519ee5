"""What was not run, and the command that runs it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sepclr_med.cohort.control_names import group_options
from sepclr_med.report import blocks
from sepclr_med.report.collect import dig, texts


@dataclass(frozen=True)
class Step:
    """A step whose result the page would show.

    Parameters
    ----------
    name : str
        What it is for.
    files : tuple of str
        Beginnings of file names, any of which says that it was run.
    command : str
        Which runs it; ``RUN_DIR`` stands for the folder.
    further : bool, default=False
        Says how far results can be trusted, at the cost of many trainings: never what must come next.
    """

    name: str
    files: tuple[str, ...]
    command: str
    further: bool = False


STEPS = (
    Step("check of images and design", ("check/check.json",), "sepclr-med check RUN_DIR/data/manifest.tsv"),
    Step("training", ("history.tsv", "crossfit.json"), "sepclr-med fit MANIFEST RUN_DIR"),
    Step("embeddings", ("embeddings/desc-",), "sepclr-med embed RUN_DIR"),
    Step("separation card", ("analysis/separation.tsv",), "sepclr-med evaluate RUN_DIR"),
    Step("links of factors to clinical variables", ("analysis/links.tsv",), "sepclr-med link RUN_DIR{covariates}"),
    Step("prediction from whole spaces", ("analysis/prediction.tsv",), "sepclr-med link RUN_DIR{covariates}"),
    Step("similarity of participants (RSA)", ("analysis/similarity.tsv",), "sepclr-med link RUN_DIR{covariates}"),
    Step(
        "canonical factors",
        ("embeddings/desc-canonical_embedding.tsv",),
        "sepclr-med link RUN_DIR --factors salient,canonical{covariates}",
    ),
    Step(
        "subtypes", ("analysis/subtypes.json", "analysis/subtypes_criteria.tsv"), "sepclr-med link RUN_DIR{covariates}"
    ),
    Step("maps of the factors", ("maps/maps.json", "maps/"), "sepclr-med explain RUN_DIR"),
    Step(
        "several trainings: are the factors found again?",
        ("crossfit.json",),
        "sepclr-med fit MANIFEST NEW_RUN_DIR --config RUN_DIR/config.yaml --folds 5 --seeds 3",
        further=True,
    ),
    Step(
        "controls of the method, where the answer is known",
        ("controls/controls.json",),
        "sepclr-med controls RUN_DIR/config.yaml -o RUN_DIR/controls --manifest MANIFEST",
        further=True,
    ),
)
COVARIATES = ("age", "sex", "site", "tiv")


def find_not_run(data: Mapping[str, Any], further: bool = True) -> list[dict[str, str]]:
    """Return each step without a result, with its command.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.
    further : bool, default=True
        Also those that need many trainings and never must come next.

    Returns
    -------
    list of dict
        ``name`` and ``command``.

    Examples
    --------
    >>> data = {"files": ["history.tsv"], "manifest": None, "config": {}}
    >>> find_not_run(data)[1]
    {'name': 'embeddings', 'command': 'sepclr-med embed RUN_DIR'}
    """
    manifest = data["manifest"]
    known = [name for name in COVARIATES if manifest is not None and name in manifest]
    covariates = f" --covariates {','.join(known)}" if known else ""
    missing = [
        {"name": step.name, "command": (step.command + _groups(step, data["config"])).format(covariates=covariates)}
        for step in STEPS
        if (further or not step.further) and not any(file.startswith(step.files) for file in data["files"])
    ]
    return [*_missing_models(data), *missing]


def describe_not_run(data: Mapping[str, Any]) -> blocks.Block:
    """Return the section on what is missing here; it is always there.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict
    """
    missing = find_not_run(data)
    words = (
        "The following would be on this page and was not run. RUN_DIR stands for the folder of this run; afterwards, "
        "sepclr-med report RUN_DIR writes the page anew."
        if missing
        else "Every step that this page can show was run."
    )
    parts = [
        blocks.paragraph(words),
        {"kind": "commands", "items": missing} if missing else None,
        blocks.heading("Files that could not be read") if data["faults"] else None,
        {"kind": "list", "items": [str(fault) for fault in data["faults"]]} if data["faults"] else None,
    ]
    return blocks.section("not-run", "What was not run", parts)


def _missing_models(data: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the trainings that a cross-fit lacks as one step, nothing where it lacks none."""
    if not data.get("unfinished"):
        return []
    plan = data["objects"]["cross_fit"]
    folds, seeds = len(plan["folds"]), len(plan["seeds"])
    divided = "--leave-site-out" if dig(plan, "by_site") else f"--folds {folds}"
    command = f"sepclr-med fit MANIFEST RUN_DIR --config RUN_DIR/config.yaml {divided} --seeds {seeds}"
    return [{"name": f"training of {len(data['unfinished'])} of {folds * seeds} models", "command": command}]


def _groups(step: Step, config: Mapping[str, Any]) -> str:
    background, target = (texts(dig(config, "cohort"), role) for role in ("background", "target"))
    if "check RUN_DIR" not in step.command or not (background and target):
        return ""
    return f" {shlex.join(group_options(background, target))}".replace("{", "{{").replace("}", "}}")
