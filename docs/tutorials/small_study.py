"""
The study that tutorials share
==============================

Tutorials 1, 4, 5 and 6 read the same people, and 1, 4 and 5 the same run. Whichever comes first makes it, in a
temporary folder that is deleted when Python ends; where it is there, the same calls return at once. The file has to
lie beside the tutorials.
"""

import atexit
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import sepclr_med as sm

FOLDER = Path(tempfile.mkdtemp(prefix="sepclr_med_tutorials_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

SETTINGS = [
    "volumes.spacing=12",  # mm, as simulated
    "network.backbone=small",  # for a processor
    "training.epochs=8",
    "training.batch_size=32",
    "training.threads=1",  # figures change a little with the number of threads
    "training.seed=0",
]


def first_run():
    """Return the run folder of tutorial 1: 120 people to train on, 80 held out, everyone embedded."""
    run = FOLDER / "runs" / "first"
    if not (run / "embeddings").exists():
        cohort = sm.simulate(FOLDER / "cohort", n_train=120, n_test=80, spacing=12, seed=0)
        sm.embed(sm.fit(cohort, sm.load_config(overrides=SETTINGS), run))
    return run


def show(picture, what):
    """Put a picture that the library has drawn on the page; ``what`` is for those who cannot see it."""
    pixels = plt.imread(picture)
    figure = plt.figure(figsize=(pixels.shape[1] / 100, pixels.shape[0] / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(pixels)
    axes.set_axis_off()
    # Beyond the edge, where it is not seen: the gallery makes the picture's text of it.
    axes.set_title(what)
    return figure
