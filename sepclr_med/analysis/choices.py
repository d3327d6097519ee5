"""Whom ``link`` tests, which factors, and what is corrected for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from sepclr_med.analysis.participants import Participants
from sepclr_med.analysis.schemes import choose_scheme
from sepclr_med.analysis.variables import FIRST
from sepclr_med.errors import ManifestError, Problem, TooFewError, did_you_mean

Over: TypeAlias = Literal["held-out", "train", "all"]

MIN_PARTICIPANTS = 10
FEW = 30
PARTS = ("prediction", "similarity", "subtypes")


def check_choices(embeddings: Mapping[str, Any], factors: Sequence[str], over: str, parts: Sequence[str]) -> None:
    """Refuse what cannot be met, all at once.

    Raises
    ------
    ManifestError
        Without salient embeddings, and for words that are no choice.
    """
    problems = [] if "salient" in embeddings else [Problem("no salient embeddings", got=", ".join(embeddings))]
    choices = {
        "factors": (factors, ("salient", "canonical")),
        "over": ([over], ("held-out", "train", "all")),
        "parts": (parts, PARTS),
    }
    problems += [
        Problem(f"{what}: not a choice", got=str(one), allowed=", ".join(allowed), fix=did_you_mean(str(one), allowed))
        for what, (given, allowed) in choices.items()
        for one in given
        if one not in allowed
    ]
    if not factors:
        problems.append(Problem("no factors are named", allowed="salient, canonical"))
    if problems:
        raise ManifestError(f"link: {len(problems)} choice(s) that cannot be met", problems)


def choose_tested(
    people: Participants, over: Over, target: Sequence[str] | None
) -> tuple[Participants, str, list[str]]:
    """Return whom the tests are about, in words as well, and what must be said of them.

    Parameters
    ----------
    people : Participants
    over : {"held-out", "train", "all"}
        ``held-out`` is the test part, else the validation part; everyone where there is no training part.
    target : sequence of str or None
        Diagnoses of patients, for the words.

    Raises
    ------
    TooFewError
        When fewer than ten are left.
    """
    split = people.rows["split"]
    part = {"train": "train", "all": None}.get(over, choose_scheme(split).held_out)
    mask = people.is_target & ((split == part).to_numpy() if part else True)
    who = f"{'target participants' if target else 'participants'} ({', '.join(target)})" if target else "participants"
    words = f"{who}, {part} split" if part else f"{who}, all splits"
    if (n := int(mask.sum())) < MIN_PARTICIPANTS:
        counts = ", ".join(f"{k} {v}" for v, k in split[people.is_target].fillna("n/a").value_counts().items())
        fix = "--over all tests everyone, and says that the encoder has seen some of them"
        raise TooFewError(f"link: {n} {words}, {MIN_PARTICIPANTS} needed (there are {counts}); {fix}")
    seen = int((split[mask] == "train").sum())
    notes = [f"In-sample: the encoder was trained on {seen} of the {n} tested participants."] if seen else []
    if n < FEW <= (everyone := int(people.is_target.sum())):
        notes.append(f"Few participants are held out: {n}. --over all tests {everyone}, most of them in-sample.")
    return people.take(mask), words, notes


def choose_families(names: Sequence[str], families: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the family of each variable: as declared, else ``clinical``, or ``shared`` for age, sex, site and so on.

    Raises
    ------
    ManifestError
        When a family names what is not tested, or two families the same variable.

    Examples
    --------
    >>> choose_families(["age", "BDI", "MADRS"], {"mood": ["MADRS"]})
    {'age': 'shared', 'BDI': 'clinical', 'MADRS': 'mood'}
    """
    declared = [(name, family) for family, members in families.items() for name in members]
    twice = sorted({name for name, _ in declared if sum(name == other for other, _ in declared) > 1})
    unknown = [name for name, _ in declared if name not in names]
    problems = [Problem("in two families", column=name, fix="name it once") for name in twice]
    problems += [
        Problem("in a family, but not tested", column=name, allowed=", ".join(names), fix=did_you_mean(name, names))
        for name in unknown
    ]
    if problems:
        raise ManifestError(f"link: {len(problems)} problem(s) with the families", problems)
    of = dict(declared)
    return {name: of.get(name, "shared" if name in FIRST else "clinical") for name in names}
