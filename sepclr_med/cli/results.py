"""Verbs of the results: evaluate, link, explain, report."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sepclr_med.cli.application import app
from sepclr_med.cli.cards import print_separation
from sepclr_med.cli.completion import complete_columns
from sepclr_med.cli.options import AsJson, OpenTest, RunFolder, Target, Verbose, grouped, listed, pairs
from sepclr_med.errors import ConfigError, Problem
from sepclr_med.printing import print_json, print_rich, print_table

RunOrNone = Annotated[Path | None, typer.Argument(help="Folder of the run.", show_default=False)]
Embeddings = Annotated[
    str | None, typer.Option(help="Instead of a run: FILE or SPACE=FILE, comma-separated, of any origin.")
]
Table = Annotated[Path | None, typer.Option("--manifest", help="With --embeddings: participants and variables.")]
Variables = Annotated[
    str | None,
    typer.Option(help="Columns, comma-separated; none means all that vary.", autocompletion=complete_columns),
]
Covariates = Annotated[
    str | None,
    typer.Option(
        help="Columns to adjust for, comma-separated, or none; default age,sex,site,tiv.",
        autocompletion=complete_columns,
    ),
]
Measures = Annotated[
    str | None,
    typer.Option("--measure", help="NAME=KIND, comma-separated: continuous, ordinal, binary or categorical."),
]
SeedOrNone = Annotated[int | None, typer.Option(min=0, help="Seed of every random draw.")]


@app.command(rich_help_panel="Results")
def evaluate(
    run_dir: RunOrNone = None,
    embeddings: Embeddings = None,
    manifest: Table = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="With --embeddings: folder to write.")] = None,
    target: Target = None,
    variables: Variables = None,
    bootstrap: Annotated[int | None, typer.Option(help="Resamples behind each interval.")] = None,
    permutations: Annotated[int | None, typer.Option(help="Permutations behind each p-value.")] = None,
    open_test: OpenTest = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Draw up the separation card: what each space holds, beside covariates, voxel PCA and chance, on held-out people.

    Example: sepclr-med evaluate runs/vbm --variables diagnosis,age,sex,MADRS
    """
    from sepclr_med.analysis.evaluation import evaluate_files, evaluate_run

    files = _run_or_files("evaluate", run_dir, embeddings, manifest, output)
    choices = {"variables": listed(variables) or None, "n_bootstrap": bootstrap, "n_permutations": permutations}
    choices = {name: value for name, value in choices.items() if value is not None}
    if files:
        table = evaluate_files(*files, target=listed(target) or None, open_test=open_test, **choices)
    else:
        table = evaluate_run(run_dir, open_test=open_test, **choices)
    print_separation(table, as_json)


@app.command(rich_help_panel="Results")
def link(
    run_dir: RunOrNone = None,
    embeddings: Embeddings = None,
    manifest: Table = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="With --embeddings: table of links to write.")
    ] = None,
    target: Target = None,
    variables: Variables = None,
    covariates: Covariates = None,
    blocks: Annotated[
        str | None, typer.Option(help="Columns within which permutations stay, or none; default site.")
    ] = None,
    family: Annotated[list[str] | None, typer.Option(help="NAME:VAR,VAR corrected together; may be repeated.")] = None,
    battery: Annotated[
        list[str] | None, typer.Option(help="NAME:COL,COL reduced to a first component; may be repeated.")
    ] = None,
    factors: Annotated[str | None, typer.Option(help="salient, canonical, or both, comma-separated.")] = None,
    over: Annotated[str | None, typer.Option(help="held-out, train or all participants; default held-out.")] = None,
    measure: Measures = None,
    robust: Annotated[
        bool | None, typer.Option("--robust/--no-robust", help="Huber regression; default where values are outlying.")
    ] = None,
    permutations: Annotated[int | None, typer.Option(min=99, help="Permutations behind each p-value.")] = None,
    parts: Annotated[
        str | None, typer.Option(help="What to add: prediction, similarity, subtypes (comma-separated), or none.")
    ] = None,
    smallest_icc: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of a cross-fit: least agreement on a factor; 0 tests all.")
    ] = None,
    hypotheses: Annotated[
        Path | None, typer.Option(help="YAML of what to test, in place of options; frozen with `seal`.")
    ] = None,
    open_test: OpenTest = None,
    seed: SeedOrNone = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Test salient factors against clinical variables: adjusted, permuted within site, corrected.

    Example: sepclr-med link runs/vbm --variables MADRS,BDI --covariates age,sex,site --family mood:MADRS,BDI
    """
    from sepclr_med.analysis.associations.layout import format_links
    from sepclr_med.analysis.linking import link_files, link_run

    files = _run_or_files("link", run_dir, embeddings, manifest, output)
    choices: dict[str, Any] = {
        "variables": listed(variables) or None,
        "covariates": _or_none(covariates),
        "blocks": _or_none(blocks),
        "families": grouped(family, "--family"),
        "batteries": grouped(battery, "--battery"),
        "factors": listed(factors) or None,
        "over": over,
        "measures": pairs(listed(measure), "--measure") or None,
        "robust": robust,
        "n_permutations": permutations,
        "parts": _or_none(parts),
        "smallest_icc": smallest_icc,
        "seed": seed,
        "target": listed(target) or None,
    }
    if files:
        _refuse_hypotheses(hypotheses)
        found = link_files(*files, open_test=open_test, **choices)
    else:
        found = link_run(run_dir, hypotheses, open_test, **choices)
    print_json(found.links) if as_json else print_rich(format_links(found))


@app.command(rich_help_panel="Results")
def explain(
    run_dir: RunFolder,
    factors: Annotated[str | None, typer.Option(help="Such as salient_003; comma-separated.")] = None,
    variables: Annotated[str | None, typer.Option(help="Columns of the manifest to map as well.")] = None,
    covariates: Covariates = None,
    split: Annotated[str | None, typer.Option(help="test, val, train or all; default held-out.")] = None,
    permutations: Annotated[int | None, typer.Option(min=0, help="Permutations of the voxelwise test.")] = None,
    tfce: Annotated[bool, typer.Option(help="Threshold-free cluster enhancement.")] = True,
    sensitivity: Annotated[str | None, typer.Option(help="ig,occlusion or none.")] = None,
    atlas: Annotated[Path | None, typer.Option(help="Label image in template space, for a table of regions.")] = None,
    atlas_labels: Annotated[Path | None, typer.Option(help="Table of that image's labels: index, name.")] = None,
    open_test: OpenTest = None,
    seed: SeedOrNone = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Map factors on the brain: voxelwise regression, and what the encoder itself looks at.

    Example: sepclr-med explain runs/vbm --factors canonical_000 --covariates age,sex,site
    """
    from sepclr_med.anatomy.explanation import explain as make

    choices: dict[str, Any] = {
        "factors": listed(factors) or None,
        "variables": listed(variables) or None,
        "covariates": _or_none(covariates),
        "split": split,
        "n_permutations": permutations,
        "sensitivity": _or_none(sensitivity),
        "atlas": atlas,
        "atlas_labels": atlas_labels,
        "open_test": open_test,
        "seed": seed,
    }
    table = make(run_dir, tfce=tfce, **{name: value for name, value in choices.items() if value is not None})
    print_table(table, as_json, "maps of factors")
    for note in table.attrs["notes"]:
        print(f"- {note.rstrip('.')}.", file=sys.stderr)


@app.command(rich_help_panel="Results")
def report(
    run_dir: RunFolder,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write; none means RUN_DIR/report.html.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write everything the run found as one HTML page that opens offline, and tables for R.

    Example: sepclr-med report runs/vbm
    """
    from sepclr_med.report.render import report as write

    print(f"report -> {write(run_dir, output)}")


def _run_or_files(
    verb: str, run_dir: Path | None, embeddings: str | None, manifest: Path | None, output: Path | None
) -> tuple[list[str], Path, Path] | None:
    """Return what stands in for a run, or None where a run was named; anything between the two is refused."""
    files = {"--embeddings": embeddings, "--manifest": manifest, "--output": output}
    absent = [name for name, value in files.items() if value is None]
    if run_dir is not None and len(absent) == 3:
        return None
    if run_dir is None and not absent:
        return listed(embeddings), manifest, output  # type: ignore[return-value]
    got = " ".join([*([str(run_dir)] if run_dir else []), *(name for name in files if name not in absent)])
    fix = f"sepclr-med {verb} RUN_DIR, or sepclr-med {verb} --embeddings FILE --manifest FILE --output FILE"
    raise ConfigError(f"{verb}: what should be read?", [Problem("a run, or all three of the files", got=got, fix=fix)])


def _refuse_hypotheses(path: Path | None) -> None:
    if path is not None:
        problem = Problem("an option of run folders", got="--hypotheses", fix="leave it out, or name the run")
        raise ConfigError("link: these tables are of no run", [problem])


def _or_none(text: str | None) -> list[str] | None:
    """Return the parts of a list; ``none`` is an empty one, and no option at all is None."""
    return None if text is None else [] if text.strip().casefold() == "none" else listed(text)
