"""Break runs on purpose, run the same command again, and compare with a run that nobody disturbed.

    python pipelines/benchmark/faults.py OUTPUT_DIR [--kills 200] [--others 10] [--only FAULT,...] [--seed 0]

The whole pipeline (simulate, check, split, fit, embed, evaluate, link, explain, report) at a small size, as a program
of its own, one CPU thread. ``kill -9`` comes at random moments until the run is done, then the next run is begun, until
there were that many kills; of the other faults each is done ``--others`` times. One row per run in
``OUTPUT_DIR/faults.tsv``: which files differ from the undisturbed run's, and what the user was told. Full and read-only
disks need the right to mount file systems.

``kill -9 of a cross-fit`` (``fit --folds 3 --seeds 1``, ``embed`` and ``link`` of the same people) strikes the command,
the model it trains, or both: a model whose command was killed goes on alone, and the same command, given at once, finds
it there.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from safetensors import safe_open

RECIPE = """
cohort:
  simulate: {n_train: 40, n_val: 8, n_test: 40, spacing: 12.0, seed: 0}
volumes: {preset: vbm, spacing: 12.0, n_jobs: 1}
network: {backbone: small, width: 2}
method: {common_dim: 4, salient_dim: 3}
training: {epochs: 12, batch_size: 16, threads: 1}
evaluation: {variables: [severity, age], n_bootstrap: 20, n_permutations: 99, explain: 1, explain_permutations: 99,
  voxel_pca_components: 5}
"""
MEAN_SECONDS, PREEMPTED = 8.0, 75
# They say when and by which commands things were done, how long it took, and where it was taken up again.
NEVER_COMPARED = (".lock", ".provenance.json.lock", "provenance.json", "progress.png")
# What is said of a model of a cross-fit, in lines of its own.
OF_A_MODEL = ("is working there", "killed from outside")
TIMES = ("seconds", "images_per_second")
# Of a step in the report: the minute it began, and how long it took, by which its table is sorted.
MOMENT = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d)?")
DURATION = re.compile(r"""( data-sort="[\d.]+")?>(\d+ (h|min) \d+ (min|s)|[\d.]+ s)<""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--others", type=int, default=10)
    parser.add_argument("--only", default=",".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "recipe.yaml").write_text(RECIPE)
    rows = []
    make_whole(options.output / "whole" / "run")
    for name in options.only.split(","):
        kind = "cross-fit" if FAULTS[name] is kill_cross_fit else "run"
        whole = make_whole(options.output / "whole" / kind)
        rng = np.random.default_rng([options.seed, list(FAULTS).index(name)])
        done = 0
        while done < (options.kills if name == "kill -9" else options.others):
            folder = options.output / f"{name.replace(' ', '-')}_{len(rows)}"
            shutil.rmtree(folder, ignore_errors=True)
            n, said = FAULTS[name](folder / kind, rng)
            code, last = finish(folder / kind)
            different = compare(whole, folder / kind) if code == 0 else [f"exit code {code}: {last}"]
            rows.append({"fault": name, "times": n, "different": "; ".join(different) or "nothing", "said": said})
            done += n
            print(f"{name}: {n}; differs in {rows[-1]['different']}; said: {said}", flush=True)
            pd.DataFrame(rows).to_csv(options.output / "faults.tsv", sep="\t", index=False)
            if not different:
                shutil.rmtree(folder)
    table = pd.DataFrame(rows)
    print(table.groupby("fault", sort=False).agg(runs=("times", "size"), times=("times", "sum"),
          differing=("different", lambda found: int((found != "nothing").sum()))).to_string())  # fmt: skip


@cache
def make_whole(run: Path) -> Path:
    """Make what nobody disturbs; its people are those of all cross-fits."""
    code, said = finish(run)
    assert code == 0, said
    if run.name == "run":
        shutil.copytree(run / "cohort", run.parent.parent / "study", dirs_exist_ok=True)
    return run


def commands(run: Path) -> list[list[str | Path]]:
    """Return what is given one after another, and again when it ended badly."""
    output = run.parent.parent.absolute()
    if run.name == "run":
        return [["run", output / "recipe.yaml", run]]
    divided = ["-c", output / "recipe.yaml", "--folds", "3", "--seeds", "1"]
    return [["fit", output / "study" / "manifest.tsv", run, *divided], ["embed", run], ["link", run]]


def start(run: Path, *words: str, command: list[str | Path] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sepclr_med", *(command or commands(run)[0]), *words]
    # A file, not a pipe: workers that outlive a killed run for a while would keep a pipe open.
    with open(run.parent.parent / f"{run.parent.name}.log", "w", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, text=True)


def last_words(run: Path) -> str:
    return _told((run.parent.parent / f"{run.parent.name}.log").read_text(encoding="utf-8"))


def finish(run: Path, *words: str) -> tuple[int, str]:
    """Run the same commands to their end; return the exit code and the last thing said as an error."""
    for command in commands(run):
        if code := start(run, *words, command=command).wait():
            break
    return code, last_words(run)


def _told(said: str) -> str:
    """Return what the user was told: the error or the stop, else a warning about the fault."""
    assert "Traceback" not in said, said
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("error:", "stopped:")) or "ended without a word" in line
            or any(words in line for words in (*OF_A_MODEL, "takes its place"))]  # fmt: skip
    return told[-1] if told else ""


# Damages.


def truncate(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: int(rng.integers(0, path.stat().st_size))])


def flip(path: Path, rng: np.random.Generator) -> None:
    with open(path, "r+b") as stream:
        place = int(rng.integers(path.stat().st_size))
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ (1 << int(rng.integers(8)))]))


# Faults: each does something to a run in a new folder and returns how often, and what was said.


Victims = Callable[[subprocess.Popen[str], np.random.Generator], list[subprocess.Popen[str] | psutil.Process]]


def kill(
    run: Path, rng: np.random.Generator, number: int = signal.SIGKILL, victims: Victims = lambda process, _: [process]
) -> tuple[int, str]:
    n, last = 0, ""
    for command in commands(run):
        code = None
        while code != 0:
            process = start(run, command=command)
            n += strike(process, rng, number, victims)
            code, said = process.returncode, last_words(run)
            last = said or last
            # Of a cross-fit, a model that was killed or goes on alone is a failure of the whole.
            if code not in (0, -number, PREEMPTED) and not any(words in said for words in OF_A_MODEL):
                return n, last
    return n, last


def strike(process: subprocess.Popen[str], rng: np.random.Generator, number: int, victims: Victims) -> int:
    """Send a signal at random moments until a command has ended; return how often."""
    for n in count():
        # Equally likely at every moment: a short wait is the rule, and a long one lets long steps end.
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.exponential(MEAN_SECONDS))
            return n
        struck = victims(process, rng)
        for victim in struck:
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(number)
        if process in struck:
            process.wait()
            return n + 1


def kill_cross_fit(run: Path, rng: np.random.Generator) -> tuple[int, str]:
    def one_or_all(process, rng):
        everyone = [process, *psutil.Process(process.pid).children(recursive=True)]
        return everyone if rng.random() < 0.5 else [everyone[int(rng.integers(len(everyone)))]]

    return kill(run, rng, victims=one_or_all)


def flip_cache(run: Path, rng: np.random.Generator) -> tuple[int, str]:
    stop_in_training(run, rng)
    path = next(run.parent.glob("cache/*/volumes.f16"))
    flip(path, rng)
    return 1, finish(run)[1]


def damage_checkpoint(
    run: Path, rng: np.random.Generator, damage: Callable[[Path, np.random.Generator], None]
) -> tuple[int, str]:
    stop_in_training(run, rng, after=2)
    damage(run / "checkpoints" / "last.safetensors", rng)
    return 1, finish(run)[1]


def fill_disk(run: Path, rng: np.random.Generator) -> tuple[int, str]:
    with mounted(run.parent, f"size={int(rng.integers(100, 3000))}k") as remount:
        code, said = finish(run)
        assert code == 1, said
        remount("size=100m")
        finish(run)
    return 1, said


def make_read_only(run: Path, rng: np.random.Generator) -> tuple[int, str]:
    with mounted(run.parent, "size=100m") as remount:
        stop_in_training(run, rng)
        remount("ro")
        code, said = finish(run)
        assert code == 1, said
        remount("rw")
        finish(run)
    return 1, said


def replace_image(run: Path, rng: np.random.Generator) -> tuple[int, str]:
    stop_in_training(run, rng)
    one, other = rng.choice(sorted(training_images(run)), 2, replace=False)
    kept = Path(one).read_bytes()
    Path(one).write_bytes(Path(other).read_bytes())
    code, said = finish(run)
    assert code == 1, said
    Path(one).write_bytes(kept)
    return 1, said


def change_manifest(run: Path, rng: np.random.Generator) -> tuple[int, str]:
    stop_in_training(run, rng)
    # Paths of a run's copy are absolute or relative to it: a table beside it, with one age changed.
    from sepclr_med import read_manifest
    from sepclr_med.cohort.manifest import write_manifest

    table = read_manifest(run / "data" / "manifest.tsv")
    table.loc[int(rng.integers(len(table))), "age"] += 1
    write_manifest(table, run.parent / "other.tsv")
    words = ("--set", "cohort.simulate=null", "--set", f"cohort.manifest={(run.parent / 'other.tsv').absolute()}")
    code, said = finish(run, *words)
    assert code == 1, said
    (run.parent / "other.tsv").unlink()
    return 1, said


def start_twice(run: Path, rng: np.random.Generator) -> tuple[int, str]:
    """Start a second process while the first one is held at a random moment of its work, at whatever step."""
    beside = run.parent.parent / "second.log"
    while True:
        first, working = start(run), run / ".working.json"
        while first.poll() is None and not working.is_file():
            time.sleep(0.02)
        time.sleep(rng.exponential(MEAN_SECONDS))
        first.send_signal(signal.SIGSTOP)
        if first.poll() is None and working.is_file():
            break
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0, last_words(run)
        shutil.rmtree(run)
    with open(beside, "w", encoding="utf-8") as log:
        code = subprocess.run(first.args, stdout=subprocess.DEVNULL, stderr=log).returncode
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 0, last_words(run)
    said = _told(beside.read_text(encoding="utf-8"))
    assert code == 1, f"exit code {code}: {said}"
    assert "is working there" in said, said
    return 1, said


FAULTS: dict[str, Callable[[Path, np.random.Generator], tuple[int, str]]] = {
    "kill -9": kill,
    "SIGTERM": partial(kill, number=signal.SIGTERM),
    "a bit of the cache flipped": flip_cache,
    "checkpoint truncated": partial(damage_checkpoint, damage=truncate),
    "a bit of the checkpoint flipped": partial(damage_checkpoint, damage=flip),
    "disk full": fill_disk,
    "folder read-only": make_read_only,
    "image replaced": replace_image,
    "manifest changed": change_manifest,
    "two processes": start_twice,
    "kill -9 of a cross-fit": kill_cross_fit,
}


def epochs_done(run: Path) -> int:
    try:
        return int(json.loads((run / "checkpoints" / "last.json").read_text())["epoch"])
    except OSError:
        return 0


def stop_in_training(run: Path, rng: np.random.Generator, after: int = 1) -> None:
    """Kill a run after some epochs, before the last."""
    epochs = int(rng.integers(after, 10))
    process = start(run)
    while process.poll() is None and epochs_done(run) < epochs:
        time.sleep(0.01)
    process.kill()
    process.wait()


def training_images(run: Path) -> list[str]:
    from sepclr_med import read_manifest

    table = read_manifest(run / "data" / "manifest.tsv")
    return table.loc[table["split"] == "train", "image_path"].tolist()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """Mount a file system in memory, which can be enlarged or closed; its content stays in the folder afterwards."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield lambda said: subprocess.run(["mount", "-o", f"remount,{said}", str(folder)], check=True) and None
        kept = shutil.copytree(folder, folder.with_name(folder.name + "-kept"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()
    kept.rename(folder)


# Comparing.


def compare(whole: Path, run: Path) -> list[str]:
    """Return the files that differ, byte for byte but for times, and those that one of the two has not."""
    ours, theirs = (_contents(folder) for folder in (run, whole))
    alone = sorted(ours.keys() ^ theirs.keys())
    return alone + sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])


def _contents(run: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        # Logs of a cross-fit's models tell what was done to them.
        if path.is_file() and path.name not in NEVER_COMPARED and name.parts[0] != "logs":
            found[name.as_posix()] = _without_times(path, run)
    return found


def _without_times(path: Path, run: Path) -> bytes | str:
    if path.name == "history.tsv":
        return pd.read_csv(path, sep="\t").drop(columns=list(TIMES)).to_csv()
    if path.parent.name == "checkpoints" and path.suffix == ".json":
        return _state_without_times(json.loads(path.read_text()))
    if path.name == "report.html":
        return DURATION.sub("><", MOMENT.sub("", path.read_text(encoding="utf-8")))
    if path.name == "images.jsonl":
        return _known_of_images(path)
    if path.suffix == ".safetensors":
        # The order of a header's two entries is anybody's.
        with safe_open(path, "np") as stream:
            tensors = [f"{name} {stream.get_tensor(name).tobytes().hex()}" for name in sorted(stream.keys())]
            return _state_without_times(json.loads(stream.metadata()["state"])) + "\n".join(tensors)
    # Recipes of a cross-fit's models name the cache beside it.
    return path.read_bytes().replace(bytes(run.parent.resolve()), b"")


def _known_of_images(path: Path) -> str:
    # Lines are only added, in the order of reading: empty and cut ones say nothing, the last one of an image counts.
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            facts = json.loads(line)
            known[Path(facts["path"]).name] = {**facts, "path": None, "mtime_ns": None}
    return json.dumps(known, sort_keys=True)


def _state_without_times(state: dict) -> str:
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in state.get("history", [])]
    return json.dumps({**state, "history": rows, "unfinished": None}, sort_keys=True)


if __name__ == "__main__":
    main()
