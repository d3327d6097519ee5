"""Null studies for the separation card: held-out and cross-validated probes, and dependence of the two spaces."""

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.exchangeability import draw_permutations
from sepclr_med.analysis.dependence import cross_predict, measure_dependence
from sepclr_med.analysis.metrics import METRICS
from sepclr_med.analysis.permuting import p_of_probes
from sepclr_med.analysis.schemes import Scheme
from sepclr_med.analysis.scoring import Effort, score_variable
from sepclr_med.analysis.spaces import Space
from sepclr_med.analysis.units import average_sessions, cross_folds
from sepclr_med.analysis.variables import Groups, Variable

SITES, SHARES = np.array(["a", "b", "c", "d"]), [0.5, 0.25, 0.15, 0.1]
N_FACTORS = 6
N_PERMUTATIONS = 199
NUMBERS = [Variable("continuous", "continuous"), Variable("ordinal", "ordinal")]
VARIABLES = [*NUMBERS, Variable("binary", "binary"), Variable("categorical", "categorical")]
HELD_OUT, OTHER_SITES = Scheme("held-out", "test"), Scheme("leave-site-out", "test")


def make_study(seed, n):
    """Site moves factors and variables; beyond it nothing goes with anything. Half is trained on."""
    rng = np.random.default_rng([seed, n])
    site = rng.choice(4, n, p=SHARES)

    def moved(columns):
        return rng.normal(size=(n, columns)) + 0.8 * rng.normal(size=(4, columns))[site]

    latent = moved(6)
    rows = pd.DataFrame(
        {
            "participant_id": [f"{i:04}" for i in range(n)],
            "split": np.where(np.arange(n) % 2 == 0, "train", "test"),
            "site": SITES[site],
            "continuous": latent[:, 0],
            "ordinal": np.searchsorted(np.quantile(latent[:, 1], [0.4, 0.7, 0.9]), latent[:, 1]).astype(float),
            "binary": np.where(latent[:, 2] > np.quantile(latent[:, 2], 0.6), "yes", "no"),
            "categorical": np.array(["x", "y", "z"])[latent[:, 3:].argmax(axis=1)],
        }
    )
    mixing = rng.normal(size=(N_FACTORS, N_FACTORS)) + np.eye(N_FACTORS)
    return rows, moved(N_FACTORS) @ mixing, moved(N_FACTORS)


def probe_p_values(seed, n):
    """Return p and p without blocks of every scheme, kind of variable and score."""
    rows, salient, _ = make_study(seed, n)
    effort = Effort(0, N_PERMUTATIONS, seed)

    def score(variable, scheme, table=rows):
        records, _ = score_variable(Space("salient", table, salient), variable, Groups(), scheme, effort)
        return {f"{scheme.name}, {variable.name}, {row['metric']}": row["p_value"] for row in records}

    found = {}
    for variable in VARIABLES:
        found |= score(variable, HELD_OUT)
    free = {}
    for variable in NUMBERS:
        free |= score(variable, HELD_OUT, rows.drop(columns="site"))
        found |= score(variable, OTHER_SITES)
    found |= {name: (p, free[name]) for name, p in found.items() if name in free}
    return found | cross_validated_p_values(rows, salient, effort)


def cross_validated_p_values(rows, salient, effort):
    """Return p of probes fitted anew for each permutation; the logistic scores beside them are not needed here."""
    found = {}
    for variable in VARIABLES:
        everyone = pd.Series("all", index=rows.index)
        people, site = rows["participant_id"], rows["site"]
        units = average_sessions(salient, rows[variable.name], people, everyone, variable.kind, site)
        orders = draw_permutations(N_PERMUTATIONS, units.sites, None, effort.rng(variable.name, 1))
        names = list(METRICS[variable.measure])
        folds = cross_folds(units, variable.kind, effort.seed)
        p_values = p_of_probes(names, units, variable.kind, folds, orders)
        found |= {f"cross-validated, {variable.name}, {name}": p for name, p in p_values.items()}
    return found


def dependence_p_values(seed, n):
    """Return p and p without blocks of each measure of dependence among the held-out half."""
    rows, salient, common = make_study(seed, n)
    rng = np.random.default_rng([seed, n, 1])
    fold = [(np.arange(0, n, 2), np.arange(1, n, 2))]
    held_out = fold[0][1]
    found = []
    for blocks in (rows["site"].to_numpy()[held_out], None):
        orders = draw_permutations(N_PERMUTATIONS, blocks, None, rng, len(held_out))
        measured = measure_dependence(common[held_out], salient[held_out], orders)
        measured["salient_from_common"] = cross_predict(common, salient, fold, orders, refits=False)
        found.append({f"dependence, {name}": figures[2] for name, figures in measured.items()})
    return {name: (p, found[1][name]) for name, p in found[0].items()}


STUDIES = {"card_probes": probe_p_values, "card_dependence": dependence_p_values}
