"""
Comparing methods
=================

Does SepCLR add anything over a plain baseline? ``compare`` fits methods on the same people with the same division,
several times with other seeds, and probes all of them alike.
"""

# %%
# What is compared
# ----------------
#
# The people of the first tutorial: 120 to train on, 80 held out. Two methods, each with the seeds 0, 1 and 2:
# ``sepclr``, and ``pca``, principal components of the voxels of patients and controls together, which has one space
# only. The first is what the other is held against.
#
# For the shell:
#
# .. code-block:: bash
#
#    sepclr-med compare recipe.yaml --methods sepclr,pca --seeds 0,1,2 -o comparison

import yaml
from small_study import FOLDER, SETTINGS, show

import sepclr_med as sm
from sepclr_med.analysis.comparison_figure import draw_comparison

sm.simulate(FOLDER / "cohort", n_train=120, n_test=80, spacing=12, seed=0)
recipe = FOLDER / "recipe.yaml"
recipe.write_text(yaml.safe_dump({"cohort": {"manifest": "cohort/manifest.tsv"}}))

table = sm.compare(
    [recipe],
    FOLDER / "comparison",
    seeds=[0, 1, 2],
    methods=["sepclr", "pca"],
    overrides=SETTINGS,
    variables=["severity", "tiv"],
)

# %%
# The table
# ---------
#
# One row per method, space, variable and group of people. ``expected`` says what a good separation would look like: a
# clinical column belongs in the salient space, head size in the common one.

columns = ["method", "space", "variable", "people", "value", "ci_low", "ci_high", "seed_sd", "chance", "expected", "n"]
table[columns].round(2)

# %%
# A picture of the whole table is written beside it, ``comparison.png``. Here of the rows about patients:

show(
    draw_comparison(table[table["people"] == "target"], FOLDER / "comparison" / "patients.png"),
    "R2 of severity and head size from both spaces of sepclr and pca, with intervals, chance and what is wanted",
)

# %%
# Is the difference more than luck?
# ---------------------------------
#
# Differences to the first method are paired: the same people, and the same seed. Two kinds of luck are in them. The
# interval draws people and seeds anew, together. The p-value is of a t-test over seeds, corrected for the people that
# all seeds share (Nadeau and Bengio 2003); an ordinary one would take three trainings on one cohort for three studies.

differences = table[table["method"] == "pca"].dropna(subset=["difference"])
columns = ["space", "variable", "people", "difference", "difference_low", "difference_high", "p_value", "n", "n_seeds"]
differences[columns].round(3)

# %%
# What it says. The voxels hold severity, so ``pca`` need not be worse at reading it. Its one space holds head size just
# as well, and that is where the methods differ: in the salient space of SepCLR hardly any head size is left. The price
# is in the table too: its common space, trained briefly, holds less of head size than the voxels do.


def cell(method, space, variable):
    """Return the row of patients."""
    chosen = (table["method"] == method) & (table["space"] == space) & (table["variable"] == variable)
    return table[chosen & (table["people"] == "target")].iloc[0]


leak = cell("pca", "salient", "tiv")
assert leak["difference_low"] > 0
assert cell("sepclr", "salient", "severity")["ci_low"] > cell("sepclr", "salient", "severity")["chance"]
assert cell("sepclr", "common", "severity")["value"] < 0.2
assert cell("sepclr", "salient", "tiv")["value"] < 0.3
print(f"head size read from pca's space, beyond SepCLR's salient space: R2 {leak['difference']:+.2f}")
print(f"  interval over {leak['n']:.0f} patients and {leak['n_seeds']:.0f} seeds: ", end="")
print(f"{leak['difference_low']:.2f} to {leak['difference_high']:.2f}; p over seeds {leak['p_value']:.3f}")

# %%
# Three seeds give the t-test two degrees of freedom: only a difference that is large beside its spread over seeds can
# have a small p-value. Look at the interval first.
# Neither is corrected for the number of rows. And these are the people on whom we looked: a method that is chosen here
# must be reported on others.
#
# Columns and details: :doc:`/compare`. A dozen methods at the proper size: :doc:`/benchmarks`.
