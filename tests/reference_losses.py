"""The objective as plain loops over pairs of rows, in float64, with gradients derived by hand.

Written from the equations of the method alone, to be slow and obvious: every function returns its value and the
gradient with respect to each of its inputs. ``test_losses.py`` first checks these gradients by finite differences,
then holds the fast implementation to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


def squared_distance(u: np.ndarray, v: np.ndarray) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(u.tolist(), v.tolist(), strict=True))


def alignment(u_1, u_2, rows, temperature):
    """Mean over the chosen rows of ||u_1 - u_2||^2 / (2 tau)."""
    value, grad_1, grad_2 = 0.0, np.zeros_like(u_1), np.zeros_like(u_2)
    chosen = [i for i in range(len(u_1)) if rows[i]]
    for i in chosen:
        value += squared_distance(u_1[i], u_2[i]) / (2 * temperature) / len(chosen)
        grad_1[i] += (u_1[i] - u_2[i]) / temperature / len(chosen)
        grad_2[i] -= (u_1[i] - u_2[i]) / temperature / len(chosen)
    return value, grad_1, grad_2


def uniformity(u, temperature):
    """Log of the mean over pairs i < j of exp(-||u_i - u_j||^2 / (2 tau))."""
    pairs = [(i, j) for i in range(len(u)) for j in range(i + 1, len(u))]
    exponents = [-squared_distance(u[i], u[j]) / (2 * temperature) for i, j in pairs]
    largest = max(exponents)
    kernels = [math.exp(exponent - largest) for exponent in exponents]
    total = math.fsum(kernels)
    grad = np.zeros_like(u)
    for (i, j), kernel in zip(pairs, kernels, strict=True):
        pull = kernel / total * (u[i] - u[j]) / temperature
        grad[i] -= pull
        grad[j] += pull
    return largest + math.log(total / len(pairs)), grad


def null_salient(s, is_target, temperature):
    """Mean over background rows of ||s||^2 / (2 tau)."""
    value, grad = 0.0, np.zeros_like(s)
    background = [i for i in range(len(s)) if not is_target[i]]
    for i in background:
        value += squared_distance(s[i], np.zeros_like(s[i])) / (2 * temperature) / len(background)
        grad[i] += s[i] / temperature / len(background)
    return value, grad


def joint_entropy(c, s, temperature):
    """Mean over i of the log of the mean over all j of k(c_i, c_j) k(s_i, s_j)."""
    n = len(c)
    value, grad_c, grad_s = 0.0, np.zeros_like(c), np.zeros_like(s)
    for i in range(n):
        kernels = []
        for j in range(n):
            distance = squared_distance(c[i], c[j]) + squared_distance(s[i], s[j])
            kernels.append(math.exp(-distance / (2 * temperature)))
        total = math.fsum(kernels)
        value += math.log(total / n) / n
        for j in range(n):
            share = kernels[j] / total / n / temperature
            grad_c[i] -= share * (c[i] - c[j])
            grad_c[j] += share * (c[i] - c[j])
            grad_s[i] -= share * (s[i] - s[j])
            grad_s[j] += share * (s[i] - s[j])
    return value, grad_c, grad_s


def replace_background(s, is_target):
    """The rows of the target group as they are, every other row the null vector."""
    return np.array([row if target else np.zeros_like(row) for row, target in zip(s, is_target, strict=True)])


@dataclass
class Reference:
    """The six terms, their weighted sum, and the gradients of the sum: common 1, common 2, salient 1, salient 2."""

    terms: dict[str, float]
    total: float
    gradients: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def sepclr(c_1, c_2, s_1, s_2, is_target, w_salient, w_null, w_joint, temperature) -> Reference:
    """The whole objective on two views."""
    target = np.asarray(is_target, dtype=bool)[:, None]
    replaced_1, replaced_2 = replace_background(s_1, is_target), replace_background(s_2, is_target)
    everyone = [True] * len(c_1)

    common_alignment, a_c1, a_c2 = alignment(c_1, c_2, everyone, temperature)
    common_uniformity_1, u_c1 = uniformity(c_1, temperature)
    common_uniformity_2, u_c2 = uniformity(c_2, temperature)
    salient_alignment, a_s1, a_s2 = alignment(s_1, s_2, is_target, temperature)
    salient_uniformity_1, u_s1 = uniformity(replaced_1, temperature)
    salient_uniformity_2, u_s2 = uniformity(replaced_2, temperature)
    null_1, n_s1 = null_salient(s_1, is_target, temperature)
    null_2, n_s2 = null_salient(s_2, is_target, temperature)
    joint_1, j_c1, j_s1 = joint_entropy(c_1, replaced_1, temperature)
    joint_2, j_c2, j_s2 = joint_entropy(c_2, replaced_2, temperature)

    terms = {
        "common_alignment": common_alignment,
        "common_uniformity": common_uniformity_1 + common_uniformity_2,
        "salient_alignment": salient_alignment,
        "salient_uniformity": salient_uniformity_1 + salient_uniformity_2,
        "null_salient": (null_1 + null_2) / 2,
        "joint_entropy": (joint_1 + joint_2) / 2,
    }
    total = (
        terms["common_alignment"]
        + terms["common_uniformity"]
        + w_salient * (terms["salient_alignment"] + terms["salient_uniformity"])
        + w_null * terms["null_salient"]
        + w_joint * terms["joint_entropy"]
    )
    # A row replaced by the null vector is a constant: nothing flows back through it.
    gradients = (
        a_c1 + u_c1 + w_joint * j_c1 / 2,
        a_c2 + u_c2 + w_joint * j_c2 / 2,
        w_salient * (a_s1 + u_s1 * target) + w_null * n_s1 / 2 + w_joint * j_s1 * target / 2,
        w_salient * (a_s2 + u_s2 * target) + w_null * n_s2 / 2 + w_joint * j_s2 * target / 2,
    )
    return Reference(terms, total, gradients)
