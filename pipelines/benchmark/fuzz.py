"""Hand spoiled files to every reader; count what is accepted, refused with a message, and what goes wrong.

python pipelines/benchmark/fuzz.py                             every reader, 10,000 cases each
python pipelines/benchmark/fuzz.py manifest bids --cases 500   some
python pipelines/benchmark/fuzz.py --replay FOLDER             a case that was saved, with its traceback
python pipelines/benchmark/fuzz.py bids --guided 60            by coverage (files only)

``--guided`` needs atheris, which is no dependency of the project: ``.venv/bin/python -m pip install "atheris>=3"``.

A case is right when the reader returns a good result or raises the software's own error, whose message names the file,
within 5 s of processor time and 512 MB beyond what the process holds, and leaves nothing else behind. A process of its
own reads, under a limit of its address space; one that hangs (a minute) is killed, one that dies is counted, and the
next begins after that case.
"""

import argparse
import json
import os
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

SECONDS, MEGABYTES = 5.0, 512
# By the clock, on a machine that may be busy: to start, and before a case counts as hanging.
START_SECONDS, HANG_SECONDS = 300.0, 60.0
WRONG = ("crash", "hang", "died", "memory", "slow", "left something", "unnamed")


def write_case(case, folder):
    """Write the files of a case; names that the system does not take are left out."""
    for name, content in case.items():
        path = os.path.join(folder, name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if isinstance(content, tuple):
                os.symlink(content.target, path)
            else:
                with open(path, "wb") as stream:
                    stream.write(content)
        except (OSError, ValueError):
            continue


def look(folder):
    """Return what lies in a folder: kind, size and time of every entry."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(place, name)
            status = os.lstat(path)
            found[os.path.relpath(path, folder)] = (
                status.st_mode,
                status.st_size,
                status.st_mtime_ns * (name in files),
            )
    return found


def memory(line):
    """Return a line of this process's status in bytes."""
    with open("/proc/self/status") as stream:
        return next(1024 * int(text.split()[1]) for text in stream if text.startswith(f"{line}:"))


def judge(reader, folder):
    """Read one case; return a verdict, and what was said."""
    from sepclr_med.errors import UserError

    before = look(folder)
    try:
        reader.read(folder)
        verdict, said = "accepted", ""
    except UserError as error:
        verdict, said = "refused", str(error)
        if "Unable to allocate" in said or "MemoryError" in said:
            verdict = "memory"
        elif str(folder) not in said and "--set" not in said and not any(Path(name).name in said for name in before):
            verdict = "unnamed"
        elif len(said) > 200_000:
            verdict = "memory"
        else:
            try:
                said.encode()
            except UnicodeEncodeError:
                verdict = "crash"
    except MemoryError:
        return "memory", traceback.format_exc()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "crash", traceback.format_exc()
    after = look(folder)
    news = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if left := [
        name
        for name in news
        if not any(Path(name).name.startswith(own) or name.startswith(own) for own in reader.writes)
    ]:
        return "left something", f"{left[:5]} after {said}"
    return verdict, said


def measure(reader, folder):
    """Read one case; return a verdict, seconds of processor time, megabytes beyond those held, and what was said."""
    held = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.process_time()
    verdict, said = judge(reader, folder)
    seconds, peak = time.process_time() - started, (memory("VmHWM") - held) / 2**20
    if verdict in ("accepted", "refused"):
        verdict = "memory" if peak > MEGABYTES else "slow" if seconds > SECONDS else verdict
    return verdict, seconds, peak, said


def limit_memory():
    """Have this process refused what would take far more than a case may, before the machine runs out of it."""
    limit = memory("VmSize") + (3 * MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read_seeds(name, reader, folder):
    """Make the valid cases of a reader and read each, which also imports all that it needs."""
    reader.make_case(np.random.default_rng(0))
    for number, case in enumerate(reader.seeds):
        place = folder / f"seed-{number}"
        write_case(case, place)
        verdict, said = judge(reader, place)
        if verdict != "accepted":
            raise SystemExit(f"{name}: a valid file was not accepted: {verdict}: {said}")
        shutil.rmtree(place)


def work(name, seed, first, cases, folder):
    """Read cases one after the other; print one line of JSON for each."""
    from fuzz_readers import READERS

    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warnings.simplefilter("ignore")
    reader = READERS[name]
    read_seeds(name, reader, Path(folder))
    limit_memory()
    print("{}", file=out, flush=True)
    for number in range(first, cases):
        place = Path(folder) / f"case-{number}"
        write_case(reader.make_case(np.random.default_rng([seed, number])), place)
        verdict, seconds, peak, said = measure(reader, place)
        if verdict in ("accepted", "refused"):
            shutil.rmtree(place, ignore_errors=True)
        line = {"number": number, "verdict": verdict, "seconds": seconds, "peak": peak, "said": said[-3000:]}
        print(json.dumps(line), file=out, flush=True)


def run_reader(name, seed, cases, keep):
    """Have all cases of one reader read; return one row of the table."""
    counts, slowest, peak, wrong = Counter(), 0.0, 0.0, []
    number, started = 0, time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        while number < cases:
            command = [sys.executable, __file__, "--work", name, str(seed), str(number), str(cases), folder]
            said = open(f"{folder}/errors.txt", "w+")  # noqa: SIM115, closed below
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
            ready = _next_line(process, START_SECONDS)
            if ready is None:
                process.kill()
                raise SystemExit(f"{name}: does not start: {Path(said.name).read_text()[-3000:]}")
            while number < cases:
                line = _next_line(process, HANG_SECONDS)
                if line is None:
                    verdict = "hang" if process.poll() is None else "died"
                    line = {"number": number, "verdict": verdict, "seconds": HANG_SECONDS, "peak": 0.0, "said": verdict}
                    process.kill()
                    if not Path(f"{folder}/case-{number}").exists():
                        raise SystemExit(f"{name}: case {number} was not made: {Path(said.name).read_text()[-3000:]}")
                counts[line["verdict"]] += 1
                slowest, peak = max(slowest, line["seconds"]), max(peak, line["peak"])
                if line["verdict"] in WRONG:
                    place = keep / name / f"seed-{seed}-case-{line['number']}"
                    shutil.rmtree(place, ignore_errors=True)
                    shutil.move(f"{folder}/case-{line['number']}", place)
                    wrong.append((place, line))
                number += 1
                if line["verdict"] in ("hang", "died"):
                    break
            process.stdout.close()
            process.kill()
            process.wait()
            said.close()
            for place in Path(folder).glob("*-*"):
                shutil.rmtree(place, ignore_errors=True)
    _say_wrong(wrong)
    return name, cases, counts, slowest, peak, time.perf_counter() - started


def _next_line(process, seconds):
    """Return the next line of a process, None when it says nothing in time."""
    deadline = time.monotonic() + seconds
    process.buffered = getattr(process, "buffered", b"")
    while b"\n" not in process.buffered:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        more = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if not more:
            if ready:
                process.wait()
            return None
        process.buffered += more
    line, _, process.buffered = process.buffered.partition(b"\n")
    return json.loads(line)


def _say_wrong(wrong):
    kinds = {}
    for place, line in wrong:
        last = (line["said"].strip().splitlines() or [""])[-1]
        where = re.findall(r'sepclr_med/([\w/]+\.py)", line (\d+)', line["said"])[-1:]
        said = last.partition(":")[0] if where else re.sub(r"\W*(/\S*|\"[^\"]*\"|\d+)", "", last)[:40]
        kinds.setdefault((line["verdict"], str(where), said), []).append((place, line))
    for (verdict, where, _), same in kinds.items():
        print(f"  {len(same)} x {verdict} {where}: {same[0][1]['said'].strip().splitlines()[-1:]}\n    {same[0][0]}")


def replay(folder):
    """Read a saved case once more, where its reader's name is that of the folder above."""
    from fuzz_cases import read_case
    from fuzz_readers import READERS

    reader = READERS[folder.resolve().parent.name]
    with tempfile.TemporaryDirectory() as copy:
        write_case(read_case(folder), copy)
        print(*judge(reader, Path(copy)), sep="\n")


def guide(name, seconds, keep, spoiled=None):
    """Let atheris spoil one file, by default the largest, in search of new ways through the code; stop at a failure."""
    import atheris

    # Most modules are imported where they are first used.
    with (
        atheris.instrument_imports(include=["sepclr_med", "yaml", "nibabel"]),
        tempfile.TemporaryDirectory() as folder,
    ):
        from fuzz_readers import READERS

        reader = READERS[name]
        read_seeds(name, reader, Path(folder))
    case = reader.seeds[0]
    files = [file for file in case if isinstance(case[file], bytes) and reader._mutation(file)]
    spoiled = spoiled or max(files, key=lambda file: len(case[file]))
    if spoiled not in files:
        raise SystemExit(f"{name}: no file {spoiled}; there are {', '.join(files)}")
    change = reader._mutation(spoiled)
    others = [seed[spoiled] for seed in reader.seeds if isinstance(seed.get(spoiled), bytes)]
    corpus, place = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp()) / "case"
    for number, content in enumerate(others):
        (corpus / str(number)).write_bytes(content)

    def one(content):
        shutil.rmtree(place, ignore_errors=True)
        write_case(case | {spoiled: content}, place)
        verdict, taken, peak, said = measure(reader, place)
        if verdict in WRONG:
            saved = keep / name / f"guided-{abs(hash(content))}"
            shutil.copytree(place, saved, symlinks=True)
            raise RuntimeError(f"{verdict}, {taken:.1f} s, {peak:.0f} MB: {saved}\n{said}")

    def mutate(content, size, seed):
        rng = np.random.default_rng(seed)
        try:
            return (change(rng, content, others) if rng.random() < 0.5 else atheris.Mutate(content, size))[:size]
        except Exception:
            return atheris.Mutate(content, size)

    longest = max(1 << 16, 2 * max(len(content) for content in others))
    words = [sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-timeout={int(HANG_SECONDS)}"]
    limit_memory()
    atheris.Setup([*words, f"-max_len={longest}", "-rss_limit_mb=4096"], one, custom_mutator=mutate)
    atheris.Fuzz()


def main():
    """Read the command line."""
    if sys.argv[1:2] == ["--work"]:
        name, seed, first, cases, folder = sys.argv[2:]
        work(name, int(seed), int(first), int(cases), folder)
        return
    from fuzz_readers import READERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"among {', '.join(READERS)}; none means all")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for cases that go wrong")
    parser.add_argument("--replay", type=Path, metavar="FOLDER")
    parser.add_argument("--guided", type=int, metavar="SECONDS", help="by coverage; needs atheris")
    parser.add_argument("--file", metavar="NAME", help="file of the case that --guided spoils; by default the largest")
    given = parser.parse_args()
    if unknown := set(given.readers) - set(READERS):
        parser.error(f"no reader {', '.join(sorted(unknown))}; there are {', '.join(READERS)}")
    if given.replay:
        replay(given.replay)
        return
    if given.guided:
        guide(given.readers[0], given.guided, given.keep, given.file)
        return
    rows = []
    for name in given.readers or READERS:
        rows.append(run_reader(name, given.seed, given.cases, given.keep))
        print(*_table(rows[-1:])[2:], flush=True)
    print(*_table(rows), sep="\n")
    raise SystemExit(any(counts[verdict] for _, _, counts, *_ in rows for verdict in WRONG))


def _table(rows):
    lines = ["| reader | cases | accepted | refused with a message | crashes | slowest, s | peak, MB | took, s |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, cases, counts, slowest, peak, took in rows:
        wrong = sum(counts[verdict] for verdict in WRONG)
        figures = (
            f"{counts['accepted']:,} | {counts['refused']:,} | {wrong:,} | {slowest:.2f} | {peak:.0f} | {took:.0f}"
        )
        lines.append(f"| {name} | {cases:,} | {figures} |")
    return lines


if __name__ == "__main__":
    main()
