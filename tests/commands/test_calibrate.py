"""`aid-robot calibrate` turns recorded decisions into a calibration that a scorer loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aid_robot.cli import main
from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.store import EpisodeStore
from aid_robot.planning.calibration import Calibration
from aid_robot.planning.choose import Choosing, Problem, decide_many
from aid_robot.planning.goals import Goal
from aid_robot.planning.outcomes import cross_fitted, read_carried_out
from tests.planning.dots import DotPredictor, SideScorer, draw


def decision(score: float, success: bool | None, scorer: str = "success") -> dict[str, Any]:
    """A decision as it is recorded, with its score changed."""
    problem = Problem(draw(16, 16), ["go left", "go right"], Goal("go right"), 0)
    made = decide_many(
        DotPredictor(), [problem], SideScorer(), choosing=Choosing(num_samples=2, penalty=0.5)
    )[0].to_json()
    made["plans"][1]["sample_scores"] = [score, score]
    return {**made, "scorer": scorer, "carried_out": 1, "success": success}


def write(path: Path, decisions: list[dict[str, Any]]) -> Path:
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    with EpisodeStore.create(path) as store:
        for number, made in enumerate(decisions):
            store.append(Episode(id=f"d{number}", videos={"image_0": ArrayFrames(frames)},
                                 instruction="go right", info={"decision": made}))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def overconfident() -> list[dict[str, Any]]:
    """Plans that succeed less often than their scores say, and some without an outcome."""
    rng, one = np.random.default_rng(0), decision(0.5, True)
    made = []
    for score in rng.random(150):
        plans = [one["plans"][0], {**one["plans"][1], "sample_scores": [score, score]}]
        made.append({**one, "plans": plans, "success": bool(rng.random() < score**2)})
    return [*made, {**one, "success": None}]


def test_a_store_of_decisions_becomes_a_calibration(
    overconfident: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, file = write(tmp_path / "d.zarr", overconfident), tmp_path / "success" / "c.json"
    assert main(["calibrate", str(store), "-o", str(file), "--threshold", "0.25"]) == 0
    shown = capsys.readouterr().out
    assert "150 plans by 'success'" in shown, "the one that was cut short is left out"
    before, after = (float(part.split()[0].rstrip(",")) for part in
                     shown.split("calibration error ")[1].replace("calibrated on others ", "\0")
                     .split("\0"))  # fmt: skip
    assert after < before
    fitted = Calibration.load(file)
    assert fitted.threshold == 0.25
    assert fitted.facts["scorer"] == "success"
    assert float(fitted([0.5])[0]) == pytest.approx(0.25, abs=0.15)
    assert file.with_suffix(".png").exists()


def test_what_cannot_be_fitted_is_said(
    overconfident: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = [*overconfident[:20], *({**d, "scorer": "text"} for d in overconfident[:5])]
    store = str(write(tmp_path / "mixed.zarr", mixed))
    out = str(tmp_path / "c.json")
    broken = {**overconfident[0], "plans": []}
    other = str(write(tmp_path / "broken.zarr", [broken]))
    for arguments, message in (
        ([store, "-o", out], "by several scorers, 'success' (20), 'text' (5)"),
        ([store, "-o", out, "--scorer", "pic"], "no plan by 'pic' with a known outcome"),
        ([store, "-o", out, "--scorer", "text"], "expected 5 of each at least"),
        ([store, "-o", out, "--threshold", "3"], "--threshold 3.0; expected a rate"),
        ([store, "-o", f"{out}.txt"], "ending in .json"),
        ([other, "-o", out], "episode 'd0' has a decision in another form"),
    ):
        assert main(["calibrate", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not Path(out).exists()


def test_scores_are_those_before_an_earlier_calibration() -> None:
    made = decision(0.4, True)
    made["plans"][1] |= {"score": 0.99, "sample_scores": [0.2, 0.6]}
    found = read_carried_out([("d", {"decision": made}), ("plain", {})])
    assert [plan.score for plan in found] == [pytest.approx(0.4 - 0.5 * 0.2)]


def test_no_plan_is_judged_by_a_fit_to_itself() -> None:
    rng = np.random.default_rng(1)
    scores, succeeded = rng.random(200), rng.random(200) < 0.5
    changed = succeeded.copy()
    changed[:40] = ~changed[:40]
    first, second = cross_fitted(scores, succeeded), cross_fitted(scores, changed)
    np.testing.assert_array_equal(first[:40], second[:40])
    assert (first[40:] != second[40:]).any()
