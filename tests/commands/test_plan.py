"""`aid-robot plan` ranks candidates, draws them, and says which to carry out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aid_robot.cli import main

PLANS = ("put the carrot on the plate", "open the drawer -> lift the red cube", "lift the red cube")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "frame.png"
    Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(path)
    return path


def plan(*arguments: object) -> int:
    return main(["plan", *map(str, arguments)])


def test_table_strips_and_json(
    picture: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = plan(
        *(picture, *PLANS, "--goal-image", picture, "--scorer", "image:latent"),
        *("--model", tiny_model_dir, "--steps", 1, "--seed", 4),
        *("-o", tmp_path / "out" / "plan.png", "-o", tmp_path / "out" / "plan.json"),
    )
    captured = capsys.readouterr()
    assert status == 0, captured.err
    lines = captured.out.splitlines()
    assert lines[0].startswith(">  1  0.")
    assert all(any(text in line for line in lines[:3]) for text in PLANS)
    assert "chose" in lines[3]
    found = json.loads((tmp_path / "out" / "plan.json").read_text())
    scores = [entry["score"] for entry in found["plans"]]
    assert found["chosen"] == int(np.argmax(scores))
    assert found["plans"][1]["steps"] == ["open the drawer", "lift the red cube"]
    assert len(found["plans"][0]["sample_scores"]) == 2
    assert found["seed"] == 4
    with Image.open(tmp_path / "out" / "plan.png") as image:
        assert image.width > 6 * 96
        assert image.height > 4 * 96, "the goal, and three plans"


def test_abstaining_is_told_by_the_status(
    picture: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--goal-image", picture, "--scorer", "image:latent", "--model", tiny_model_dir)
    options = ("--steps", 1, "--threshold", 1, "-o", tmp_path / "p.json", "--samples", 1)
    # Candidates may stand behind the options.
    assert plan(picture, *arguments, *options, *PLANS[:1]) == 1
    assert "abstained" in capsys.readouterr().out
    assert json.loads((tmp_path / "p.json").read_text())["chosen"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*PLANS,), "there is no goal"),
        (("--goal", "it is up"), "there are no candidates"),
        (("lift it", "LIFT it", "--goal", "up"), "the same as candidate 0"),
        (("lift it", "--goal", "up", "-o", "x.mp4"), ".png or .json"),
        (("lift it", "--goal-image", "none.png"), "no image 'none.png'"),
    ],
)
def test_mistakes_are_one_line(
    picture: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(picture, *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("aid-robot: error: ")
    assert message in errors
    assert errors.count("\n") == 1
