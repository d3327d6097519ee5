"""The 2-D experiments of the paper: what the images show, and which rows of public label files become a manifest."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from sepclr_med import read_manifest
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.cohort.preflight import check_cohort, check_participants
from sepclr_med.config import VolumesConfig, parse_config
from sepclr_med.volumes.cache import cache_volumes
from sepclr_med.volumes.preprocessing import build_preprocessing, preprocess
from sepclr_med.volumes.views import draw_views

PAPER = Path(__file__).parents[1] / "pipelines" / "paper"
SETTINGS = Path(__file__).parents[1] / "data_manifests"
RECIPES = sorted(PAPER.glob("*/recipe*.yaml"))
SIZES = {"train": 12, "val": 4, "test": 6}


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(PAPER))
    yield pytest.importorskip("make_images"), pytest.importorskip("make_manifest")
    sys.path[:] = [path for path in sys.path if path != str(PAPER)]


@pytest.fixture(scope="module")
def images2d(shared_data, tmp_path_factory):
    """A folder with every 50th image of the real files, sorted by class as they are."""
    folder = tmp_path_factory.mktemp("images2d")
    for name in ("mnist", "cifar10_subset_10k_2k"):
        if not (shared_data / "images2d" / f"{name}.npz").is_file():
            pytest.skip(f"{name}.npz is not beside this checkout")
        with np.load(shared_data / "images2d" / f"{name}.npz") as arrays:
            np.savez(folder / f"{name}.npz", **{key: arrays[key][::50] for key in arrays})
    return folder


@pytest.fixture(scope="module")
def sources(scripts, images2d):
    return scripts[0].load_sources(["mnist", "cifar"], images2d)


@pytest.fixture(scope="module")
def made(scripts, images2d, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    return {name: scripts[0].make(name, folder / name, SIZES, images2d) for name in ("cifar_mnist", "dsprites")}


def pixels_of(manifest):
    return np.array([np.asarray(Image.open(path)) for path in manifest["image_path"]]).astype(int)


def settings_of(recipe):
    return yaml.safe_load(recipe.read_text())


# ------------------------------------------------------------------------------------------------------ both sets


@pytest.mark.parametrize("name", ["cifar_mnist", "dsprites"])
def test_manifest_is_read_without_a_remark_and_described(made, name):
    manifest = read_manifest(made[name])
    assert manifest.attrs["problems"] == []
    assert set(manifest.attrs["dictionary"]) == set(manifest)
    counts = manifest.groupby(["split", "diagnosis"]).size().to_dict()
    assert counts == {(split, group): n for split, n in SIZES.items() for group in ("control", "patient")}
    salient = ["digit"] if name == "cifar_mnist" else ["shape", "scale", "rotation", "x", "y"]
    assert (manifest[salient].isna().all(axis=1) == (manifest["diagnosis"] == "control")).all()
    assert manifest[["object" if name == "cifar_mnist" else "digit_top_left"]].notna().all(axis=None)


@pytest.mark.parametrize("name", ["cifar_mnist", "dsprites"])
def test_check_finds_nothing_wrong_with_any_image(made, name):
    result = check_cohort(read_manifest(made[name]), ["control"], ["patient"], n_jobs=1)
    assert result.ok
    assert result.n_usable == 2 * sum(SIZES.values())
    assert [problem for problem in result.problems if problem.row] == []


@pytest.mark.parametrize("name", ["cifar_mnist", "dsprites"])
@pytest.mark.parametrize("recipe", ["recipe", "recipe_cpu"])
def test_cache_gives_the_picture_with_the_axis_that_is_flipped_first(made, name, recipe, tmp_path):
    volumes = VolumesConfig(**settings_of(PAPER / name / f"{recipe}.yaml")["volumes"], n_jobs=1)
    manifest = read_manifest(made[name])
    cached = cache_volumes(manifest, volumes, tmp_path, spatial_dims=2)
    expected = pixels_of(manifest)
    # Photos are mirrored left-right, so columns come first; shapes are not mirrored at all.
    expected = expected.transpose(0, 3, 2, 1) if name == "cifar_mnist" else expected[:, None]
    found = cached.load(np.arange(len(manifest))).astype(float)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected / 255, atol=5e-4)


@pytest.mark.parametrize("name", ["cifar_mnist", "dsprites"])
def test_the_seed_decides_and_no_picture_is_there_twice(scripts, made, images2d, tmp_path, name):
    again, other = (scripts[0].make(name, tmp_path / str(s), SIZES, images2d, seed=s) for s in (0, 1))
    first, same, different = (pixels_of(read_manifest(path)) for path in (made[name], again, other))
    np.testing.assert_array_equal(first, same)
    assert (first != different).any()
    assert len(np.unique(first.reshape(len(first), -1), axis=0)) == len(first)
    assert again.read_text() == made[name].read_text()


# ------------------------------------------------------------------------------------------------------ cifar_mnist


def test_photos_and_digits_are_halved_and_added_and_each_is_used_once(scripts, made, sources):
    manifest = read_manifest(made["cifar_mnist"])
    pixels, used = pixels_of(manifest), set()
    for row, image in zip(manifest.itertuples(), pixels, strict=True):
        part = "train" if row.split == "train" else "test"
        photos, digits = sources["cifar"], sources["mnist"]
        frame = np.delete(photos[f"x_{part}"], range(2, 30), axis=1).astype(int)
        (photo,) = np.flatnonzero((abs(2 * np.delete(image, range(2, 30), axis=0) - frame) <= 1).all(axis=(1, 2, 3)))
        assert row.object == scripts[0].NAMES["cifar"][photos[f"y_{part}"][photo]]
        rest = 2 * image - photos[f"x_{part}"][photo].astype(int)
        if row.diagnosis == "control":
            assert set(np.unique(rest)) <= {0, 1}
            digit = None
        else:
            near = abs(digits[f"x_{part}"].astype(np.int16) - rest[2:30, 2:30, 1].astype(np.int16)).max(axis=(1, 2))
            (digit,) = np.flatnonzero(near <= 1)
            exact = digits[f"x_{part}"][digit].astype(int)[..., None]
            assert set(np.unique(rest[2:30, 2:30] - exact)) <= {0, 1}
            assert row.digit == f"d{digits[f'y_{part}'][digit]}"
        assert not {(part, "photo", photo), (part, "digit", digit)} & used
        used |= {(part, "photo", photo)} | ({(part, "digit", digit)} if digit is not None else set())


# ------------------------------------------------------------------------------------------------------ dsprites


def test_grids_hold_digits_at_half_brightness_and_shapes_are_white(scripts, made, sources):
    manifest = read_manifest(made["dsprites"])
    pixels, is_target = pixels_of(manifest), (manifest["diagnosis"] == "patient").to_numpy()
    covered = scripts[0].render(manifest[is_target])
    assert pixels.shape[1:] == (64, 64)
    assert pixels[~is_target].max() == 128
    assert (pixels[is_target][covered == 1] == 255).all()
    assert (pixels[is_target][covered == 0] <= 128).all()
    halves = {part: np.rint(sources["mnist"][f"x_{part}"] / np.float32(2)) for part in ("train", "test")}
    label = {
        (part, digit.tobytes()): f"d{value}"
        for part, digits in halves.items()
        for digit, value in zip(digits.astype(int), sources["mnist"][f"y_{part}"], strict=True)
    }
    for row, image in zip(manifest[~is_target].itertuples(), pixels[~is_target], strict=True):
        part = "train" if row.split == "train" else "test"
        tiles = [(part, image[r : r + 28, c : c + 28].tobytes()) for r in (2, 34) for c in (2, 34)]
        assert row.digit_top_left == label[tiles[0]]
        assert set(tiles) <= set(label)


def sprites(shape, scale=1.0, rotation=0.0, x=0.5, y=0.5):
    angle = np.atleast_1d(rotation)
    values = {"shape": shape, "scale": scale, "rotation": angle, "x": x, "y": y}
    return pd.DataFrame(values).assign(rotation_sin=np.sin(angle), rotation_cos=np.cos(angle))


def moments(image):
    """Return area, centre (right, down) and the angle of the long axis, anticlockwise."""
    down, right = np.indices(image.shape) + 0.5
    area, centre = image.sum(), ((right * image).sum() / image.sum(), (down * image).sum() / image.sum())
    u, v = right - centre[0], centre[1] - down
    angle = np.arctan2(2 * (u * v * image).sum(), ((u**2 - v**2) * image).sum()) / 2
    return area, centre, angle


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_shapes_have_the_size_place_and_turn_they_are_said_to_have(scripts, scale):
    render, reach = scripts[0].render, scripts[0].REACH * scale
    square, ellipse = (
        render(sprites(name, scale, rotation=np.pi / 6, x=1.0, y=0.25))[0] for name in ("square", "ellipse")
    )
    for image, expected in ((square, 2 * reach**2), (ellipse, np.pi / 2 * reach**2)):
        area, centre, _ = moments(image)
        assert area == pytest.approx(expected, rel=0.02)
        assert centre == pytest.approx((48, 24), abs=0.05)
    assert moments(ellipse)[2] == pytest.approx(np.pi / 6, abs=0.02)


def test_a_heart_stands_on_its_tip_and_turns_anticlockwise(scripts):
    upright, turned = scripts[0].render(sprites("heart", rotation=[0.0, np.pi / 2]))
    np.testing.assert_allclose(upright, upright[:, ::-1], atol=0.07)
    rows = np.flatnonzero(upright.any(axis=1))
    assert upright[rows[2]].sum() > 2 * upright[rows[-3]].sum()
    np.testing.assert_allclose(turned, np.rot90(upright), atol=0.07)


def test_no_shape_leaves_the_image(scripts):
    for shape in scripts[0].SHAPES:
        for x, y in ((0, 0), (1, 1)):
            images = scripts[0].render(sprites(shape, rotation=np.linspace(0, 2 * np.pi, 9), x=x, y=y))
            assert not images[:, [0, -1]].any()
            assert not images[:, :, [0, -1]].any()


def test_factors_have_dsprites_levels_and_turns_that_no_shape_confuses(scripts):
    rng = np.random.default_rng(0)
    usual, full = (scripts[0].draw_factors(20_000, rng, full_turn) for full_turn in (False, True))
    counts = {name: 6 if name == "scale" else 40 if name == "rotation" else 32 for name in ("scale", "rotation", "x")}
    assert usual[list(counts)].nunique().to_dict() == counts
    assert usual["rotation"].between(-np.pi / 4, np.pi / 4, inclusive="left").all()
    assert np.ptp(full["rotation"]) == pytest.approx(2 * np.pi * 39 / 40)
    assert (usual[["scale", "x", "y"]].min().tolist(), usual[["scale", "x", "y"]].max().tolist()) == (
        [0.5, 0, 0],
        [1, 1, 1],
    )


# ------------------------------------------------------------------------------------------------------ messages


def test_absent_sources_are_a_message_that_says_where_they_come_from(tmp_path):
    command = [sys.executable, str(PAPER / "make_images.py"), "cifar_mnist", str(tmp_path / "out"), "--images2d"]
    ended = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    for said in (str(tmp_path), "mnist.npz", "cifar10_subset_10k_2k.npz", "https://www.cs.toronto.edu"):
        assert said in ended.stderr
    assert not (tmp_path / "out").exists()


def test_more_images_than_there_are_and_a_folder_in_use_are_messages(scripts, made, images2d, tmp_path, capsys):
    main = scripts[0].main
    assert main(["cifar_mnist", str(tmp_path), "--images2d", str(images2d), "--n-train", "120"]) == 1
    assert "200 are left" in capsys.readouterr().err
    assert main(["dsprites", str(made["dsprites"].parent), "--images2d", str(images2d)]) == 1
    assert "there already" in capsys.readouterr().err
    (tmp_path / "mnist.npz").write_bytes(b"no arrays")
    assert main(["dsprites", str(tmp_path / "out"), "--images2d", str(tmp_path)]) == 1
    assert "not a file of the arrays" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipes_are_of_images_and_valid(recipe):
    values = settings_of(recipe)
    assert values.pop("method")["name"] == "sepclr_paper"
    config = parse_config(values, str(recipe))
    assert config.network.spatial_dims == 2
    assert config.evaluation.explain == 0


@pytest.mark.parametrize(
    ("recipe", "mirrored", "channels"),
    [
        ("cifar_mnist/recipe", np.fliplr, 3),
        ("cifar_mnist/recipe_cpu", np.fliplr, 3),
        ("celeba/recipe", np.fliplr, 3),
        ("chexpert/recipe", np.fliplr, 1),
        ("odir/recipe", np.flipud, 3),
    ],
)
def test_flips_go_the_way_the_paper_flips(recipe, mirrored, channels, tmp_path):
    values = settings_of(PAPER / f"{recipe}.yaml")
    volumes = VolumesConfig(**values["volumes"])
    picture = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    picture = picture if channels == 3 else picture[..., 0]
    pipeline = build_preprocessing("vbm", 1.0, volumes.spatial_size, volumes.transforms, spatial_dims=2)
    found = []
    for file, pixels in (("as_is.png", picture), ("mirrored.png", mirrored(picture))):
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / file)
        found.append(torch.from_numpy(preprocess(pipeline, tmp_path / file)).float()[None])
    off = dict.fromkeys(("affine", "elastic", "noise", "cutout", "crop", "intensity"), 0)
    assert values["views"]["flip"] == 0.5
    config = parse_config({"views": {**values["views"], **off, "flip": 1.0}})
    flipped = draw_views(found[0], config.views, torch.Generator().manual_seed(0))
    assert found[0].shape[1] == channels
    torch.testing.assert_close(flipped, found[1], atol=2e-3, rtol=0)


# ------------------------------------------------------------------------------------------------------ manifests


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def make_manifest(scripts, name, folder, tmp_path, **changes):
    """Run the command line with the project's settings, some of them changed; return the manifest as it is read."""
    settings = tmp_path / f"{name}.yaml"
    settings.write_text(yaml.safe_dump({**yaml.safe_load((SETTINGS / f"{name}.yaml").read_text()), **changes}))
    output = tmp_path / "out" / f"{name}.tsv"
    output.parent.mkdir(exist_ok=True)
    assert scripts[1].main([name, str(folder), str(output), "--settings", str(settings)]) == 0
    manifest = read_manifest(output)
    assert manifest.attrs["problems"] == []
    assert set(manifest.attrs["dictionary"]) == set(manifest)
    assert not manifest[["participant_id", "split"]].drop_duplicates()["participant_id"].duplicated().any()
    assert all(Path(path).is_file() for path in manifest["image_path"])
    assert ((manifest["diagnosis"] == "control") == manifest["subtype"].isna()).all()
    assert check_participants(manifest, manifest["diagnosis"]) == []
    return manifest


@pytest.fixture
def celeba(tmp_path):
    folder = tmp_path / "celeba"
    rng = np.random.default_rng(0)
    names = [f"{i:06d}.jpg" for i in range(1, 121)]
    labels = pd.DataFrame(rng.choice([-1, 1], (120, 3)), names, ["Eyeglasses", "Male", "Wearing_Hat"])
    touch(*(folder / "img_align_celeba" / name for name in names))
    (folder / "list_attr_celeba.txt").write_text(
        "120\nEyeglasses Male Wearing_Hat \n"
        + "".join(f"{n} {a:2d} {b:2d} {c:2d}\n" for n, a, b, c in labels.itertuples())
    )
    part = rng.integers(3, size=120)
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, part, strict=True)))
    return folder, labels.assign(part=part)


def test_celeba_has_one_accessory_at_most_as_many_women_as_men_and_the_published_partition(scripts, celeba, tmp_path):
    folder, labels = celeba
    everyone = make_manifest(scripts, "celeba", folder, tmp_path).set_index("participant_id")
    own = labels.set_axis([Path(name).stem for name in labels.index]).loc[everyone.index]
    assert len(everyone) == (labels[["Eyeglasses", "Wearing_Hat"]].sum(axis=1) < 2).sum()
    kind = everyone["subtype"].fillna("control")
    assert (kind == np.select([own["Eyeglasses"] == 1, own["Wearing_Hat"] == 1], ["glasses", "hat"], "control")).all()
    assert (everyone["sex"] == own["Male"].map({1: "M", -1: "F"})).all()
    assert (everyone["split"] == own["part"].map({0: "train", 1: "val", 2: "test"})).all()
    caps = {"control": 12, "glasses": 6, "hat": 4}
    some = make_manifest(scripts, "celeba", folder, tmp_path, caps=caps)
    counts = some.groupby([some["subtype"].fillna("control"), "sex"]).size()
    assert counts.to_dict() == {(name, sex): n // 2 for name, n in caps.items() for sex in "FM"}
    assert make_manifest(scripts, "celeba", folder, tmp_path, caps=caps).equals(some)
    assert not make_manifest(scripts, "celeba", folder, tmp_path, caps=caps, seed=1).equals(some)


FINDINGS = yaml.safe_load((SETTINGS / "chexpert.yaml").read_text())["exclusive"]


def radiograph(patient, study=1, part="train", view="view1_frontal", position="AP", sex="Female", **findings):
    path = f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study{study}/{view}.jpg"
    plane = "Frontal" if "frontal" in view else "Lateral"
    row = {"Path": path, "Sex": sex, "Age": 60 + study, "Frontal/Lateral": plane, "AP/PA": position}
    return row | dict.fromkeys(["No Finding", *FINDINGS, "Support Devices"]) | findings


@pytest.fixture
def chexpert(tmp_path):
    folder = tmp_path / "chexpert"
    rows = [radiograph(i, **{"No Finding": 1.0}) for i in range(1, 41)]
    for first, name in ((100, "Cardiomegaly"), (200, "Edema"), (300, "Pleural Effusion")):
        rows += [
            radiograph(i, study, **{name: 1.0, "Support Devices": 1.0})
            for i in range(first, first + 20)
            for study in (1, 2)
        ]
    kept = len(rows)
    rows += [
        radiograph(100, 3, **{"No Finding": 1.0}),  # a patient is no control
        radiograph(400, position="PA", **{"No Finding": 1.0}),
        radiograph(401, view="view2_lateral", position=None, **{"No Finding": 1.0}),
        radiograph(402, Edema=1.0, Cardiomegaly=1.0),
        radiograph(403, Edema=1.0, Pneumonia=-1.0),
        radiograph(404, Edema=-1.0),
        radiograph(405),
    ]
    valid = [radiograph(500, part="valid", sex="Unknown", Edema=1.0, **{"No Finding": 0.0, "Fracture": 0.0})]
    for name, some in (("train", rows), ("valid", valid)):
        touch(*(folder / row["Path"].split("/", 1)[1] for row in some))
        pd.DataFrame(some).to_csv(folder / f"{name}.csv", index=False)
    return folder, kept + 1


def test_chexpert_has_single_findings_of_frontal_ap_radiographs_and_patients_whole(scripts, chexpert, tmp_path):
    folder, n = chexpert
    manifest = make_manifest(scripts, "chexpert", folder, tmp_path)
    assert len(manifest) == n
    kinds = manifest["subtype"].fillna("control").value_counts().to_dict()
    assert kinds == {"control": 40, "cardiomegaly": 40, "edema": 41, "effusion": 40}
    last = manifest.set_index(["participant_id", "session_id"]).loc[("patient00500", "study1")]
    assert (last["run"], last["age"]) == ("view1_frontal", 61)
    assert pd.isna(last["sex"])
    assert set(manifest["split"]) == {"train", "test"}
    share = (manifest["split"] == "test").groupby(manifest["subtype"].fillna("control")).mean()
    assert share.between(0.04, 0.2).all()
    few = make_manifest(scripts, "chexpert", folder, tmp_path, caps=dict.fromkeys(kinds, 11))
    assert few["subtype"].fillna("control").value_counts().to_dict() == dict.fromkeys(kinds, 11)


@pytest.fixture
def odir(tmp_path):
    folder = tmp_path / "odir"
    rows = []
    for i in range(120):
        labels = {letter: int(letter == "NDGCAM"[i % 6]) for letter in "NDGCAHMO"} | {"O": int(i % 7 == 0)}
        people = {"ID": i, "Patient Age": 40 + i % 30, "Patient Sex": ("Male", "Female")[i % 2]}
        rows.append(people | {"Left-Fundus": f"{i}_left.jpg", "Right-Fundus": f"{i}_right.jpg"} | labels)
    rows[0] |= {"D": 1}  # two diseases
    rows[1] |= {"D": 0, "H": 1}  # none of the six
    table = pd.DataFrame(rows)
    names = [name for column in ("Left-Fundus", "Right-Fundus") for name in table[column] if name != "7_right.jpg"]
    touch(*(folder / "preprocessed_images" / name for name in names))
    return folder, table


def test_odir_has_single_diseases_and_both_eyes_in_one_split_from_either_table(scripts, odir, tmp_path, capsys):
    folder, table = odir
    table.to_csv(folder / "ODIR-5K_Training_Annotations(Updated)_V2.csv", index=False)
    manifest = make_manifest(scripts, "odir", folder, tmp_path)
    assert "1 of 236 images are absent" in capsys.readouterr().err
    assert len(manifest) == 2 * 118 - 1
    assert not {"0", "1"} & set(manifest["participant_id"])
    row = manifest.set_index(["participant_id", "eye"]).loc[("9", "right")]
    assert (row["subtype"], row["sex"], row["age"], Path(row["image_path"]).name) == (
        "cataract",
        "F",
        49,
        "9_right.jpg",
    )
    assert set(manifest.loc[manifest["split"] == "test", "subtype"].fillna("control")) == {
        *("control", "diabetes", "glaucoma", "cataract", "macular_degeneration", "myopia")
    }
    by_eye = pd.concat([table.assign(filename=table["Left-Fundus"]), table.assign(filename=table["Right-Fundus"])])
    by_eye.to_csv(folder / "full_df.csv", index=False)
    assert make_manifest(scripts, "odir", folder, tmp_path).equals(manifest)


CAPS = {
    "celeba": {"control": 20, "glasses": 10, "hat": 10},
    "chexpert": {"control": 16, "cardiomegaly": 8, "edema": 8, "effusion": 8},
    "odir": {"control": 15, "diabetes": 5, "glaucoma": 5, "cataract": 5, "macular_degeneration": 5, "myopia": 5},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPS)
def test_each_dataset_goes_from_its_label_files_to_embeddings_by_its_recipe(scripts, name, tmp_path, run_verb, request):
    folder, table = request.getfixturevalue(name)
    if name == "odir":
        table.to_csv(folder / "full_df.csv", index=False)
    manifest = make_manifest(scripts, name, folder, tmp_path, caps=CAPS[name])
    assert len(manifest) == 40
    rng, channels = np.random.default_rng(0), () if name == "chexpert" else (3,)
    for path in manifest["image_path"]:
        pixels = rng.integers(0, 256, (*rng.integers(180, 300, 2), *channels), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    few = ["network.backbone=small", "training.epochs=1", "training.batch_size=8", "volumes.n_jobs=1"]
    chosen = [word for setting in few for word in ("--set", setting)]
    table, trained, recipe = tmp_path / "out" / f"{name}.tsv", tmp_path / "trained", PAPER / name / "recipe.yaml"
    done = run_verb("fit", table, trained, "--config", recipe, *chosen)
    assert done[0] == 0, done[2]
    done = run_verb("embed", trained)
    assert done[0] == 0, done[2]
    method = parse_config(settings_of(recipe)).method
    tables = read_embeddings(trained / "embeddings", ["common", "salient"])
    for space, n in (("common", method.common_dim), ("salient", method.salient_dim)):
        factors = tables[space][factor_columns(tables[space])].to_numpy()
        assert (factors.shape, len(set(tables[space]["participant_id"]))) == (
            (40, n),
            manifest["participant_id"].nunique(),
        )
        assert np.isfinite(factors).all()
        assert (factors.std(axis=0) > 0).any()


@pytest.mark.parametrize("name", ["celeba", "chexpert", "odir"])
def test_an_absent_dataset_is_a_message_that_names_files_and_source(scripts, name, tmp_path, capsys):
    settings = yaml.safe_load((SETTINGS / f"{name}.yaml").read_text())
    assert scripts[1].main([name, str(tmp_path), str(tmp_path / "out.tsv")]) == 1
    message = capsys.readouterr().err
    for said in (settings["source"], *(place for places in settings["files"].values() for place in places)):
        assert said in message
    assert not (tmp_path / "out.tsv").exists()


def test_tables_without_their_columns_or_their_images_are_messages(scripts, chexpert, odir, tmp_path, capsys):
    main, output = scripts[1].main, str(tmp_path / "out.tsv")
    folder, table = odir
    table.drop(columns="G").to_csv(folder / "full_df.csv", index=False)
    assert main(["odir", str(folder), output]) == 1
    assert "no column G" in capsys.readouterr().err
    table[table["D"] == 0].to_csv(folder / "full_df.csv", index=False)
    assert main(["odir", str(folder), output]) == 1
    assert "no image of class diabetes" in capsys.readouterr().err
    shutil.rmtree(chexpert[0] / "train")
    shutil.rmtree(chexpert[0] / "valid")
    assert main(["chexpert", str(chexpert[0]), output]) == 1
    assert "none of the" in capsys.readouterr().err
