"""Cohorts with known truth: what everyone shares, what only patients have, and who has how much of it."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.cohort.simulation.brains import Effects, SimulatedBrains
from sepclr_med.cohort.simulation.files import Painter, is_complete, open_folder, write_cohort
from sepclr_med.cohort.simulation.people import Design, draw_people
from sepclr_med.cohort.simulation.pseudo_patients import (
    PlantedBrains,
    assign_patients,
    base_digest,
    check_base_images,
    read_base,
)
from sepclr_med.errors import ConfigError, Problem, did_you_mean

# Part of what identifies a cohort: raised whenever the same arguments would give other images.
SIMULATION_VERSION = 3

# Smallest and largest accepted value of every number, and its unit.
LIMITS: Mapping[str, tuple[float, float, str]] = {
    "n_train": (0, 1e6, "participants"),
    "n_val": (0, 1e6, "participants"),
    "n_test": (0, 1e6, "participants"),
    "spacing": (1, 12, "mm"),
    "seed": (0, 2**63, ""),
    "atrophy": (0, 1, "fraction lost"),
    "common_atrophy": (0, 1, "fraction lost"),
    "min_severity": (0, 0.99, ""),
    "score_correlation": (-1, 1, ""),
    "age_effect": (0, 0.3, "fraction lost per decade"),
    "age_gap": (-40, 40, "years"),
    "ventricle_effect": (-5, 5, "mm per decade"),
    "ventricle_sd": (0, 10, "mm"),
    "pattern_effect": (0, 0.3, "fraction per standard deviation"),
    "sex_effect": (-0.5, 0.5, "fraction of head volume"),
    "head_size_sd": (0, 0.3, "fraction of head volume"),
    "deformation": (0, 10, "mm"),
    "n_sites": (1, 1000, "sites"),
    "site_gain": (0, 1, "natural logarithm"),
    "site_bias": (0, 1, "natural logarithm"),
    "site_imbalance": (0, 1, "share of participants"),
    "noise": (0, 1, "grey-matter fraction"),
    "white_noise": (0, 1, "grey-matter fraction"),
}
WHOLE_NUMBERS = ("n_train", "n_val", "n_test", "seed", "n_sites")
PLANTING = ("n_train", "n_val", "n_test", "seed", "atrophy", "common_atrophy", "min_severity", "score_correlation")


def simulate(
    output_dir: str | Path,
    n_train: int = 400,
    n_val: int = 0,
    n_test: int = 200,
    spacing: float = 6.0,
    seed: int = 0,
    base: str | Path | pd.DataFrame | None = None,
    *,
    base_diagnosis: str | Sequence[str] | None = "control",
    atrophy: float = 0.4,
    common_atrophy: float = 0.35,
    min_severity: float = 0.2,
    score_correlation: float = 0.8,
    age_range: Sequence[float] = (20.0, 80.0),
    age_effect: float = 0.05,
    age_gap: float = 0.0,
    ventricle_effect: float = 0.6,
    ventricle_sd: float = 1.0,
    pattern_effect: float = 0.08,
    sex_effect: float = 0.12,
    head_size_sd: float = 0.06,
    deformation: float = 0.5,
    n_sites: int = 3,
    site_gain: float = 0.03,
    site_bias: float = 0.03,
    site_imbalance: float = 0.0,
    noise: float = 0.02,
    white_noise: float = 0.02,
    n_jobs: int = 1,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Write a BIDS-like cohort of modulated grey-matter maps whose truth is known.

    Half of the participants are patients. The map of each is

    ``y = (T(x + u) * v * (1 - atrophy_i(x))) * s(x) + sqrt(T) * e``

    where T is the MNI152 grey-matter template smoothed to the voxel size; u a displacement (smooth individual shape,
    ventricles that widen with age, remaining head size); v the grey matter left by age, head size and the shared
    pattern; atrophy_i what only patients lose, by subtype and severity; s the site's gain and bias field; e smooth and
    white noise. With ``base``, real maps take the place of all but atrophy_i, which is planted into half of them.

    Parameters
    ----------
    output_dir : path
        New folder, or one of an earlier call: the same arguments continue an interrupted cohort and return a finished
        one at once.
    n_train, n_val, n_test : int, default=400, 0, 200
        Participants per split. With ``base`` only their proportions count.
    spacing : float, default=6.0
        Voxel size in mm, 1 to 12.
    seed : int, default=0
        Participant i of a seed is the same whatever the number of participants or of processes.
    base : path or DataFrame, default=None
        Manifest of real grey-matter maps in MNI space to plant atrophy into; their own grid, data type and columns
        (age, sex, site, ...) are kept, and ``spacing`` and the parameters below ``score_correlation`` have no role.
    base_diagnosis : str, sequence of str or None, default="control"
        Values of ``diagnosis`` in ``base`` to use; None uses every row.
    atrophy : float, default=0.4
        Fraction of grey matter lost in the core of a subtype's regions at severity 1. Subtype A: medial and lateral
        temporal; subtype B: medial, dorsolateral and orbital frontal, striatal.
    common_atrophy : float, default=0.35
        Fraction lost at severity 1 in the core of the regions of both subtypes (insula, thalamus, middle cingulate,
        angular gyrus).
    min_severity : float, default=0.2
        Severity is uniform from here to 1 and scales both atrophies, so that the mildest patient has a trace of both.
    score_correlation : float, default=0.8
        Correlation of the clinical ``score`` (mean 20, standard deviation 8) with severity.
    age_range : two floats, default=(20, 80)
        Age is uniform between them, in years.
    age_effect : float, default=0.05
        Fraction lost per decade, compounding, in the core of the ageing regions (frontal, temporal, insular, ...);
        about what longitudinal studies find there (Raz et al., Cerebral Cortex 2005, doi:10.1093/cercor/bhi044).
    age_gap : float, default=0
        Years by which patients are older than controls on average.
    ventricle_effect, ventricle_sd : float, default=0.6, 1.0
        Outward push of the tissue around the ventricles in mm per decade, and its standard deviation in mm.
    pattern_effect : float, default=0.08
        Fraction gained in some regions and lost in others per unit of ``shared_pattern``, which is standard normal.
    sex_effect, head_size_sd : float, default=0.12, 0.06
        Difference of head volume between men and women, and its standard deviation, as fractions of 1480 mL. Grey
        matter is proportional to head volume; a fifth of the difference in size is seen as geometry.
    deformation : float, default=0.5
        Standard deviation of the individual displacement that registration leaves along each axis, in mm, smooth over
        24 mm.
    n_sites : int, default=3
        Sites, balanced over groups and sexes.
    site_gain, site_bias : float, default=0.03, 0.03
        Standard deviation over sites of the logarithm of the gain, and of the bias field, smooth over 60 mm.
    site_imbalance : float, default=0
        Share of participants whose site follows their group: patients at the first, controls at the last site.
    noise, white_noise : float, default=0.02, 0.02
        Standard deviation, where the template is 1, of noise smooth over 12 mm and of white noise.
    n_jobs : int, default=1
        Processes; -1 is one per core.
    overwrite : bool, default=False
        Replace another simulation in the folder; files that no simulation wrote are left alone.

    Returns
    -------
    DataFrame
        The manifest, also written as ``manifest.tsv``: ``participant_id image_path diagnosis split age sex site tiv
        shared_pattern subtype severity score``. The last three are missing for controls. The folder also holds
        ``participants.tsv``, the images under ``derivatives/simulated``, ``simulation.json`` and, under ``truth``, the
        fraction lost per voxel by component.

    Raises
    ------
    ConfigError
        Arguments out of range, or a folder that holds something else.
    ManifestError, VolumeError
        A base that cannot be read or is not in MNI space.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cohort = simulate(folder, n_train=4, n_test=2, spacing=12)
    >>> cohort[["participant_id", "diagnosis", "split"]].iloc[-1].tolist()
    ['sub-0006', 'patient', 'test']
    """
    given = _checked(dict(locals()))
    output_dir = Path(output_dir)
    plan = _plan_drawn(given) if base is None else _plan_planted(given, output_dir)
    open_folder(output_dir, plan.parameters, overwrite)
    if not is_complete(output_dir, plan.table):
        write_cohort(output_dir, plan.table, plan.painter(), plan.parameters, n_jobs)
    return read_manifest(output_dir / "manifest.tsv")


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A cohort before its images: the table, what it depends on, and who makes the images when they are needed."""

    table: pd.DataFrame
    parameters: dict[str, Any]
    painter: Callable[[], Painter]


def simulate_with(output_dir: str | Path, options: Mapping[str, Any]) -> pd.DataFrame:
    """Call :func:`simulate` with options that a recipe or the command line gave by name.

    Raises
    ------
    ConfigError
        For a name that is none of its arguments, with the nearest one; else as for :func:`simulate`.

    Examples
    --------
    >>> simulate_with("cohort", {"atropy": 0.2})
    Traceback (most recent call last):
    sepclr_med.errors.ConfigError: simulate: 1 unknown argument(s)
      unknown argument; got "atropy"; ...
    """
    known = [name for name in inspect.signature(simulate).parameters if name != "output_dir"]
    wrong = [
        Problem("unknown argument", got=name, allowed=", ".join(known), fix=did_you_mean(name, known) or "remove it")
        for name in options
        if name not in known
    ]
    if wrong:
        raise ConfigError(f"simulate: {len(wrong)} unknown argument(s)", wrong)
    return simulate(output_dir, **options)


def _plan_drawn(given: Mapping[str, Any]) -> _Plan:
    design, effects = _fields(Design, given), _fields(Effects, given)
    people = draw_people(_counts(given), design, given["seed"])
    parameters = {key: given[key] for key in (*LIMITS, "age_range")}
    return _Plan(
        people,
        {"Name": "Simulated cohort", "version": SIMULATION_VERSION, **parameters},
        lambda: SimulatedBrains(people, design.n_sites, given["spacing"], effects, given["seed"]),
    )


def _plan_planted(given: Mapping[str, Any], output_dir: Path) -> _Plan:
    diagnoses = given["base_diagnosis"]
    diagnoses = [diagnoses] if isinstance(diagnoses, str) else diagnoses
    base = read_base(given["base"], diagnoses)
    if any(Path(path).is_relative_to(output_dir.resolve()) for path in base["image_path"]):
        fix = Problem("the base's images are inside output_dir", got=str(output_dir), fix="choose another folder")
        raise ConfigError("simulate: would write over its base", [fix])
    severity = {key: given[key] for key in ("min_severity", "score_correlation")}
    people = assign_patients(base, _counts(given), given["seed"], **severity)
    parameters = {key: given[key] for key in PLANTING}
    images = base["image_path"].tolist()

    def painter() -> Painter:
        check_base_images(images)
        return PlantedBrains(images, people, given["atrophy"], given["common_atrophy"])

    name = "Real grey-matter maps with planted atrophy"
    content = {"Name": name, "version": SIMULATION_VERSION, "base": base_digest(base), **parameters}
    return _Plan(people, content, painter)


def _counts(given: Mapping[str, Any]) -> dict[str, int]:
    return {split: given[f"n_{split}"] for split in ("train", "val", "test")}


def _fields(kind: type, given: Mapping[str, Any]) -> Any:
    return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments as plain Python numbers, or refuse them all at once."""
    problems = []
    for name, (low, high, unit) in LIMITS.items():
        plain: type[int] | type[float] = int if name in WHOLE_NUMBERS else float
        kind: Any = Integral if plain is int else Real
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            allowed = f"{'whole number, ' if plain is int else ''}{low:g} to {high:g} {unit}".rstrip()
            problems.append(Problem(f"{name} is not accepted", got=str(value), allowed=allowed))
        else:
            given[name] = plain(value)
    if not problems:
        problems = [*_count_problems(given), *_age_problems(given)]
    if not isinstance(given["n_jobs"], Integral) or given["n_jobs"] == 0:
        problems.append(Problem("n_jobs is not accepted", got=str(given["n_jobs"]), allowed="-1, or 1 and more"))
    if problems:
        raise ConfigError(f"simulate: {len(problems)} problem(s) in the arguments", problems)
    given["age_range"] = [float(age) for age in given["age_range"]]
    return given


def _count_problems(given: Mapping[str, Any]) -> list[Problem]:
    if given["n_train"] + given["n_val"] + given["n_test"] < 2:
        return [
            Problem("a cohort needs a control and a patient", fix="n_train, n_val and n_test must sum to 2 or more")
        ]
    return []


def _age_problems(given: Mapping[str, Any]) -> list[Problem]:
    ages, youngest = given["age_range"], abs(given["age_gap"]) / 2
    try:
        low, high = (float(age) for age in ages)
    except (TypeError, ValueError):
        low = high = math.nan
    if youngest <= low < high <= 120:
        return []
    allowed = f"two ages in years, rising, from {youngest:g} (half the age_gap) to 120"
    return [Problem("age_range is not accepted", got=str(ages), allowed=allowed)]
