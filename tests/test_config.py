from pathlib import Path

import pytest
import yaml

from sepclr_med.config import Config, dump_config, load_config, parse_config
from sepclr_med.errors import ConfigError

PIPELINES = Path(__file__).parents[1] / "pipelines"
RECIPES = sorted(PIPELINES.glob("**/recipe*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(PIPELINES).with_suffix("")))
def test_every_recipe_is_valid_and_lists_only_what_differs(recipe):
    config, default = load_config(recipe), Config()
    for section, values in yaml.safe_load(recipe.read_text()).items():
        for key in values:
            assert getattr(getattr(config, section), key) != getattr(getattr(default, section), key) or key in (
                "preset",
                "backbone",
                "epochs",
                "batch_size",
            ), f"{section}.{key} repeats the default"


def test_unknown_keys_are_refused_all_at_once_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=["training.epoch=5", "volume.spacing=2", "cohort.split.test_sise=0.3"])
    message = str(caught.value)
    assert len(caught.value.problems) == 3
    assert 'did you mean "epochs"?' in message
    assert 'did you mean "volumes"?' in message
    assert 'did you mean "test_size"?' in message


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("training.epochs=-3", "training.epochs: is -3; allowed: 1 or more"),
        ("views.affine=3", "views.affine: is 3; allowed: 1 or less"),
        ("training.learning_rate=0", "training.learning_rate: is 0; allowed: more than 0"),
        ("training.warmup=1", "training.warmup: is 1; allowed: less than 1"),
        ("training.epochs=null", 'training.epochs: not a whole number; got "null"'),
        ("method.contrast=-1", 'method.contrast: no such choice; got "-1"; allowed: auto, or 0 or more'),
        ("method.contrast=atuo", 'got "atuo"; allowed: auto, or a number; fix: did you mean "auto"?'),
    ],
)
def test_values_that_are_not_allowed_name_the_key_what_was_found_and_what_is_allowed(assignment, said):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[assignment])
    assert len(caught.value.problems) == 1
    assert said in str(caught.value)


def test_what_stood_on_the_command_line_is_not_blamed_on_the_recipe(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: {epochs: 0}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(recipe, ["training.epoch=5", "views.affine=3", "method.common_dim=2"])
    first, *said = str(caught.value).splitlines()
    assert first == f"{recipe}: 4 problem(s) to mend"
    assert [line.strip().partition(": ")[0] for line in said] == [
        "--set views.affine",
        f"{recipe} with --set method.common_dim",
        str(recipe),
        "--set training.epoch",
    ]
    with pytest.raises(ConfigError, match=r"^--set: 1 problem") as caught:
        load_config(recipe, ["training.epochs=-1"])
    assert str(recipe) not in str(caught.value)


def test_few_common_factors_are_told_the_setting_that_leaves_some():
    with pytest.raises(ConfigError, match=r"set method\.erase_salient=0, or a larger method\.common_dim"):
        load_config(overrides=["method.common_dim=2"])


def test_overrides_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: {epochs: 7, batch_size: 32}\n")
    config = load_config(recipe, ["training.epochs=3"])
    assert (config.training.epochs, config.training.batch_size, config.training.seed) == (3, 32, 0)


def test_the_resolved_configuration_reads_back_as_itself():
    config = load_config(overrides=["cohort.target=[a, b]", "volumes.transforms=[{name: Orientationd, axcodes: RAS}]"])
    assert parse_config(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize("text", ["- a\n- b\n", "training: [", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_recipe_is_a_message(tmp_path, text):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(ConfigError, match="recipe"):
        load_config(recipe)


def test_a_missing_recipe_and_a_bad_assignment_are_messages(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load_config(overrides=["epochs"])


def test_a_diagnosis_cannot_be_in_both_groups_nor_a_cohort_have_two_sources():
    with pytest.raises(ConfigError, match="both background and target"):
        load_config(overrides=["cohort.background=[HC]", "cohort.target=[HC]"])
    with pytest.raises(ConfigError, match="one source"):
        load_config(overrides=["cohort.manifest=a.tsv", "cohort.simulate={n_train: 2}"])


def test_the_configuration_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Config().training.epochs = 3
