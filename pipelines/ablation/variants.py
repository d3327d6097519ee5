"""What was tried against leakage and earned no option: objectives and batches that only this folder knows.

An arm of ``arms.yaml`` names one with ``variant=NAME`` among its settings. Results: docs/ablation.md.

``adversary``
    a small network reads age, sex and site from the salient heads of patients, and the encoder works against it;
``conditional_uniformity``
    salient heads of patients repel each other as much as their common heads are alike;
``late_independence``
    joint entropy and independence begin at nothing and grow until half of the steps are taken;
``site_batches``
    every batch is of one site;
``matched_batches``
    every patient of a batch is joined by the control of the same site and sex that is nearest in age;
``matched_negatives``
    such batches, and the salient head of every patient repels that of the control who joined it;
``matched_reference``
    instead of deviations from a normative model the salient encoder sees what differs from the mean of the
    ``NEIGHBOURS`` training controls of the same site and sex that are nearest in age, never the participant's own.
    For arms with ``method.salient_input=deviation``, whose second channel it replaces;
``shifted_views``
    the salient encoder sees plain images, each view of them as if of another age, sex and site: moved along the
    normative reference's effects by the difference between two people drawn at random. For arms with
    ``method.salient_input=deviation``, whose second channel it replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from sepclr_med.epochs import Tools
from sepclr_med.losses.critics import HIDDEN, Critic
from sepclr_med.methods.sepclr import SepCLRObjective, Terms
from sepclr_med.volumes.batches import draw_batches
from sepclr_med.volumes.reader import VolumeReader
from sepclr_med.volumes.views import apply_views, draw_parameters

WEIGHT = 10.0
# Years: a control of another site or sex is farther away than any age.
FAR = 1000.0
NEIGHBOURS = 5


class Reader(Critic):
    """Squared error, in variances of the columns, of reading columns from salient heads; below zero nothing is read."""

    def __init__(self, salient_dim: int, n_columns: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(salient_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_columns))

    def forward(self, s: Tensor, columns: Tensor) -> Tensor:
        """Return the share of variance that is read, a mean over the columns that differ within the batch."""
        spread = (columns - columns.mean(dim=0)).square().sum(dim=0)
        differs = spread > 1e-6
        unread = (self.layers(s) - columns).square().sum(dim=0) / spread.where(differs, 1)
        return ((1 - unread) * differs).sum() / differs.sum().clamp(min=1)

    def fitting_loss(self, s: Tensor, columns: Tensor) -> Tensor:
        """Return what is not read."""
        return 1 - self(s.detach().float(), columns)


class AdversarialObjective(SepCLRObjective):
    """SepCLR against a reader of age, sex and site."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        places = [place for (purpose, _), place in self.places.items() if purpose == "nuisance"]
        self.columns = [index for place in places for index in range(place.start, place.stop)]
        self.reader = Reader(self.method.salient_dim, len(self.columns))

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        terms, columns = super().forward(views, is_target, labels), labels[is_target][:, self.columns]
        heads = [view[is_target][:, self.salient_columns] for view in views]
        read = torch.stack([self.reader.estimate(head, columns) for head in heads]).mean()
        fitting = torch.stack([self.reader.fitting_loss(head, columns) for head in heads]).mean()
        return terms._replace(total=terms.total + WEIGHT * read.clamp(min=0) + fitting)


class ConditionalObjective(SepCLRObjective):
    """SepCLR with a uniformity that counts pairs by how alike they are in the common space."""

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        terms, tau = super().forward(views, is_target, labels), self.method.temperature
        repelled = []
        for view in (view[is_target].float() for view in views):
            common = torch.pdist(view[:, : self.method.common_dim].detach()).square() / (2 * tau)
            salient = torch.pdist(view[:, self.salient_columns]).square() / (2 * tau)
            repelled.append(torch.logsumexp(-common - salient, 0) - torch.logsumexp(-common, 0))
        return terms._replace(total=terms.total + WEIGHT * torch.stack(repelled).mean())


class LateObjective(SepCLRObjective):
    """SepCLR whose terms against dependence grow with the steps taken."""

    n_steps = 1

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.step = 0

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        terms, method = super().forward(views, is_target, labels), self.method
        self.step += torch.is_grad_enabled()
        missing = 1 - min(1.0, 2 * self.step / self.n_steps)
        held = method.w_joint * terms.joint_entropy + method.w_independence * terms.independence
        return terms._replace(total=terms.total - missing * held)


class MatchedNegativesObjective(SepCLRObjective):
    """SepCLR whose patients repel, in the salient space, the control that was matched with each."""

    def forward(self, views: list[Tensor], is_target: Tensor, labels: Tensor) -> Terms:
        terms, tau = super().forward(views, is_target, labels), self.method.temperature
        if not torch.is_grad_enabled():
            # Validation batches are not matched.
            return terms
        heads = [view[:, self.salient_columns].float() for view in views]
        # Rows of a matched batch: controls, then patients in the order of their controls.
        apart = torch.stack([(head[is_target] - head[~is_target]).square().sum(dim=1) for head in heads])
        repelled = torch.logsumexp(-apart.flatten() / (2 * tau), 0) - np.log(apart.numel())
        return terms._replace(total=terms.total + WEIGHT * repelled)


def draw_site_batches(rows: pd.DataFrame) -> Callable[..., list[np.ndarray]]:
    """Return a way to draw batches of one site each."""
    sites = [np.flatnonzero(rows["site"] == site) for site in sorted(set(rows["site"]))]

    def draw(is_target: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
        if len(is_target) != len(rows):
            return draw_batches(is_target, batch_size, seed, epoch)
        found = [here[batch] for here in sites for batch in draw_batches(is_target[here], batch_size, seed, epoch)]
        return [found[index] for index in np.random.default_rng([seed, epoch]).permutation(len(found))]

    return draw


def draw_matched_batches(rows: pd.DataFrame) -> Callable[..., list[np.ndarray]]:
    """Return a way to draw batches whose controls match the patients one by one."""
    apart = distances_apart(rows)

    def draw(is_target: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
        batches = draw_batches(is_target, batch_size, seed, epoch)
        if len(is_target) != len(rows):
            return batches
        controls, matched = np.flatnonzero(~is_target), []
        for ill in (batch[is_target[batch]] for batch in batches):
            matched.append(np.concatenate([controls[linear_sum_assignment(apart[np.ix_(ill, controls)])[1]], ill]))
        return matched

    return draw


def distances_apart(rows: pd.DataFrame) -> np.ndarray:
    """Return how unlike any two rows are: years of age, and more than any of these when of another sex or site."""
    age, sex, site = (rows[name].to_numpy() for name in ("age", "sex", "site"))
    return np.abs(age[:, None] - age) + FAR * (sex[:, None] != sex) + FAR * (site[:, None] != site)


def find_neighbours(cohort: pd.DataFrame) -> np.ndarray:
    """Return for every row the rows of the training controls that are most like it, never its own."""
    is_control = (cohort["split"] == "train") & (cohort["diagnosis"] == "control")
    controls = np.flatnonzero(is_control)
    apart = distances_apart(cohort)[:, controls]
    ids = cohort["participant_id"].to_numpy()
    apart[ids[:, None] == ids[controls]] = np.inf
    return controls[np.argsort(apart, axis=1, kind="stable")[:, :NEIGHBOURS]]


def subtract_neighbours(cohort: pd.DataFrame) -> Callable[[VolumeReader, Tensor, np.ndarray], Tensor]:
    """Return what a reader gives out instead: standardised images, and behind them what differs from the neighbours."""
    neighbours = find_neighbours(cohort)

    def finish(reader: VolumeReader, volumes: Tensor, rows: np.ndarray) -> Tensor:
        plain = reader.standardisation(volumes.float())
        if not reader.rendering:
            return plain
        alike = torch.stack([reader.standardisation(reader.raw(others)) for others in neighbours[rows].T]).mean(dim=0)
        return torch.cat([plain, plain - alike], dim=1)

    return finish


def repeat_plain(reader: VolumeReader, volumes: Tensor, rows: np.ndarray) -> Tensor:
    """Return standardised images, twice where there is a channel for the salient encoder."""
    plain = reader.standardisation(volumes.float())
    return torch.cat([plain, plain], dim=1) if reader.rendering else plain


def render_shifted(tools: Tools, volumes: Iterator[Tensor], n: int, *seed: int) -> Callable[[slice], Tensor]:
    """Do what ``Tools.render`` does, and move what the salient encoder sees along the effects of covariates."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    parameters = draw_parameters(tools.n_views * n, tools.read.shape, tools.config.views, generator)
    rendering, scale = tools.read.rendering, tools.read.standardisation.inverse_std.flatten()
    effects = rendering.reference.coefficients[rendering.reference.last] * scale

    def all_views(part: slice) -> Tensor:
        images = torch.cat([next(volumes)] * tools.n_views)
        to, fro = rendering.design[torch.randint(len(rendering.design), (2, len(images)), generator=generator)]
        salient = images[:, images.shape[1] // 2 :]
        salient += ((to - fro) @ effects).reshape(salient.shape)
        return apply_views(images, parameters.take(part, tools.n_views))

    return all_views


OBJECTIVES = {
    "adversary": AdversarialObjective,
    "conditional_uniformity": ConditionalObjective,
    "late_independence": LateObjective,
    "matched_negatives": MatchedNegativesObjective,
}
BATCHES = {
    "site_batches": draw_site_batches,
    "matched_batches": draw_matched_batches,
    "matched_negatives": draw_matched_batches,
}


@contextmanager
def in_force(name: str | None, cohort: pd.DataFrame, epochs: int, batch_size: int) -> Iterator[None]:
    """Let ``fit`` and ``embed`` use a variant for a cohort whose rows with the split ``train`` train."""
    rows = cohort[cohort["split"] == "train"].reset_index(drop=True)
    with ExitStack() as stack:
        if name in OBJECTIVES:
            stack.enter_context(patch("sepclr_med.methods.sepclr.SepCLRObjective", OBJECTIVES[name]))
            is_target = (rows["diagnosis"] == "patient").to_numpy()
            LateObjective.n_steps = epochs * len(draw_batches(is_target, batch_size, 0, 0))
        if name in BATCHES:
            stack.enter_context(patch("sepclr_med.epochs.draw_batches", BATCHES[name](rows)))
        if name == "shifted_views":
            stack.enter_context(patch.object(VolumeReader, "finish", repeat_plain))
            stack.enter_context(patch.object(Tools, "render", render_shifted))
        if name == "matched_reference":
            stack.enter_context(patch.object(VolumeReader, "finish", subtract_neighbours(cohort)))
        yield
