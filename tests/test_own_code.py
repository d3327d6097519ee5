"""MONAI's networks and transforms, and code of one's own: trained with, cached by content, found again or refused."""

import importlib
import inspect
import os
import socket
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from monai.networks import nets
from monai.transforms import Compose, Lambdad, MapTransform, RandFlipd, RandGaussianNoised, Resized, ScaleIntensityd

from sepclr_med import embed, export, fit, load_config, simulate, use
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.config import Config
from sepclr_med.encoders import monai_builder
from sepclr_med.errors import ConfigError, RunError
from sepclr_med.methods import build_network
from sepclr_med.own_code import find_own, fingerprint
from sepclr_med.settings import OwnCode, ViewsConfig
from sepclr_med.sharing.bundled import load_network
from sepclr_med.volumes.cache import cache_volumes
from sepclr_med.volumes.views import apply_views, draw_parameters

SETTINGS = [
    "training.epochs=1",
    "training.batch_size=8",
    "training.threads=1",
    "method.name=sepclr_paper",
    "method.common_dim=4",
    "method.salient_dim=3",
    "evaluation.voxel_pca_components=3",
]
SIZE = (32, 32, 32)
HAS_EINOPS = find_spec("einops") is not None
SMALL = {"_target_": "resnet10", "n_input_channels": "@in_channels", "num_classes": "@n_features", "widen_factor": 0.1}
VIT = {
    "_target_": "ViT",
    "in_channels": "@in_channels",
    "img_size": "@spatial_size",
    "patch_size": 16,
    "hidden_size": 12,
    "mlp_dim": 12,
    "num_layers": 1,
    "num_heads": 2,
    "classification": True,
    "num_classes": "@n_features",
    "post_activation": "none",
}
MODULE = """
from monai.networks.nets import resnet10
from monai.transforms import Compose, Resized, ScaleIntensityd

def chain():
    return Compose([ScaleIntensityd("image"), Resized("image", (32, 32, 32))])

def encoder(spatial_dims, in_channels, n_features):
    return resnet10(widen_factor=0.1, n_input_channels=in_channels, num_classes=n_features)
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("cohort"), n_train=16, n_test=4, spacing=12.0, seed=0)


@pytest.fixture
def config():
    return load_config(overrides=SETTINGS)


def chain(size=SIZE):
    return Compose([ScaleIntensityd("image"), Resized("image", size)])


VIEWS = Compose([RandFlipd("image", prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=1.0, std=0.1)])


def build(spatial_dims, in_channels, n_features):
    return nets.resnet10(
        spatial_dims=spatial_dims, n_input_channels=in_channels, num_classes=n_features, widen_factor=0.1
    )


def salient(folder):
    table = read_embeddings(folder)["salient"]
    return table[factor_columns(table)].to_numpy()


# ---------------------------------------------------------------- training


def test_a_compose_random_views_and_a_builder_train_resume_and_embed(cohort, config, tmp_path):
    used = use(config, transforms=chain(), views=VIEWS, network=build)
    run = fit(cohort, used, tmp_path / "run")
    tables = embed(run)
    assert tables["salient"][factor_columns(tables["salient"])].std().min() > 0
    before = (run / "checkpoints/last.safetensors").read_bytes()
    # The same objects made again are the same run; another chain, view or network is refused with the difference.
    fit(cohort, use(config, transforms=chain(), views=VIEWS, network=build), run)
    assert (run / "checkpoints/last.safetensors").read_bytes() == before
    for other, key in (
        ({"transforms": chain((40, 32, 32))}, "volumes.code.sha256"),
        ({"views": [RandFlipd("image", prob=0.1)]}, "views.code.sha256"),
        ({"network": lambda spatial_dims, in_channels, n_features: None}, "network.code"),
    ):
        with pytest.raises(RunError, match=key.replace(".", r"\.")):
            fit(cohort, use(used, **other), run)
    with pytest.raises(RunError, match="code of your own"):
        export(run, tmp_path / "bundle", bundle=True)


@pytest.mark.parametrize(
    "encoder",
    [
        {"_target_": "monai.networks.nets.DenseNet121", "spatial_dims": "@spatial_dims", "in_channels": "@in_channels",
         "out_channels": "@n_features", "init_features": 4, "growth_rate": 2, "block_config": [1, 1, 1, 1]},
        pytest.param(VIT, marks=pytest.mark.skipif(not HAS_EINOPS, reason="MONAI's ViT needs einops")),
        pytest.param(SMALL, marks=pytest.mark.slow),
    ],
    ids=["DenseNet121", "ViT", "resnet10"],
)  # fmt: skip
def test_networks_of_monai_by_name_train_and_embed_from_a_run_folder_alone(cohort, config, tmp_path, encoder):
    views = [{"name": "RandFlipd", "prob": 0.5, "spatial_axis": 0}]
    resized = [{"name": "Resized", "spatial_size": list(SIZE)}]
    run = fit(cohort, use(config, transforms=resized, views=views, network=encoder), tmp_path / "run")
    assert load_config(run / "config.yaml").network.encoder == encoder
    assert np.isfinite(embed(run)["common"].filter(like="common_")).all(axis=None)


def test_a_bundle_of_a_network_of_monai_holds_it(cohort, config, tmp_path):
    resized = [{"name": "Resized", "spatial_size": [16, 16, 16]}]
    run = fit(cohort, use(config, network=SMALL, transforms=resized), tmp_path / "run")
    bundle = export(run, tmp_path / "bundle", bundle=True)
    found = load_network(str(bundle))(torch.rand(2, 1, 16, 16, 16))
    assert {space: values.shape for space, values in found.items()} == {"common": (2, 4), "salient": (2, 3)}


# ---------------------------------------------------------------- found again


@pytest.mark.slow
def test_another_process_imports_only_what_it_trusts_and_what_has_not_changed(cohort, config, tmp_path, monkeypatch):
    package = tmp_path / "lab_code_of_ours.py"
    package.write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("SEPCLR_MED_TRUSTED", raising=False)
    used = use(config, transforms="lab_code_of_ours:chain", network="lab_code_of_ours:encoder")
    assert used.network.code.python == "lab_code_of_ours:encoder"
    monkeypatch.delenv("SEPCLR_MED_TRUSTED")
    small = used.model_copy(update={"training": used.training.model_copy(update={"batch_size": 4})})
    run = fit(cohort, small, tmp_path / "run")
    embed(run)
    command = [sys.executable, "-m", "sepclr_med", "embed", str(run), "-o", str(tmp_path / "out")]

    def again(**environment):
        paths = {"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env={**paths, **environment}, timeout=300)

    refused = again()
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "SEPCLR_MED_TRUSTED=lab_code_of_ours" in " ".join(refused.stderr.split())
    allowed = again(SEPCLR_MED_TRUSTED="lab_code_of_ours")
    assert allowed.returncode == 0, allowed.stderr
    np.testing.assert_allclose(salient(tmp_path / "out"), salient(run / "embeddings"), atol=1e-6)
    package.write_text(MODULE.replace("widen_factor=0.1", "widen_factor=0.2"))
    changed = again(SEPCLR_MED_TRUSTED="lab_code_of_ours")
    assert changed.returncode == 1
    assert "is not what it was" in " ".join(changed.stderr.split())


def test_what_has_no_name_is_said_to_need_python(config, monkeypatch):
    used = use(config, network=lambda spatial_dims, in_channels, n_features: nets.resnet10())
    assert used.network.code.python is None
    monkeypatch.setattr("sepclr_med.own_code._given", {})
    with pytest.raises(RunError, match=r"no name to import it by.*sepclr_med\.use"):
        build_network(used, 1, SIZE)


# ---------------------------------------------------------------- the cache


class Halve(MapTransform):
    def __init__(self, factor):
        super().__init__("image")
        self.factor = factor

    def __call__(self, data):
        return {**data, "image": data["image"] * self.factor}


def test_the_cache_goes_by_what_the_chain_holds(cohort, config, tmp_path):
    def cached(*steps):
        volumes = use(config, transforms=[*steps, Resized("image", (8, 8, 8))]).volumes
        return cache_volumes(cohort[:2], volumes, tmp_path).load([0, 1]).astype(float)

    whole, half, again = cached(Halve(1.0)), cached(Halve(0.5)), cached(Halve(1.0))
    np.testing.assert_allclose(half, whole / 2, rtol=1e-2, atol=1e-4)
    np.testing.assert_array_equal(again, whole)
    assert len(list(tmp_path.glob("*/preprocessing.json"))) == 2
    doubled = cached(Lambdad("image", lambda image: image * 2))
    tripled = cached(Lambdad("image", lambda image: image * 3))
    np.testing.assert_allclose(tripled, 3 * whole, rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(doubled, 2 * whole, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_fingerprints_are_those_of_content_in_every_process(tmp_path):
    code = (
        "from monai.transforms import *; from sepclr_med.own_code import fingerprint; "
        "print(fingerprint(Compose([ScaleIntensityd('image'), Resized('image', (32, 32, 32))])))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == fingerprint(chain())
    factors = [fingerprint(Lambdad("image", lambda image, by=by: image * by)) for by in (1, 2)]
    assert factors[0] != factors[1]


def test_fingerprints_see_defaults_by_name_and_inherited_classes(monkeypatch, tmp_path):
    def make(by):
        return lambda image, *, by=by: image * by

    assert fingerprint(make(1)) != fingerprint(make(2))
    found = []
    for factor in (1, 2):
        folder = tmp_path / str(factor)
        folder.mkdir()
        (folder / "lab_of_bases.py").write_text(f"class Base:\n    factor = {factor}\n\nclass Own(Base):\n    pass\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            patch.delitem(sys.modules, "lab_of_bases", raising=False)
            found.append(fingerprint(importlib.import_module("lab_of_bases").Own()))
    assert found[0] != found[1]
    with open(__file__) as stream, pytest.raises(ConfigError, match="cannot be told from another"):
        fingerprint({"file": stream})


def test_lambdas_of_one_line_are_told_apart_in_every_process():
    twice, thrice, a, b = lambda x: x * 2, lambda x: x * 3, lambda x: x.a, lambda x: x.b
    assert inspect.getsource(twice) == inspect.getsource(b)
    assert len({fingerprint(one) for one in (twice, thrice, a, b)}) == 4
    # Also without a source; constants of a set, and code in code, look different in every process.
    line = "f = lambda x: [(lambda z: z + 1)(y) for y in x if y in {'one', 'two', 'three'}]"
    code = f"from sepclr_med.own_code import fingerprint; {line}; print(fingerprint(f))"
    found = set()
    for seed in "12":
        seeded = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=seeded, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_numbers_that_numpy_lacks_have_fingerprints():
    ones = torch.ones(3, dtype=torch.bfloat16)
    assert fingerprint({"w": ones}) == fingerprint({"w": ones.clone()})
    assert fingerprint({"w": ones}) not in (fingerprint({"w": 2 * ones}), fingerprint({"w": ones.float()}))


def test_a_trusted_package_does_not_lend_its_trust_to_what_it_imports(monkeypatch):
    monkeypatch.setenv("SEPCLR_MED_TRUSTED", "sepclr_med")
    code = OwnCode(python="sepclr_med.own_code:os.abort", sha256=fingerprint(os.abort))
    with pytest.raises(ConfigError, match="os is a module of its own"):
        find_own(code, "views")


def test_a_package_is_not_trusted_by_what_was_refused(config, monkeypatch):
    monkeypatch.setenv("SEPCLR_MED_TRUSTED", "lab")
    with pytest.raises(ConfigError):
        use(config, transforms="collections:OrderedDict", network="json:nothing_of_this_name")
    assert os.environ["SEPCLR_MED_TRUSTED"] == "lab"


# ---------------------------------------------------------------- views


def test_views_of_a_chain_depend_on_seed_and_place_only(config):
    views = use(config, views=VIEWS).views
    volumes = torch.rand(3, 2, 8, 8, 8)
    volumes[:, 1] = volumes[:, 0]

    def drawn(seed):
        return draw_parameters(6, (2, 8, 8, 8), views, torch.Generator().manual_seed(seed))

    whole = apply_views(torch.cat([volumes] * 2), drawn(0))
    assert torch.equal(whole, apply_views(torch.cat([volumes] * 2), drawn(0)))
    part = apply_views(torch.cat([volumes[1:2]] * 2), drawn(0).take(slice(1, 2)))
    assert torch.equal(part, whole[[1, 4]])
    assert not torch.equal(whole[:3], whole[3:])
    assert not torch.equal(whole, apply_views(torch.cat([volumes] * 2), drawn(1)))
    # Plain channels and deviations are turned over together.
    flip = use(config, views=[RandFlipd("image", prob=0.5, spatial_axis=0)]).views
    seen = apply_views(torch.cat([volumes] * 4), draw_parameters(12, (2, 8, 8, 8), flip, torch.Generator()))
    assert torch.equal(seen[:, 0], seen[:, 1])
    assert 0 < sum(torch.equal(a, b) for a, b in zip(seen, torch.cat([volumes] * 4), strict=True)) < 12


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"transforms": Compose([RandFlipd("image")])}, "RandFlipd.*give random transforms to views"),
        ({"transforms": lambda data: data}, "allowed: a MONAI Compose"),
        ({"transforms": [{"name": "Resizd"}]}, 'did you mean "Resized"'),
        ({"transforms": "no_such_module:chain"}, "cannot be imported"),
        ({"views": [{"name": "RandLambdad"}]}, "runs code"),
        ({"network": nets.resnet10()}, "a network, not what builds one"),
        ({"network": nets.DenseNet121}, "n_features"),
        ({"network": {"_target_": "DenseNet12"}}, 'did you mean "DenseNet'),
        ({"network": {"_target_": "os.system"}}, "no network of monai"),
        ({"network": {"_target_": "DenseNet121", "in_channels": "$print(1)"}}, "plain values only"),
        ({"network": {"_target_": "get_pretrained_resnet_medicalnet", "resnet_depth": 10}}, "fetches no weights"),
        ({"network": {"_target_": "monai.networks.nets.Transchex", "in_channels": 1}}, "fetches no weights"),
        ({"network": {"_target_": "drop_connect"}}, "no network of monai"),
        ({"network": {"_target_": "BlockArgs"}}, "no network of monai"),
        ({"network": {"_target_": "resnet18", "pretrained": True}}, "fetches no weights"),
        ({"network": {"_target_": "HoVerNet", "pretrained_url": "https://example.org/w.pt"}}, "fetches no weights"),
    ],
)
def test_what_cannot_be_used_is_refused_with_what_to_do(given, said):
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        use(Config(), **given)


def test_networks_that_fetch_weights_by_default_are_told_not_to(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    spec = {"_target_": "EfficientNetBN", "model_name": "efficientnet-b0", "spatial_dims": 2, "in_channels": 3}
    assert inspect.signature(nets.EfficientNetBN).parameters["pretrained"].default is True
    assert isinstance(monai_builder(spec)(), nets.EfficientNetBN)


def test_wrong_shapes_and_arguments_are_named():
    wrong = use(Config(), network={"_target_": "DenseNet121", "in_channels": 1, "out_channels": 7, "spatial_dims": 3})
    with pytest.raises(ConfigError, match=r'got "2 x 7"|2 x 7.*allowed: 2 x 32'):
        build_network(wrong, 1, SIZE)(torch.zeros(2, 1, *SIZE))
    unknown = use(Config(), network={"_target_": "DenseNet121", "in_channel": 1})
    with pytest.raises(ConfigError, match="in_channel"):
        build_network(unknown, 1, SIZE)
    if not HAS_EINOPS:
        with pytest.raises(ConfigError, match=r"(?s)ViT needs a package.*einops"):
            build_network(use(Config(), network=VIT), 1, SIZE)
    views = use(Config(), views=[Resized("image", (4, 4, 4))]).views
    with pytest.raises(ConfigError, match="changes the shape"):
        apply_views(torch.rand(2, 1, 8, 8, 8), draw_parameters(2, (1, 8, 8, 8), views, torch.Generator()))
    assert isinstance(views, ViewsConfig)
