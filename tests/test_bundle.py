"""The bundle: MONAI itself runs it on new images, it gives what `embed` gives, and it holds no participant."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from safetensors import safe_open

from sepclr_med import embed, export, fit, load_config, read_manifest, simulate, write_manifest
from sepclr_med.checkpoint import load_checkpoint
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.cohort.manifest import manifest_hash
from sepclr_med.errors import ManifestError, RunError
from sepclr_med.sharing.bundled import BundleDir
from sepclr_med.sharing.words import read_words

SETTINGS = [
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.epochs=2",
    "training.batch_size=8",
    "training.threads=1",
    "method.common_dim=4",
    "method.salient_dim=3",
    "evaluation.voxel_pca_components=5",
]
USER = "zebedee.quux"
# What MONAI's meta_schema_20240725.json asks for: keys that must be there, keys that may, and their types.
METADATA = dict.fromkeys(
    ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors"), str
) | {"copyright": str, "required_packages_version": dict, "network_data_format": dict}
ALSO = {"changelog": dict, "intended_use": str, "references": list, "data_type": str, "supported_apps": dict}
TENSOR = {"type": str, "format": str, "dtype": str, "num_channels": int, "spatial_shape": list, "value_range": list}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("disk") / "home" / USER


@pytest.fixture(scope="module")
def cohort(home):
    table = simulate(home / "cohort", n_train=24, n_val=0, n_test=4, spacing=12.0, seed=0)
    return table.assign(participant_id=[f"sub-HH{7000 + i}" for i in range(len(table))])


@pytest.fixture(scope="module")
def run(home, cohort):
    return fit(cohort, load_config(overrides=SETTINGS), home / "runs" / "vbm")


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    return export(run, tmp_path_factory.mktemp("bundles") / "vbm", bundle=True)


@pytest.fixture(scope="module")
def new_cohort(home):
    table = simulate(home / "new", n_train=0, n_test=3, spacing=12.0, seed=9)
    ids = [f"sub-N{i}" for i in range(len(table))]
    return write_manifest(table.assign(participant_id=ids).drop(columns="diagnosis"), home / "new" / "new.tsv")


def workflow(bundle, manifest, output=None):
    config, words = str(bundle / "configs/inference.json"), {"bundle_root": str(bundle), "manifest": str(manifest)}
    parsed = ConfigWorkflow(config, workflow_type="infer", logging_file=False, output_dir=str(output), **words)
    parsed.initialize()
    return parsed


@pytest.fixture(scope="module")
def embedded(run, new_cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    embed(run, read_manifest(new_cohort, required=["participant_id"]), folder)
    return read_embeddings(folder, ["common", "salient"])


def assert_same_embeddings(folder, expected):
    found = read_embeddings(folder, ["common", "salient", "voxel_pca"])
    assert set(found) == set(expected)
    assert "voxel_pca" not in found
    for space, table in expected.items():
        assert list(found[space]) == list(table)
        assert found[space]["participant_id"].tolist() == table["participant_id"].tolist()
        assert found[space]["model_id"].tolist() == table["model_id"].tolist()
        assert found[space]["split"].isna().all()
        factors = factor_columns(table)
        np.testing.assert_allclose(found[space][factors], table[factors], atol=1e-5)
        assert table[factors].std().min() > 1e-4
    assert json.loads((folder / "dataset_description.json").read_text())["DatasetType"] == "derivative"


def test_monai_runs_it_on_new_images_and_gives_what_embed_gives(bundle, new_cohort, embedded, tmp_path):
    moved = shutil.copytree(bundle, tmp_path / "elsewhere")
    workflow(moved, new_cohort, tmp_path / "out").run()
    assert_same_embeddings(tmp_path / "out", embedded)


def test_the_python_of_the_documentation_runs_in_the_bundles_folder(
    bundle, new_cohort, embedded, tmp_path, monkeypatch
):
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(bundle)
    exec(code.replace('"new.tsv"', repr(str(new_cohort))).replace('"embeddings"', repr(str(tmp_path / "out"))), {})
    assert_same_embeddings(tmp_path / "out", embedded)


@pytest.mark.slow
def test_monais_command_line_runs_it_as_its_page_says(bundle, new_cohort, embedded, tmp_path):
    pytest.importorskip("fire", reason="MONAI's command line needs fire: pip install 'sepclr-med[bundle]'")
    words = (bundle / "docs/README.md").read_text().split("python -m monai.bundle run ")[1].split("\n")[0].split()
    places = {"new.tsv": str(new_cohort), "embeddings": str(tmp_path / "out")}
    command = [sys.executable, "-m", "monai.bundle", "run", *(places.get(word, word) for word in words)]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_embeddings(tmp_path / "out", embedded)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["volumes.normative.n_components=2", "method.erase=[age]"],
        ["method.name=sepclr_paper", "evaluation.checkpoint=best"],
        ["method.name=pca"],
        ["method.name=cvae"],
        ["method.name=simclr", "volumes.standardise=none"],
        ["volumes.preset=t1w", "volumes.standardise=none"],
    ],
    ids=lambda settings: settings[0],
)
def test_bundles_of_other_methods_and_presets_give_what_embed_gives(cohort, new_cohort, tmp_path, settings):
    manifest = cohort.assign(split=cohort["split"].replace("test", "val"))
    run = fit(manifest, load_config(overrides=[*SETTINGS, *settings]), tmp_path / "run")
    bundle = export(run, tmp_path / "bundle", bundle=True)
    embed(run, read_manifest(new_cohort, required=["participant_id"]), tmp_path / "ours")
    workflow(bundle, new_cohort, tmp_path / "theirs").run()
    assert_same_embeddings(tmp_path / "theirs", read_embeddings(tmp_path / "ours", ["common", "salient"]))


@pytest.mark.parametrize(("change", "said"), [({"site": "elsewhere"}, "elsewhere"), ({"age": None}, "age")])
def test_a_site_without_controls_in_training_and_absent_covariates_are_refused(
    bundle, new_cohort, tmp_path, change, said
):
    table = read_manifest(new_cohort, required=["participant_id"])
    strange = write_manifest(table.assign(**change), tmp_path / "strange.tsv")
    with pytest.raises(RuntimeError, match="Images") as caught:
        workflow(bundle, strange, tmp_path / "out").run()
    assert isinstance(caught.value.__cause__, ManifestError)
    assert said in str(caught.value.__cause__)
    assert not (tmp_path / "out").exists()


def test_it_has_what_monai_asks_of_a_bundle_for_inference(bundle, new_cohort):
    parsed = workflow(bundle, new_cohort)
    assert parsed.check_properties() == []
    meta = json.loads((bundle / "configs/metadata.json").read_text())
    assert set(METADATA) | {"intended_use", "references", "changelog"} <= set(meta)
    for name, kind in (METADATA | ALSO).items():
        assert name not in meta or (type(meta[name]) is kind and meta[name]), name
    assert meta["schema"].endswith("meta_schema_20240725.json")
    assert all(isinstance(reference, str) for reference in meta["references"])
    assert set(meta["network_data_format"]) == {"inputs", "outputs"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", meta["version"])
    assert set(meta["changelog"]) == {meta["version"]}
    packages = meta["required_packages_version"]
    assert {"sepclr-med", "nibabel", "safetensors"} <= set(packages)
    assert all(re.match(r"\d", version) for version in packages.values())
    image, design = (meta["network_data_format"]["inputs"][name] for name in ("image", "design"))
    found = parsed.dataset[0]["image"]
    assert list(parsed.dataset[0]["design"].shape) == [design["num_channels"]]
    assert list(found.shape) == [image["num_channels"], *image["spatial_shape"]]
    assert str(found.dtype) == f"torch.{image['dtype']}"
    outputs = meta["network_data_format"]["outputs"]
    given = parsed.network_def(found[None], parsed.dataset[0]["design"][None])
    assert {space: values.shape[1] for space, values in given.items()} == {
        space: tensor["num_channels"] for space, tensor in outputs.items()
    }
    wanted = {"type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"}
    for tensor in (image, design, *outputs.values()):
        assert wanted | {"channel_def"} == set(tensor)
        assert all(type(tensor[name]) is kind for name, kind in TENSOR.items())
        assert all(type(length) is int for length in tensor["spatial_shape"])
        assert (type(tensor["is_patch_data"]), type(tensor["channel_def"])) == (bool, dict)


def test_it_holds_no_participant_path_or_user_and_nothing_pickled(run, bundle, home):
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    assert set(files) == {
        *("LICENSE", "configs/inference.json", "configs/metadata.json", "configs/recipe.yaml"),
        *("configs/replicate.json", "docs/README.md", "docs/replicate.md"),
        *(f"models/{name}.{kind}" for name in ("model", "reference", "erasure") for kind in ("safetensors", "json")),
    }
    for name, path in files.items():
        content = path.read_bytes().decode("latin-1")
        assert not re.search(r"HH7\d\d\d", content), name
        for told in (str(home), USER, "/home/", "/tmp/"):
            assert told not in content, name
        assert read_words(path) is not None
    # The run has what the bundle leaves out: without it this test would prove nothing.
    assert re.search(r"HH7\d\d\d", (run / "checkpoints/reference.json").read_text())
    with safe_open(bundle / "models/model.safetensors", "np") as stream:
        assert not [name for name in stream.keys() if name.startswith(("optimiser", "loss"))]  # noqa: SIM118
    assert len(BundleDir(bundle).reference().coefficients) == 1


def test_from_its_recipe_the_same_model_is_trained_again_bit_by_bit(run, bundle, tmp_path):
    facts = json.loads((bundle / "configs/replicate.json").read_text())
    manifest = read_manifest(run / "data/manifest.tsv")
    assert manifest_hash(manifest) == facts["manifest_sha256"]
    config = load_config(bundle / "configs/recipe.yaml")
    again = fit(manifest, config, tmp_path / "again")
    state = load_checkpoint(again / "checkpoints/last.safetensors")[1]
    assert state["model_id"] == facts["model_id"]
    assert state["volumes_sha256"] == facts["volumes_sha256"]
    steps = (bundle / "docs/replicate.md").read_text()
    assert all(facts[name] in steps for name in ("manifest_sha256", "volumes_sha256", "model_id"))


def test_what_has_no_single_network_or_would_tell_someone_is_refused(run, bundle, tmp_path):
    with pytest.raises(RunError, match="is not empty"):
        export(run, bundle, bundle=True)
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "crossfit.json").write_text("{}")
    with pytest.raises(RunError, match="a cross-fit has many models"):
        export(copy, tmp_path / "out", bundle=True)
    (copy / "crossfit.json").unlink()
    (copy / "checkpoints/last.safetensors").unlink()
    with pytest.raises(RunError, match="no such checkpoint"):
        export(copy, tmp_path / "out", bundle=True)
    named = shutil.copytree(run, tmp_path / "named")
    config = (named / "config.yaml").read_text().replace("transforms: null", "transforms: [{name: sub-HH7003}]")
    (named / "config.yaml").write_text(config)
    with pytest.raises(RunError, match=r"recipe\.yaml: an original id"):
        export(named, tmp_path / "out", bundle=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["named", "run"]
