"""``compare``: methods and seeds on the same cohort and splits, one table, one figure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from sepclr_med.analysis.comparing import compare_embeddings
from sepclr_med.analysis.comparison_figure import draw_comparison
from sepclr_med.analysis.disentanglement_table import disentanglement_table
from sepclr_med.analysis.schemes import choose_scheme
from sepclr_med.analysis.spaces import join_spaces
from sepclr_med.cohort.covariates import require_columns
from sepclr_med.cohort.embeddings import read_embeddings
from sepclr_med.config import Config, load_config
from sepclr_med.embedding import embed, embeddings_are_current
from sepclr_med.errors import ConfigError, Problem, did_you_mean
from sepclr_med.method_settings import METHODS
from sepclr_med.opening import guard_test
from sepclr_med.pipeline import read_cohort
from sepclr_med.provenance import record_step
from sepclr_med.rundir import RunDir, write_table
from sepclr_med.training import fit


def compare(
    recipes: Sequence[str | Path],
    output_dir: str | Path,
    seeds: Sequence[int] = (0, 1, 2),
    methods: Sequence[str] = (),
    overrides: Iterable[str] = (),
    variables: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    say: Callable[[str], None] = lambda _: None,
    truth: Sequence[str] = (),
) -> pd.DataFrame:
    """Fit every recipe (times every method) for every seed on one cohort, and hold each against the first.

    What is finished is not done again; the same call goes on where it stopped.

    Parameters
    ----------
    recipes : sequence of path
        YAML files; a recipe is named after its file, or its folder where files are called ``recipe.yaml``. Their
        cohorts must be the same.
    output_dir : path
        ``runs/NAME_seedN`` are run folders; ``comparison.tsv`` and ``comparison.png`` are written beside them.
    seeds : sequence of int, default=(0, 1, 2)
        Of weights, batches and views. Splits are those of the manifest, or of ``cohort.split.seed``, for all.
    methods : sequence of str, default=()
        Values of ``method.name`` to try each recipe with; none leaves the recipe's own.
    overrides : iterable of str, default=()
        ``section.key=value`` over every recipe.
    variables : sequence of str or None, default=None
        Columns to probe; none means ``evaluation.variables`` of the first recipe, and without it all.
    n_bootstrap : int, default=1000
    say : callable, default=silent
        Told what is done.
    truth : sequence of str, default=()
        Columns that hold a known truth, as in simulated cohorts: scores of disentanglement for them are written to
        ``disentanglement.tsv``.

    Returns
    -------
    DataFrame
        As for :func:`sepclr_med.analysis.comparing.compare_embeddings`.

    Raises
    ------
    ConfigError
        For no recipe, unknown methods, recipes of different cohorts, or names or seeds given twice.
    ManifestError, VolumeError, RunError
        As for the single steps.
    """
    started = datetime.now(timezone.utc)
    folder = Path(output_dir)
    if twice := [str(seed) for seed, count in Counter(seeds).items() if count > 1]:
        problem = Problem("one training would be counted twice", got=", ".join(twice), fix="name each seed once")
        raise ConfigError("compare: seeds", [problem])
    arms = plan_arms(recipes, methods, list(overrides))
    first = next(iter(arms.values()))
    cohort = read_cohort(first.cohort, recipes[0], RunDir(folder))
    cache = folder / "cache"
    runs: dict[str, list[dict[str, pd.DataFrame]]] = {name: [] for name in arms}
    # Seed by seed, so that an early look has every method.
    for seed in seeds:
        for name, config in arms.items():
            run = folder / "runs" / f"{name}_seed{seed}"
            say(f"{name}, seed {seed}")
            runs[name].append(_fit_and_embed(cohort, with_seed(config, seed, cache), run))
    groups = {"target": first.cohort.target, "background": first.cohort.background}
    asked = list(variables) if variables else first.evaluation.variables
    table = compare_embeddings(runs, cohort, variables=asked, n_bootstrap=n_bootstrap, **groups)
    write_table(folder / "comparison.tsv", table)
    if truth:
        write_table(folder / "disentanglement.tsv", score_disentanglement(runs, cohort, truth, first.cohort.target))
    draw_comparison(table, folder / "comparison.png")
    facts = {"methods": list(arms), "seeds": list(seeds), "n_bootstrap": n_bootstrap}
    record_step(folder / "provenance.json", "compare", started, facts)
    return table


def plan_arms(recipes: Sequence[str | Path], methods: Sequence[str], overrides: list[str]) -> dict[str, Config]:
    """Return the configuration of every arm by its name.

    Raises
    ------
    ConfigError
        As for :func:`compare`.
    """
    fix = "sepclr-med compare pipelines/synthetic/recipe.yaml --methods sepclr,simclr,pca -o comparison"
    if not recipes:
        raise ConfigError("compare: what should be compared?", [Problem("no recipe", fix=fix)])
    unknown = [
        Problem("unknown method", got=name, allowed=", ".join(METHODS), fix=did_you_mean(name, list(METHODS)))
        for name in methods
        if name not in METHODS
    ]
    if unknown:
        raise ConfigError("compare: methods", unknown)
    arms: list[tuple[str, Config]] = []
    for recipe in recipes:
        own = name_of(recipe)
        if not methods:
            arms.append((own, load_config(recipe, overrides)))
        for method in methods:
            name = method if len(recipes) == 1 else f"{own}_{method}"
            arms.append((name, load_config(recipe, [*overrides, f"method.name={method}"])))
    if twice := [name for name, count in Counter(name for name, _ in arms).items() if count > 1]:
        problem = Problem("two arms have one name", got=", ".join(twice), fix="rename a recipe, or name methods once")
        raise ConfigError("compare: names", [problem])
    _require_one_cohort(dict(arms))
    return dict(arms)


def name_of(recipe: str | Path) -> str:
    """Return what a recipe is called.

    Examples
    --------
    >>> name_of("pipelines/vbm/recipe.yaml"), name_of("strong views.yaml")
    ('vbm', 'strong-views')
    """
    path = Path(recipe)
    name = path.resolve().parent.name if path.stem == "recipe" else path.stem
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def with_seed(config: Config, seed: int, cache: Path) -> Config:
    """Return the configuration with another training seed and a cache that all arms share."""
    training = config.training.model_copy(update={"seed": seed})
    volumes = config.volumes.model_copy(update={"cache_dir": config.volumes.cache_dir or str(cache)})
    return config.model_copy(update={"training": training, "volumes": volumes})


def score_disentanglement(
    runs: Mapping[str, Sequence[Mapping[str, pd.DataFrame]]],
    cohort: pd.DataFrame,
    truth: Sequence[str],
    target: Sequence[str],
) -> pd.DataFrame:
    """Return scores of disentanglement of every method and seed, on held-out rows.

    Parameters
    ----------
    runs : mapping of str to sequence of mapping
        As for :func:`sepclr_med.analysis.comparing.compare_embeddings`.
    cohort : DataFrame
    truth : sequence of str
        Columns of the cohort.
    target : sequence of str
        Diagnoses of patients.

    Returns
    -------
    DataFrame
        As :func:`sepclr_med.analysis.disentanglement_table.disentanglement_table` gives it, with ``method`` and
        ``seed_number``.
    """
    require_columns(cohort, truth)
    found = []
    for method, seeds in runs.items():
        for number, tables in enumerate(seeds):
            spaces = {s.name: s for s in join_spaces(tables, cohort) if s.name in ("common", "salient")}
            rows = next(iter(spaces.values())).rows
            held_out = choose_scheme(rows["split"]).held_out
            parts = [(rows["split"] == part).to_numpy() for part in ("train", held_out)]
            factors = {name: space.features for name, space in spaces.items()}
            is_target = rows["diagnosis"].isin(list(target)).to_numpy()
            scores = disentanglement_table(factors, rows[list(truth)], is_target, *parts)
            found.append(scores.assign(method=method, seed_number=number))
    return pd.concat(found, ignore_index=True)


def _fit_and_embed(cohort: pd.DataFrame, config: Config, run_dir: Path) -> dict[str, pd.DataFrame]:
    fit(cohort, config, run_dir)
    if not embeddings_are_current(run_dir):
        embed(run_dir)
    # Comparing chooses a method: a sealed test set has no part in that, whatever the reason.
    return guard_test(read_embeddings(RunDir(run_dir).embeddings), cohort, RunDir(run_dir), "compare").tables


def _require_one_cohort(arms: Mapping[str, Config]) -> None:
    first, *others = arms.items()
    wrong = [
        Problem(f"{name}: another cohort section than {first[0]}", fix="compare methods on one cohort and its splits")
        for name, config in others
        if config.cohort != first[1].cohort
    ]
    if wrong:
        raise ConfigError("compare: recipes have different cohorts", wrong)
