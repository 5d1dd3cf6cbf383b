"""`aid-robot eval`: run, compare, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aid_robot.cli import main
from tests.evaluation.worlds import make_episodes, make_store

TINY = ["--set", "num_frames=4", "--size", "32", "--split", "all", "--metrics", "psnr"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    store = make_store(folder / "s.zarr", make_episodes(2))
    command = [
        "eval",
        "run",
        str(store),
        "--protocol",
        "tabletop",
        *TINY,
        "-o",
        str(folder / "run"),
    ]
    predictors = ["--predictor", f"ours={tiny_model_dir}", "--predictor", "copy-last-frame"]
    assert main([*command, *predictors]) == 0
    return folder / "run"


def test_run_writes_figures_and_a_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = json.loads((run / "results.json").read_text())
    assert list(results["blocks"]) == ["ours", "copy-last-frame"]
    hashes = [block["predictor"]["model_hash"] for block in results["blocks"].values()]
    assert len(hashes[0]) == 12
    named = {(f["predictor"], f["condition"], f["minus"]) for f in results["figures"]}
    assert {("ours", "shuffled", ""), ("ours", "true", "copy-last-frame")} <= named
    assert ("ours", "reconstruction", "") in named
    assert (run / "report.html").stat().st_size > 5000


def test_compare_is_a_gate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "compare", str(run), str(run), "--metric", "psnr", "--bound", "0.1"]) == 0
    assert "no regression" in capsys.readouterr().out
    assert main(["eval", "compare", str(run), str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"]["value"] == 0


def test_report_draws_several_runs(run: Path, tmp_path: Path) -> None:
    assert main(["eval", "report", str(run), str(run), "-o", str(tmp_path / "page.html")]) == 0
    assert "run-1" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--protocol", "tabletops"], "did you mean 'tabletop'"),
        (["--set", "sede=1"], "did you mean 'seed'"),
        (["--set", "seed"], "expected KEY=VALUE"),
        (["--split", "nowhere.txt"], "split='nowhere.txt'"),
        (["--predictor", "a=x", "--predictor", "a=y"], "two predictors are called 'a'"),
        (["--metrics", "pnsr"], "did you mean 'psnr'"),
        (["--metrics", ""], "at least one metric"),
        (["--predictor", "copy-last-frame", "--devices", "0"], "devices=0"),
    ],
)
def test_mistakes_are_answered(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = run.parent / "s.zarr"
    command = ["eval", "run", str(store), "-o", str(tmp_path / "run"), *TINY, *arguments]
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "clips.jsonl").exists()
