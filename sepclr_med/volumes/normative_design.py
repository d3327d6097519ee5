"""Covariates of the normative reference as columns of a design: what of them is learned from training controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.cohort.covariates import CovariateCoding, learn_coding
from sepclr_med.cohort.design import FEWEST_OF_A_CLASS
from sepclr_med.errors import ManifestError, Problem


@dataclass(frozen=True)
class Design:
    """Covariates as columns: intercept, numbers standardised over the background, their squares, classes.

    Parameters
    ----------
    coding : CovariateCoding
    centre, scale : tuple of float
        Mean and standard deviation of each number over the training background.
    squared : tuple of str
        Numbers whose square enters as well.

    Examples
    --------
    >>> table = pd.DataFrame({"age": [30.0, 40.0, 50.0], "sex": ["F", "M", "M"]})
    >>> code_covariates(table, ["age", "sex"]).encode(table).round(1)
    array([[ 1. , -1.2,  1.5,  0. ],
           [ 1. ,  0. ,  0. ,  1. ],
           [ 1. ,  1.2,  1.5,  1. ]], dtype=float32)
    """

    coding: CovariateCoding
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    squared: tuple[str, ...]

    def encode(self, table: pd.DataFrame) -> np.ndarray:
        """Return the design of these rows, (n, p) float32.

        Raises
        ------
        ManifestError
            With every missing value and every site or class without controls in training.
        """
        fix = (
            "the reference knows controls of the training sites only: add this site's controls to the training part, "
            "or leave the column out of volumes.normative.covariates; a site of new images: sepclr-med embed "
            "--onboard-site estimates it from its controls"
        )
        encoded, n = self.coding.encode(table, fix), len(self.coding.numbers)
        numbers = (encoded[:, :n] - np.array(self.centre)) / np.array(self.scale)
        squares = numbers[:, [self.coding.numbers.index(name) for name in self.squared]] ** 2
        columns = [np.ones((len(encoded), 1)), numbers, squares, encoded[:, n:]]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def columns_of(self, names: Collection[str]) -> np.ndarray:
        """Say which columns of :meth:`encode` belong to these covariates, (p,) bool.

        Examples
        --------
        >>> table = pd.DataFrame({"age": [30.0, 40.0, 50.0], "site": ["A", "B", "B"]})
        >>> code_covariates(table, ["age", "site"]).columns_of(["site"]).tolist()
        [False, False, False, True]
        """
        numbers = [name in names for name in (*self.coding.numbers, *self.squared)]
        classes = [name in names for name, seen in self.coding.levels for _ in seen[1:]]
        return np.array([False, *numbers, *classes])

    def state(self) -> dict[str, Any]:
        """Return what :meth:`from_state` needs, ready for JSON."""
        levels = [[name, list(seen)] for name, seen in self.coding.levels]
        scale = {"centre": list(self.centre), "scale": list(self.scale), "squared": list(self.squared)}
        return {"numbers": list(self.coding.numbers), "levels": levels, **scale}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Design:
        """Return the design that :meth:`state` described.

        Raises
        ------
        KeyError, TypeError, ValueError
            When it does not describe one.
        """
        levels = tuple((name, tuple(seen)) for name, seen in state["levels"])
        numbers, squared = tuple(state["numbers"]), tuple(state["squared"])
        centre, scale = tuple(map(float, state["centre"])), tuple(map(float, state["scale"]))
        words = [*numbers, *squared, *(word for name, seen in levels for word in (name, *seen))]
        if not all(isinstance(word, str) for word in words):
            raise TypeError("names of covariates and of classes are text")
        if not len(numbers) == len(centre) == len(scale) or not set(squared) <= set(numbers) or 0.0 in scale:
            raise ValueError("a centre and a scale other than 0 belong to each number")
        return cls(CovariateCoding(numbers, levels), centre, scale, squared)


def learn_design(table: pd.DataFrame, covariates: list[str]) -> Design:
    """Learn how covariates become columns from training background rows.

    Raises
    ------
    ManifestError
        When a column is absent, a value missing, or a class has fewer than three background participants.
    """
    coding = learn_coding(table, covariates)
    few = [
        Problem(
            f"{count} training background participants",
            column=name,
            got=str(level),
            allowed=f"{FEWEST_OF_A_CLASS} or more",
            fix="what is normal cannot be learnt from so few: merge it with another, or leave the column out of "
            "volumes.normative.covariates",
        )
        for name, _ in coding.levels
        for level, count in table.groupby(table[name].astype(str))["participant_id"].nunique().items()
        if count < FEWEST_OF_A_CLASS
    ]
    if few:
        raise ManifestError("volumes.normative: too few controls to say what is normal", few)
    return code_covariates(table, covariates)


def code_covariates(table: pd.DataFrame, covariates: list[str]) -> Design:
    """Learn how covariates become columns from these rows.

    Raises
    ------
    ManifestError
        When a column is absent or a value missing.
    """
    coding = learn_coding(table, covariates)
    numbers = table[list(coding.numbers)].to_numpy(dtype=float)
    scale = np.where(numbers.std(axis=0) > 0, numbers.std(axis=0), 1.0)
    squared = tuple(name for name in coding.numbers if table[name].nunique() > 2)
    return Design(coding, tuple(numbers.mean(axis=0).tolist()), tuple(scale.tolist()), squared)
