import pandas as pd
import pytest

from sepclr_med import read_manifest, write_manifest
from sepclr_med.cohort.ledger import seal
from sepclr_med.cohort.merging import append_rows, label_dataset, require_place
from sepclr_med.errors import ManifestError


def dataset(folder, ids, **columns):
    paths = [str(folder / f"{i}.nii.gz") for i in ids]
    return pd.DataFrame({"participant_id": ids, "image_path": paths, "diagnosis": "control", **columns})


def test_a_second_dataset_keeps_its_own_columns_paths_and_ids(tmp_path):
    first = label_dataset(dataset(tmp_path / "a", ["sub-01", "sub-02"], bdi=[3.0, 4.0]), site="A")
    path = write_manifest(first, tmp_path / "manifest.tsv")
    second = label_dataset(dataset(tmp_path / "b", ["sub-01", "sub-03"], iq=[90.0, 95.0]), site="B", prefix="b")
    write_manifest(append_rows(path, second), path)
    both = read_manifest(path)
    assert both["participant_id"].tolist() == ["sub-01", "sub-02", "sub-b01", "sub-b03"]
    assert both["site"].tolist() == ["A", "A", "B", "B"]
    assert both["image_path"][2] == str(tmp_path / "b" / "sub-01.nii.gz")
    assert both["bdi"].isna().tolist() == [False, False, True, True]
    assert both["iq"].tolist()[2:] == [90.0, 95.0]


def test_two_people_never_become_one(tmp_path):
    path = write_manifest(dataset(tmp_path, ["sub-01", "sub-02"]), tmp_path / "manifest.tsv")
    before = path.read_bytes()
    with pytest.raises(ManifestError, match=r"sub-02.*--prefix"):
        append_rows(path, dataset(tmp_path / "b", ["sub-02", "sub-03"]))
    assert path.read_bytes() == before


def test_rows_are_added_or_replaced_never_both(tmp_path):
    with pytest.raises(ManifestError, match="take one"):
        require_place(tmp_path / "manifest.tsv", append=True, overwrite=True)


def test_families_of_two_datasets_never_become_one(tmp_path):
    rows = dataset(tmp_path, ["sub-01", "sub-02", "sub-03"], family_id=["1", "1", None])
    assert label_dataset(rows, prefix="b")["family_id"].dropna().tolist() == ["b1", "b1"]


def test_a_manifest_is_replaced_on_request_only_and_a_sealed_one_never(tmp_path, run_verb):
    for name in ("first/sub-01", "first/sub-02", "second/sub-01", "second/sub-02"):
        folder = tmp_path / name / "anat"
        folder.mkdir(parents=True)
        (folder / f"{folder.parent.name}_T1w.nii.gz").write_bytes(b"")
    path = tmp_path / "manifest.tsv"
    words = ["manifest", tmp_path / "first", "-o", path, "--diagnosis", "control"]
    more = ["manifest", tmp_path / "second", *words[2:], "--prefix", "b", "--append"]
    assert run_verb(*words)[0] == 0
    divided = write_manifest(read_manifest(path).assign(split=["train", "test"]), path).read_bytes()
    code, _, err = run_verb(*words)
    assert (code, path.read_bytes()) == (1, divided)
    assert "--append" in err
    assert "--overwrite" in err
    assert run_verb(*more)[0] == 0
    assert len(read_manifest(path)) == 4
    assert run_verb(*words, "--overwrite")[0] == 0
    assert "split" not in read_manifest(path)
    path.write_bytes(divided)
    seal(read_manifest(path), path)
    for again in (words, more, [*words, "--overwrite"]):
        code, _, err = run_verb(*again)
        assert (code, path.read_bytes()) == (1, divided)
        assert "sealed" in err


def test_a_prefix_that_bids_does_not_allow_is_refused():
    with pytest.raises(ManifestError, match="letters and digits"):
        label_dataset(pd.DataFrame({"participant_id": ["sub-01"]}), prefix="site_b")
