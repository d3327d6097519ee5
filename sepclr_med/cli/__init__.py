"""The command line: each verb parses, makes one library call, prints, and sets the exit code.

Exit codes: 0 done, 1 a problem in the user's data or configuration, 2 wrong usage. Libraries are imported inside the
commands, so that ``--help`` stays instant; for the same reason the modules of verbs keep their annotations as they are,
which typer would otherwise have to compile from text.
"""

from sepclr_med.cli import beginning, bids_app, cohort, model, results, whole
from sepclr_med.cli.application import app, main

__all__ = ["app", "beginning", "bids_app", "cohort", "main", "model", "results", "whole"]
