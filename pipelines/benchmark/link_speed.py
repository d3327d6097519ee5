"""Seconds of ``link``: 32 factors x 20 variables x 10,000 permutations at n = 1,000, beside its matrix products alone.

Then the similarity of one space and one variable: Spearman, 10,000 permutations, n = 500, adjusted and blocked.

OMP_NUM_THREADS=2 python pipelines/benchmark/link_speed.py
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from sepclr_med.analysis.associations.links import link_factors
from sepclr_med.analysis.associations.similarity import compare_similarity
from sepclr_med.analysis.participants import Participants

HERE = Path(__file__).parent
COUNTS = {"continuous": 12, "ordinal": 3, "binary": 3, "categorical": 2}
N_FACTORS = 32
N_CLASSES = 4
COVARIATES = ["age", "sex", "site", "tiv"]
N_COLUMNS = 7  # intercept, age, sex, three sites, tiv


def make_cohort(n: int, seed: int = 0) -> tuple[Participants, list[str]]:
    """Draw a cohort of four unbalanced sites, and the names of its 20 variables."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"participant_id": [f"{place:05}" for place in range(n)]})
    rows["site"] = rng.choice(list("ABCD"), n, p=[0.45, 0.3, 0.15, 0.1])
    rows["age"], rows["tiv"] = rng.normal(45, 12, n), rng.normal(1500, 120, n)
    rows["sex"] = rng.choice(["F", "M"], n)
    drawn = {
        "continuous": lambda: rng.normal(size=n) + 0.02 * rows["age"],
        "ordinal": lambda: rng.integers(0, 5, n),
        "binary": lambda: rng.choice(["no", "yes"], n),
        "categorical": lambda: rng.choice(list("wxyz"), n),
    }
    variables = {f"{measure}_{k}": drawn[measure]() for measure, count in COUNTS.items() for k in range(count)}
    rows = pd.concat([rows, pd.DataFrame(variables)], axis=1)
    factors, names = rng.normal(size=(n, N_FACTORS)), [f"salient_{place:03}" for place in range(N_FACTORS)]
    return Participants(rows, {"salient": factors}, {"salient": names}, np.ones(n, dtype=bool)), list(variables)


def time_products(n: int, n_permutations: int, chunk: int = 500) -> float:
    """Processor seconds of the products (permutations x n) @ (n x factors and covariates): nothing can do without.

    One product per variable and column of scores, once: the blocked and the free test of these covariates, which hold
    the site, need two, since their permutations differ.
    """
    rng = np.random.default_rng(0)
    permuted, right = rng.normal(size=(chunk, n)), rng.normal(size=(n, N_FACTORS + N_COLUMNS))
    columns = sum(count * (N_CLASSES - 1 if measure == "categorical" else 1) for measure, count in COUNTS.items())
    began = time.process_time()
    for _ in range(2 * columns * n_permutations // chunk):
        permuted @ right
    return time.process_time() - began


def time_similarity(n: int, n_permutations: int) -> float:
    """Seconds of one variable and one space, without intervals."""
    people, _ = make_cohort(n)
    began = time.perf_counter()
    compare_similarity(
        people,
        ["continuous_0"],
        ["age", "sex"],
        dissimilarities=["euclidean"],
        methods=["spearman"],
        n_permutations=n_permutations,
        n_bootstrap=0,
    )
    return round(time.perf_counter() - began, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of link.")
    parser.add_argument("--participants", type=int, default=1000, help="n (1000)")
    parser.add_argument("--permutations", type=int, default=10_000, help="(10000)")
    parser.add_argument("--repeats", type=int, default=3, help="(3)")
    parser.add_argument("--output", type=Path, default=HERE / "link_speed.json", help="JSON file")
    arguments = parser.parse_args()
    people, variables = make_cohort(arguments.participants)
    seconds, processor = [], []
    for repeat in range(arguments.repeats):
        began, began_work = time.perf_counter(), time.process_time()
        link_factors(people, "salient", variables, COVARIATES, n_permutations=arguments.permutations, seed=repeat)
        seconds.append(round(time.perf_counter() - began, 2))
        processor.append(round(time.process_time() - began_work, 2))
    with threadpool_limits(1):
        alone = round(time_products(arguments.participants, arguments.permutations), 2)
    medians = {"link_median": statistics.median(seconds), "link_processor_median": statistics.median(processor)}
    results = {"link": seconds, "link_processor": processor, **medians, "products_processor": alone}
    results["times_the_products"] = round(results["link_processor_median"] / alone, 2)
    results["similarity_500"] = time_similarity(500, arguments.permutations)
    results["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print("\n".join(f"{name:26} {value}" for name, value in results.items()))
    arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
