"""What is known of public cohorts: where their tables lie, what their columns and codes mean. Values, in YAML.

The files are in ``data_manifests/cohorts``; a wheel carries them along. :mod:`sepclr_med.cohort.dialects` applies them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sepclr_med.cohort.columns import KNOWN_COLUMNS, fold_name
from sepclr_med.cohort.name_patterns import PLACE, compile_pattern
from sepclr_med.config import parse_section, read_yaml
from sepclr_med.errors import ConfigError, Problem, did_you_mean
from sepclr_med.settings import Section

# In a wheel the folder is in the package, in a checkout beside it.
PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = tuple(folder / "data_manifests" / "cohorts" for folder in (PACKAGE, PACKAGE.parent))
EXAMPLE = "see data_manifests/cohorts for importers that work, and docs/manifests.md for their keys"

# Factor to years, and to mL.
UNITS = {
    "years": 1.0,
    "months": 1 / 12,
    "weeks": 7 / 365.25,
    "days": 1 / 365.25,
    "mL": 1.0,
    "mm3": 1e-3,
    "L": 1e3,
}


def _check_pattern(pattern: str) -> str:
    compile_pattern(pattern)
    return pattern


def _check_image_pattern(pattern: str) -> str:
    if "participant_id" not in compile_pattern(pattern).groupindex:
        raise ValueError("the pattern has no {participant_id}")
    return pattern


def _check_file(name: str) -> str:
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError("a file in the folder is meant; for one elsewhere there is --participants")
    return name


def _check_rewriting(patterns: dict[str, str]) -> dict[str, str]:
    for old, new in patterns.items():
        held = compile_pattern(old).groupindex
        unknown = [place[1] for place in PLACE.finditer(new) if place[1] not in held]
        if unknown:
            raise ValueError(f"{new} has places that {old} has not: {', '.join(map(str, unknown))}")
    return patterns


Pattern = Annotated[str, AfterValidator(_check_pattern)]
ImagePattern = Annotated[str, AfterValidator(_check_image_pattern)]
Rewriting = Annotated[dict[str, str], AfterValidator(_check_rewriting)]
FileName = Annotated[str, AfterValidator(_check_file)]
Words = Annotated[str, Field(min_length=1)]


class ImporterSection(Section, BaseModel):
    """A section in which a code such as 1 may be written without quotes."""

    model_config = ConfigDict(coerce_numbers_to_str=True)


class ImageRules(ImporterSection):
    """Which images of the cohort make the manifest."""

    suffix: str = "T1w"
    """BIDS suffix."""
    derivative: str | None = None
    """Folder under ``derivatives/``; none means the raw images."""
    entities: dict[str, str] = {}
    """BIDS entities an image must carry."""
    patterns: list[ImagePattern] = []
    """Paths of the images where the folder is not BIDS, as the cohort is published."""
    participant: Pattern = "{participant_id}"
    """Label of a participant (without ``sub-``) from the places of these paths."""


class TableRules(ImporterSection):
    """One table of the cohort, its columns named as published (except right in ``rename`` and left in ``sums``)."""

    files: list[FileName] = Field(min_length=1)
    """Names or globs, relative to the folder; the first that is there."""
    key: str = "participant_id"
    """Column of participants."""
    session: str | None = None
    """Column of sessions, where rows are sessions."""
    first_column: str | None = None
    """Name for the first column where the header leaves it empty."""
    columns: list[str] = []
    """Columns to keep; none means all."""
    keep: dict[str, list[Pattern]] = {}
    """Rows to keep: column to values, ``*`` standing for anything."""
    ids: Rewriting = {}
    """How participants are written in the table, and how in the names of images (without ``sub-``)."""
    sessions: Rewriting = {}
    """The same of sessions (without ``ses-``)."""
    rename: dict[str, str] = {}
    """Published name to the manifest's."""
    levels: dict[str, dict[str, str]] = {}
    """Column to what its codes mean."""
    missing: list[str] = []
    """Codes that mean missing, in any column but the key."""
    units: dict[str, Literal["years", "months", "weeks", "days", "mL", "mm3", "L"]] = {}
    """Column of an age or a volume to its unit."""
    sums: dict[str, list[str]] = {}
    """New column to the columns it is the sum of, such as an age at baseline and the time since; of one, its copy."""


class Importer(ImporterSection):
    """A cohort: where it comes from, what binds its users, which images and tables, what they mean."""

    title: Words
    """Its name, written out."""
    home: Words
    """Its home page."""
    access: Words
    """Where and how to ask for the data."""
    licence: Words
    """What binds its users, in words."""
    tested: Words
    """On which real table the importer was tested, or that it was not, and where its names are from."""
    images: ImageRules = ImageRules()
    tables: list[TableRules] = Field(min_length=1)
    """Joined in this order; one at least must be there."""
    diagnosis: str | None = None
    """Diagnosis of everyone, for a cohort of one group."""
    background: list[str] = []
    """Values of ``diagnosis`` that are controls, once translated."""
    target: list[str] = []
    """Values of ``diagnosis`` that are patients, once translated."""
    notes: str = ""
    """What a user must know."""

    @model_validator(mode="after")
    def _agree(self) -> Importer:
        both = sorted(set(self.background) & set(self.target))
        if both:
            raise ValueError(f"in background and in target: {', '.join(both)}")
        if not self.tested.startswith(("tested", "untested")):
            raise ValueError("tested: begins with the word tested or untested")
        for table in self.tables:
            new = [*table.rename.values(), *table.sums]
            twice = sorted({name for name in new if new.count(name) > 1 and name in KNOWN_COLUMNS})
            if twice:
                raise ValueError(f"{table.files[0]}: two columns become {', '.join(twice)}")
        return self

    @property
    def is_tested(self) -> bool:
        """Whether it ran on a real table."""
        return self.tested.startswith("tested")


def list_importers() -> dict[str, Path]:
    """Return the known cohorts: name to file, sorted.

    Examples
    --------
    >>> list_importers()["abide1"].name
    'abide1.yaml'
    """
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_importer(cohort: str | Path) -> Importer:
    """Read the importer of a known cohort, or one's own.

    Parameters
    ----------
    cohort : str or path
        A known name (``abide1``, also as ``ABIDE-1``), or the path of a YAML file.

    Returns
    -------
    Importer

    Raises
    ------
    ConfigError
        When there is neither such a cohort nor such a file, or with every problem of the file.

    Examples
    --------
    >>> read_importer("abide1").tables[0].levels["DX_GROUP"]
    {'1': 'autism', '2': 'control'}
    """
    known = list_importers()
    path = {fold_name(name): path for name, path in known.items()}.get(fold_name(str(cohort)), Path(cohort))
    if not path.is_file():
        raise ConfigError(f"--cohort {cohort}: no such cohort", [_say_unknown(str(cohort), known)])
    return parse_section(Importer, read_yaml(path, EXAMPLE), str(path))


def describe_importers() -> pd.DataFrame:
    """Return a table of the known cohorts: name, title, whether tested, home page.

    Examples
    --------
    >>> describe_importers().query("name == 'ds000030'")["tested"].tolist()
    ['tested']
    """
    importers = {name: read_importer(path) for name, path in list_importers().items()}
    rows = [
        {"name": name, "cohort": each.title, "tested": each.tested.split()[0].strip(":,"), "home": each.home}
        for name, each in importers.items()
    ]
    return pd.DataFrame(rows, columns=["name", "cohort", "tested", "home"])


def _say_unknown(cohort: str, known: dict[str, Path]) -> Problem:
    names = describe_importers().set_index("name")["cohort"] if known else pd.Series(dtype=object)
    titled = [name for name, title in names.items() if fold_name(cohort) and fold_name(cohort) in fold_name(title)]
    hint = f'did you mean "{titled[0]}"?' if titled else did_you_mean(cohort.casefold(), known)
    fix = hint or "give one of these, or the path of an importer of your own (docs/manifests.md)"
    message = "neither a known cohort nor a file"
    return Problem(message, got=cohort, allowed=", ".join(known), fix=fix, code="cohort")
