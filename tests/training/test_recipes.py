"""Recipes: the shipped ones, changes to them, and what is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aid_robot.errors import ConfigError
from aid_robot.model.build import SMALL_SIZES, ModelSizes
from aid_robot.model.config import preset
from aid_robot.training.recipes import load_recipe, shipped_recipes
from aid_robot.training.start import with_changes
from aid_robot.training.tables import build


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_sound(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.about
    changed = with_changes(preset(recipe.model.preset), recipe.model.config)
    assert changed.num_frames >= 8
    assert build(ModelSizes, {**vars(SMALL_SIZES), **recipe.model.sizes}, "model.sizes")


def test_the_needed_recipes_are_shipped() -> None:
    needed = {"debug", "bundled", "bundled_gpu", "finetune", "full_size", "ablations"}
    assert needed <= set(shipped_recipes())


def test_changes_reach_the_recipe() -> None:
    changes = ["aid.steps=7", "data.store=s3://bucket/a.zarr", "data.augment.mirror=0.5",
               "model.config.num_frames=12", "precision=bf16"]  # fmt: skip
    recipe = load_recipe("debug", changes)
    assert recipe.stages["aid"].steps == 7
    assert recipe.data.store == "s3://bucket/a.zarr"
    assert recipe.data.augment.mirror == 0.5
    assert recipe.model.config["num_frames"] == 12
    assert recipe.model.config["height"] == 32
    assert recipe.precision == "bf16"


def test_a_file_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('extends = "debug"\n[aid]\nsteps = 5\nbatch_size = 4\n')
    (tmp_path / "mine.toml").write_text('extends = "base"\n[aid]\nsteps = 9\n')
    config = load_recipe(str(tmp_path / "mine.toml")).stages["aid"]
    assert (config.steps, config.batch_size) == (9, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("aid.stpes=3", r"'aid.stpes' is not a setting: did you mean 'aid.steps'\?"),
        ("sede=3", r"'sede' is not a setting: did you mean 'seed'\?"),
        ("data.augment.corp=0.1", r"did you mean 'data.augment.crop'\?"),
        ("aid.steps=0", r"\[aid\] steps=0 must be positive"),
        ("aid.steps='many'", r"aid.steps='many' must be a whole number"),
        ("aid.compile=1", r"aid.compile=1 must be true or false"),
        ("aid.batch_size=true", r"aid.batch_size=True must be a whole number"),
        ("aid.trains=adapters", r"aid.trains='adapters' must be one of 'aid', 'full'"),
        ("stages=['vea']", r"no training stage 'vea': did you mean 'vae'\?"),
        ("stages=['aid', 'vae']", "out of order"),
        ("stages=[]", "stages is empty"),
        ("stages=['prior']", "VAE with random weights"),
        ("model.start=bundled", "would change the VAE"),
        ("aid.trains=decoder", r"aid\.trains='decoder' means nothing"),
        ("vae.trains=full", r"vae\.trains='full' means nothing"),
        ("aid.accumulation=4", "batch_size=2 must be a multiple of accumulation=4"),
        ("cache.where=disk", "must be one of 'store', 'memory', 'none'"),
        ("aid", "--set aid is no assignment"),
    ],
)
def test_mistakes_are_named(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("debug", [change])


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cache.embeddings keeps what frozen towers give"):
        load_recipe("debug", ["cache.embeddings=true", "aid.train_towers=true"])
    with pytest.raises(ConfigError, match=r"would be copied to each of data.workers=2"):
        load_recipe("debug", ["cache.where=memory", "data.workers=2"])
    for part in ("vae", "towers"):
        both = ["model.sizes={}", "model.start=a", f"model.{part}=b"]
        with pytest.raises(ConfigError, match=rf"model.{part}='b' would replace what the UNet"):
            load_recipe("debug", ["stages=['aid']", *both])
    with pytest.raises(ConfigError, match="where='none' keeps nothing"):
        load_recipe("debug", ["cache.where=none", "cache.versions=2"])


def test_an_unknown_recipe_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'bundled'\? Known: ablations"):
        load_recipe("bundeld")
    with pytest.raises(ConfigError, match="there is no recipe"):
        load_recipe(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("stages = [")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(str(tmp_path / "bad.toml"))


def test_how_often_it_is_saved_is_not_part_of_what_a_stage_is() -> None:
    config = load_recipe("debug").stages["aid"]
    assert replace(config, save_every_minutes=1.0, log_every=9).identity == config.identity
    assert replace(config, learning_rate=0.1).identity != config.identity
