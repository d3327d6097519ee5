"""The command line: each verb parses, makes one library call, prints, and sets the exit code.

Exit codes: 0 done, 1 a problem in the user's data or configuration, 2 wrong usage. Libraries are imported inside the
commands, so that ``--help`` stays instant.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepclr_med.errors import ConfigError, Problem, UserError
from sepclr_med.printing import print_json, print_problems, print_rich, print_table

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    name="sepclr-med",
    help="What varies among patients that does not vary among controls? From MRI and a table to salient embeddings.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Manifest = Annotated[Path, typer.Argument(help="Manifest, CSV or TSV: one row per image.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)]
Background = Annotated[str | None, typer.Option(help="Diagnoses that are controls, comma-separated.")]
Target = Annotated[str | None, typer.Option(help="Diagnoses that are patients, comma-separated.")]
BidsRoot = Annotated[Path | None, typer.Option(help="Folder that image paths are relative to.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="May be repeated.")]
MissingCodes = Annotated[str | None, typer.Option(help="Numbers that mean missing, as in --missing-codes=-9,999.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start over where something is already there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random draw.")]


_wanted = {"traceback": False}


def _want_traceback(wanted: bool) -> None:
    _wanted["traceback"] |= wanted


Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", callback=_want_traceback, help="Show where an error comes from.")
]


def main() -> None:
    """Run the program; user errors become a message and exit code 1."""
    try:
        app()
    except (UserError, OSError) as error:
        if _wanted["traceback"]:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last finished step", file=sys.stderr)
        raise SystemExit(130) from None


def _version(wanted: bool) -> None:
    if wanted:
        from sepclr_med import __version__

        print(f"sepclr-med {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Common options."""


@app.command(rich_help_panel="Cohort")
def simulate(
    output_dir: Annotated[Path, typer.Argument(help="Folder of the new cohort.", show_default=False)],
    train: Annotated[int, typer.Option(help="Training participants.")] = 400,
    val: Annotated[int, typer.Option(help="Validation participants.")] = 0,
    test: Annotated[int, typer.Option(help="Held-out participants.")] = 200,
    spacing: Annotated[float, typer.Option(help="Voxel size in mm.")] = 6.0,
    base: Annotated[Path | None, typer.Option(help="Manifest of real maps to plant the change into.")] = None,
    base_diagnosis: Annotated[str | None, typer.Option(help="Diagnoses of --base to use, comma-separated.")] = None,
    seed: Seed = 0,
    assign: Assignments = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Make a cohort whose truth is known, from a template or from real maps.

    Example: sepclr-med simulate data/simulated --train 100 --test 50 --set atrophy=0.3
    """
    from sepclr_med.cohort.simulate import simulate_with

    options = {"n_train": train, "n_val": val, "n_test": test, "seed": seed, "overwrite": overwrite}
    options |= {"spacing": spacing} if base is None else {"base": base}
    options |= {"base_diagnosis": _listed(base_diagnosis)} if base_diagnosis else {}
    manifest = simulate_with(output_dir, options | _components(assign))
    print(f"{_groups(manifest)} -> {output_dir / 'manifest.tsv'}")


@app.command("manifest", rich_help_panel="Cohort")
def make_manifest(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS folder.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Manifest to write, .tsv or .csv.")],
    suffix: Annotated[str, typer.Option(help="BIDS suffix of the images.")] = "T1w",
    derivative: Annotated[str | None, typer.Option(help="Folder under derivatives/; none means raw images.")] = None,
    desc: Annotated[str | None, typer.Option(help="desc- entity.")] = None,
    label: Annotated[str | None, typer.Option(help="label- entity.")] = None,
    space: Annotated[str | None, typer.Option(help="space- entity.")] = None,
    session: Annotated[str | None, typer.Option(help="ses- entity.")] = None,
    entity: Annotated[list[str] | None, typer.Option(help="Any other entity, key=value, may be repeated.")] = None,
    diagnosis_column: Annotated[str | None, typer.Option(help="Column of participants.tsv.")] = None,
    diagnosis: Annotated[str | None, typer.Option(help="Diagnosis of everyone, for a dataset of one group.")] = None,
    site: Annotated[str | None, typer.Option(help="Site of everyone in this dataset.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Put before participant labels: sub-01 -> sub-PREFIX01.")] = None,
    append: Annotated[bool, typer.Option("--append", help="Add the rows to the manifest at -o.")] = False,
    rename: Annotated[str | None, typer.Option(help="Columns to rename, old=new, comma-separated.")] = None,
    phenotype: Annotated[bool, typer.Option("--phenotype", help="Join phenotype/*.tsv.")] = False,
    sessions: Annotated[bool, typer.Option("--sessions", help="Join *_sessions.tsv.")] = False,
    verbose: Verbose = False,
) -> None:
    """Find the images of a BIDS folder and join its tables into a manifest.

    Example: sepclr-med manifest /data/ds002748 -o manifest.tsv --diagnosis-column group --rename gender=sex
    """
    from sepclr_med import find_images, write_manifest
    from sepclr_med.cohort.columns import describe_columns
    from sepclr_med.cohort.merging import append_rows, label_dataset
    from sepclr_med.rundir import read_json, write_json

    named = {"desc": desc, "label": label, "space": space, "ses": session, **_pairs(entity or [], "--entity")}
    table, problems = find_images(
        bids_dir,
        suffix=suffix,
        derivative=derivative,
        entities={key: value for key, value in named.items() if value is not None},
        diagnosis_column=diagnosis_column,
        rename=_pairs(_listed(rename), "--rename"),
        phenotype=phenotype,
        sessions=sessions,
        diagnosis=diagnosis,
    )
    print_problems(problems)
    table = label_dataset(table, site, prefix)
    dictionary, sidecar = describe_columns(table), output.with_suffix(".json")
    if append:
        table = append_rows(output, table)
        dictionary |= read_json(sidecar) if sidecar.is_file() else {}
    write_manifest(table, output)
    write_json(sidecar, dictionary)
    diagnoses = ", ".join(f"{n} {name}" for name, n in table["diagnosis"].value_counts(dropna=False).items())
    print(f"{len(table)} images of {table['participant_id'].nunique()} participants ({diagnoses}) -> {output}")


@app.command(rich_help_panel="Cohort")
def check(
    manifest: Manifest,
    background: Background = "control",
    target: Target = "patient",
    bids_root: BidsRoot = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="TSV of every problem.")] = None,
    missing_codes: MissingCodes = None,
    jobs: Annotated[int, typer.Option(min=-1, help="Images read at a time; -1 means one per core.")] = -1,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Open every image and look at the design before anyone spends a GPU day.

    Example: sepclr-med check manifest.tsv --background control --target depr -o problems.tsv
    """
    from sepclr_med import check_cohort, read_manifest
    from sepclr_med.cohort.preflight import format_check, problems_table
    from sepclr_med.rundir import write_table

    table = read_manifest(manifest, bids_root, _listed(missing_codes))
    facts = manifest.with_name(f".{manifest.name}.images.jsonl")
    result = check_cohort(table, _listed(background), _listed(target), n_jobs=jobs or -1, cache_file=facts)
    if output is not None:
        write_table(output, problems_table(result))
    print(json.dumps(result.to_dict(), indent=2)) if as_json else print_rich(format_check(result))
    raise typer.Exit(0 if result.ok else 1)


@app.command(rich_help_panel="Cohort")
def split(
    manifest: Manifest,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Manifest to write; none means in place.")
    ] = None,
    test_size: Annotated[float, typer.Option(help="Share of participants held out.")] = 0.2,
    val_size: Annotated[float, typer.Option(help="Share of participants for validation.")] = 0.1,
    stratify: Annotated[str, typer.Option(help="Columns to balance, comma-separated.")] = "diagnosis,site",
    leave_site_out: Annotated[str | None, typer.Option(help="Site that is the test set.")] = None,
    folds: Annotated[int | None, typer.Option(help="Also write cross-validation folds.")] = None,
    missing_codes: MissingCodes = None,
    bids_root: BidsRoot = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Divide participants (and families) into train, val and test, balanced by diagnosis and site.

    Example: sepclr-med split manifest.tsv -o manifest_split.tsv --test-size 0.25 --stratify diagnosis,site,sex,age
    """
    from sepclr_med import assign_splits, read_manifest, write_manifest
    from sepclr_med.cohort.splits import split_balance

    columns = _listed(stratify)
    table = assign_splits(
        read_manifest(manifest, bids_root, _listed(missing_codes)),
        test_size,
        val_size,
        columns,
        leave_site_out,
        folds,
        seed,
        overwrite=overwrite,
    )
    write_manifest(table, output or manifest, bids_root)
    print_problems(table.attrs.get("problems", []))
    print_table(split_balance(table, columns), as_json, "balance of the splits")


@app.command(rich_help_panel="Model")
def fit(
    manifest: Manifest,
    run_dir: RunFolder,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Recipe, such as pipelines/vbm/recipe.yaml.")
    ] = None,
    background: Background = None,
    target: Target = None,
    bids_root: BidsRoot = None,
    assign: Assignments = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Train the common and the salient encoder; the same command again resumes.

    Example: sepclr-med fit manifest_split.tsv runs/vbm -c pipelines/vbm/recipe.yaml --background control --target depr
    """
    from sepclr_med import fit as train
    from sepclr_med import load_config, read_manifest

    settings = load_config(config, [*(assign or []), *_group_settings(background, target)])
    folder = train(read_manifest(manifest, bids_root), settings, run_dir, overwrite)
    print(f"trained for {settings.training.epochs} epochs -> {folder}; next: sepclr-med embed {folder}")


@app.command(rich_help_panel="Model")
def embed(
    run_dir: RunFolder,
    manifest: Annotated[Path | None, typer.Argument(help="New images; none means the run's own cohort.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder; none means RUN_DIR/embeddings.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="last or best; none means the run's setting.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass; does not change the result.")] = 64,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder of preprocessed volumes.")] = None,
    bids_root: BidsRoot = None,
    verbose: Verbose = False,
) -> None:
    """Write one common and one salient embedding per image, as a BIDS derivative.

    Example: sepclr-med embed runs/vbm new_participants.tsv -o embeddings_new
    """
    from sepclr_med import embed as make
    from sepclr_med import read_manifest

    if manifest is not None and output is None:
        fix = "the run's own embeddings are kept apart: name a folder with -o"
        raise ConfigError("embed: where should new images' embeddings go?", [Problem("no --output", fix=fix)])
    table = read_manifest(manifest, bids_root) if manifest else None
    tables = make(run_dir, table, output, checkpoint, batch_size, cache_dir)
    print(f"{len(tables['salient'])} images -> {output or run_dir / 'embeddings'}")


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

    table = evaluate_run(run_dir, _listed(variables) or None, bootstrap)
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
    settings = [*(assign or []), *given, *_group_settings(background, target)]
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


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _pairs(assignments: list[str], option: str) -> dict[str, str]:
    parts = [assignment.partition("=") for assignment in assignments]
    wrong = [
        Problem("not a pair", got=key, allowed="name=value") for key, equals, value in parts if not equals or not value
    ]
    if wrong:
        raise ConfigError(f"{option}: cannot be understood", wrong)
    return {key: value for key, _, value in parts}


def _components(assign: list[str] | None) -> dict[str, Any]:
    from sepclr_med.config import parse_value

    return {name: parse_value(value) for name, value in _pairs(assign or [], "--set").items()}


def _group_settings(background: str | None, target: str | None) -> list[str]:
    given = {"background": background, "target": target}
    return [f"cohort.{role}={json.dumps(_listed(names))}" for role, names in given.items() if names is not None]


def _groups(manifest: pd.DataFrame) -> str:
    counts = manifest.groupby(["split", "diagnosis"]).size()
    return f"{len(manifest)} images (" + ", ".join(f"{n} {s} {d}" for (s, d), n in counts.items()) + ")"
