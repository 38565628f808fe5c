"""Keys of params.yaml that may be left out: without any one of them the committed file has the same parameters."""

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bitsperdim.config.defaults import completed, in_force
from bitsperdim.config.families import FAMILIES
from bitsperdim.config.families.base import FamilySection, Section, TrainOverrides, TrainSection
from bitsperdim.config.params import STUDIES, Params
from bitsperdim.core.errors import InputError
from bitsperdim.preflight.agreement import validated

# dvc.yaml names them
OF_DVC = (*("dataset", "dataset.name", "dataset.path", "dequantize", "models", "seeds", "train", "evaluate"), *STUDIES)
MODELS_OF_A_STUDY = "known.excess.families"  # left out as a whole, because a family that is left out is not trained
OWN = {"iwae.train_samples": 1}  # keys in which a second model of a family differs, with their defaults


@pytest.fixture
def content(committed: Callable[[str], str]) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(committed("params.yaml"))
    return loaded


def keys_of(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping) and f"{prefix}{key}" != MODELS_OF_A_STUDY:
            yield from keys_of(value, f"{prefix}{key}.")


def at(content: Any, path: str) -> Any:
    for key in path.split("."):
        content = content[key]
    return content


def without(content: dict[str, Any], path: str) -> dict[str, Any]:
    result = copy.deepcopy(content)
    parents, _, key = path.rpartition(".")
    del (at(result, parents) if parents else result)[key]
    return result


def everything(params: Params) -> dict[str, Any]:
    """Return every value, and for each model also the settings of its training."""
    shared = {name: in_force(value) if isinstance(value, Section) else value for name, value in params}
    of_models = {name: (in_force(section), section.settings(params.train)) for name, section in params.sections.items()}
    return {**shared, "sections": of_models}


def is_needed(content: dict[str, Any], path: str) -> bool:
    """Return whether DVC needs a key, or it defines a model: section, family, own changes to `train`, or in OWN."""
    section, *rest = path.split(".")
    is_of_a_model = isinstance(content[section], Mapping) and "family" in content[section]
    return path in (*OF_DVC, *OWN) or (is_of_a_model and (not rest or rest[0] in ("family", "train")))


def test_any_other_key_may_be_left_out(content: dict[str, Any]) -> None:
    whole = everything(validated(content))
    paths = [path for path in keys_of(content) if not is_needed(content, path)]
    assert len(paths) > 130
    for path in paths:
        assert everything(validated(without(content, path))) == whole, path


def test_all_of_them_may_be_left_out_at_once(content: dict[str, Any]) -> None:
    whole = everything(validated(content))
    least: dict[str, Any] = {}
    for path in keys_of(content):
        parents, _, key = path.rpartition(".")
        if is_needed(content, path):
            value = at(content, path)
            (at(least, parents) if parents else least)[key] = {} if isinstance(value, Mapping) else value
    assert least["evaluate"] == {}
    assert least["gaussian"] == {"family": "gaussian"}
    assert everything(validated(least)) == whole


@pytest.mark.parametrize("path", OF_DVC)
def test_what_dvc_needs_is_one_sentence(path: str, content: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        validated(without(content, path))
    assert str(caught.value).startswith(f"params.yaml: {path} is missing; ")
    assert "; DVC needs this key" in str(caught.value)
    assert "\n" not in str(caught.value)
    is_section = isinstance(content[path.split(".")[0]], Mapping) and not path.startswith("dataset")
    assert (f"`{path}: {{}}` is enough" in str(caught.value)) == is_section


def test_dvc_needs_no_other(content: dict[str, Any], repository: Path) -> None:
    """DVC needs the keys that dvc.yaml interpolates or lists as parameters, and no others."""
    text = (repository / "dvc.yaml").read_text(encoding="utf-8")
    stages = YAML(typ="safe").load(text)["stages"].values()
    named = {name for stage in stages for name in stage.get("do", stage).get("params", [])} - {"${item}"}
    named |= {part.split("}")[0] for part in text.split("${")[1:]} - {"item"}
    assert named == set(OF_DVC)


def test_a_model_without_changes_is_trained_as_all_are(content: dict[str, Any]) -> None:
    params = validated(without(content, "pixelcnn.train"))
    assert params.section("pixelcnn").settings(params.train) == params.train
    params = validated(without(content, "pixelcnn.train.epochs"))
    assert params.section("pixelcnn").settings(params.train).epochs == params.train.epochs
    assert params.section("pixelcnn").settings(params.train).learning_rate == 0.003


def test_the_study_has_a_training_of_its_own(content: dict[str, Any]) -> None:
    content["density_and_mass"] = {"dequantizing": {"train": {"epochs": 2, "patience": None}}}
    flow = validated(content).density_and_mass.dequantizing.flow("uniform")
    settings = flow.settings(TrainSection())
    assert (settings.epochs, settings.patience, settings.batch_size) == (2, None, 128)
    assert settings.schedule == TrainSection().schedule


def schema_keys(schema: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in schema.model_fields.items():
        kind = field.annotation
        yield f"{prefix}{name}"
        if isinstance(kind, type) and issubclass(kind, Section) and kind is not TrainOverrides:
            yield from schema_keys(kind, f"{prefix}{name}.")


def test_the_committed_file_lists_every_key(content: dict[str, Any]) -> None:
    """The file is the documentation of all keys; only a model's own changes to `train` may be incomplete."""
    listed, known = set(keys_of(content)), set(schema_keys(Params)) - {"sections"}
    assert known <= listed
    models = [name for name, value in content.items() if isinstance(value, Mapping) and "family" in value]
    assert {content[model]["family"] for model in models} == set(FAMILIES)
    for model in models:
        family = FAMILIES[content[model]["family"]]
        assert {f"{model}.{key}" for key in schema_keys(family)} - {f"{model}.train"} <= listed


def test_its_values_are_the_defaults(content: dict[str, Any]) -> None:
    written = validated(content)
    for name, field in Params.model_fields.items():
        if name not in ("dataset", "models", "seeds", "sections"):
            default = field.get_default(call_default_factory=True) if name == "studies" else field.annotation()  # type: ignore[misc]
            assert getattr(written, name) == default, name
    dataset = {"name": "digits", "path": "data/own"}
    assert written.dataset == type(written.dataset).model_validate(dataset)
    for model, section in written.sections.items():
        default_section: FamilySection = type(section).model_validate({"family": section.family})
        differing = {
            f"{model}.{key}"
            for key in type(section).model_fields
            if key != "train" and getattr(section, key) != getattr(default_section, key)
        }
        assert differing == {key for key in OWN if key.startswith(f"{model}.")}


def test_what_is_left_out_takes_no_checkpoint_away(content: dict[str, Any]) -> None:
    """Checkpoints are found by the values with defaults (``bitsperdim.training.trainer.checkpoint_of``)."""
    written = validated(content)
    bare = validated({**content, "vae": {"family": "vae"}, "train": {}})
    for params in (written, bare):
        assert params.section("vae").model_dump(mode="json") == written.section("vae").model_dump(mode="json")
        assert params.train.model_dump(mode="json") == written.train.model_dump(mode="json")


def test_a_default_belongs_to_one_file_alone() -> None:
    """A default list is copied, so that a change in one file does not affect the next."""
    one, other = (FAMILIES["vae"].model_validate({"family": "vae"}) for _ in range(2))
    assert one.hidden_sizes == other.hidden_sizes  # type: ignore[attr-defined]
    assert one.hidden_sizes is not other.hidden_sizes  # type: ignore[attr-defined]


def test_what_is_written_is_completed(content: dict[str, Any]) -> None:
    """This holds also with keys that no longer exist or never existed, and with missing sections."""
    least = {"vae": {"family": "vae", "gone": 3}, "train": {"epochs": 2}, "evaluate": {"annealed": {"n_steps": 9}}}
    done = completed(least, "vae")
    assert done["vae"] == {**content["vae"], "gone": 3, "train": {}}
    assert done["train"] == {**content["train"], "epochs": 2}
    assert done["evaluate"] == {**content["evaluate"], "annealed": {**content["evaluate"]["annealed"], "n_steps": 9}}
    assert "dataset" not in done
    assert completed(content, "pixelcnn") == content
    assert completed({"vae": {"family": ["vae"]}, "train": 3}, "vae") == {"vae": {"family": ["vae"]}, "train": 3}
    assert completed({"rnn": {"family": "rnn"}, "vae": None}, "rnn") == {"rnn": {"family": "rnn"}, "vae": None}
