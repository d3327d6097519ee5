"""Verbs of the model: fit and embed."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sepclr_med.cli.application import app
from sepclr_med.cli.options import (
    AsJson,
    Assignments,
    Background,
    BidsRoot,
    Manifest,
    Overwrite,
    Recipe,
    RunFolder,
    Target,
    Verbose,
    group_settings,
    refuse_exchanged,
)
from sepclr_med.errors import ConfigError, Problem
from sepclr_med.printing import print_table


@app.command(rich_help_panel="Model")
def plan(
    manifest: Manifest,
    run_dir: RunFolder,
    config: Recipe = None,
    background: Background = None,
    target: Target = None,
    bids_root: BidsRoot = None,
    assign: Assignments = None,
    seconds: Annotated[float, typer.Option(min=1, help="No larger part of a batch is begun after this.")] = 60.0,
    sbatch: Annotated[Path | None, typer.Option(help="Also write this script for SLURM.")] = None,
    partition: Annotated[str | None, typer.Option(help="SLURM partition of that script.")] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Measure what fit would take: memory, disk, time; recommend a micro-batch; write a SLURM script.

    Example: sepclr-med plan manifest_split.tsv runs/vbm -c pipelines/vbm/recipe.yaml --sbatch fit.sbatch
    """
    from sepclr_med import load_config, read_manifest
    from sepclr_med import plan as measure
    from sepclr_med.cluster import write_sbatch

    settings = load_config(config, [*(assign or []), *group_settings(background, target)])
    found = measure(read_manifest(manifest, bids_root), settings, run_dir, seconds)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        print_table(found.table(), as_json, "plan")
    if sbatch is None:
        return
    given = {"--config": config, "--background": background, "--target": target, "--bids-root": bids_root}
    words = ["sepclr-med", "fit", str(manifest), str(run_dir)]
    words += [word for option, value in given.items() if value is not None for word in (option, str(value))]
    words += [word for setting in [*(assign or []), *found.settings] for word in ("--set", setting)]
    facts = found.facts
    gpu = settings.training.accelerator in ("auto", "cuda")
    ram = 2 * facts["devices"] * (4 << 30) if gpu else 1.5 * facts["devices"] * facts["step_bytes"] + (4 << 30)
    total = facts["preprocessing_seconds"] + facts["training_seconds"]
    sizes = {"devices": facts["devices"], "num_nodes": facts["num_nodes"], "gpu": gpu, "partition": partition}
    script = write_sbatch(sbatch, words, total, int(ram), **sizes)
    print(f"script for SLURM -> {script}; start it with: sbatch {script}", file=sys.stderr)


@app.command(rich_help_panel="Model")
def fit(
    manifest: Manifest,
    run_dir: RunFolder,
    config: Recipe = None,
    background: Background = None,
    target: Target = None,
    bids_root: BidsRoot = None,
    assign: Assignments = None,
    folds: Annotated[int | None, typer.Option(min=3, help="Cross-fit: a model for each fold of participants.")] = None,
    leave_site_out: Annotated[
        bool, typer.Option("--leave-site-out", help="Cross-fit: a model for each site, never shown it.")
    ] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Cross-fit: trainings of each fold; 3 without.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Cross-fit: models trained at a time; 1 without.")] = None,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only", help="Cross-fit: preprocess the images and write the jobs, for a cluster; train none."
        ),
    ] = False,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
) -> None:
    """Train the common and the salient encoder; the same command again resumes.

    With --folds, models that together have never seen each participant once.

    Example: sepclr-med fit manifest_split.tsv runs/vbm -c pipelines/vbm/recipe.yaml --background control --target depr
    """
    from sepclr_med import fit as train
    from sepclr_med import load_config, read_manifest
    from sepclr_med.engine import is_first_process
    from sepclr_med.method_settings import CLOSED_FORM

    refuse_exchanged(manifest, run_dir)
    settings = load_config(config, [*(assign or []), *group_settings(background, target)])
    if bool(folds) + leave_site_out != 1 and (folds or seeds or jobs or plan_only):
        said = Problem(
            "--seeds, --jobs and --plan-only are of a cross-fit", fix="add either --folds or --leave-site-out"
        )
        raise ConfigError("fit: whom should models leave out?", [said])
    if folds or leave_site_out:
        from sepclr_med.cohort.splits import without_test
        from sepclr_med.crossfitting import cross_fit, holding, job_command, plan_cross_fit, preprocess_images
        from sepclr_med.rundir import RunDir

        how = {"n_folds": folds, "n_seeds": seeds or 3, "overwrite": overwrite}
        table = read_manifest(manifest, bids_root)
        if n := len(table) - len(without_test(table)):
            print(f"note: the test part ({n} images) takes no part", file=sys.stderr)
        if plan_only:
            with holding(run_dir):
                planned = plan_cross_fit(table, settings, run_dir, **how)
                preprocess_images(run_dir, settings)
            for job in planned:
                print(shlex.join(["sepclr-med", *job_command(RunDir(run_dir), job)]))
            return
        cross_fit(table, settings, run_dir, jobs=jobs or 1, say=lambda text: print(text, file=sys.stderr), **how)
        print(f"all models trained -> {run_dir}; next: sepclr-med embed {shlex.quote(str(run_dir))}")
        return
    folder = train(read_manifest(manifest, bids_root), settings, run_dir, overwrite)
    if is_first_process():
        closed = settings.method.name in CLOSED_FORM
        done = "fitted" if closed else f"trained for {settings.training.epochs} epochs"
        print(f"{done} -> {folder}; next: sepclr-med embed {shlex.quote(str(folder))}")


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
    devices: Annotated[int | None, typer.Option(min=1, help="Processes on this machine that share the images.")] = None,
    onboard_site: Annotated[
        bool,
        typer.Option("--onboard-site", help="Estimate the effect of a new site from its controls among the images."),
    ] = False,
    site_effect: Annotated[
        Path | None, typer.Option(metavar="FILE", help="site_effects.safetensors of an earlier --onboard-site.")
    ] = None,
    bids_root: BidsRoot = None,
    verbose: Verbose = False,
) -> None:
    """Write one common and one salient embedding per image, as a BIDS derivative.

    New images are also compared with the run's cohort: percentiles, and whether they are like its images.

    Example: sepclr-med embed runs/vbm new_participants.tsv -o embeddings_new
    """
    from sepclr_med import embed as make
    from sepclr_med import read_manifest
    from sepclr_med.analysis.norms import load_norms
    from sepclr_med.engine import is_first_process
    from sepclr_med.new_participants import embed_new, refuse_single_model_options
    from sepclr_med.rundir import RunDir

    if manifest is not None and output is None:
        fix = "the run's own embeddings are kept apart: name a folder with -o"
        raise ConfigError("embed: where should new images' embeddings go?", [Problem("no --output", fix=fix)])
    if manifest is not None:
        how = (checkpoint, batch_size, cache_dir, devices)
        # Who is ill is asked of a new site alone.
        required = ["participant_id", "image_path", *(["diagnosis"] if onboard_site else [])]
        found = embed_new(
            run_dir, read_manifest(manifest, bids_root, required=required), output, onboard_site, site_effect, *how
        )
        if found is not None:
            print(f"{len(found.tables['salient'])} images -> {output}")
            for line in (*found.written, *found.notes):
                print(f"  {line}")
        return
    if onboard_site or site_effect:
        fix = "name their manifest and a folder: sepclr-med embed RUN_DIR NEW.tsv -o OUT"
        old = Problem("--onboard-site and --site-effect are of new images", fix=fix)
        raise ConfigError("embed: which new images?", [old])
    if RunDir(run_dir).cross_fit.is_file():
        from sepclr_med.ensembles import embed_cross_fitted

        refuse_single_model_options(run_dir, checkpoint, cache_dir, devices)
        tables = embed_cross_fitted(run_dir, None, output)
    else:
        tables = make(run_dir, None, output, checkpoint, batch_size, cache_dir, devices)
    if not is_first_process():
        return
    print(f"{len(tables['salient'])} images -> {output or run_dir / 'embeddings'}")
    if output is None:
        # While the images are at hand: what new participants will be compared with.
        load_norms(RunDir(run_dir))
