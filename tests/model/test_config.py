"""Configs check themselves, come back from JSON, and name the paper's protocols."""

from __future__ import annotations

import json

import pytest

from aid_robot.errors import ConfigError
from aid_robot.model.config import PRESETS, AdapterConfig, AIDConfig, SamplingConfig, preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = preset(name)
    assert AIDConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_presets_are_the_paper_s_protocols() -> None:
    shapes = {
        name: (c.num_conditioning_frames, c.num_frames, c.height, c.fps)
        for name, c in PRESETS.items()
    }
    assert shapes["svd"] == (1, 16, 256, 5.0)
    assert shapes["ssv2"][:2] == (2, 12)
    assert shapes["epic"][:2] == (1, 12)
    assert shapes["ucf-1"][:2] == (1, 16)
    assert shapes["ucf-5"][:2] == (5, 16)
    with pytest.raises(ConfigError, match="did you mean 'ssv2'"):
        preset("ssv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_conditioning_frames": 16}, "less than num_frames"),
        ({"num_conditioning_frames": 0}, "at least 1"),
        ({"fps": 0.0}, "positive"),
        ({"conditioning_fill": "mirror"}, "one of repeat, zeros, learned"),
        ({"height": 8}, "16x16"),
        ({"num_states": 0}, "num_states=0"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AIDConfig(**changes)


def test_parts_check_themselves() -> None:
    with pytest.raises(ConfigError, match="ratio"):
        AdapterConfig(ratio=0)
    with pytest.raises(ConfigError, match="odd"):
        AdapterConfig(kernel_size=(2, 3, 3))
    with pytest.raises(ConfigError, match="sampler='ddim'"):
        SamplingConfig(sampler="ddim")
    with pytest.raises(ConfigError, match="sigma_min"):
        SamplingConfig(sigma_min=5, sigma_max=1)
    with pytest.raises(ConfigError, match=r"did you mean 'adapters\.ratio'"):
        AIDConfig.from_dict({"adapters": {"ratios": 1}})
