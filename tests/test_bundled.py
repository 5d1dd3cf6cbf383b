"""The model that comes with the package: a real checkpoint, small and whole."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from aid_robot import VideoForesight
from aid_robot.hub import BUNDLED, CHECKSUMS, bundled_model, verify_checksums

PICTURE = bundled_model().parent / "observations" / "tabletop.png"


@pytest.fixture(scope="module")
def model() -> VideoForesight:
    return VideoForesight.from_pretrained()


def frame() -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(PICTURE)), cv2.COLOR_BGR2RGB)


def test_it_is_whole_small_and_has_a_card() -> None:
    folder = bundled_model()
    assert json.loads((folder / CHECKSUMS).read_text())
    verify_checksums(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= 40e6
    card = (folder / "README.md").read_text()
    for part in ("Figures", "Limits", "Licence"):
        assert f"## {part}" in card


def test_two_instructions_give_two_futures(model: VideoForesight) -> None:
    assert model.model_id == BUNDLED
    one, other = model.predict_many(
        [(frame(), "put the carrot on the plate"), (frame(), "open the drawer")]
    )
    assert one.frames.shape == (1, 16, 64, 64, 3)
    seeded = [
        model.predict(frame(), text, seed=3, steps=2).frames.astype(int)
        for text in ("put the carrot on the plate", "open the drawer")
    ]
    assert np.abs(seeded[0] - seeded[1])[:, 1:].max() > 2
    assert other.fps == 5.0


def test_it_predicts_a_picture_not_noise(model: VideoForesight) -> None:
    """Neighbouring frames are alike, the scene stays in place, and something changes."""
    clip = model.predict(frame(), "put the carrot on the plate", seed=0).frames[0].astype(float)
    neighbours = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairwise(clip)]
    assert min(neighbours[1:]) > 0.85
    assert np.corrcoef(clip[0].ravel(), clip[-1].ravel())[0, 1] > 0.6
    assert np.abs(np.diff(clip, axis=0)).mean() > 0.2


@pytest.mark.bridge
def test_recorded_frames_of_three_layouts(model: VideoForesight, bridge_dir: Path) -> None:
    from aid_robot.data import open_recording

    for name in ("irasim", "demos", "rlds/bridge_dataset/1.0.0"):
        episode = open_recording(bridge_dir / name)[0]
        result = model.predict(episode.frames[0], episode.instruction, seed=0, steps=2)
        assert result.frames.shape == (1, 16, 64, 64, 3)
