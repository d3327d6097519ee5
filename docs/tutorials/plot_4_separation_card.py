"""
Reading the separation card
===========================

What does each space hold, and compared with what? The card answers with one row per variable. This page goes through it
row by row, and says what may be concluded and what may not.
"""

# %%
# The run of the first tutorial: 60 controls and 60 patients to train on, 40 and 40 held out, seed 0. ``evaluate_run``
# is what ``sepclr-med evaluate RUN`` calls: it writes the card into the run folder.

import textwrap

import pandas as pd
from small_study import first_run, show

from sepclr_med.analysis.evaluation import evaluate_run
from sepclr_med.analysis.figures import draw_separation

run = first_run()
table = evaluate_run(run, ["diagnosis", "age", "tiv", "severity", "score"])
sorted(path.name for path in (run / "analysis").iterdir())

# %%
# The numbers
# -----------
#
# A figure per variable and space, with a 95% interval over held-out participants, and the chance level: what ignoring
# the image would score. Whole in ``separation.tsv``; here the variables that are numbers, as R2.

r2 = table[(table["scheme"] == "held-out") & (table["metric"] == "r2")]
show(
    draw_separation(r2, run / "analysis" / "numbers.png"),
    "R2 of age, head size, severity and score from each space, with intervals and chance",
)


def row(variable, metric="r2"):
    """Return one row of the card: a line per space."""
    chosen = (table["variable"] == variable) & (table["metric"] == metric) & (table["scheme"] == "held-out")
    return table[chosen].set_index("space")[["value", "ci_low", "ci_high", "chance", "p_value", "n"]].round(3)


# %%
# Severity: what only patients have
# ---------------------------------

severity = row("severity")
severity

# %%
# This is the row the method is for. Four comparisons, in this order:
#
# - **with chance**: the p-value exchanges the answers of people of one site. Without an interval that stays above
#   chance there is nothing to talk about.
# - **with the common space**: there it should be at chance, or the spaces are not separated.
# - **with the covariates**, which need no image: a space that reads severity no better than age, sex and site do may
#   have learned these.
# - **with the voxels' principal components** (``voxel_pca``): the plain baseline. Where it is as good, the network has
#   added no signal; it may still have added the separation.

assert severity.loc["salient", "ci_low"] > severity.loc["salient", "chance"]
assert severity.loc["salient", "p_value"] <= 0.05
assert severity.loc["common", "value"] < 0.2 < severity.loc["salient", "value"]
assert severity.loc["covariates", "value"] < severity.loc["salient", "value"]

gain = severity.loc["salient", "value"] - severity.loc["voxel_pca", "value"]
print(f"R2 of severity, salient minus voxel PCA: {gain:+.2f} (n = {severity['n'].iloc[0]:.0f} held-out patients)")

# %%
# Score: a questionnaire
# ----------------------
#
# The simulated score is severity with noise, correlated 0.8 with it by construction. So an R2 above 0.64 would be too
# good to be true, and with the patients at hand the interval is wide:

score = row("score")
score

# %%

assert score.loc["salient", "value"] < 0.64
width = score.loc["salient", "ci_high"] - score.loc["salient", "ci_low"]
print(f"width of the interval of the salient space: {width:.2f}")

# %%
# Head size and age: what everyone has
# ------------------------------------
#
# They belong in the common space. What the salient space holds of them is a leak, and a link of a salient factor with a
# clinical score may then be head size or age in disguise.

pd.concat({variable: row(variable) for variable in ("tiv", "age")})

# %%
# Head size is read from the common space. The p-value of the salient space asks whether a trace is left there, the R2
# how much of it. Of age this run's common space holds little: that is not separation but a small network
# trained briefly, as the voxels show, which hold it well. A space at chance may be clean or empty, and the row of
# ``voxel_pca`` tells which.

tiv, age = row("tiv"), row("age")
assert tiv.loc["common", "value"] > 0.3 > tiv.loc["salient", "value"]
assert age.loc["voxel_pca", "value"] > 0.5 > age.loc["common", "value"]

# %%
# Diagnosis: not a finding
# ------------------------
#
# Controls were drawn to one point of the salient space, so it tells the groups apart by construction. This row says
# that the training generalises to new people, and no more. It is no evidence that anything *within* patients was found.

row("diagnosis", "balanced_accuracy")

# %%
# The verdicts
# ------------
#
# The card puts all this in words, in the file ``card.json`` as well. What is a ``warning`` has to be reported beside
# the finding, and "not detected" is not "absent".

for verdict in table.attrs["card"]["verdicts"]:
    print(textwrap.fill(f"{verdict['level']:8s}{verdict['text']}", 95, subsequent_indent=" " * 8), "\n")

# %%
# And what must be said about how it was done:

for note in table.attrs["card"]["notes"]:
    print(textwrap.fill(f"- {note}", 95, subsequent_indent="  "))

# %%
# What to conclude, then: on people who were not trained on, the salient space holds severity and the common space does
# not. What not: that it holds nothing else (only the variables in the table were asked, and no correction is made for
# their number), that another seed or another 120 people would give these figures (the intervals hold the encoder
# fixed), or that anything here is a disease. For the latter, link factors with clinical variables:
# :doc:`/auto_tutorials/plot_5_from_factor_to_score`. Every column of the card is explained in :doc:`/evaluate`.
