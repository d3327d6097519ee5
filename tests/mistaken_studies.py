"""A small study as a newcomer has it, and what goes wrong with it: one function per heading of docs/mistakes.md."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

MANIFEST, BIDS, RUN = Path("manifest.tsv"), Path("my_study"), Path("runs/my_study")
SHAPE, VOXEL = (14, 17, 14), 12.0


def make_study(folder: Path) -> None:
    """Twelve controls and twelve patients of two sites as a BIDS folder with its manifest, and nothing else."""
    rng = np.random.default_rng(0)
    affine = np.diag([VOXEL, VOXEL, VOXEL, 1.0])
    affine[:3, 3] = -84.0, -120.0, -72.0
    rows = []
    for i in range(24):
        name = f"sub-{i + 1:03d}"
        path = BIDS / name / "anat" / f"{name}_T1w.nii.gz"
        (folder / path).parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(rng.random(SHAPE, dtype=np.float32), affine), folder / path)
        rows.append(
            {
                "participant_id": name,
                "diagnosis": ("control", "patient")[i % 2],
                "age": 20 + i,
                "sex": "FM"[i // 2 % 2],
                "site": "AB"[i // 4 % 2],
                "MADRS": 10 + 2 * i if i % 2 else "n/a",
                "image_path": path.as_posix(),
                "split": ("train", "train", "train", "train", "test", "test")[i // 4],
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(folder / MANIFEST, sep="\t", index=False)
    table.drop(columns=["image_path", "split"]).to_csv(folder / BIDS / "participants.tsv", sep="\t", index=False)
    description = '{"Name": "My study", "BIDSVersion": "1.9.0"}\n'
    (folder / BIDS / "dataset_description.json").write_text(description)


def read() -> pd.DataFrame:
    return pd.read_csv(MANIFEST, sep="\t", dtype=str, keep_default_na=False)


def write(table: pd.DataFrame) -> None:
    table.to_csv(MANIFEST, sep="\t", index=False)


def set_cells(column: str, values: dict[int, str]) -> None:
    """Write values into rows counted from 0."""
    table = read()
    table.loc[list(values), column] = list(values.values())
    write(table)


def image(i: int) -> Path:
    return Path(read()["image_path"][i])


def nothing() -> None:
    """The mistake is in the command alone."""


def dicom_folder() -> None:
    Path("dicom").mkdir()
    for i in range(3):
        Path("dicom", f"IM{i:04d}.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))


def folder_without_subjects() -> None:
    Path("scans").mkdir()
    shutil.copy(image(0), "scans/control_1.nii.gz")


def workbook() -> None:
    import zipfile

    with zipfile.ZipFile("patients.xlsx", "w") as book:
        book.writestr("xl/workbook.xml", "<workbook/>")


def german_csv() -> None:
    table = read()
    table["age"] = [f"{age},5" for age in table["age"]]
    Path("patients.csv").write_text(table.to_csv(sep=";", index=False), encoding="utf-8")


def windows_encoding() -> None:
    table = read()
    table["site"] = "Universität"
    table.to_csv("patients.csv", index=False, encoding="cp1252")


def lost_zeros() -> None:
    table = read()
    table["participant_id"] = [str(int(name.removeprefix("sub-"))) for name in table["participant_id"]]
    table.drop(columns="image_path").to_csv("clinical.csv", index=False)
    factors = read()[["participant_id"]].assign(z1=np.arange(24.0) ** 2)
    factors.to_csv("factors.csv", index=False)


def labels_as_group_names() -> None:
    table = read()
    table["diagnosis"] = ["MDD" if name == "patient" else "HC" for name in table["diagnosis"]]
    write(table)


def no_diagnosis_column() -> None:
    write(read().rename(columns={"diagnosis": "Group"}))


def no_diagnosis_at_all() -> None:
    table = pd.read_csv(BIDS / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    table.drop(columns="diagnosis").to_csv(BIDS / "participants.tsv", sep="\t", index=False)


def empty_diagnosis() -> None:
    set_cells("diagnosis", dict.fromkeys(range(24), "n/a"))


def words_for_age() -> None:
    set_cells("age", {0: "unknown", 3: "34 years", 5: "31,5"})


def sex_three_ways() -> None:
    set_cells("sex", {0: "female", 1: "1", 2: "2", 4: "w"})


def functional_image() -> None:
    nib.save(nib.Nifti1Image(np.ones((*SHAPE, 5), np.float32), np.eye(4)), image(2))


def mixed_grids() -> None:
    nib.save(nib.Nifti1Image(np.random.default_rng(1).random((7, 8, 7), dtype=np.float32), np.eye(4) * 24), image(2))


def row_twice() -> None:
    table = read()
    write(pd.concat([table, table.iloc[[4]]]))


def sites_apart() -> None:
    table = read()
    table["site"] = ["A" if name == "control" else "B" for name in table["diagnosis"]]
    write(table)


def one_control() -> None:
    table = read()
    write(table[(table["diagnosis"] == "patient") | (table.index == 0)])


def no_split() -> None:
    write(read().drop(columns="split"))


def small_cohort_to_divide() -> None:
    write(read().drop(columns="split").iloc[:4])


def other_paths() -> None:
    table = read()
    table["image_path"] = [path.removeprefix("my_study/") for path in table["image_path"]]
    write(table)


def compressed_name() -> None:
    table = read()
    table["image_path"] = [path.removesuffix(".gz") for path in table["image_path"]]
    write(table)


def deleted_image() -> None:
    image(3).unlink()


def half_an_image() -> None:
    path = image(3)
    path.write_bytes(path.read_bytes()[:2000])


def recipe(text: str):
    def prepare() -> None:
        Path("recipe.yaml").write_text(text)

    return prepare


def file_in_the_way() -> None:
    Path("runs").write_text("not a folder\n")


def folder_of_something_else() -> None:
    RUN.mkdir(parents=True)
    (RUN / "thesis.docx").write_bytes(b"PK")


def two_images_each() -> None:
    for path in sorted(BIDS.glob("sub-*/anat/*.nii.gz")):
        shutil.copy(path, path.with_name(path.name.replace("_T1w", "_acq-fast_T1w")))


def factors_of_others() -> None:
    read()[["participant_id"]].assign(z1=np.arange(24.0) ** 2).to_csv("factors.csv", index=False)


QUICK = """volumes: {spacing: 12, n_jobs: 1}
method: {name: pca, common_dim: 3, salient_dim: 3}
evaluation: {voxel_pca_components: 4, n_bootstrap: 20}
"""
TAB = recipe("volumes:\n\tpreset: vbm\n")
TYPOS = recipe("volumes:\n  presett: vbm\ntraning:\n  epochs: 5\n")
WRONG_VALUES = recipe("volumes:\n  preset: VBM\nmethod:\n  name: sepclrr\ntraining:\n  epochs: many\n")
NO_COHORT = recipe("volumes:\n  preset: vbm\n")

# Heading of docs/mistakes.md: how the study comes to be like that, and how far its run has got.
MISTAKES = {
    "A path that does not exist": (nothing, ""),
    "A folder in the place of the manifest": (nothing, ""),
    "An image in the place of the manifest": (nothing, ""),
    "A recipe in the place of the manifest": (nothing, ""),
    "A folder of DICOM files": (dicom_folder, ""),
    "A folder of images that is not BIDS": (folder_without_subjects, ""),
    "Images of a kind that is not there": (nothing, ""),
    "A derivative that is not there": (nothing, ""),
    "Several images of each participant": (two_images_each, ""),
    "No output named": (nothing, ""),
    "A manifest to be written as a workbook": (nothing, ""),
    "An Excel file": (workbook, ""),
    "A German CSV with decimal commas": (german_csv, ""),
    "Another encoding than UTF-8": (windows_encoding, ""),
    "Ids that lost their zeros": (lost_zeros, ""),
    "A misspelt diagnosis": (nothing, ""),
    "Diagnoses with other names than the defaults": (labels_as_group_names, ""),
    "One diagnosis for both groups": (nothing, ""),
    "Controls and patients exchanged": (nothing, ""),
    "A column of diagnoses under another name": (no_diagnosis_column, ""),
    "No diagnosis in participants.tsv": (no_diagnosis_at_all, ""),
    "Diagnoses all empty": (empty_diagnosis, ""),
    "Words in the column age": (words_for_age, ""),
    "Sex written in three ways": (sex_three_ways, ""),
    "A functional (4-D) image": (functional_image, ""),
    "Images on different grids": (mixed_grids, ""),
    "The same row twice": (row_twice, ""),
    "Sites with one group only": (sites_apart, ""),
    "Too few controls": (one_control, ""),
    "Not divided yet": (no_split, ""),
    "Too few participants to divide": (small_cohort_to_divide, ""),
    "Divided already": (nothing, ""),
    "A share in per cent": (no_split, ""),
    "Paths relative to another folder": (other_paths, ""),
    ".nii for .nii.gz": (compressed_name, ""),
    "An image deleted since": (deleted_image, ""),
    "An image cut short": (half_an_image, ""),
    "A tab in a recipe": (TAB, ""),
    "Unknown keys in a recipe": (TYPOS, ""),
    "Wrong values in a recipe": (WRONG_VALUES, ""),
    "A recipe that is not there": (nothing, ""),
    "A recipe without a cohort": (NO_COHORT, ""),
    "The manifest in the place of the recipe": (nothing, ""),
    "A misspelt setting": (nothing, ""),
    "A setting without its section": (nothing, ""),
    "A GPU where there is none": (nothing, ""),
    "Voxels so small that the disk is too full": (nothing, ""),
    "A file where the run folder should go": (file_in_the_way, ""),
    "A run folder that holds something else": (folder_of_something_else, ""),
    "Manifest and run folder exchanged": (nothing, ""),
    "A folder of another run": (nothing, "fitted"),
    "A table changed since": (lambda: set_cells("age", {0: "60"}), "fitted"),
    "Embedding before training": (nothing, ""),
    "Evaluating before embedding": (nothing, "fitted"),
    "A report where nothing was run": (nothing, ""),
    "New images without a folder for them": (nothing, "fitted"),
    "A variable that does not exist": (nothing, "embedded"),
    "A misspelt covariate": (factors_of_others, ""),
    "A misspelt verb": (nothing, ""),
    "A misspelt option": (nothing, ""),
    "init where nothing can be asked": (nothing, ""),
    "init where a recipe is already": (NO_COHORT, ""),
}
