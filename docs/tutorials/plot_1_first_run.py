"""
A first run
===========

Simulate people whose truth is known, train, embed, and look at what each of the two spaces holds, in people who were
not trained on. Five calls, and about a minute on two processor cores.
"""

# %%
# People
# ------
#
# :func:`sepclr_med.simulate` writes a BIDS-like folder of grey-matter maps. Half of the people are patients. Age, sex,
# head size and scanner vary in everyone; ``severity``, between 0.2 and 1, says how much grey matter a patient has lost.
# Controls have none.

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.decomposition import PCA
from small_study import FOLDER  # a temporary folder; take one of your own

import sepclr_med as sm

cohort = sm.simulate(FOLDER / "cohort", n_train=120, n_test=80, spacing=12, seed=0)
cohort[["participant_id", "diagnosis", "split", "age", "sex", "site", "tiv", "severity"]].head()

# %%

pd.crosstab(cohort["split"], cohort["diagnosis"])

# %%
# Train
# -----
#
# ``load_config`` gives the defaults with a few values changed: large voxels and a small network, so that no GPU is
# needed. ``fit`` preprocesses the images once and trains two encoders on the ``train`` rows. Called again, it returns
# at once, and goes on where it was interrupted.

config = sm.load_config(
    overrides=[
        "volumes.spacing=12",  # mm, as simulated
        "network.backbone=small",  # for a processor
        "training.epochs=8",
        "training.batch_size=32",
        "training.threads=1",  # figures change a little with the number of threads
        "training.seed=0",
    ]
)
run = sm.fit(cohort, config, FOLDER / "runs" / "first")

# %%
# Every term of the objective is in ``history.tsv``, one row per epoch. The length of the salient vector tells most: in
# controls it is pulled to zero, in patients it may stay.

history = pd.read_csv(run / "history.tsv", sep="\t", na_values="n/a")

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for group, colour, style in (("background", "#0072B2", "-o"), ("target", "#D55E00", "--s")):
    axes.plot(history["epoch"], history[f"train_salient_norm_{group}"], style, color=colour, label=group)
axes.set(title="Controls lose their salient vector", xlabel="epoch", ylabel="mean length of the salient vector", ylim=0)
axes.legend()

last = history.iloc[-1]
assert last["train_salient_norm_background"] < last["train_salient_norm_target"]

# %%
# Embed
# -----
#
# ``embed`` writes a row per image and space, as a BIDS derivative in the run folder, and returns the tables. Beside the
# two spaces there is a third, the principal components of the plain voxels, to compare with.

tables = sm.embed(run)
{space: table.shape for space, table in tables.items()}

# %%
# Evaluate
# --------
#
# ``evaluate`` asks how much of a variable a straight line through a space can read, in people the line was not fitted
# on. Here of three variables: ``severity``, which only patients have; ``tiv``, head size, which everyone has; and the
# diagnosis.

found = sm.evaluate(tables, cohort, variables=["severity", "tiv", "diagnosis"], target=["patient"], n_permutations=200)
shown = found[(found["scheme"] == "held-out") & found["metric"].isin(["r2", "balanced_accuracy"])]
shown[["variable", "metric", "space", "value", "ci_low", "ci_high", "chance", "n"]].round(2)

# %%
# Read it by variable. An R2 of 1 is perfect, at or below 0 nothing was read. Severity is read from the salient space
# and not from the common one; head size from the common one and hardly from the salient one. That is the separation the
# method is for:

r2 = shown[shown["metric"] == "r2"].set_index(["variable", "space"])["value"]
assert r2["severity", "salient"] > 0.4 > 0.2 > r2["severity", "common"]
assert r2["tiv", "common"] > 0.3 > 0.25 > r2["tiv", "salient"]

# %%
# And what it does not show. That the diagnosis is read from the salient space proves nothing: training used the
# diagnosis. And the voxels alone hold severity too, beside head size and everything else: what the method adds is not
# the signal but its separation from the rest.

assert r2["severity", "voxel_pca"] > 0.4
assert r2["tiv", "voxel_pca"] > 0.4

# %%
# Look
# ----
#
# The salient space has 32 factors, whose axes are arbitrary. Its first two principal axes, fitted on training patients,
# for the 80 people held out:

salient = tables["salient"].merge(cohort[["participant_id", "diagnosis", "severity"]], on="participant_id")
factors = [name for name in salient if name.startswith("salient_")]
axes_of_patients = PCA(2).fit(salient.query("split == 'train' and diagnosis == 'patient'")[factors])
held_out = salient[salient["split"] == "test"].reset_index(drop=True)
held_out[["axis_1", "axis_2"]] = axes_of_patients.transform(held_out[factors])
controls, patients = (held_out[held_out["diagnosis"] == group] for group in ("control", "patient"))

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.scatter(
    controls["axis_1"], controls["axis_2"], marker="x", color="#555555", label=f"controls (n = {len(controls)})"
)
points = axes.scatter(
    patients["axis_1"],
    patients["axis_2"],
    c=patients["severity"],
    cmap="viridis",
    edgecolor="black",
    linewidth=0.4,
    label=f"patients (n = {len(patients)})",
)
axes.set(title="Salient space, held-out people", xlabel="first principal axis", ylabel="second principal axis")
figure.colorbar(points, label="severity (share of the largest loss)")
axes.legend()

# %%
# Controls gather in one place, and patients lie the farther from it, the more severe they are.

distance = (patients[["axis_1", "axis_2"]] - controls[["axis_1", "axis_2"]].mean()).pow(2).sum(axis=1) ** 0.5
rank_correlation = distance.corr(patients["severity"], method="spearman")
print(f"rank correlation of distance and severity: {rank_correlation:.2f} (n = {len(patients)}, chance: 0)")
assert rank_correlation > 0.4

# %%
# The same in a shell
# -------------------
#
# .. code-block:: bash
#
#    sepclr-med simulate cohort --train 120 --test 80 --spacing 12
#    sepclr-med fit cohort/manifest.tsv runs/first --set volumes.spacing=12 --set network.backbone=small \
#        --set training.epochs=8 --set training.batch_size=32 --set training.threads=1
#    sepclr-med embed runs/first
#    sepclr-med evaluate runs/first --variables severity,tiv,diagnosis
#    sepclr-med report runs/first
#
# The last one gathers everything in a page, ``runs/first/report.html``. Files of a run folder are listed in
# :doc:`/runs`; what else is in the simulated images in :doc:`/simulate`.

# sphinx_gallery_thumbnail_number = 2
