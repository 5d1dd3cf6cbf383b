"""The statistics beside an export are NumPy's, of the frames that LeRobot would look at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.data.writers import write_lerobot
from aid_robot.data.writers.stats import PixelStats, merge, row_stats
from tests.data.mixed_episodes import episode


def test_statistics_are_those_of_numpy(tmp_path: Path) -> None:
    episodes = [episode(0, 0, 7), episode(1, 7, 120)]
    folder = write_lerobot(episodes, tmp_path / "set", progress=False)
    stats = json.loads((folder / "meta/stats.json").read_text())
    actions = np.concatenate([e.actions for e in episodes if e.actions is not None])
    for name, expected in (
        ("min", actions.min(axis=0)),
        ("max", actions.max(axis=0)),
        ("mean", actions.mean(axis=0)),
        ("std", actions.std(axis=0)),
        ("count", [127]),
    ):
        assert stats["action"][name] == pytest.approx(np.asarray(expected), abs=1e-6)
    own = [np.quantile(e.actions, 0.9, axis=0) for e in episodes if e.actions is not None]
    assert stats["action"]["q90"] == pytest.approx((own[0] * 7 + own[1] * 120) / 127)
    # Of 120 frames LeRobot looks at 100.
    sampled = np.round(np.linspace(0, 119, 100)).astype(int)
    frames = np.concatenate([episodes[0].frames[:], episodes[1].frames[sampled]]) / 255
    image = stats["observation.images.image_0"]
    assert image["count"] == [107]
    assert np.shape(image["std"]) == (3, 1, 1)
    assert np.ravel(image["mean"]) == pytest.approx(frames.mean(axis=(0, 1, 2)))
    assert np.ravel(image["std"]) == pytest.approx(frames.std(axis=(0, 1, 2)))
    assert set(stats) == set(json.loads((folder / "meta/info.json").read_text())["features"])


def test_pixel_statistics_thin_out_large_images() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 200, (3, 480, 640, 3), dtype=np.uint8)
    stats = PixelStats(3)
    for number, frame in enumerate(frames):
        stats.add(number, frame)
    seen = frames[:, ::4, ::4].reshape(-1, 3) / 255
    result = stats.result()
    assert result["std"].ravel() == pytest.approx(seen.std(axis=0))
    assert result["max"].ravel() == pytest.approx(seen.max(axis=0))
    for name, part in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        assert result[name].ravel() == pytest.approx(np.quantile(seen, part, axis=0), abs=1 / 255)


@given(data=st.data(), width=st.integers(1, 3))
def test_merged_statistics_are_those_of_all(data: st.DataObject, width: int) -> None:
    counts = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(count, width)) for count in counts]
    merged = None
    for part in parts:
        merged = merge(merged, row_stats(part))
    together = row_stats(np.concatenate(parts))
    assert merged is not None
    for name in ("min", "max", "mean", "std", "count"):
        assert merged[name] == pytest.approx(together[name])
