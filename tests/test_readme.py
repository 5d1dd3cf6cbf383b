"""What README shows is there and runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from aid_robot import VideoForesight
from aid_robot.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_files_that_it_names_exist() -> None:
    for path in re.findall(r"(?:aid_robot|benchmarks|launch|docs)/[\w/]+\.(?:py|png|sh)", README):
        assert (ROOT / path).exists(), path


def test_commands_parse() -> None:
    pages = "\n".join(PAGES)
    commands = re.findall(r"^aid-robot (.+)$", pages, flags=re.MULTILINE)
    assert commands
    for command in commands:
        arguments = re.findall(r'"[^"]*"|\S+', command.partition("  #")[0])
        build_parser().parse_args([argument.strip('"') for argument in arguments])


def test_control_loop_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = next(block for block in blocks("python") if "num_samples=2" in block)
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    names: dict[str, object] = {"frame": frame}
    exec(example, names)
    assert names["foresight"].frames.shape == (2, 16, 64, 64, 3)
    assert (tmp_path / "foresight.mp4").stat().st_size > 1000


def test_planning_example_runs() -> None:
    example = next(block for block in blocks("python") if "decide(" in block)
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    names = {"model": VideoForesight.from_pretrained(), "frame": frame, "goal": frame}
    exec(example, names)
    decision = names["decision"]
    assert decision.plan in decision.plans
    assert len(decision.scores) == 2
