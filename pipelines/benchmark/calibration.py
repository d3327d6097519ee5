"""False-positive rates of every test under the null: 1,000 simulated studies per test and size.

    python pipelines/benchmark/calibration.py                                everything
    python pipelines/benchmark/calibration.py --only links --studies 200     the links only

Each ``calibration_NAME.py`` beside this file has ``STUDIES``: functions by name that take a seed and n, simulate one
study in which nothing is linked and return ``{test: p}`` or ``{test: (p, p without blocks)}``. A test is called
calibrated when its rate at 0.05 lies between 0.035 and 0.065 and its p-values look uniform (Kolmogorov-Smirnov
p > 0.01). The rate without blocks stands beside it as the warning. With 1,000 studies
a perfect test falls outside the band about 3 times in 100.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import stats

HERE = Path(__file__).parent
LEVEL = 0.05
BAND = (0.035, 0.065)
LEAST_UNIFORM = 0.01
N_BINS = 20
BATCH = 10

Answer = Mapping[str, "float | tuple[float, float]"]
Study = Callable[[int, int], Answer]


def find_studies(only: Sequence[str] = ()) -> dict[str, Study]:
    """Import every ``calibration_NAME.py`` beside this file and return the studies asked for, or all, by name."""
    sys.path.insert(0, str(HERE))
    found: dict[str, Study] = {}
    for path in sorted(HERE.glob("calibration_*.py")):
        found |= importlib.import_module(path.stem).STUDIES
    if unknown := sorted(set(only) - set(found)):
        raise SystemExit(f"no study called {unknown[0]}; there are: {', '.join(found)}")
    return {name: study for name, study in found.items() if not only or name in only}


def simulate(study: Study, n: int, n_studies: int, seed: int = 0, n_jobs: int = 1) -> pd.DataFrame:
    """Run a study many times: one row per study and test, columns ``test p p_free``."""
    starts = range(seed, seed + n_studies, BATCH)
    batches = [range(start, min(start + BATCH, seed + n_studies)) for start in starts]
    answers = Parallel(n_jobs=n_jobs)(delayed(_run)(study, n, batch) for batch in batches)
    return pd.DataFrame([row for rows in answers for row in rows], columns=["test", "p", "p_free"])


def summarise(found: pd.DataFrame) -> pd.DataFrame:
    """Rate at 0.05 with its exact binomial interval, uniformity, and the rate without blocks, for every test."""
    rows = []
    for test, values in found.groupby("test", sort=False):
        p = values["p"].dropna().to_numpy()
        free = values["p_free"].dropna().to_numpy()
        rows.append({"test": test, "studies": len(p), "missing": len(values) - len(p), **_rate(p)})
        rows[-1] |= {"ks_p": stats.kstest(p, "uniform").pvalue if len(p) else np.nan}
        rows[-1] |= {f"free_{name}": value for name, value in _rate(free).items()}
        rows[-1] |= {"verdict": _judge(rows[-1]), "histogram": np.histogram(p, N_BINS, (0, 1))[0].tolist()}
    return pd.DataFrame(rows)


def _run(study: Study, n: int, seeds: Sequence[int]) -> list[tuple[str, float, float]]:
    # Many small products: threads of their own would only wait for each other.
    from threadpoolctl import threadpool_limits

    rows = []
    with threadpool_limits(1):
        for seed in seeds:
            for test, value in study(seed, n).items():
                p, free = value if isinstance(value, tuple) else (value, np.nan)
                rows.append((test, float(p), float(free)))
    return rows


def _rate(p: np.ndarray) -> dict[str, float]:
    if not len(p):
        return {"rate": np.nan, "ci_low": np.nan, "ci_high": np.nan}
    hits = int((p <= LEVEL).sum())
    low, high = stats.binomtest(hits, len(p)).proportion_ci()
    return {"rate": hits / len(p), "ci_low": low, "ci_high": high}


def _judge(row: Mapping[str, float]) -> str:
    if not row["studies"]:
        return "no p-value"
    if row["rate"] > BAND[1]:
        return "too many"
    if row["rate"] < BAND[0]:
        return "too few"
    return "calibrated" if row["ks_p"] > LEAST_UNIFORM else "not uniform"


def _show(table: pd.DataFrame) -> str:
    def percent(row: pd.Series, name: str) -> str:
        low, high = (name.replace("rate", bound) for bound in ("ci_low", "ci_high"))
        return "" if np.isnan(row[name]) else f"{row[name]:.3f} [{row[low]:.3f}, {row[high]:.3f}]"

    shown = table[["test", "n", "studies"]].assign(
        rate=[percent(row, "rate") for _, row in table.iterrows()],
        ks_p=table["ks_p"].map("{:.3f}".format),
        without_blocks=[percent(row, "free_rate") for _, row in table.iterrows()],
        verdict=table["verdict"],
    )
    return shown.to_string(index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="False-positive rates of every test under the null.")
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies per test and size (1000)")
    parser.add_argument("--sizes", default="80,300", help="participants per study (80,300)")
    parser.add_argument("--only", default="", help="names of studies, comma-separated; none means all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first study (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--output", type=Path, default=HERE / "calibration.json", help="JSON file")
    arguments = parser.parse_args()
    sizes = [int(n) for n in arguments.sizes.split(",")]
    tables, seconds = [], {}
    for name, study in find_studies([part for part in arguments.only.split(",") if part]).items():
        for n in sizes:
            began = time.perf_counter()
            found = simulate(study, n, arguments.studies, arguments.seed, arguments.jobs)
            seconds[f"{name}, n = {n}"] = round(time.perf_counter() - began, 1)
            tables.append(summarise(found).assign(source=name, n=n))
            print(_show(tables[-1]), f"{name}, n = {n}: {seconds[f'{name}, n = {n}']} s\n", sep="\n", flush=True)
    rows = json.loads(pd.concat(tables, ignore_index=True).to_json(orient="records"))
    settings = {"studies": arguments.studies, "sizes": sizes, "seed": arguments.seed, "level": LEVEL, "band": BAND}
    versions = {name: version(name) for name in ("numpy", "pandas", "scipy", "statsmodels", "scikit-learn")}
    facts = {"settings": settings, "seconds": seconds, "versions": {"python": platform.python_version(), **versions}}
    arguments.output.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    wrong = sum(row["verdict"] != "calibrated" for row in rows)
    print(f"{len(rows) - wrong} of {len(rows)} calibrated; {arguments.output}")


if __name__ == "__main__":
    main()
