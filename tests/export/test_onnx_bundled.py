"""By ONNX Runtime the bundled model shows what it shows by torch, on real observations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aid_robot import VideoForesight
from aid_robot.evaluation.psnr import psnr
from aid_robot.export.observations import bundled_observation, read_observation
from aid_robot.export.to_onnx import export_onnx
from tests.exported import Exports, load

SLOW = pytest.mark.slow


@pytest.fixture(scope="module", params=["fp32", pytest.param("fp16", marks=SLOW)])
def both(
    request: pytest.FixtureRequest,
    onnx_exports: Exports,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[VideoForesight, VideoForesight]:
    """The model by torch and by ONNX Runtime."""
    folder = onnx_exports.folded
    if request.param == "fp16":
        folder = tmp_path_factory.mktemp("fp16")
        export_onnx(load(onnx_exports.checkpoint), folder, precision="fp16", roles=["denoiser"])
    return (
        VideoForesight.from_pretrained(device="cpu", dtype="float32"),
        VideoForesight.from_pretrained(device="cpu", runtime="ort", engines=folder),
    )


def compare(both: tuple[VideoForesight, VideoForesight], obs: Any, instruction: str | None) -> None:
    """Compare the predicted frames, all decoded, with all three branches of the guidance."""
    truth, shown = (
        way.predict(obs, instruction, seed=4, image_guidance_scale=1.5, still_threshold=0).frames[
            :, 1:
        ]
        for way in both
    )
    assert psnr(shown, truth) >= 45


def test_a_picture_is_continued_as_by_torch(both: tuple[VideoForesight, VideoForesight]) -> None:
    drawn = bundled_observation()
    compare(both, drawn.frames, drawn.instruction)


def test_the_tabletop_is_continued_as_by_torch(both: tuple[VideoForesight, VideoForesight]) -> None:
    pytest.importorskip("mujoco", reason="the simulator: pip install 'aid-robot[sim]'")
    from aid_robot.envs.tabletop.env import TabletopEnv

    env = TabletopEnv(size=(64, 64))
    observation, _ = env.reset(seed=5)
    env.close()
    compare(both, observation, None)


@pytest.mark.bridge
@pytest.mark.parametrize("recording", ["irasim", "demos", "rlds/bridge_dataset/1.0.0"])
def test_recorded_bridge_is_continued_as_by_torch(
    both: tuple[VideoForesight, VideoForesight], bridge_dir: Path, recording: str
) -> None:
    observation = read_observation(str(bridge_dir / recording), "move the spoon to the left", 1)
    compare(both, observation.frames[-1], observation.instruction)
