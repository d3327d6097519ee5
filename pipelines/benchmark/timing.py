"""How benchmarks measure: repeats after a warm-up, and the peak memory of a process of its own."""

import contextlib
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time

import torch

from sepclr_med.probing import peak_resident_bytes

REPEATS = 5


def spread(values):
    """Return median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def wait(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def measure(work, repeats=REPEATS, device="cpu"):
    """Return median, minimum and maximum seconds of calls after one warm-up."""
    return measure_together({"work": work}, repeats, device)["work"]


def measure_together(works, repeats=REPEATS, device="cpu"):
    """Time several things in turn, so that whatever else the machine does meets all of them."""
    seconds = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            wait(device)
            began = time.perf_counter()
            work()
            wait(device)
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return {name: spread(values) for name, values in seconds.items()}


def peak_memory(work, *arguments):
    """Return peak bytes of a fresh process beyond what it had before ``work``, and what ``work`` returned."""
    # Freed blocks go back to the system at once: the peak is then what was held, not how it was scattered.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_report_peak, args=(sending, work, arguments))
    child.start()
    sending.close()
    try:
        return receiving.recv()
    finally:
        child.join()
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def _report_peak(sending, work, arguments):
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = peak_resident_bytes()
    result = work(*arguments)
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_resident_bytes() - before
    sending.send((peak, result))


def run_and_watch(command):
    """Run a command; return its peak resident bytes."""
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
    peak = 0
    while process.poll() is None:
        # Between the end of the program and its burial there is no figure any more.
        with contextlib.suppress(OSError, StopIteration):
            peak = max(peak, peak_resident_bytes(process.pid))
        time.sleep(0.05)
    if process.returncode:
        said.seek(0)
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}: {said.read()[-2000:]}")
    return peak
