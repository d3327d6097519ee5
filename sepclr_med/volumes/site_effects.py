"""A site the normative reference does not know: its voxelwise effect, estimated from controls scanned there.

All other coefficients stay. With ``e`` what the reference leaves of the site's controls, had they been scanned at its
first site, and ``c`` the mean effect of the sites it knows,

``effect = c + share (mean e - c)``,  ``share = max(0, 1 - (v / n) / |P (mean e - c)|^2)``

where P takes the components away and divides by the background's standard deviation, as deviations do, and v is the
sum of the variances of ``P e``. So an effect that is no larger than n controls would show by chance counts for nothing,
and a large one fully: the random-effects weighing of :mod:`sepclr_med.volumes.normative_regression`, whose prior
variance comes from the very map (James and Stein, 4th Berkeley Symposium 1961; Efron and Morris, J Am Stat Assoc 1973).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sepclr_med.cohort.covariates import CovariateCoding
from sepclr_med.volumes.normative import NormativeReference, Rendering, render_with

MOST_GROUPS = 10
SITE = "site"


@dataclass(frozen=True)
class SiteEffect:
    """What a site does to every voxel, by all its controls and without each group of them.

    Parameters
    ----------
    means : Tensor of shape (K + 1, V)
        Mean of what the reference leaves of the controls, without each group and last of all.
    centre : Tensor of shape (V,)
        Mean effect of the sites the reference knows.
    shares : Tensor of shape (K + 1,)
        How much of the way from the centre to the mean the estimate goes.
    groups : dict of str to int
        Group of each control by the hash of its id: they are rendered without themselves.
    facts : dict
        For people.
    """

    means: Tensor
    centre: Tensor
    shares: Tensor
    groups: dict[str, int]
    facts: dict[str, Any]

    def require_voxels(self, n_voxels: int) -> None:
        """Refuse an effect that does not hold together, or is of another number of voxels.

        Raises
        ------
        ValueError
        """
        k = self.n_groups
        shapes = [tuple(tensor.shape) for tensor in (self.means, self.centre, self.shares)]
        if shapes != [(k + 1, n_voxels), (n_voxels,), (k + 1,)]:
            raise ValueError(f"an effect of shapes {shapes} for {n_voxels} voxels")
        if not all(torch.isfinite(tensor).all() for tensor in (self.means, self.centre, self.shares)):
            raise ValueError("an effect that is not finite")
        groups, n_controls = self.groups.values(), self.facts["n_controls"]
        if not all(type(number) is int and 0 <= number < k for number in groups) or type(n_controls) is not int:
            raise ValueError(f"groups of controls that are not 0 to {k - 1}, or no number of controls")

    @property
    def n_groups(self) -> int:
        """K."""
        return len(self.means) - 1

    def map(self, group: int, shifted: int | None = None) -> Tensor:
        """Return the effect without a group (K: by all), (V,), moved by what another group does to the mean.

        The move is that of the mean before it is drawn to the centre, which is larger: the drawing has an error of its
        own, that leaving out controls does not show.
        """
        effect = torch.lerp(self.centre, self.means[group], self.shares[group])
        if shifted is None or shifted >= self.n_groups:
            return effect
        return effect + self.means[shifted] - self.means[-1]

    def group_of(self, participants: pd.Series) -> np.ndarray:
        """Return the group of each participant, K for whoever took no part."""
        return participants.map(lambda who: self.groups.get(hash_id(who), self.n_groups)).to_numpy(dtype=int)


def hash_id(participant_id: object) -> str:
    """Return what stands for a participant in a file that may be passed on.

    Examples
    --------
    >>> hash_id("sub-01")
    '41c1ca2f53f4dd0b'
    """
    return hashlib.sha256(str(participant_id).encode()).hexdigest()[:16]


def estimate_site(
    reference: NormativeReference,
    load: Callable[[np.ndarray], np.ndarray],
    table: pd.DataFrame,
    rows: np.ndarray,
) -> SiteEffect:
    """Estimate the effect of a site from its controls.

    Parameters
    ----------
    reference : NormativeReference
        With ``site`` among its covariates.
    load : callable
        Maps row numbers of ``table`` to raw volumes.
    table : DataFrame
        With the covariates of the reference.
    rows : int array
        Controls of the site. A participant's images count as one; relatives are left out together.

    Returns
    -------
    SiteEffect

    Raises
    ------
    ManifestError
        When a covariate is missing.
    """
    people = table.iloc[rows].reset_index(drop=True)
    design = reference.design.encode(people.assign(**{SITE: _levels(reference)[0]}))
    group = _leave_out(people)
    centre = _mean_known_effect(reference)
    n_groups, coefficients = int(group.max()) + 1, reference.coefficients[reference.last]
    sums = torch.zeros(n_groups, len(centre))
    counts, squares = np.zeros(n_groups), np.zeros(n_groups)
    for places in people.groupby("participant_id", sort=False).indices.values():
        volumes = torch.from_numpy(load(rows[places])).flatten(1).float()
        left = (volumes - torch.from_numpy(design[places]) @ coefficients).mean(dim=0)
        number = group[places[0]]
        sums[number] += left
        counts[number] += 1
        squares[number] += float(_as_deviation(reference, left - centre).square().sum())
    means, shares = [], []
    for without in [*range(n_groups), None]:
        inside = np.array([number != without for number in range(n_groups)])
        n = counts[inside].sum()
        mean = sums[torch.from_numpy(inside)].sum(dim=0) / n
        size = float(_as_deviation(reference, mean - centre).square().sum())
        chance = max(0.0, squares[inside].sum() - n * size) / (n - 1) / n
        means.append(mean)
        shares.append(float(max(0.0, 1 - chance / size)) if size > 0 else 0.0)
    known = {hash_id(who): int(number) for who, number in zip(people["participant_id"], group, strict=True)}
    facts = {"n_controls": int(counts.sum()), "n_groups": n_groups, "share": round(shares[-1], 3)}
    return SiteEffect(torch.stack(means), centre, torch.tensor(shares).float(), known, facts)


def render_at_sites(
    reference: NormativeReference,
    effects: Mapping[str, SiteEffect],
    table: pd.DataFrame,
    shifted: int | None = None,
) -> Rendering:
    """Say how images are rendered, some of them of sites that were added to the reference.

    Parameters
    ----------
    reference : NormativeReference
    effects : mapping of site to SiteEffect
        Controls that an effect was estimated from are rendered by the estimate without them.
    table : DataFrame
    shifted : int or None, default=None
        Move each effect by what this group of its controls does to it.

    Raises
    ------
    ManifestError
        When covariates are missing, or of a site that neither knows.

    Examples
    --------
    >>> from sepclr_med.volumes.normative_design import code_covariates
    >>> known = pd.DataFrame({"participant_id": ["a", "b"], "site": ["A", "B"]})
    >>> kept = (torch.tensor([[[1.0], [2.0]]]), torch.zeros(1, 0, 1), torch.zeros(1, 0), torch.ones(1))
    >>> reference = NormativeReference(code_covariates(known, ["site"]), *kept, {}, {})
    >>> effect = SiteEffect(torch.full((2, 1), 5.0), torch.zeros(1), torch.ones(2), {}, {})
    >>> rendering = render_at_sites(reference, {"C": effect}, known.assign(site=["B", "C"]))
    >>> rendering(torch.zeros(2, 1, 1), np.arange(2)).ravel()
    tensor([-3., -6.])
    """
    if SITE not in table:
        return render_with(reference, table)
    site, maps = table[SITE].astype(object).copy(), {}
    for name, effect in effects.items():
        if name in _levels(reference):
            continue
        here = (table[SITE].astype(str) == name).to_numpy(bool)
        group = effect.group_of(table.loc[here, "participant_id"])
        labels = [name if number == effect.n_groups else f"{name} without group {number}" for number in group]
        site[here] = labels
        maps |= {label: effect.map(number, shifted) for label, number in zip(labels, group, strict=True)}
    return render_with(_with_sites(reference, maps), table.assign(**{SITE: site}))


def take_out_sites(volumes: Tensor, rows: np.ndarray, effects: Mapping[str, SiteEffect], table: pd.DataFrame) -> Tensor:
    """Return raw volumes as they would be at a site of the mean known effect, those of other sites as they are.

    Parameters
    ----------
    volumes : Tensor of shape (n, C, X, Y, Z)
        Left as they are.
    rows : int array of shape (n,)
        Their rows of the table.
    effects : mapping of site to SiteEffect
    table : DataFrame
    """
    if not effects or SITE not in table:
        return volumes
    people, volumes = table.iloc[rows], volumes.clone()
    for place, (site, participant_id) in enumerate(
        zip(people[SITE].astype(str), people["participant_id"], strict=True)
    ):
        if (effect := effects.get(site)) is not None:
            group = int(effect.group_of(pd.Series([participant_id]))[0])
            volumes[place] -= (effect.map(group) - effect.centre).reshape(volumes.shape[1:]).to(volumes)
    return volumes


def _levels(reference: NormativeReference) -> tuple[str, ...]:
    return dict(reference.design.coding.levels)[SITE]


def _mean_known_effect(reference: NormativeReference) -> Tensor:
    known = torch.from_numpy(reference.design.columns_of([SITE]))
    # The first site has no column: its effect is zero.
    return reference.coefficients[reference.last][known].sum(dim=0) / len(_levels(reference))


def _as_deviation(reference: NormativeReference, residual: Tensor) -> Tensor:
    components, weights = reference.components[reference.last], reference.weights[reference.last]
    return (residual - (components @ residual * weights) @ components) * reference.inverse_std


def _leave_out(people: pd.DataFrame) -> np.ndarray:
    """Deal families out to groups, one by one; as many groups as families, up to ten."""
    family = people["participant_id"].astype(str)
    if "family_id" in people:
        family = people["family_id"].astype(object).where(people["family_id"].notna(), family).astype(str)
    # By hash, so that neither the order of the manifest nor that of the ids has a part.
    dealt = sorted(family.unique(), key=hash_id)
    number = {name: place % min(MOST_GROUPS, len(dealt)) for place, name in enumerate(dealt)}
    return family.map(number).to_numpy(dtype=int)


def _with_sites(reference: NormativeReference, maps: Mapping[str, Tensor]) -> NormativeReference:
    """Return the reference with further sites, each the effect given, whatever the fold."""
    if not maps:
        return reference
    design, place = reference.design, 1 + len(reference.design.coding.numbers) + len(reference.design.squared)
    levels = []
    for name, seen in design.coding.levels:
        before_site = SITE not in [known for known, _ in levels]
        place += len(seen) - 1 if before_site else 0
        levels.append((name, (*seen, *maps) if name == SITE else seen))
    added = torch.stack([effect.to(reference.coefficients) for effect in maps.values()])
    added = added.expand(len(reference.coefficients), *added.shape)
    before, after = reference.coefficients[:, :place], reference.coefficients[:, place:]
    return replace(
        reference,
        design=replace(design, coding=CovariateCoding(design.coding.numbers, tuple(levels))),
        coefficients=torch.cat([before, added, after], dim=1),
    )
