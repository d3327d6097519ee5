"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sepclr_med.cli.completion import complete_diagnoses, complete_settings
from sepclr_med.errors import ConfigError, Problem

Manifest = Annotated[Path, typer.Argument(help="Manifest, CSV or TSV: one row per image.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)]
Recipe = Annotated[Path | None, typer.Option("-c", "--config", help="Recipe, such as pipelines/vbm/recipe.yaml.")]
Background = Annotated[
    str | None, typer.Option(help="Diagnoses that are controls, comma-separated.", autocompletion=complete_diagnoses)
]
Target = Annotated[
    str | None, typer.Option(help="Diagnoses that are patients, comma-separated.", autocompletion=complete_diagnoses)
]
BidsRoot = Annotated[Path | None, typer.Option(help="Folder that image paths are relative to.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Such as training.epochs=5; may be repeated.",
        autocompletion=complete_settings,
    ),
]
MissingCodes = Annotated[str | None, typer.Option(help="Numbers that mean missing, as in --missing-codes=-9,999.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over where something is already there.")]
OpenTest = Annotated[
    str | None, typer.Option(metavar="REASON", help="Open a sealed test set; the reason goes into its ledger.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]


traceback_wanted = {"yes": False}


def _want_traceback(wanted: bool) -> None:
    traceback_wanted["yes"] |= wanted


Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", callback=_want_traceback, help="Show where an error comes from.")
]


def listed(text: str | None) -> list[str]:
    """Return the parts of a comma-separated value."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def pairs(assignments: list[str], option: str) -> dict[str, str]:
    """Return ``name=value`` words as a dictionary; anything else is a :class:`ConfigError`."""
    parts = [assignment.partition("=") for assignment in assignments]
    wrong = [
        Problem("not a pair", got=key, allowed="name=value") for key, equals, value in parts if not equals or not value
    ]
    if wrong:
        raise ConfigError(f"{option}: cannot be understood", wrong)
    return {key: value for key, _, value in parts}


def components(assign: list[str] | None) -> dict[str, Any]:
    """Return ``name=value`` words with values read as YAML."""
    from sepclr_med.config import parse_value

    return {name: parse_value(value) for name, value in pairs(assign or [], "--set").items()}


def group_settings(background: str | None, target: str | None) -> list[str]:
    """Return the settings that name the diagnoses of each role."""
    given = {"background": background, "target": target}
    return [f"cohort.{role}={json.dumps(listed(names))}" for role, names in given.items() if names is not None]


def refuse_exchanged(manifest: Path, run_dir: Path) -> None:
    """Refuse a table in the place of the run folder, before anything is read."""
    if run_dir.suffix in (".tsv", ".csv"):
        fix = f"first the manifest, then the folder: {run_dir} {manifest}"
        problem = Problem("the second word is the folder of the run, not a table", got=str(run_dir), fix=fix)
        raise ConfigError("the manifest and the run folder are exchanged", [problem])


def cohort_settings(manifest: Path | None, bids_root: Path | None) -> list[str]:
    """Return the settings that put a manifest in the place of a recipe's cohort."""
    paths = {"manifest": manifest, "bids_root": bids_root}
    given = [f"cohort.{name}={path.resolve()}" for name, path in paths.items() if path is not None]
    return given + (["cohort.simulate=null", "cohort.bids=null"] if manifest is not None else [])


def numbers(text: str, option: str) -> list[float]:
    """Return comma-separated numbers; anything else is a :class:`ConfigError`."""
    try:
        return [float(part) for part in listed(text)]
    except ValueError as error:
        raise ConfigError(f"{option}: cannot be understood", [Problem(str(error), allowed="0.1,0.2")]) from None


def whole_numbers(text: str, option: str) -> list[int]:
    """Return comma-separated whole numbers, none below zero; anything else is a :class:`ConfigError`."""
    parts = listed(text)
    wrong = [Problem("not a whole number", got=part, allowed="0,1,2") for part in parts if not part.isdecimal()]
    if wrong or not parts:
        raise ConfigError(f"{option}: cannot be understood", wrong or [Problem("no number", allowed="0,1,2")])
    return [int(part) for part in parts]


def grouped(texts: list[str] | None, option: str) -> dict[str, list[str]] | None:
    """Return ``NAME:A,B`` words as a dictionary of lists, None for none; anything else is a :class:`ConfigError`."""
    parts = [text.partition(":") for text in texts or ()]
    groups = {name.strip(): listed(members) for name, _, members in parts}
    wrong = [
        Problem(
            "not a group", got=f"{name}{colon}{members}", allowed="NAME:COLUMN,COLUMN", fix=f"{option} mood:MADRS,BDI"
        )
        for name, colon, members in parts
        if not name.strip() or not listed(members)
    ]
    if not wrong and len(groups) < len(parts):
        wrong = [Problem("a name is given twice", got=", ".join(name for name, _, _ in parts), fix="name each once")]
    if wrong:
        raise ConfigError(f"{option}: cannot be understood", wrong)
    return groups or None
