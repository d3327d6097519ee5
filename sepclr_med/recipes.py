"""A first recipe from what a newcomer knows: where the data are, what they are, who is a control and who a patient."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.bids import find_images
from sepclr_med.cohort.columns import KNOWN_COLUMNS
from sepclr_med.cohort.image_kinds import suggest_preset
from sepclr_med.cohort.layouts import scan_layout
from sepclr_med.cohort.manifest import assign_roles, read_manifest, relative_path
from sepclr_med.config import load_config
from sepclr_med.errors import ConfigError, Problem, RunError, did_you_mean
from sepclr_med.rundir import write_text
from sepclr_med.settings import EvaluationConfig, SplitConfig

IMAGES = {
    "vbm": "grey-matter maps in template space, modulated (CAT12 mwp1, FSL-VBM, ANTs)",
    "t1w": "T1-weighted images as the scanner gave them, or skull-stripped",
}
SUFFIXES = {"vbm": "probseg", "t1w": "T1w"}
SPACING = {True: 2.0, False: 4.0}


@dataclass(frozen=True)
class Answers:
    """What a recipe is written from.

    Parameters
    ----------
    data : str or Path
        A manifest, or a BIDS folder.
    images : {"vbm", "t1w"}
        What the images are; see ``IMAGES``.
    background, target : sequence of str
        Diagnoses of controls and of patients.
    covariates : sequence of str, default=()
        Columns to adjust for.
    variables : sequence of str or None, default=None
        Clinical variables to evaluate and to link; none means every column that varies.
    gpu : bool, default=False
        Whether training runs on a GPU: images are then finer and networks larger.
    derivative : str or None, default=None
        Of a BIDS folder: the folder under ``derivatives/`` that holds the images; none means the raw images.
    entities : dict, default={}
        Of a BIDS folder: entities of the images, such as ``{"label": "GM"}``.
    """

    data: str | Path
    images: str
    background: Sequence[str]
    target: Sequence[str]
    covariates: Sequence[str] = ()
    variables: Sequence[str] | None = None
    gpu: bool = False
    derivative: str | None = None
    entities: dict[str, str] = field(default_factory=dict)


def read_cohort_of(
    data: str | Path, images: str, derivative: str | None = None, entities: dict[str, str] | None = None
) -> pd.DataFrame:
    """Read the table of a cohort: a manifest as it is, of a BIDS folder the images of this kind and its tables.

    Raises
    ------
    ManifestError
        As :func:`sepclr_med.read_manifest` and :func:`sepclr_med.find_images` do.
    """
    if Path(data).is_dir():
        return find_images(data, suffix=SUFFIXES[images], derivative=derivative, entities=entities or {})[0]
    return read_manifest(data)


def count_sources(data: str | Path) -> dict[str | None, int]:
    """Count participants of a BIDS folder: with raw images (None), and with maps in each folder under ``derivatives/``.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     anat = Path(folder, "derivatives", "vbm", "sub-01", "anat")
    ...     anat.mkdir(parents=True)
    ...     (anat / "sub-01_label-GM_probseg.nii.gz").touch()
    ...     count_sources(folder)
    {None: 0, 'vbm': 1}
    """
    folders = {name: Path(data) / "derivatives" / name for name in list_derivatives(data)}
    maps: dict[str | None, int] = {name: _count(folder, SUFFIXES["vbm"]) for name, folder in folders.items()}
    return {None: _count(Path(data), SUFFIXES["t1w"]), **maps}


def _count(root: Path, suffix: str) -> int:
    images = scan_layout(root, suffix).images
    return 0 if images.empty else int(images["participant_id"].nunique())


def suggest_images(data: str | Path, sources: dict[str | None, int]) -> str:
    """Return the likelier kind of images: by the names of the files, in a BIDS folder that of most participants."""
    if not sources:
        return suggest_preset(read_manifest(data)["image_path"].dropna()) or "t1w"
    raw, maps = sources[None], [n for name, n in sources.items() if name is not None]
    return "vbm" if maps and (not raw or max(maps) > raw) else "t1w"


def list_derivatives(data: str | Path) -> list[str]:
    """Return the folders under ``derivatives/`` of a BIDS folder."""
    folder = Path(data) / "derivatives"
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def list_covariates(manifest: pd.DataFrame) -> list[str]:
    """Return the usual covariates that a manifest has, in the order of the default setting."""
    usual = EvaluationConfig.model_fields["covariates"].default
    return [name for name in usual if name in manifest and _varies(manifest[name])]


def list_variables(manifest: pd.DataFrame) -> list[str]:
    """Return the columns of a manifest that are none of the known ones: its clinical variables.

    Examples
    --------
    >>> list_variables(pd.DataFrame({"age": [30.0, 40.0], "MADRS": [10.0, 20.0], "centre": ["a", "a"]}))
    ['MADRS']
    """
    return [str(name) for name in manifest if name not in KNOWN_COLUMNS and _varies(manifest[name])]


def _varies(values: pd.Series) -> bool:
    return len(values.dropna().unique()) > 1


def find_gpu() -> str:
    """Name the GPU of this machine, without loading torch; empty when none is seen."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "Apple GPU"
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        said = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    first = said.stdout.strip().splitlines()[:1]
    return first[0].partition(" (UUID")[0] if said.returncode == 0 and first else ""


def write_recipe(answers: Answers, path: str | Path, manifest: pd.DataFrame | None = None) -> Path:
    """Write a commented recipe; it is read back before it gets its name.

    Parameters
    ----------
    answers : Answers
    path : path
        A ``.yaml`` file that does not exist.
    manifest : DataFrame or None, default=None
        The cohort's table, when it is at hand; none means to read it.

    Returns
    -------
    Path

    Raises
    ------
    ConfigError
        When an answer is none of those there are: an unknown column or kind of images.
    ManifestError
        When the table cannot be read, or has no row of a group.
    RunError
        When the file is there already.
    """
    path = Path(path)
    refuse_to_replace(path)
    _require(answers.images, list(IMAGES), "--images")
    if manifest is None:
        manifest = read_cohort_of(answers.data, answers.images, answers.derivative, answers.entities)
    assign_roles(manifest, answers.background, answers.target)
    for names, option in ((answers.covariates, "--covariates"), (answers.variables or (), "--variables")):
        for name in names:
            _require(name, [str(column) for column in manifest], option)
    text = _format(answers, path, manifest)
    written = write_text(path.with_name(f".{path.name}.new"), text)
    try:
        load_config(written)
        os.replace(written, path)
    finally:
        written.unlink(missing_ok=True)
    return path


def refuse_to_replace(path: Path) -> None:
    """Refuse a name that cannot be that of a new recipe.

    Raises
    ------
    ConfigError
        For another ending than ``.yaml``.
    RunError
        When something is there already.
    """
    if path.suffix not in (".yaml", ".yml"):
        wrong = Problem("not a name for a recipe", got=str(path), allowed=".yaml", fix=f"{path.stem}.yaml")
        raise ConfigError("init: where should the recipe go?", [wrong])
    if path.exists():
        raise RunError(f"{path}: is there already and stays as it is; give another name, or move it away first")


def _require(name: str, known: list[str], option: str) -> None:
    if name not in known:
        hint = did_you_mean(name, known) or f"{option} with one of these"
        raise ConfigError(f"init: {option}", [Problem("no such choice", got=name, allowed=", ".join(known), fix=hint)])


def _format(answers: Answers, path: Path, manifest: pd.DataFrame) -> str:
    sections = [_cohort_lines(answers, path, manifest), _volume_lines(answers)]
    sections += [_network_lines(answers, manifest), _evaluation_lines(answers, manifest)]
    return "\n\n".join("\n".join(lines) for lines in [_head_lines(path), *sections]) + "\n"


def _head_lines(path: Path) -> list[str]:
    return [
        f"# Written by `sepclr-med init`. To use it: sepclr-med run {path.name} runs/{path.stem}",
        "# Only what differs from the defaults need be here. Every setting with its unit and default is in",
        "# docs/configuration.md; config.yaml of a run folder shows them all.",
    ]


def _cohort_lines(answers: Answers, path: Path, manifest: pd.DataFrame) -> list[str]:
    counts = ", ".join(f"{name} ({n})" for name, n in manifest["diagnosis"].value_counts().items())
    where = _plain(relative_path(os.path.realpath(answers.data), os.path.realpath(path.parent)))
    lines = ["cohort:"]
    if Path(answers.data).is_dir():
        lines += [
            "  bids:                # a BIDS folder, read anew each time; or, instead: manifest: FILE",
            f"    root: {where}  # relative to this file",
            f"    suffix: {SUFFIXES[answers.images]}  # last part of the images' names",
            f"    derivative: {_plain(answers.derivative)}  # folder under derivatives/; null means the raw images",
            f"    entities: {_plain(answers.entities)}  # what the images' names must carry, such as {{label: GM}}",
        ]
    else:
        lines += [f"  manifest: {where}  # one row per image; relative to this file"]
    lines += [
        f"  # Diagnoses and images found: {_one_line(counts)}. Those named in neither list are not trained on.",
        f"  background: {_plain(list(answers.background))}  # controls",
        f"  target: {_plain(list(answers.target))}  # patients",
    ]
    if "split" in manifest and manifest["split"].notna().any():
        return [*lines, "  # Who is trained on and who is held out is said by the manifest's column split."]
    return [
        *lines,
        "  # Fewer than 300 patients? Rather hold out nobody: fit MANIFEST RUN_DIR -c RECIPE --folds 5 --seeds 3",
        "  split:               # who is held out; not used once the manifest has a column split",
        "    test_size: 0.2     # share of participants held out for the final figures",
        "    val_size: 0.1      # share watched during training; 0 with very few participants",
    ]


def _volume_lines(answers: Answers) -> list[str]:
    spacing = SPACING[answers.gpu]
    finer = "1.5 is CAT12's own; 4 takes an eighth of the memory and time" if answers.gpu else "2 if a GPU trains"
    lines = ["volumes:", f"  preset: {answers.images}          # {IMAGES[answers.images]}"]
    other = next(name for name in IMAGES if name != answers.images)
    lines += [f"                       # other choice: {other}, {IMAGES[other]}"]
    lines += [f"  spacing: {spacing}         # mm; {finer}"]
    if answers.images == "vbm":
        return lines
    return [
        *lines,
        "  standardise: none    # without a common template a voxel is not the same place in every head",
        "",
        "views:                 # random changes that must not matter; see docs/volumes.md",
        "  translation: 0.08    # heads are not aligned",
        "  rotation: 12         # degrees",
        "  intensity: 0.5       # nor are their grey values",
        "  bias_field: 0.5      # raw images carry coil inhomogeneity",
        "  gamma: 0.3           # another curve of grey values",
    ]


def _network_lines(answers: Answers, manifest: pd.DataFrame) -> list[str]:
    size = _suit_batch(assign_roles(manifest, answers.background, answers.target))
    backbone, why = ("resnet18", "wants a GPU") if answers.gpu else ("small", "trains on a CPU; resnet18 with a GPU")
    return [
        "method:",
        "  name: sepclr         # others to compare with: docs/methods.md, `sepclr-med compare`",
        "  common_dim: 32       # factors that everyone shares",
        "  salient_dim: 32      # factors that vary among patients and not among controls, be it disease or not",
        "",
        "network:",
        f"  backbone: {backbone}  # {why}; also resnet10, resnet50, densenet121",
        "",
        "training:",
        "  epochs: 100          # 5 for a first try",
        f"  batch_size: {size:<9}# half of them controls, of whom there must be enough (docs/unbalanced_groups.md)",
        "                       # out of memory? --set training.micro_batch=8",
        "  seed: 0              # another seed gives another model: see docs/crossfit.md",
    ]


def _suit_batch(role: pd.Series) -> int:
    """Return a size of batches whose half is no larger than what the smaller group leaves for training, 64 at most.

    Examples
    --------
    >>> [_suit_batch(pd.Series(["background"] * n + ["target"] * 300)) for n in (4, 21, 30, 200)]
    [8, 32, 32, 64]
    """
    trained = (1 - SplitConfig().test_size) * role.value_counts().min()
    return next((size for size in (64, 32, 16) if size / 2 <= trained), 8)


def _evaluation_lines(answers: Answers, manifest: pd.DataFrame) -> list[str]:
    found = ", ".join(list_variables(manifest)) or "none but the known columns"
    variables = _plain(None if answers.variables is None else list(answers.variables))
    return [
        "evaluation:",
        f"  # Columns found beside the known ones: {_one_line(found)}.",
        f"  variables: {variables}  # what is evaluated and linked; null means every column that varies",
        f"  covariates: {_plain(list(answers.covariates))}  # what is adjusted for; age, sex, site and tiv are usual",
    ]


def _one_line(text: str) -> str:
    """Return a text for a comment: a line end in a cell would end it, and go on as YAML."""
    return " ".join(text.split())


def _plain(value: Any) -> str:
    """Return a value as YAML on one line: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)
