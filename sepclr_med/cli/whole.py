"""Verbs around everything: run, compare, controls, export and doctor."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sepclr_med.cli.application import app
from sepclr_med.cli.cards import print_separation
from sepclr_med.cli.completion import complete_methods
from sepclr_med.cli.options import (
    AsJson,
    Assignments,
    Background,
    BidsRoot,
    Overwrite,
    RunFolder,
    Target,
    Verbose,
    cohort_settings,
    group_settings,
    listed,
    numbers,
    whole_numbers,
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

    settings = [*(assign or []), *cohort_settings(manifest, bids_root), *group_settings(background, target)]
    table = run_recipe(recipe, run_dir, settings, overwrite, say=lambda text: print(text, file=sys.stderr, flush=True))
    print_separation(table, as_json)
    if as_json:
        return
    print(f"everything else -> {run_dir / 'report.html'}", file=sys.stderr)


@app.command(rich_help_panel="Results")
def compare(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes, of one cohort.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for runs, table and figure.")],
    methods: Annotated[
        str | None,
        typer.Option(help="Methods to try each recipe with, comma-separated.", autocompletion=complete_methods),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Training seeds, comma-separated.")] = "0,1,2",
    manifest: Annotated[Path | None, typer.Option(help="Manifest to use instead of the recipes' cohort.")] = None,
    variables: Annotated[str | None, typer.Option(help="Columns to probe, comma-separated; none means all.")] = None,
    background: Background = None,
    target: Target = None,
    bids_root: BidsRoot = None,
    assign: Assignments = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples behind each interval.")] = 1000,
    truth: Annotated[
        str | None, typer.Option(help="Columns of known truth, comma-separated: adds scores of disentanglement.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Hold methods against one another: the same cohort and splits, several seeds, one table and figure.

    Example: sepclr-med compare pipelines/synthetic/recipe.yaml --methods sepclr,sepclr_paper,simclr,pca -o comparison
    """
    import pandas as pd

    from sepclr_med import compare as hold
    from sepclr_med.analysis.comparison_layout import format_comparison, format_separation

    settings = [*(assign or []), *cohort_settings(manifest, bids_root), *group_settings(background, target)]
    table = hold(
        recipes,
        output,
        whole_numbers(seeds, "--seeds"),
        listed(methods),
        settings,
        listed(variables) or None,
        bootstrap,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        truth=listed(truth),
    )
    if as_json:
        print_json(table)
        return
    for space in ("salient", "common"):
        print_rich(format_comparison(table, space))
    if truth:
        print_rich(format_separation(table, pd.read_csv(output / "disentanglement.tsv", sep="\t")))
    print(f"table and figure -> {output / 'comparison.tsv'}, {output / 'comparison.png'}", file=sys.stderr)


@app.command(rich_help_panel="Results")
def controls(
    recipe: Annotated[Path, typer.Argument(help="Recipe of the method that is tried.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder; RUN_DIR/controls is shown by that run's report.")
    ],
    kinds: Annotated[str, typer.Option(help="permuted, pseudo, planted; comma-separated.")] = "permuted,pseudo,planted",
    runs: Annotated[int, typer.Option(min=1, help="Runs of each kind, and of each strength.")] = 20,
    strengths: Annotated[str, typer.Option(help="Fractions of grey matter lost, comma-separated.")] = "0.1,0.2,0.3,0.4",
    manifest: Annotated[Path | None, typer.Option(help="Manifest to use instead of the recipe's cohort.")] = None,
    background: Background = None,
    target: Target = None,
    bids_root: BidsRoot = None,
    assign: Assignments = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep run folders and planted images.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Try the method where the answer is known: exchanged labels, pseudo-patients, planted atrophy.

    Example: sepclr-med controls pipelines/vbm/recipe.yaml -o runs/vbm/controls --manifest manifest.tsv --target depr
    """
    import pandas as pd

    from sepclr_med.controls import run_controls, summarise

    settings = [*(assign or []), *cohort_settings(manifest, bids_root), *group_settings(background, target)]
    table = run_controls(
        recipe,
        output,
        listed(kinds),
        runs,
        numbers(strengths, "--strengths"),
        settings,
        keep,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print_table(pd.DataFrame(summarise(table)), as_json, "controls of the method")


@app.command(rich_help_panel="Results")
def export(
    run_dir: RunFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder to pass on.")],
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="New random ids; leave out columns that could identify.")
    ] = False,
    key: Annotated[Path | None, typer.Option(help="File of new beside old ids, outside the folder.")] = None,
    drop: Annotated[str | None, typer.Option(help="Columns of participants to leave out, comma-separated.")] = None,
    report: Annotated[bool, typer.Option(help="Also copy report.html.")] = True,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Write the model instead, as a MONAI bundle without participants.")
    ] = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Copy what may be passed on: embeddings, tables, maps and report, or the model; no paths, no machine.

    Example: sepclr-med export runs/vbm -o shared --deidentify --key ~/keys/vbm.json
    """
    from sepclr_med import export as write
    from sepclr_med.rundir import read_json

    folder = write(run_dir, output, deidentify, key, listed(drop), report, bundle, overwrite)
    record = {} if bundle else read_json(folder / "export.json")
    for name, reason in record.get("LeftOut", {}).items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    if "Sealed" in record:
        print(record["Sealed"], file=sys.stderr)
    print(f"to be passed on -> {folder}" + (f"; not to be passed on: {key}" if key else ""))


@app.command(rich_help_panel="Results")
def doctor(
    path: Annotated[
        Path | None, typer.Argument(help="Manifest, run folder or BIDS folder: where does it stand?")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Print what this machine has and lacks; of a study, where it stands and which command comes next.

    Example: sepclr-med doctor runs/vbm
    """
    if path is not None:
        from sepclr_med.standing import find_standing

        standing = find_standing(path)
        print_table(standing.table(), as_json, str(path))
        print(f"next: {standing.follows}" if standing.follows else "nothing is left to do", file=sys.stderr)
        return
    from sepclr_med.doctor import examine

    found = examine()
    print_table(found, as_json, "this machine")
    raise typer.Exit(1 if (found["verdict"] == "missing").any() else 0)
