"""A batch script for SLURM that requeues itself when the machine is wanted back."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from sepclr_med.errors import PreemptedError
from sepclr_med.rundir import write_text

# Time to finish a step and write a checkpoint before SLURM ends the job.
SECONDS_OF_NOTICE = 300
LONGEST_JOB_HOURS = 24


def write_sbatch(
    path: str | Path,
    command: Sequence[str],
    seconds: float,
    ram_bytes: int,
    devices: int = 1,
    num_nodes: int = 1,
    gpu: bool = True,
    cores: int = 8,
    partition: str | None = None,
) -> Path:
    """Write a script for ``sbatch`` that trains, and goes on after preemption or at the end of its time.

    Parameters
    ----------
    path : path
        The script.
    command : sequence of str
        The ``sepclr-med fit`` command.
    seconds : float
        How long training is expected to take; half as much again is asked for, at most a day at a time.
    ram_bytes : int
        Memory of a node.
    devices, num_nodes : int, default=1
        Processes per node and nodes.
    gpu : bool, default=True
        One GPU for each process.
    cores : int, default=8
        Of each process.
    partition : str or None, default=None

    Returns
    -------
    Path

    Examples
    --------
    >>> import tempfile
    >>> script = write_sbatch(f"{tempfile.mkdtemp()}/fit.sbatch", ["sepclr-med", "fit", "m.tsv", "run"], 7200, 1 << 33)
    >>> [line for line in script.read_text().splitlines() if "--time" in line or "srun" in line]
    ['#SBATCH --time=3:00:00', 'srun sepclr-med fit m.tsv run']
    """
    hours = min(LONGEST_JOB_HOURS, max(1, math.ceil(1.5 * seconds / 3600)))
    directives = [
        "--job-name=sepclr-med",
        f"--nodes={num_nodes}",
        f"--ntasks-per-node={devices}",
        *([f"--gres=gpu:{devices}"] if gpu else []),
        f"--cpus-per-task={cores}",
        f"--mem={max(4, math.ceil(ram_bytes / 2**30))}G",
        f"--time={hours}:00:00",
        f"--signal=USR1@{SECONDS_OF_NOTICE}",
        "--requeue",
        "--open-mode=append",
        *([f"--partition={partition}"] if partition else []),
    ]
    header = "\n".join(f"#SBATCH {directive}" for directive in directives)
    return write_text(
        path,
        f"""#!/bin/bash
{header}
# {SECONDS_OF_NOTICE} s before the end SLURM sends USR1: training saves its state and ends with this code.
srun {shlex.join(command)}
code=$?
if [ $code -eq {PreemptedError.exit_code} ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
""",
    )
