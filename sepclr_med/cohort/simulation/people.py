"""Who is in a simulated cohort: group, site, age, sex, head size, the shared pattern, and the patients' disease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.cohort.simulation.files import image_name
from sepclr_med.cohort.simulation.planting import SUBTYPES

# Keys of the random streams drawn from one seed; each use of chance has its own, so that changing how one is used
# leaves all others as they were.
PERSON_STREAM, SITE_STREAM, IMAGE_STREAM, BLOCK_STREAM, GROUP_STREAM, SUBTYPE_STREAM = range(1, 7)
REFERENCE_TIV = 1480.0
SMALLEST_HEAD = 0.5
SCORE_MEAN, SCORE_SD = 20.0, 8.0


@dataclass(frozen=True)
class Design:
    """How participants are drawn; units and defaults are documented in :func:`sepclr_med.cohort.simulate.simulate`."""

    n_sites: int
    age_range: tuple[float, float]
    age_gap: float
    site_imbalance: float
    sex_effect: float
    head_size_sd: float
    min_severity: float
    score_correlation: float


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of one use of chance, independent of all others.

    Examples
    --------
    >>> stream(0, PERSON_STREAM, 7).random() == stream(0, PERSON_STREAM, 7).random()
    True
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw_people(counts: Mapping[str, int], design: Design, seed: int) -> pd.DataFrame:
    """Draw a cohort's table; participant i is the same however many follow.

    Participants come in pairs of a control and a patient, and pairs in blocks that hold every site and sex once, so
    groups, sites and sexes are balanced in any run of rows up to one block. Of two patients in a row, one has each
    subtype.

    Parameters
    ----------
    counts : mapping of str to int
        Participants per split, in order.
    design : Design
        How they are drawn.
    seed : int
        Seed of the cohort.

    Returns
    -------
    DataFrame
        One row per participant: ``participant_id image_path diagnosis split age sex site tiv shared_pattern subtype
        severity score``; the last three are missing for controls.
    """
    rows = [_draw_row(index, design, seed) for index in range(sum(counts.values()))]
    people = pd.DataFrame(rows)
    people.insert(3, "split", np.repeat(list(counts), list(counts.values())))
    return people


def draw_disease(
    rng: np.random.Generator, subtype: str, min_severity: float, score_correlation: float
) -> dict[str, Any]:
    """Draw a patient's severity (uniform up to 1) and score (mean 20, standard deviation 8), independent of subtype."""
    uniform, error = rng.random(), rng.standard_normal()
    standard = (uniform - 0.5) * np.sqrt(12)
    score = SCORE_MEAN + SCORE_SD * (score_correlation * standard + np.sqrt(1 - score_correlation**2) * error)
    return {
        "subtype": subtype,
        "severity": round(min_severity + (1 - min_severity) * uniform, 4),
        "score": round(score, 1),
    }


def no_disease() -> dict[str, Any]:
    """Return what a control has in the columns of :func:`draw_disease`."""
    return {"subtype": None, "severity": np.nan, "score": np.nan}


def _draw_row(index: int, design: Design, seed: int) -> dict[str, Any]:
    pair, is_patient = divmod(index, 2)
    cell = _balanced(pair, 2 * design.n_sites, seed, BLOCK_STREAM)
    rng = stream(seed, PERSON_STREAM, index)
    person = _draw_person(rng, bool(is_patient), cell, design)
    disease = no_disease()
    if is_patient:
        subtype = SUBTYPES[_balanced(pair, len(SUBTYPES), seed, SUBTYPE_STREAM)]
        disease = draw_disease(rng, subtype, design.min_severity, design.score_correlation)
    participant_id = f"sub-{index + 1:04d}"
    return {
        "participant_id": participant_id,
        "image_path": image_name(participant_id),
        "diagnosis": "patient" if is_patient else "control",
        **person,
        **disease,
    }


def _balanced(position: int, n_levels: int, seed: int, key: int) -> int:
    """Return the level at a position of a sequence in which each block of ``n_levels`` holds every level once."""
    block, place = divmod(position, n_levels)
    return int(stream(seed, key, block).permutation(n_levels)[place])


def _draw_person(rng: np.random.Generator, is_patient: bool, cell: int, design: Design) -> dict[str, Any]:
    site, is_male = divmod(cell, 2)
    if rng.random() < design.site_imbalance:
        site = 0 if is_patient else design.n_sites - 1
    age = rng.uniform(*design.age_range) + design.age_gap * (0.5 if is_patient else -0.5)
    size = 1 + design.sex_effect * (is_male - 0.5) + design.head_size_sd * rng.standard_normal()
    return {
        "age": round(age, 1),
        "sex": "M" if is_male else "F",
        "site": f"site{site + 1}",
        "tiv": round(REFERENCE_TIV * max(size, SMALLEST_HEAD), 1),
        "shared_pattern": round(rng.standard_normal(), 4),
    }
