"""`aid-robot train` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aid_robot.cli import main
from tests.training.conftest import SMALLER, DebugRun


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "debug" in shown
    assert "every stage for a few steps" in shown


def test_a_finished_run_says_where_its_model_is(
    debug_run: DebugRun, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"data.store={debug_run.store}", *SMALLER]
    options = [part for text in settings for part in ("--set", text)]
    args = ["train", "debug", "-o", str(debug_run.folder), "--device", "cpu", *options]
    assert main(args) == 0
    assert f"wrote {debug_run.model}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["debug", "--set", "aid.stpes=1"], "did you mean 'aid.steps'?"),
        (["debgu"], "did you mean 'debug'?"),
        (["debug"], "data.store is not set: make one by `aid-robot simulate`"),
        (["debug", "--set", "data.store=nowhere.zarr"], "nowhere.zarr"),
        (["debug", "--ablations", "--set", "data.store=x"], "has no variants"),
        (["debug", "--set", "data.store=x", "--device", "tpu"], "it is auto, cpu or cuda"),
    ],
)
def test_mistakes_are_one_line(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = [] if "--device" in args else ["--device", "cpu"]
    assert main(["train", *args, "-o", str(tmp_path / "run"), *device]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_run_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "debug"])
    assert "CONFIG and -o RUN are needed" in capsys.readouterr().err
