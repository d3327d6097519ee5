"""Verbs around everything: run and doctor."""

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
)
from sepclr_med.printing import print_json, print_rich, print_table


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
    reports_only: Annotated[
        bool, typer.Option("--reports-only", help="Rebuild the report from what the run folder has.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Do the whole job: cohort, check, split, fit, embed, evaluate, link, explain, report; resumes when run again.

    Example: sepclr-med run pipelines/vbm/recipe.yaml runs/vbm --manifest manifest.tsv --target depr
    """
    if reports_only:
        from sepclr_med.report.render import report

        print(f"report -> {report(run_dir)}")
        return
    from sepclr_med import run_recipe
    from sepclr_med.analysis.layout import format_card, format_separation

    paths = {"manifest": manifest, "bids_root": bids_root}
    given = [f"cohort.{name}={path.resolve()}" for name, path in paths.items() if path is not None]
    given += ["cohort.simulate=null", "cohort.bids=null"] if manifest is not None else []
    settings = [*(assign or []), *given, *group_settings(background, target)]
    table = run_recipe(recipe, run_dir, settings, overwrite, say=lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print_json(table)
        return
    print_rich(format_separation(table))
    print_rich(format_card(table.attrs["card"]))
    print(f"everything else -> {run_dir / 'report.html'}", file=sys.stderr)


@app.command(rich_help_panel="Results")
def doctor(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Print versions, devices, precisions and what is missing.

    Example: sepclr-med doctor
    """
    from sepclr_med.doctor import examine

    found = examine()
    print_table(found, as_json, "this machine")
    raise typer.Exit(1 if (found["verdict"] == "missing").any() else 0)
