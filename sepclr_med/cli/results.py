"""Verbs of the results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sepclr_med.cli.application import app
from sepclr_med.cli.options import (
    AsJson,
    Assignments,
    Background,
    BidsRoot,
    Overwrite,
    RunFolder,
    Target,
    Verbose,
    group_settings,
    listed,
)
from sepclr_med.printing import print_json, print_rich, print_table


@app.command(rich_help_panel="Results")
def evaluate(
    run_dir: RunFolder,
    variables: Annotated[str | None, typer.Option(help="Columns to probe, comma-separated; none means all.")] = None,
    bootstrap: Annotated[int | None, typer.Option(help="Resamples behind each interval.")] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Probe every variable from each space and from a plain voxel PCA, on held-out participants.

    Example: sepclr-med evaluate runs/vbm --variables diagnosis,age,sex,MADRS
    """
    from sepclr_med.analysis.evaluation import evaluate_run
    from sepclr_med.analysis.separation import format_separation

    table = evaluate_run(run_dir, listed(variables) or None, bootstrap)
    print_json(table) if as_json else print_rich(format_separation(table))


@app.command(rich_help_panel="Results")
def run(
    recipe: Annotated[
        Path, typer.Argument(help="Recipe, such as pipelines/synthetic/recipe.yaml.", show_default=False)
    ],
    run_dir: RunFolder,
    manifest: Annotated[Path | None, typer.Option(help="Manifest to use instead of the recipe's cohort.")] = None,
    background: Background = None,
    target: Target = None,
    bids_root: BidsRoot = None,
    assign: Assignments = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Do the whole job: simulate or read, check, split, fit, embed, evaluate; the same command again resumes.

    Example: sepclr-med run pipelines/vbm/recipe.yaml runs/vbm --manifest manifest.tsv --target depr
    """
    from sepclr_med import run_recipe
    from sepclr_med.analysis.separation import format_separation

    paths = {"manifest": manifest, "bids_root": bids_root}
    given = [f"cohort.{name}={path.resolve()}" for name, path in paths.items() if path is not None]
    given += ["cohort.simulate=null", "cohort.bids=null"] if manifest is not None else []
    settings = [*(assign or []), *given, *group_settings(background, target)]
    table = run_recipe(recipe, run_dir, settings, overwrite, say=lambda text: print(text, file=sys.stderr, flush=True))
    print_json(table) if as_json else print_rich(format_separation(table))


@app.command(rich_help_panel="Results")
def doctor(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Print versions, devices, precisions and what is missing.

    Example: sepclr-med doctor
    """
    from sepclr_med.doctor import examine

    found = examine()
    print_table(found, as_json, "this machine")
    raise typer.Exit(1 if (found["verdict"] == "missing").any() else 0)
