"""
Your BIDS folder
================

From a BIDS folder to a manifest that may be trained on: find the images, read what is said about them, check, mend,
divide. Nobody trains anything here.

The folder is made first, so that we know what is wrong with it: grey-matter maps of 24 simulated people (seed 4) as a
pipeline for voxel-based morphometry would leave them, in sessions, with three blemishes that real folders have.
"""

# %%
# A folder with blemishes
# -----------------------
#
# :func:`sepclr_med.simulate` writes a BIDS dataset. We give everyone a session, three people a second one a year and a
# half later, delete one map, and copy one map over another, as happens when files are renamed by hand.

import shutil
import tempfile
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

import sepclr_med as sm

temporary = tempfile.TemporaryDirectory()
study = Path(temporary.name) / "study"
sm.simulate(study, n_train=24, n_test=0, spacing=12, seed=4)

maps = study / "derivatives" / "simulated"


def name_of(participant, session):
    """Return where the map of a session is."""
    entities = f"{participant}_{session}_space-MNI152NLin2009aSym_desc-mod_label-GM_probseg.nii.gz"
    return maps / participant / session / "anat" / entities


for old in sorted(maps.glob("sub-*/anat/*.nii.gz")):
    new = name_of(old.name.split("_")[0], "ses-1")
    new.parent.mkdir(parents=True)
    old.rename(new)
    old.parent.rmdir()

rng = np.random.default_rng(0)
for participant in ("sub-0002", "sub-0005", "sub-0010"):
    first, second = name_of(participant, "ses-1"), name_of(participant, "ses-2")
    second.parent.mkdir(parents=True)
    image = nib.load(first)
    noise = 0.02 * rng.standard_normal(image.shape)
    nib.save(nib.Nifti1Image(np.clip(0.99 * image.get_fdata() + noise, 0, 1).astype("float32"), image.affine), second)

# One map was never made, one is somebody else's.
name_of("sub-0008", "ses-1").unlink()
shutil.copy(name_of("sub-0003", "ses-1"), name_of("sub-0004", "ses-1"))

# Age was written down per session; the table comes from a spreadsheet and has its own words.
people = pd.read_csv(study / "participants.tsv", sep="\t", keep_default_na=False)
people = people[["participant_id", "diagnosis", "age", "sex", "site", "tiv", "score"]]
people = people.rename(columns={"diagnosis": "group", "age": "age_ses-1", "sex": "gender"})
people.insert(3, "age_ses-2", [f"{age + 1.5:.1f}" for age in people["age_ses-1"].astype(float)])
people.to_csv(study / "participants.tsv", sep="\t", index=False)
people.head()

# %%
# The manifest
# ------------
#
# ``find_images`` lists the images and joins ``participants.tsv``. Which images: those of a derivative, by the parts of
# their names. For the shell:
#
# .. code-block:: bash
#
#    sepclr-med manifest study -o manifest.tsv --derivative simulated --suffix probseg --label GM --desc mod

manifest, problems = sm.find_images(
    study, derivative="simulated", suffix="probseg", entities={"label": "GM", "desc": "mod"}
)
manifest.drop(columns="image_path").head(8)

# %%
# A row is an image, not a person: some people have two rows, and each has the age of its session.
# Nothing was guessed silently. Every problem is a value with a severity, a place and a remedy:


def say(problem):
    """Print a problem without the folder that it lies in."""
    said = f"{problem.severity}: {problem}".replace(str(study), "study")
    print(textwrap.fill(said, 95, subsequent_indent="    ", break_long_words=False), "\n")


for problem in problems:
    say(problem)

# %%
# *Row without image* is our deleted map. Whether it can be fetched or never was, only you know; the participant is not
# in the manifest, and the methods section of a paper should say so. The other messages say what was translated.

assert [problem.participant_id for problem in problems if problem.code == "row_without_image"] == ["sub-0008"]
assert "sub-0008" not in set(manifest["participant_id"])

# %%
# The check
# ---------
#
# ``check_cohort`` opens every image, compares it with the others, and looks at the design of the cohort. For the shell:
#
# .. code-block:: bash
#
#    sepclr-med check manifest.tsv --background control --target patient -o problems.tsv
#
# First the rows and images. Errors must be mended before training, warnings must be understood, remarks may be known.

file = sm.write_manifest(manifest, Path(temporary.name) / "manifest.tsv")
manifest = sm.read_manifest(file)
result = sm.check_cohort(manifest, background=["control"], target=["patient"], n_jobs=1)
print(f"{result.n_usable} of {result.n_images} images can be read; ready for training: {result.ok}\n")

errors = [problem for problem in result.problems if problem.severity == "error"]
for problem in errors:
    say(problem)

# %%
# *The same voxels*: one of the two scans is not who the table says it is. No software can know which; look at the
# originals. Until that is known, neither may stay: keeping the wrong one would give a person somebody else's brain.

twins = {problem.participant_id for problem in errors if problem.code == "duplicate_content"}
assert not result.ok
assert twins <= {"sub-0003", "sub-0004"}

# %%
# Then the design, in plain words: what it is that the method could learn in place of the disease. Each verdict ends
# with what can be done.

for verdict in result.verdicts:
    print(textwrap.fill(f"- {verdict}", 95, subsequent_indent="  "), "\n")

# %%
# With so few people in a group, differences of age, sex or head size arise by chance alone. That does not make them
# harmless: the networks learn from these very people. They stand in the table of the cohort, as standardised mean
# differences (``smd``), counted in participants and not in images:

table = result.table_one
table.loc[table["level"] == "", ["variable", "statistic", "background", "target", "smd"]].round(2)

# %%
# Mend, and check again
# ---------------------

mended = manifest[~manifest["participant_id"].isin(["sub-0003", "sub-0004"])]
file = sm.write_manifest(mended, Path(temporary.name) / "manifest_mended.tsv")
manifest = sm.read_manifest(file)
again = sm.check_cohort(manifest, background=["control"], target=["patient"], n_jobs=1)
print(f"{again.n_usable} of {again.n_images} images can be read; ready for training: {again.ok}")
assert again.ok

# %%
# Divide
# ------
#
# Participants are divided, never images: both sessions of a person are in one part, or the test set would be known.
# Parts are balanced by diagnosis and site. For the shell:
#
# .. code-block:: bash
#
#    sepclr-med split manifest_mended.tsv --test-size 0.25 --val-size 0

divided = sm.assign_splits(manifest, test_size=0.25, val_size=0, seed=0)
assert len(divided[["participant_id", "split"]].drop_duplicates()) == divided["participant_id"].nunique()

pd.crosstab([divided["split"], divided["diagnosis"]], divided["site"])

# %%
# The divided table is written down once, so that everything that follows speaks of the same people:

file = sm.write_manifest(divided, Path(temporary.name) / "manifest_split.tsv")

# %%
# This file is what ``fit`` and ``plan`` take. :doc:`/manifests` has all that is recognised in a BIDS folder and
# :doc:`/check` every message of the check.
