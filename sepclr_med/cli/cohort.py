"""Verbs before any model: simulate, manifest, check, split, seal."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepclr_med.cli.application import app
from sepclr_med.cli.options import (
    AsJson,
    Assignments,
    Background,
    BidsRoot,
    Manifest,
    MissingCodes,
    Overwrite,
    Seed,
    Target,
    Verbose,
    components,
    listed,
    pairs,
)
from sepclr_med.errors import ConfigError, Problem
from sepclr_med.printing import print_problems, print_rich, print_table

if TYPE_CHECKING:
    import pandas as pd


def _list_cohorts(wanted: str | None) -> str | None:
    if wanted != "list":
        return wanted
    from sepclr_med.cohort.importers import describe_importers

    print_table(describe_importers(), False, "cohorts that --cohort knows")
    raise typer.Exit


Cohort = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE|list",
        help="Importer of a known cohort, or the YAML of your own; list shows those known, tested or not.",
        callback=_list_cohorts,
        is_eager=True,
    ),
]
Hypotheses = Annotated[
    Path | None, typer.Option(help="YAML of what link will test (variables, covariates, ...), frozen with the seal.")
]


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
    options |= {"base_diagnosis": listed(base_diagnosis)} if base_diagnosis else {}
    manifest = simulate_with(output_dir, options | components(assign))
    print(f"{_groups(manifest)} -> {output_dir / 'manifest.tsv'}")


@app.command("manifest", rich_help_panel="Cohort")
def make_manifest(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS, CAPS or CAT12 folder.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Manifest to write, .tsv or .csv.")],
    cohort: Cohort = None,
    suffix: Annotated[
        str | None, typer.Option(help="BIDS suffix (T1w), or prefix of CAT12 (mwp1).", show_default="T1w")
    ] = None,
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
    participants: Annotated[
        Path | None, typer.Option(help="Table of participants, wherever it lies.", show_default="participants.tsv")
    ] = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Find the images of a BIDS, CAPS or CAT12 folder and join its tables into a manifest.

    Example: sepclr-med manifest /data/ds002748 -o manifest.tsv --diagnosis-column group --rename gender=sex

    Of a known cohort: sepclr-med manifest /data/abide -o manifest.tsv --cohort abide1
    """
    from sepclr_med import find_images, write_manifest
    from sepclr_med.cohort.columns import describe_columns
    from sepclr_med.cohort.merging import append_rows, label_dataset, require_place
    from sepclr_med.recipes import list_derivatives
    from sepclr_med.rundir import read_json, write_json
    from sepclr_med.standing import find_standing

    require_place(output, append, overwrite)
    named = {"desc": desc, "label": label, "space": space, "ses": session, **pairs(entity or [], "--entity")}
    table, problems = find_images(
        bids_dir,
        suffix=suffix,
        derivative=derivative,
        entities={key: value for key, value in named.items() if value is not None},
        diagnosis_column=diagnosis_column,
        rename=pairs(listed(rename), "--rename"),
        phenotype=phenotype,
        sessions=sessions,
        diagnosis=diagnosis,
        cohort=cohort,
        participants=None if participants is None else participants.resolve(),
    )
    print_problems(problems)
    table = label_dataset(table, site, prefix)
    dictionary, sidecar = describe_columns(table), output.with_suffix(".json")
    if append:
        table = append_rows(output, table)
        dictionary |= read_json(sidecar, {}) if sidecar.is_file() else {}
    write_manifest(table, output)
    write_json(sidecar, dictionary)
    diagnoses = ", ".join(f"{n} {name}" for name, n in table["diagnosis"].value_counts(dropna=False).items())
    print(f"{len(table)} images of {table['participant_id'].nunique()} participants ({diagnoses}) -> {output}")
    if derivative is None and cohort is None and (there := list_derivatives(bids_dir)):
        print(f"these are raw images; derivatives/ holds more: {', '.join(there)} (--derivative NAME)", file=sys.stderr)
    print(f"next: {_next_command(cohort, output) or find_standing(output).follows}", file=sys.stderr)


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
    from sepclr_med.cohort.preflight import format_check, problems_table, summarise_check
    from sepclr_med.rundir import write_table
    from sepclr_med.standing import follow_manifest

    table = read_manifest(manifest, bids_root, listed(missing_codes))
    facts = manifest.with_name(f".{manifest.name}.images.jsonl")
    result = check_cohort(table, listed(background), listed(target), n_jobs=jobs or -1, cache_file=facts)
    if output is not None:
        write_table(output, problems_table(result))
    print(json.dumps(result.to_dict(), indent=2)) if as_json else print_rich(format_check(result))
    # Last, because the terminal stands there: what is above may have scrolled away.
    follows = follow_manifest(manifest, table, (listed(background), listed(target)), bids_root, missing_codes)
    for line in summarise_check(result, str(manifest), follows):
        print(line, file=sys.stderr)
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
    seal_test: Annotated[
        bool, typer.Option("--seal", help="Seal the test part: from now on, opening it is written down.")
    ] = False,
    hypotheses: Hypotheses = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Divide participants (and families) into train, val and test, balanced by diagnosis and site.

    Example: sepclr-med split manifest.tsv -o manifest_split.tsv --test-size 0.25 --stratify diagnosis,site,sex,age
    """
    from sepclr_med import assign_splits, read_manifest, write_manifest
    from sepclr_med.cohort.ledger import require_unsealed
    from sepclr_med.cohort.ledger import seal as seal_rows
    from sepclr_med.cohort.splits import readable_balance, split_balance
    from sepclr_med.standing import FEW_PATIENTS, follow_manifest, guess_groups, has_few_patients

    if hypotheses is not None and not seal_test:
        raise ConfigError("split: hypotheses are frozen with a seal", [Problem("no --seal", fix="add --seal")])
    written = output or manifest
    require_unsealed(written)
    columns = listed(stratify)
    table = assign_splits(
        read_manifest(manifest, bids_root, listed(missing_codes)),
        test_size,
        val_size,
        columns,
        leave_site_out,
        folds,
        seed,
        overwrite=overwrite,
    )
    write_manifest(table, written, bids_root)
    if seal_test:
        ledger = seal_rows(read_manifest(written, bids_root), written, hypotheses)
        print(f"test part sealed -> {ledger}", file=sys.stderr)
    print_problems(table.attrs.get("problems", []))
    balance = split_balance(table, columns)
    print_table(balance if as_json else readable_balance(balance), as_json, "balance of the splits")
    groups = guess_groups(table)
    if test_size and not (folds or leave_site_out or seal_test) and has_few_patients(table, groups[1]):
        instead = "undivided and cross-fitted (fit MANIFEST RUN_DIR --folds 5 --seeds 3), all of them would be tested"
        print(f"note: fewer than {FEW_PATIENTS} patients; {instead} (docs/crossfit.md)", file=sys.stderr)
    print(f"next: {follow_manifest(written, table, groups, bids_root)}", file=sys.stderr)


@app.command(rich_help_panel="Cohort")
def seal(
    manifest: Manifest, hypotheses: Hypotheses = None, bids_root: BidsRoot = None, verbose: Verbose = False
) -> None:
    """Seal the test part of a split manifest: whoever opens it later must say why, and it is written down.

    Again with --hypotheses: also write down what will be tested, before anything is opened. A manifest that will be
    cross-fitted needs no test part for that.

    Example: sepclr-med seal manifest_split.tsv --hypotheses hypotheses.yaml
    """
    from sepclr_med import read_manifest
    from sepclr_med.cohort.ledger import is_sealed, read_ledger
    from sepclr_med.cohort.ledger import seal as seal_rows

    ledger = seal_rows(read_manifest(manifest, bids_root), manifest, hypotheses)
    alone = "hypotheses frozen; no row is test, so that nothing is sealed"
    print(f"{'test part sealed' if is_sealed(read_ledger(ledger)) else alone} -> {ledger}")


def _next_command(cohort: str | None, output: Path) -> str:
    """Return the check of a known cohort, whose groups its importer names; "" where nobody names them."""
    if cohort is None:
        return ""
    from sepclr_med.cohort.control_names import group_options
    from sepclr_med.cohort.importers import read_importer

    importer = read_importer(cohort)
    if importer.notes:
        print(f"note: {importer.notes}")
    if not (importer.background and importer.target):
        return ""
    return shlex.join(["sepclr-med", "check", str(output), *group_options(importer.background, importer.target)])


def _groups(manifest: "pd.DataFrame") -> str:
    counts = manifest.groupby(["split", "diagnosis"]).size()
    return f"{len(manifest)} images (" + ", ".join(f"{n} {s} {d}" for (s, d), n in counts.items()) + ")"
