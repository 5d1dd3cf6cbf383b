"""Protocols and blocks: no figure without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aid_robot.errors import ConfigError
from aid_robot.evaluation.protocols import (
    Block,
    ClipSet,
    EvaluationProtocol,
    Figure,
    PredictorFacts,
    differing,
    get_protocol,
)

CLIPS = ClipSet(
    sources=("demo.zarr",), codecs=("jpeg quality 95",), recorded=("640x480",), strides=(1,),
    split="held out", split_hash="aa", episodes=9, clusters=8, clips=13, clips_hash="bb",
    left_out={"too short": 2},
)  # fmt: skip


def block(**changes: Any) -> Block:
    return Block(
        protocol=get_protocol("bridge"),
        clips=CLIPS,
        predictor=PredictorFacts("ours", "cc", (64, 64), {"steps": 4, "text_guidance_scale": 1.5}),
        versions={"torch": "2.13.0"},
        **changes,
    )


def test_a_figure_needs_its_block() -> None:
    with pytest.raises(TypeError, match="block"):
        Figure(metric="psnr", value=1.0, low=0.0, high=2.0, clips=1, clusters=1)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="expected the Block"):
        Figure(None, "psnr", 1.0, 0.0, 2.0, 1, 1)  # type: ignore[arg-type]
    found = Figure(block(), "psnr", 1.0, 0.0, 2.0, 1, 1)
    assert found.to_json()["block"] == block().digest


def test_a_block_says_all_that_a_figure_depends_on() -> None:
    text = str(block())
    for said in (
        "K=1 given, N=16", "frames 1 to 15", "5 fps", "stride 1", "256x256", "area average",
        "jpeg quality 95", "640x480", "hash aa", "13 clips of 9 episodes", "2 too short",
        "hash cc", "steps 4", "text_guidance_scale 1.5", "torch 2.13.0", "seed 0",
    ):  # fmt: skip
        assert said in text, said


def test_a_block_survives_json_and_its_hash_tells_blocks_apart() -> None:
    ours = block()
    assert Block.from_json(ours.to_json()) == ours
    other = replace(ours, clips=replace(CLIPS, codecs=("mp4",)))
    assert other.digest != ours.digest
    assert [text.split()[0] for text in differing(ours, other)] == ["codecs"]
    theirs = replace(ours, predictor=PredictorFacts("theirs", "dd", (32, 32)))
    assert differing(ours, theirs) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_given": 16}, "num_given=16"),
        ({"fps": 0.0}, "fps=0.0"),
        ({"size": (4, 64)}, "size=(4, 64)"),
        ({"samples": 0}, "samples=0"),
        ({"smaples": 2}, "did you mean 'samples'"),
    ],
)
def test_bad_protocols_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_protocol("bridge").replace(**changes)
    assert said in str(caught.value)


def test_names_are_known() -> None:
    assert (get_protocol("ssv2").num_given, get_protocol("ssv2").num_frames) == (2, 12)
    assert get_protocol("ucf").num_given == 5
    with pytest.raises(ConfigError, match="did you mean 'bridge'"):
        get_protocol("brigde")
    assert isinstance(get_protocol("tabletop"), EvaluationProtocol)
