"""How often a planted link is found, beside a t-test that knows the truth.

    python pipelines/benchmark/power.py

One of 32 correlated factors shares a partial correlation r with the variable; sites, age and sex move both. The t-test
is given what nobody has: the factor and the variable without the nuisance, and which factor it is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from calibration_links import draw_sites, nuisance
from joblib import Parallel, delayed
from scipy import stats
from threadpoolctl import threadpool_limits

from sepclr_med.analysis.associations.effects import minimum_detectable_effect
from sepclr_med.analysis.associations.exchangeability import draw_permutations
from sepclr_med.analysis.associations.null_models import null_scores
from sepclr_med.analysis.associations.testing import test_factors
from sepclr_med.analysis.participants import design_matrix

HERE = Path(__file__).parent
N_FACTORS = 32
N_PERMUTATIONS = 999
MEASURES = ("continuous", "ordinal", "binary")
LEVEL = 0.05


def study(seed: int, n: int, r: float, measure: str) -> dict[str, float]:
    """Return the p-values of one study: link's for the planted factor, corrected for 32, and the t-test's."""
    rng = np.random.default_rng([seed, n, round(100 * r), MEASURES.index(measure)])
    site = draw_sites(rng, n)
    rows = pd.DataFrame({"centre": np.array(list("ABCD"))[site], "age": rng.normal(45, 12, n)})
    rows["sex"] = rng.choice(["F", "M"], n)
    noise = rng.normal(size=(n, N_FACTORS)) + 0.7 * rng.normal(size=(n, 1))
    noise /= np.sqrt(1.49)
    latent = r * noise[:, 0] + np.sqrt(1 - r**2) * rng.normal(size=n)
    factors = noise + nuisance(rows, rng, N_FACTORS, site_size=1.0)
    values, truth = _measure(latent, nuisance(rows, rng, 1, site_size=0.7)[:, 0], measure)
    covariates = design_matrix(rows, ["age", "sex", "centre"])
    permutations = draw_permutations(N_PERMUTATIONS, rows["centre"], None, rng)
    found = test_factors(factors, null_scores(values, measure, covariates).scores, covariates, permutations)
    return {"link": found.p_value[0], "link, of 32 factors": found.p_fwe[0], "t-test": _oracle(noise[:, 0], truth)}


def _measure(latent: np.ndarray, shift: np.ndarray, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the variable as a table has it, and as the t-test knows it."""
    if measure == "continuous":
        return latent + shift, latent
    cuts = [-0.5, 0.3, 1.0] if measure == "ordinal" else [0.3]
    # The nuisance moves the thresholds little: what it moves is not known to a test without it.
    return np.digitize(latent + 0.3 * shift, cuts), np.digitize(latent, cuts)


def _oracle(factor: np.ndarray, truth: np.ndarray) -> float:
    if len(np.unique(truth)) == 2:
        return float(stats.ttest_ind(factor[truth == 1], factor[truth == 0]).pvalue)
    return float(stats.pearsonr(factor, truth).pvalue)


def _run(seeds: range, n: int, r: float, measure: str) -> list[dict[str, float]]:
    with threadpool_limits(1):
        return [study(seed, n, r, measure) for seed in seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description="How often a planted link is found.")
    parser.add_argument("--studies", type=int, default=400, help="simulated studies per point (400)")
    parser.add_argument("--sizes", default="80,300", help="participants per study (80,300)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--output", type=Path, default=HERE / "power.json", help="JSON file")
    arguments = parser.parse_args()
    began, rows = time.perf_counter(), []
    batches = [range(k, min(k + 20, arguments.studies)) for k in range(0, arguments.studies, 20)]
    for measure in MEASURES:
        for n in map(int, arguments.sizes.split(",")):
            for r in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
                drawn = Parallel(n_jobs=arguments.jobs)(delayed(_run)(seeds, n, r, measure) for seeds in batches)
                p_values = pd.DataFrame([row for batch in drawn for row in batch])
                rows.append({"measure": measure, "n": n, "r": r, **(p_values <= LEVEL).mean()})
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    for n in table["n"].unique():
        smallest = minimum_detectable_effect(int(n), 5, "continuous")
        print(f"n = {n}: link says it finds r = {smallest:.2f} with 80% power (continuous)")
    settings = {"studies": arguments.studies, "n_permutations": N_PERMUTATIONS, "level": LEVEL}
    results = {"settings": settings, "seconds": round(time.perf_counter() - began, 1), "rows": table.to_dict("records")}
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{results['seconds']} s; {arguments.output}")


if __name__ == "__main__":
    main()
