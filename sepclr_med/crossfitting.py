"""``fit --folds``: every participant embedded by models that never saw them, nor their family, nor their sessions.

The work is divided into jobs, a model for every fold and seed, each an ordinary run folder and an ordinary ``fit``
command of its own, so that they may run one after another, side by side, or on a cluster, and any of them may fail
without the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from queue import Queue

import joblib
import pandas as pd
import torch

from sepclr_med.cohort.crossfolds import Job, assign_crossfolds, assign_site_folds, leave_out, read_plan
from sepclr_med.cohort.manifest import read_manifest, write_manifest
from sepclr_med.cohort.trainable import require_apart, require_trainable
from sepclr_med.config import Config, dump_config
from sepclr_med.errors import ConfigError, Problem, RunError
from sepclr_med.methods import needs_reference, salient_share
from sepclr_med.occupancy import require_free, working_in
from sepclr_med.preemption import SIGNALS, ToldToStop, hearing
from sepclr_med.provenance import record_step
from sepclr_med.rundir import RunDir, write_json, write_text
from sepclr_med.runs import cache_folder, note_cross_fit, note_seal, open_run, read_config, require_sealed
from sepclr_med.training import is_finished, require_same_images
from sepclr_med.volumes.cache import cache_volumes

FEWEST_FOLDS = 3
KILLED = "killed from outside, most likely because memory ran out: fewer --jobs, or --set training.micro_batch=N"


@contextmanager
def holding(run_dir: str | Path) -> Iterator[None]:
    """Be the only process in the run folder of a cross-fit, and stop when told to by a signal.

    Raises
    ------
    PreemptedError
        After SIGTERM, SIGUSR1 or SIGINT.
    """

    def stop(number: int, frame: object) -> None:
        raise ToldToStop("told to stop; the same command goes on from there")

    with working_in(run_dir), hearing(stop, (*SIGNALS, signal.SIGINT)):
        yield


def plan_cross_fit(
    manifest: pd.DataFrame,
    config: Config,
    run_dir: str | Path,
    n_folds: int | None = 5,
    n_seeds: int = 3,
    overwrite: bool = False,
) -> list[Job]:
    """Open the run folder of a cross-fit and write what each of its jobs needs.

    Parameters
    ----------
    manifest : DataFrame
        ``test`` rows take no part. Folds it has are kept. Its ledger, if there is one, says when it began.
    config : Config
    run_dir : path
    n_folds : int or None, default=5
        None leaves out one site at a time.
    n_seeds : int, default=3
        Trainings of each fold, with seeds from ``training.seed`` on.
    overwrite : bool, default=False

    Returns
    -------
    list of Job

    Raises
    ------
    ConfigError, ManifestError
        When the cohort cannot be divided so, its test part holds relatives or other sessions of the others, or a site
        left out could not be embedded.
    RunError
        When the folder holds something else, or the ledger cannot be written.
    """
    _require_unseen_sites_can_be_rendered(manifest, config, n_folds)
    require_sealed(manifest)
    _require_test_apart(manifest)
    cohort = manifest.copy()
    # The rows of a cross-fit are those that are not sealed.
    cohort.attrs.pop("ledger", None)
    if n_folds is None:
        rows = assign_site_folds(cohort)
    else:
        rows = assign_crossfolds(cohort, n_folds, list(config.cohort.split.stratify), config.cohort.split.seed)
    folds = sorted(rows["fold"].astype(str).unique())
    if len(folds) < FEWEST_FOLDS:
        fix = "--folds 5" if n_folds is not None else "--folds N divides participants instead of sites"
        few = Problem("two models would share nobody they were trained on, and their spaces could not be compared",
                      got=f"{len(folds)} folds", allowed=f"{FEWEST_FOLDS} or more", fix=fix)  # fmt: skip
        raise ConfigError("cross-fit: too few folds", [few])
    _require_names_of_their_own(folds)
    for fold in folds:
        require_trainable(leave_out(rows, fold), config)
    run = RunDir(run_dir)
    open_run(run, rows.assign(split="test"), config, overwrite)
    note_seal(run, manifest)
    begun = run.cross_fit.is_file()
    before = read_plan(run) if begun else {"folds": folds, "seeds": [], **note_cross_fit(run, manifest)}
    if before["folds"] != folds:
        raise RunError(f"{run.path}: holds a cross-fit of other folds; use another folder or --overwrite")
    first = config.training.seed
    jobs = [Job(fold, seed) for seed in range(first, first + n_seeds) for fold in folds]
    for job in jobs:
        write_manifest(leave_out(rows, job.fold), run.job_file(job.name, ".tsv"))
        settings = {"training": config.training.model_copy(update={"seed": job.seed})}
        settings["volumes"] = config.volumes.model_copy(update={"cache_dir": str(cache_folder(run, config))})
        # Each time: settings that weights do not depend on may have changed, and a job refuses all others itself.
        write_text(run.job_file(job.name, ".yaml"), dump_config(config.model_copy(update=settings)))
    seeds = sorted({*before["seeds"], *(job.seed for job in jobs)})
    write_json(run.cross_fit, {**before, "folds": folds, "seeds": seeds, "by_site": n_folds is None})
    return jobs


def preprocess_images(run_dir: str | Path, config: Config) -> None:
    """Fill the cache of a planned cross-fit once, before several jobs would wait for one another to do it.

    Parameters
    ----------
    run_dir : path
    config : Config
        That it was planned with.

    Raises
    ------
    VolumeError
        When images cannot be read and ``volumes.on_error`` is ``stop``.
    """
    run = RunDir(run_dir)
    cache_volumes(read_manifest(run.manifest), config.volumes, cache_folder(run, config), config.network.spatial_dims)


def job_command(run: RunDir, job: Job) -> list[str]:
    """Return the words after ``sepclr-med`` that train one model of a cross-fit.

    Examples
    --------
    >>> [Path(word).name for word in job_command(RunDir("run"), Job("GE-1.5T", 0))]
    ['fit', 'fold-GE-1.5T_seed-0.tsv', 'fold-GE-1.5T_seed-0', '--config', 'fold-GE-1.5T_seed-0.yaml']
    """
    words = ["fit", run.job_file(job.name, ".tsv"), run.job(job.name), "--config", run.job_file(job.name, ".yaml")]
    return [str(word) for word in words]


def is_done(run: RunDir, job: Job) -> bool:
    """Say whether a job's model has finished training."""
    model = RunDir(run.job(job.name))
    return model.config.is_file() and is_finished(model, read_config(model))


def cross_fit(
    manifest: pd.DataFrame,
    config: Config,
    run_dir: str | Path,
    n_folds: int | None = 5,
    n_seeds: int = 3,
    jobs: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Train a model for every fold and seed; the same call goes on where it stopped.

    Parameters
    ----------
    manifest, config, run_dir, n_folds, n_seeds, overwrite
        As for :func:`plan_cross_fit`.
    jobs : int, default=1
        Models trained at a time, each in a process of its own. They share the CPU threads, and the GPUs by turns.
    say : callable, default=silent
        Told which models are done.

    Returns
    -------
    Path
        The run folder: every model under ``models``, logs under ``logs``.

    Raises
    ------
    ConfigError, ManifestError, VolumeError
        As for ``fit``.
    RunError
        When finished models were trained on other images than are there now; when models failed, with the last word of
        each: the others are kept, and the same call repeats these only.
    PreemptedError
        After SIGTERM or SIGUSR1, with the models in training saved.
    """
    started = datetime.now(timezone.utc)
    run = RunDir(run_dir)
    with holding(run.path):
        planned = plan_cross_fit(manifest, config, run_dir, n_folds, n_seeds, overwrite)
        failed = _train_missing(run, config, planned, jobs, say)
    facts = {"jobs": [job.name for job in planned], "salient_variance": salient_share(config)}
    record_step(run.provenance, "fit", started, {**facts, "failed": failed})
    if failed:
        lines = "\n".join(f"  {name}: {message}" for name, message in failed.items())
        raise RunError(
            f"{run.path}: {len(failed)} of {len(planned)} models failed; the same command repeats these:\n{lines}"
        )
    return run.path


def _train_missing(
    run: RunDir, config: Config, planned: list[Job], jobs: int, say: Callable[[str], None]
) -> dict[str, str]:
    """Train the models that are not there yet, and return those that failed with the reason."""
    waiting = [job for job in planned if not is_done(run, job)]
    for model in (RunDir(run.job(job.name)) for job in planned if job not in waiting):
        require_same_images(model, read_manifest(model.manifest), read_config(model))
    if waiting:
        preprocess_images(run.path, config)
    threads = config.training.threads or max(1, joblib.cpu_count(only_physical_cores=True) // jobs)
    return dict(_run_jobs(run, waiting, jobs, threads, say))


def _run_jobs(
    run: RunDir, waiting: Sequence[Job], n: int, threads: int, say: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    """Run jobs, some at a time, and yield those that failed with the reason."""
    gpus: Queue[str | None] = Queue()
    for index in range(n):
        gpus.put(_gpu(index))
    children: list[subprocess.Popen[bytes]] = []

    def train(job: Job) -> tuple[int, str]:
        gpu = gpus.get()
        try:
            return _train_apart(run, job, threads, gpu, children)
        finally:
            gpus.put(gpu)

    with ThreadPoolExecutor(n) as pool, _stopped_with_us(pool, children):
        for job, (code, message) in zip(waiting, pool.map(train, waiting), strict=True):
            say(f"{job.name}: {'done' if code == 0 else 'failed'}")
            if code:
                yield job.name, message


def _train_apart(
    run: RunDir, job: Job, threads: int, gpu: str | None, children: list[subprocess.Popen[bytes]]
) -> tuple[int, str]:
    command = [sys.executable, "-m", "sepclr_med", *job_command(run, job), "--set", f"training.threads={threads}"]
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})
    log = run.path / "logs" / f"{job.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # Added to: a model whose parent was killed may still write there.
    with open(log, "ab") as stream:
        begin = stream.tell()
        child = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment)
        children.append(child)
        code = child.wait()
    if code < 0:
        return code, f"{KILLED} ({log})"
    try:
        require_free(run.job(job.name))
    except RunError as taken:
        # The last word in the log may be that of the process which works there.
        return code, str(taken)
    said = log.read_bytes()[begin:].decode(errors="replace").strip().splitlines()
    return code, f"{said[-1] if said else f'exit code {code}'} ({log})"


@contextmanager
def _stopped_with_us(pool: ThreadPoolExecutor, children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Tell the models in training to save and stop, and start no other, when this process is told to."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.terminate()
        raise


def _gpu(index: int) -> str | None:
    n = torch.cuda.device_count()
    if n < 2:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(number) for number in range(n)])[index % n]


def _require_test_apart(manifest: pd.DataFrame) -> None:
    """Refuse a test part that holds relatives or other sessions of those who take part, all of whom are trained on."""
    if "split" in manifest:
        parts = manifest["split"].where(manifest["split"].eq("test"), "train")
        require_apart(manifest.assign(split=parts).drop(columns="fold", errors="ignore"))


def _require_names_of_their_own(folds: list[str]) -> None:
    names = Counter(Job(fold, 0).name for fold in folds)
    alike = [fold for fold in folds if names[Job(fold, 0).name] > 1]
    if alike:
        fix = "rename one: letters, digits, points and hyphens tell folders apart"
        problem = Problem("folds whose folders would have one name", column="fold", got=", ".join(alike), fix=fix)
        raise ConfigError("cross-fit: names of folds", [problem])


def _require_unseen_sites_can_be_rendered(manifest: pd.DataFrame, config: Config, n_folds: int | None) -> None:
    covariates = config.volumes.normative.covariates
    if n_folds is not None or not needs_reference(config) or "site" not in covariates:
        return
    others = ",".join(name for name in covariates if name != "site" and name in manifest)
    fix = f"--set 'volumes.normative.covariates=[{others}]', or --set method.name=sepclr_paper"
    unknown = Problem("the normative reference cannot render images of a site whose controls it never saw", fix=fix)
    raise ConfigError("leave-site-out: a site left out could not be embedded", [unknown])
