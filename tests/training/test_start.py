"""What a stage starts from, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aid_robot.data.store import EpisodeStore
from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import from_svd, load_model, save_model
from aid_robot.model.states import TemplateStatePredictor
from aid_robot.training.config import ModelConfig
from aid_robot.training.recipes import load_recipe
from aid_robot.training.run import train
from aid_robot.training.start import EXTRAS, first_model, load_changed, put_weights, save_trained
from tests.tiny import tiny_config, tiny_model
from tests.training.conftest import DebugRun


def aid_part(model: AIDModel) -> torch.Tensor:
    return model.condition_encoder.dqformer.queries


def test_a_model_is_loaded_or_its_aid_part_begun_anew(tiny_model_dir: Path) -> None:
    old = load_model(tiny_model_dir)
    same = load_changed(tiny_model_dir, ModelConfig(config={"sampling": {"steps": 9}}))
    assert aid_part(same).equal(aid_part(old))
    assert same.config.sampling.steps == 9
    assert same.condition_encoder.config is same.config
    for wanted in (ModelConfig(fresh_aid=True), ModelConfig(config={"num_states": 3})):
        fresh = load_changed(tiny_model_dir, wanted)
        assert not aid_part(fresh).equal(aid_part(old))
        assert fresh.unet.conv_in.weight.equal(old.unet.conv_in.weight)
        assert fresh.config.base_model is None
    with pytest.raises(ConfigError, match=r"did you mean 'dqformer.states'"):
        load_changed(tiny_model_dir, ModelConfig(config={"dqformer": {"stats": 1}}))


@torch.no_grad()
def test_a_unet_of_v_begins_near_what_it_knows_of_x0(tiny_model_dir: Path) -> None:
    old = load_model(tiny_model_dir)
    new = load_changed(tiny_model_dir, ModelConfig(config={"prediction_type": "sample"}))
    assert aid_part(new).equal(aid_part(old))
    pixels = torch.zeros(1, 1, 3, 32, 32)
    encodings = old.encode(pixels, pixels, ["open the drawer"], [["a", "b", "c", "d"]])
    latents = 500.0 * torch.randn(1, *old.latent_shape)
    expected = old.denoise(latents, 500.0, old.condition(encodings))
    found = new.denoise(latents, 500.0, new.condition(encodings))
    assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_a_unet_is_not_turned_while_it_is_frozen(debug_run: DebugRun, tmp_path: Path) -> None:
    """Towers first, then the UNet: its output turns with the stage that trains it."""
    changes = [
        f"data.store={debug_run.store}",
        f"model.start={debug_run.model}",
        *(f"{stage}.{what}" for stage in ("clip", "aid") for what in ("steps=1", "batch_size=2")),
        *("clip.alternatives=1", "aid.alternatives=1", "aid.validation_clips=2"),
        "stages=['clip', 'aid']",
    ]
    for wanted in ("prediction_type=sample", "conditioning_fill=draft"):
        frozen = load_recipe("bundled_more", [*changes, f"model.config.{wanted}", "aid.trains=aid"])
        with pytest.raises(ConfigError, match=r"changes what the UNet.*aid\.trains='full'"):
            train(frozen, tmp_path / "frozen", device="cpu")
    turned = [*changes, "model.config.prediction_type=sample"]
    trained = train(load_recipe("bundled_more", turned), tmp_path / "run", device="cpu")
    between, after = load_model(tmp_path / "run" / "clip" / "model"), load_model(trained)
    assert (between.config.prediction_type, after.config.prediction_type) == (
        "v_prediction",
        "sample",
    )
    before = load_model(debug_run.model).unet.conv_out.weight
    assert between.unet.conv_out.weight.equal(before)
    cosine = torch.cosine_similarity(after.unet.conv_out.weight.flatten(), -before.flatten(), dim=0)
    assert cosine > 0.9
    scheduler = json.loads((trained / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "sample"


@torch.no_grad()
def test_a_model_that_begins_to_draft_keeps_what_it_has_learned(debug_run: DebugRun) -> None:
    """The head that taught its towers becomes its draft, which the UNet leaves as it is."""
    old = load_model(debug_run.model)
    new = load_changed(debug_run.model, ModelConfig(config={"conditioning_fill": "draft"}))
    assert aid_part(new).equal(aid_part(old))
    head = load_file(debug_run.model.parent / EXTRAS)
    draft = new.condition_encoder.draft
    assert draft is not None
    assert {n for n in head if n.startswith("head.")} == {f"head.{n}" for n in draft.state_dict()}
    for name, tensor in draft.state_dict().items():
        assert tensor.equal(head[f"head.{name}"])
    assert not new.unet.conv_out.weight.any()
    assert new.unet.conv_in.weight.equal(old.unet.conv_in.weight)


@torch.no_grad()
def test_a_model_that_begins_to_point_keeps_what_it_has_learned(debug_run: DebugRun) -> None:
    """The pointer that taught its towers becomes its own; the draft gets layers that do nothing."""
    old = load_model(debug_run.model)
    wanted = {"dqformer": {"pointing": True}, "conditioning_fill": "draft", "draft_layers": 1}
    new = load_changed(debug_run.model, ModelConfig(config=wanted))
    assert aid_part(new).equal(aid_part(old))
    taught, pointer = (
        load_file(debug_run.model.parent / EXTRAS),
        new.condition_encoder.dqformer.pointer,
    )
    assert pointer is not None
    for name, tensor in pointer.state_dict().items():
        assert tensor.equal(taught[f"pointer.{name}"])
    assert new.condition_encoder.draft is not None
    assert len(new.condition_encoder.draft.mix) == 1


@pytest.mark.parametrize(("keeps_towers", "whole"), [(True, False), (False, True)])
def test_nothing_that_was_trained_is_lost(tmp_path: Path, keeps_towers: bool, whole: bool) -> None:
    """On a base that is named, the AID part alone is saved, unless more was trained."""
    base = tmp_path / "base"
    save_model(tiny_model(), base)
    model = from_svd(base, tiny_config(), text_model=base)
    name = "text_encoder." + next(n for n, _ in model.text_encoder.named_parameters())
    trained = {"condition_encoder.dqformer.queries": aid_part(model).detach() + 1}
    if not keeps_towers:
        trained[name] = model.text_encoder.state_dict()[name.partition(".")[2]] + 1
    assert put_weights(model, {**trained, "head.bias": torch.ones(1)}) == {
        "head.bias": torch.ones(1)
    }
    save_trained(model, tmp_path / "new", base, keeps_base=True, keeps_towers=keeps_towers)
    assert (tmp_path / "new" / "unet").is_dir() == whole
    found = load_model(tmp_path / "new")
    for key, tensor in trained.items():
        part, _, rest = key.partition(".")
        assert found.modules[part].state_dict()[rest].equal(tensor)


def test_a_small_model_may_begin_with_the_towers_of_another(debug_run: DebugRun) -> None:
    narrow = "model.sizes.text_width=64"  # those of the other count
    recipe = debug_run.recipe(f"model.towers={debug_run.model}", narrow, "seed=5")
    with EpisodeStore.open(debug_run.store) as store:
        model, other = (
            first_model(recipe, store, TemplateStatePredictor()),
            load_model(debug_run.model),
        )
        for part in ("image_encoder", "text_encoder"):
            for name, tensor in other.modules[part].state_dict().items():
                assert model.modules[part].state_dict()[name].equal(tensor)
        text = "lift the red cube"
        assert model.tokenizer(text).input_ids == other.tokenizer(text).input_ids
        assert not aid_part(model).equal(aid_part(other))
        assert not model.vae.encoder.conv_in.weight.equal(other.vae.encoder.conv_in.weight)
        pixels = torch.zeros(1, 1, 3, 32, 32)
        encodings = model.encode(pixels, pixels, [text], [[text] * 4])
        assert model.condition(encodings).latents.shape == (1, *model.latent_shape)
        wider = debug_run.recipe(f"model.towers={debug_run.model}", "model.sizes.context_dim=64")
        with pytest.raises(
            ConfigError, match=r"width 32, but model\.sizes asks for context_dim=64"
        ):
            first_model(wider, store, TemplateStatePredictor())


def test_a_small_model_may_begin_with_the_vae_of_another(debug_run: DebugRun) -> None:
    """The latents are then scaled as that VAE's are."""
    recipe = debug_run.recipe(f"model.vae={debug_run.model}", "seed=5")
    with EpisodeStore.open(debug_run.store) as store:
        model, other = (
            first_model(recipe, store, TemplateStatePredictor()),
            load_model(debug_run.model),
        )
        for name, tensor in other.vae.state_dict().items():
            assert model.vae.state_dict()[name].equal(tensor)
        assert model.vae.config.scaling_factor == other.vae.config.scaling_factor
        assert model.config.latent_reference_scale == other.config.latent_reference_scale
        assert not aid_part(model).equal(aid_part(other))
        wider = debug_run.recipe(f"model.vae={debug_run.model}", "model.sizes.latent_channels=16")
        with pytest.raises(ConfigError, match=r"= \(\[32, 32, 32\], 8\), but model.sizes asks for"):
            first_model(wider, store, TemplateStatePredictor())
