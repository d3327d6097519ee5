"""How far runs of one cohort and other seeds agree on what is read of each variable, in held-out patients.

    python pipelines/benchmark/agreement.py RUN_DIR RUN_DIR ...

The run folders may be those of ``compare --seeds`` or of ``pipelines/ablation/run.py``; spaces need not be aligned.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sepclr_med import read_manifest
from sepclr_med.analysis.participants import gather_participants
from sepclr_med.analysis.stability import reading_stability, space_stability
from sepclr_med.cohort.embeddings import read_embeddings
from sepclr_med.rundir import RunDir

VARIABLES = ["severity", "subtype", "age", "sex", "shared_pattern"]


def main() -> None:
    runs = [RunDir(Path(folder)) for folder in sys.argv[1:]]
    tables = [read_embeddings(run.embeddings) for run in runs]
    people = gather_participants(tables[0], read_manifest(runs[0].manifest), ["patient"])
    tested = people.take(people.is_target & (people.rows["split"] == "test").to_numpy())
    asked = [name for name in VARIABLES if name in tested.rows]
    print(reading_stability({"seeds": tables}, tested, "salient", asked).round(2).to_string(index=False))
    there = [name for name in ("salient", "common") if name in tested.spaces]
    spaces = space_stability({"seeds": tables}, tested, there)
    print(spaces.groupby("space")[["cka", "overlap", "overlap_chance"]].agg(["min", "max"]).round(2).to_string())


if __name__ == "__main__":
    main()
