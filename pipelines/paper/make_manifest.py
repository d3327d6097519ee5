"""Make the manifest of one of the SepCLR paper's public datasets from its published label file.

python pipelines/paper/make_manifest.py celeba FOLDER OUTPUT.tsv
python pipelines/paper/make_manifest.py chexpert FOLDER OUTPUT.tsv
python pipelines/paper/make_manifest.py odir FOLDER OUTPUT.tsv

FOLDER holds the dataset as it was unpacked. Which classes, how many images and which split: data_manifests/NAME.yaml.
No participant is in two splits, and one who is a patient in any image is a control in none.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from sepclr_med import write_manifest
from sepclr_med.cohort.columns import describe_columns
from sepclr_med.cohort.splits import assign_splits
from sepclr_med.config import read_yaml
from sepclr_med.errors import UserError
from sepclr_med.rundir import write_json

SETTINGS = Path(__file__).resolve().parents[2] / "data_manifests"
COLUMNS = ["participant_id", "session_id", "run", "image_path", "diagnosis", "split", "age", "sex", "eye", "subtype"]
DESCRIPTIONS = {
    "eye": {"Description": "Side of the eye, a common variable.", "Levels": {"left": "left", "right": "right"}},
    "subtype": {"Description": "Class of a patient's image; missing for controls, so a salient variable."},
}


class DatasetError(UserError):
    """A dataset that is not there, or is not what its settings expect."""


def read_celeba(folder, files):
    """Return one row per photo; a person may have several, and the published partition keeps them together."""
    labels = _read_table(files["attributes"], sep=r"\s+", skiprows=1)
    partition = _read_table(files["partition"], sep=r"\s+", header=None, index_col=0)
    images = [str(files["images"] / name) for name in labels.index]
    ids = [Path(name).stem for name in labels.index]
    _require(files["attributes"], labels, ["Male"])
    sex = labels["Male"].map({1: "M", -1: "F"})
    return labels.assign(participant_id=ids, image_path=images, sex=sex, part=partition[1])


def read_chexpert(folder, files):
    """Return one row per radiograph; paths in the label files begin with the name of the dataset's own folder."""
    labels = pd.concat([_read_table(files["train"]), _read_table(files["valid"])], ignore_index=True)
    _require(files["train"], labels, ["Path", "Sex", "Age"])
    parts = labels["Path"].str.extract(
        r"^[^/]+/(?P<file>.+/(?P<patient>patient\d+)/(?P<study>\w+)/(?P<view>\w+)\.\w+)$"
    )
    strange = labels["Path"][parts["file"].isna()]
    if len(strange):
        raise DatasetError(f"{files['train']}: not a path of CheXpert: {strange.iloc[0]}")
    return labels.assign(
        participant_id=parts["patient"],
        session_id=parts["study"],
        run=parts["view"],
        image_path=[str(folder / file) for file in parts["file"]],
        age=labels["Age"],
        sex=labels["Sex"].map({"Female": "F", "Male": "M"}),
    )


def read_odir(folder, files):
    """Return one row per eye; labels are the patient's, whether the table has a row per patient or per eye."""
    labels = _read_table(files["labels"])
    sides = {"left": "Left-Fundus", "right": "Right-Fundus"}
    _require(files["labels"], labels, ["ID", "Patient Age", "Patient Sex", *sides.values()])
    patients = labels.drop_duplicates("ID")
    eyes = [patients.assign(eye=eye, run=eye, file=patients[column]) for eye, column in sides.items()]
    table = pd.concat(eyes, ignore_index=True)
    return table.assign(
        participant_id=table["ID"].astype(str),
        image_path=[str(files["images"] / file) for file in table["file"]],
        age=table["Patient Age"],
        sex=table["Patient Sex"].map({"Female": "F", "Male": "M"}),
    )


READERS = {"celeba": read_celeba, "chexpert": read_chexpert, "odir": read_odir}


def find_files(settings, folder):
    """Return the path of every file and folder the dataset needs, or say which are absent and where they come from."""
    found = {
        name: [folder / place for place in places if (folder / place).exists()]
        for name, places in settings["files"].items()
    }
    absent = [f"  {' or '.join(settings['files'][name])}" for name, places in found.items() if not places]
    if absent:
        raise DatasetError("\n".join([f"not found in {folder}:", *absent, f"they come from {settings['source']}"]))
    return {name: places[0] for name, places in found.items()}


def keep_present(table, source):
    """Return the rows whose image is there, and say how many are not."""
    present = np.array([Path(path).is_file() for path in table["image_path"]], dtype=bool)
    if not present.any():
        first = table["image_path"].iloc[0] if len(table) else "no row"
        raise DatasetError(f"none of the {len(table)} images is there, such as {first}; they come from {source}")
    if not present.all():
        first = table["image_path"].to_numpy()[~present][0]
        print(f"{(~present).sum()} of {len(table)} images are absent and left out, such as {first}", file=sys.stderr)
    return table[present]


def assign_classes(table, settings):
    """Return the class of every row, missing where it is of none.

    Parameters
    ----------
    table : DataFrame
        With the columns that ``settings`` names.
    settings : dict
        ``classes`` (name to the column that is 1, or None), ``exclusive`` and ``present``: of the exclusive columns
        only the class's own may hold a present value.

    Returns
    -------
    Series of str

    Examples
    --------
    >>> settings = {"classes": {"control": None, "hat": "hat"}, "exclusive": ["hat", "glasses"], "present": [1]}
    >>> assign_classes(pd.DataFrame({"hat": [-1, 1, 1], "glasses": [-1, -1, 1]}), settings).tolist()
    ['control', 'hat', nan]
    """
    present = table[settings["exclusive"]].isin(settings["present"])
    found = pd.Series(np.nan, index=table.index, dtype=object)
    for name, column in settings["classes"].items():
        others = present[[other for other in present if other != column]].any(axis=1)
        own = True if column is None else table[column] == 1
        found[own & ~others] = name
    return found


def cap_classes(table, caps, balance, rng):
    """Return at most ``caps`` images of each class, shared equally among the values of ``balance``.

    Participants are drawn in random order, each with all images until the cap is reached.
    """
    people = table["participant_id"].unique()
    rank = table["participant_id"].map(pd.Series(rng.permutation(len(people)), index=people))
    drawn = table.loc[rank.sort_values(kind="stable").index].dropna(subset=balance)
    shares = len(drawn[balance].drop_duplicates()) if balance else 1
    place = drawn.groupby(["class", *balance]).cumcount()
    return drawn[place < drawn["class"].map(caps) // shares].sort_index()


def make_table(name, folder, settings):
    """Return the manifest of a dataset.

    Parameters
    ----------
    name : {"celeba", "chexpert", "odir"}
    folder : path
        The dataset.
    settings : dict
        As in ``data_manifests``.

    Returns
    -------
    DataFrame
        Those of :data:`COLUMNS` that the dataset has; ``image_path`` absolute.

    Raises
    ------
    DatasetError
        With what is missing and where it comes from.
    """
    folder = Path(folder).resolve()
    files = find_files(settings, folder)
    table = READERS[name](folder, files).reset_index(drop=True)
    keep = settings.get("keep", {})
    own = [column for column in settings["classes"].values() if column is not None]
    _require(next(iter(files.values())), table, [*keep, *own, *settings["exclusive"]])
    table = table[(table[list(keep)] == pd.Series(keep, dtype=object)).all(axis=1)]
    table = table.assign(**{"class": assign_classes(table, settings)}).dropna(subset="class")
    table = keep_present(table, settings["source"])
    ill = table.loc[table["class"] != "control", "participant_id"].unique()
    table = table[(table["class"] != "control") | ~table["participant_id"].isin(ill)]
    table = cap_classes(table, settings["caps"], settings["balance"], np.random.default_rng(settings["seed"]))
    empty = sorted(set(settings["classes"]) - set(table["class"]))
    if empty:
        raise DatasetError(f"{folder}: no image of class {', '.join(empty)}")
    is_control = table["class"] == "control"
    table = table.assign(diagnosis=np.where(is_control, "control", "patient"), subtype=table["class"].mask(is_control))
    table = _divide(table.reset_index(drop=True), settings)
    return table[[column for column in COLUMNS if column in table]]


def _divide(table, settings):
    split = settings["split"]
    if "part" in table:
        return table.assign(split=table["part"].map(split))
    return assign_splits(table, **split, stratify=["class"], seed=settings["seed"])


def _read_table(path, **how):
    try:
        return pd.read_csv(path, **how)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as the table it should be ({error})") from None


def _require(path, table, columns):
    absent = [column for column in dict.fromkeys(columns) if column not in table]
    if absent:
        raise DatasetError(f"{path}: not the published table, no column {', '.join(absent)}")


def write(table, path):
    """Write the manifest and the JSON file that describes its columns."""
    table.attrs["dictionary"] = {column: entry for column, entry in DESCRIPTIONS.items() if column in table}
    write_json(write_manifest(table, path).with_suffix(".json"), describe_columns(table))


def main(arguments=None):
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=READERS)
    parser.add_argument("folder", type=Path, help="the dataset as it was unpacked")
    parser.add_argument("output", type=Path, help="manifest to write, .tsv or .csv")
    parser.add_argument("--settings", type=Path, help="other settings than data_manifests/NAME.yaml")
    given = parser.parse_args(arguments)
    try:
        settings = read_yaml(given.settings or SETTINGS / f"{given.dataset}.yaml")
        table = make_table(given.dataset, given.folder, settings)
        write(table, given.output)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(pd.crosstab(table["subtype"].fillna("control"), table["split"]).to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
