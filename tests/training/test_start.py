"""What a stage starts from, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import from_svd, load_model, save_model
from aid_robot.training.config import ModelConfig
from aid_robot.training.start import load_changed, put_weights, save_trained
from tests.tiny import tiny_config, tiny_model


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
