"""The gate between two evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest

from aid_robot.errors import ConfigError, EvaluationError
from aid_robot.evaluation.compare import compare
from aid_robot.evaluation.results import RunFolder
from aid_robot.evaluation.run import evaluate
from tests.evaluation.worlds import PROTOCOL, Obedient, copying, make_episodes, make_store


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    folder = tmp_path_factory.mktemp("compare")
    store = make_store(folder / "s.zarr", make_episodes(5))
    found = {}
    for name, noise in (("good", 2), ("worse", 6), ("same", 2)):
        evaluate(
            [store], {"ours": Obedient(noise), "copying": copying()}, PROTOCOL, folder / name,
            metrics=("psnr",),
        )  # fmt: skip
        found[name] = RunFolder.open(folder / name)
    evaluate(
        [store], {"ours": Obedient(2)}, PROTOCOL.replace(seed=1), folder / "seed", metrics=("psnr",)
    )
    return {**found, "seed": RunFolder.open(folder / "seed")}


def test_a_regression_is_one_beyond_the_bound(runs: dict[str, RunFolder]) -> None:
    found = compare(runs["good"], runs["worse"], "psnr", 0.1)
    assert found.difference.high < -5
    assert found.outcome == "regression"
    assert compare(runs["good"], runs["worse"], "psnr", 30).outcome == "no regression"
    assert compare(runs["worse"], runs["good"], "psnr", 0.1).outcome == "no regression"


def test_no_change_is_no_regression(runs: dict[str, RunFolder]) -> None:
    found = compare(runs["good"], runs["same"], "psnr", 0.0)
    assert found.difference.value == 0
    assert found.outcome == "no regression"


def test_too_little_to_tell_is_undecided(runs: dict[str, RunFolder]) -> None:
    found = compare(runs["good"], runs["worse"], "psnr", 0.1)
    worse = abs(found.difference.value)
    close = compare(runs["good"], runs["worse"], "psnr", worse)
    assert close.outcome == "undecided"


def test_it_prints_the_protocol(runs: dict[str, RunFolder]) -> None:
    text = str(compare(runs["good"], runs["worse"], "psnr", 0.1))
    assert "K=1 given, N=4" in text
    assert "against     sampling noise 6" in text
    assert "regression (at most 0.1 dB worse)" in text


def test_another_condition_can_be_compared(runs: dict[str, RunFolder]) -> None:
    found = compare(runs["good"], runs["worse"], "psnr", 0.1, condition="shuffled")
    assert found.values[0].value < 25
    with pytest.raises(ConfigError, match="condition 'shufled'"):
        compare(runs["good"], runs["worse"], "psnr", 0.1, condition="shufled")


def test_only_one_protocol_is_compared(runs: dict[str, RunFolder]) -> None:
    with pytest.raises(EvaluationError, match=r"differ in seed \(0 and 1\)"):
        compare(runs["good"], runs["seed"], "psnr", 0.1)


def test_unknown_names_are_refused(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'fvd' was not measured"):
        compare(runs["good"], runs["worse"], "fvd", 1.0)
    with pytest.raises(ConfigError, match="no predictor 'theirs'"):
        compare(runs["good"], runs["worse"], "psnr", 1.0, predictors=("theirs", None))
    with pytest.raises(ConfigError, match="bound=-1"):
        compare(runs["good"], runs["worse"], "psnr", -1)
    with pytest.raises(ConfigError, match="no evaluation in"):
        RunFolder.open(tmp_path)
