r"""SepCLR: two encoders, common and salient (Louiset, Duchesnay, Grigis, Gori, ICLR 2024, arXiv 2402.11928).

.. math:: L = L_{common} + w_{salient} L_{salient} + w_{null} L_{null} + w_{joint} L_{JEM}
   + w_{ind} D(c, s) + w_{nuisance} HSIC(s, v) + w_{attributes} (A_s + A_c)

The first four terms are the paper's (:mod:`sepclr_med.losses.pairwise`), and ``sepclr_paper`` has no other. Beyond it:

- ``salient_input: deviation``: the salient encoder sees how far an image lies from the normative reference of the
  background, the common encoder the image itself (:mod:`sepclr_med.volumes.normative`).
- ``independence``: a measure D of dependence of both heads on target rows. ``gives_way`` says which head it moves; the
  other is held still. For the paper's comparisons set ``w_joint: 0`` beside it.
- ``nuisances``: the normalised HSIC between the salient head and named columns v, on target rows.
- ``attributes``: one salient factor each, pulled together where labels are alike. The published script does not
  normalise the weights of pairs; here they are, and the salient space has no separate head, so that factors keep their
  meaning. ``common_attributes`` arrange the common space by the y-aware loss.
- ``disorder_dim``: with several diagnoses among the targets, factors that all patients share, then as many for each
  diagnosis alone, null for everyone it does not belong to; each part has salient terms of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sepclr_med.cohort.labels import Labels, Wanted
from sepclr_med.config import Config
from sepclr_med.losses.contrastive import attribute_alignment, kernel_info_nce, label_likeness
from sepclr_med.losses.critics import CLUB, Critic, DensityRatio
from sepclr_med.losses.independence import distance_correlation, hsic, kernel_mutual_information, mmd_independence
from sepclr_med.losses.pairwise import LossTerms, SepCLRLoss, null_salient, require_both_groups
from sepclr_med.method_settings import MethodConfig
from sepclr_med.methods.shapes import count_disorders, count_salient, encoder_shape
from sepclr_med.networks import SepCLRNetwork

SPACES = ("common", "salient")
N_VIEWS = 2
MEASURES = {
    "hsic": hsic,
    "distance_correlation": distance_correlation,
    "mmd": mmd_independence,
    "mutual_information": kernel_mutual_information,
}
CRITICS: dict[str, type[Critic]] = {"club": CLUB, "total_correlation": DensityRatio}


class Terms(NamedTuple):
    """The weighted ``total`` and the unweighted terms it is made of."""

    total: Tensor
    common_alignment: Tensor
    common_uniformity: Tensor
    salient_alignment: Tensor
    salient_uniformity: Tensor
    null_salient: Tensor
    joint_entropy: Tensor
    independence: Tensor
    nuisance: Tensor
    attributes: Tensor


def find_labels(config: Config) -> list[Wanted]:
    """Return the columns of the manifest that the loss needs."""
    method = config.method
    wanted = [Wanted("salient", name, kind) for name, kind in method.attributes.items()]
    wanted += [Wanted("common", name, kind) for name, kind in method.common_attributes.items()]
    wanted += [Wanted("nuisance", name, "design") for name in method.nuisances]
    return wanted + ([Wanted("disorder", "diagnosis", "discrete")] if count_disorders(config) else [])


def build_network(config: Config, in_channels: int, spatial_size: tuple[int, ...]) -> nn.Module:
    """Return the two encoders; factors of single disorders follow the shared salient ones."""
    method = config.method
    return SepCLRNetwork(
        common_dim=method.common_dim,
        salient_dim=count_salient(config),
        head_hidden=config.network.head_hidden,
        # What the loss gives a meaning factor by factor must be what is exported; a head would mix the factors.
        salient_projector=not (method.attributes or count_disorders(config)),
        **encoder_shape(config, in_channels, spatial_size),
    )


def build_loss(config: Config, labels: Labels, shape: tuple[int, ...]) -> nn.Module:
    """Return the objective for labels laid out so."""
    disorders = []
    if count_disorders(config):
        codes = labels.levels["diagnosis"]
        disorders = [codes.index(name) if name in codes else -1 for name in config.cohort.target]
    return SepCLRObjective(config.method, labels.places, disorders)


class SepCLRObjective(nn.Module):
    """All terms of one batch.

    Parameters
    ----------
    method : MethodConfig
    places : dict of (purpose, column) to slice
        Where each label lies among the labels of a batch.
    disorders : list of int
        Codes of the diagnoses that have factors of their own, in their order.
    """

    terms = Terms

    def __init__(self, method: MethodConfig, places: dict[tuple[str, str], slice], disorders: list[int]) -> None:
        super().__init__()
        self.method, self.places, self.disorders = method, places, disorders
        tau = method.temperature
        self.pairwise = SepCLRLoss(method.w_salient, method.w_null, method.w_joint, tau)
        self.critic: Critic | None = None
        if method.independence in CRITICS and method.w_independence:
            n_salient = method.salient_dim + method.disorder_dim * len(disorders)
            self.critic = CRITICS[method.independence](method.common_dim, n_salient)
        self.salient_columns = slice(method.common_dim, None)

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        """Return the terms of one batch.

        Parameters
        ----------
        views : list of two Tensors of shape (n, d_c + d_s)
            Common and salient heads side by side.
        is_target : bool Tensor of shape (n,), on the CPU
        labels : Tensor of shape (n, L)

        Returns
        -------
        Terms
        """
        require_both_groups(is_target)
        method, device = self.method, views[0].device
        common = [view[:, : method.common_dim] for view in views]
        salient = [view[:, self.salient_columns] for view in views]
        members = self._members(is_target, labels)
        base = self._pairwise(views, common, members)
        targets = is_target.nonzero()[:, 0].to(device, non_blocking=True)
        zero = base.total.new_zeros(())
        independence, fitting = self._independence(common, salient, targets, zero)
        nuisance = self._nuisance(salient, targets, labels, zero)
        attributes = self._attributes(common, views, is_target.to(device), labels, zero)
        extra = method.w_independence * independence + method.w_nuisance * nuisance + method.w_attributes * attributes
        return Terms(base.total + extra + fitting, *base[1:], independence, nuisance, attributes)

    def _members(self, is_target: Tensor, labels: Tensor) -> list[Tensor]:
        """Return who has the factors of each part: all targets, then those of each disorder."""
        if not self.disorders:
            return [is_target]
        codes = labels[:, self.places["disorder", "diagnosis"]][:, 0].cpu()
        return [is_target, *((codes == code) & is_target for code in self.disorders)]

    def _pairwise(self, views: list[Tensor], common: list[Tensor], members: list[Tensor]) -> LossTerms:
        """Return the paper's terms: over free shared factors, then those of each disorder."""
        method = self.method
        ends = [method.common_dim, method.common_dim + len(method.attributes), method.common_dim + method.salient_dim]
        places = [slice(*ends[1:])] + [
            slice(ends[2] + index * method.disorder_dim, ends[2] + (index + 1) * method.disorder_dim)
            for index in range(len(self.disorders))
        ]
        parts = [([view[:, at] for view in views], who) for at, who in zip(places, members, strict=True)]
        supervised = [([view[:, slice(*ends[:2])] for view in views], members[0])] if method.attributes else []
        return self.pairwise.over_parts(common, [part for part in parts if part[0][0].shape[1]], supervised)

    def _independence(
        self, common: list[Tensor], salient: list[Tensor], targets: Tensor, zero: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the dependence of both heads and what fits the critic."""
        name = self.method.independence
        if name == "none" or not self.method.w_independence:
            return zero, zero
        moved = self.method.gives_way
        pairs = [
            (c.detach() if moved == "salient" else c, s.detach() if moved == "common" else s)
            for c, s in zip(common, salient, strict=True)
        ]
        pairs = [(c[targets], s[targets]) for c, s in pairs]
        if self.critic is None:
            width = {"temperature": self.method.temperature} if name == "mutual_information" else {}
            return torch.stack([MEASURES[name](c, s, **width) for c, s in pairs]).mean(), zero
        estimate = torch.stack([self.critic.estimate(c, s) for c, s in pairs]).mean()
        fitting = torch.stack([self.critic.fitting_loss(c, s) for c, s in pairs]).mean()
        return estimate.clamp(min=0), fitting

    def _nuisance(self, salient: list[Tensor], targets: Tensor, labels: Tensor, zero: Tensor) -> Tensor:
        places = [place for (purpose, _), place in self.places.items() if purpose == "nuisance"]
        if not places or not self.method.w_nuisance:
            return zero
        held = [hsic(labels[targets][:, place], s[targets]) for place in places for s in salient]
        return torch.stack(held).mean()

    def _attributes(
        self, common: list[Tensor], views: list[Tensor], is_target: Tensor, labels: Tensor, zero: Tensor
    ) -> Tensor:
        method, found = self.method, [zero]
        for index, (name, kind) in enumerate(method.attributes.items()):
            column = [view[is_target, method.common_dim + index] for view in views]
            likeness = label_likeness(labels[is_target][:, self.places["salient", name]][:, 0], kind)
            found.append(attribute_alignment(*column, likeness, method.temperature))
            taught = [view[:, method.common_dim + index, None] for view in views]
            found += [null_salient(factor, is_target, method.temperature) / 2 for factor in taught]
        for name, kind in method.common_attributes.items():
            likeness = label_likeness(labels[:, self.places["common", name]][:, 0], kind)
            found.append(kernel_info_nce(*common, likeness))
        return torch.stack(found).sum()
