"""A predictor that obeys is told from one that doesn't."""

from __future__ import annotations

from pathlib import Path

import pytest

from aid_robot.evaluation import faithfulness as ask
from aid_robot.evaluation.run import evaluate
from aid_robot.evaluation.summary import Summary
from tests.evaluation.worlds import PROTOCOL, Obedient, copying, make_episodes, make_store

METRICS = ("psnr",)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Obedient]:
    folder = tmp_path_factory.mktemp("faithful")
    obedient = Obedient(noise=3)
    summary = evaluate(
        [make_store(folder / "s.zarr", make_episodes(5))],
        {"obedient": obedient, "copying": copying()},
        PROTOCOL,
        folder / "run",
        metrics=METRICS,
        asked=("obedient", "copying"),
        scales=(0.0, 2.0),
    )
    return summary, obedient


def value(summary: Summary, name: str, metric: str = "psnr", **where: object) -> float:
    figure = summary.find(name, metric, **where)
    assert figure is not None
    return figure.value


def test_the_true_instruction_helps_who_listens(judged: tuple[Summary, Obedient]) -> None:
    summary, _ = judged
    assert value(summary, "obedient") > 35
    assert value(summary, "obedient", condition=ask.SHUFFLED) < 25
    assert value(summary, "obedient", condition=ask.EMPTY) < 25
    gain = summary.find("obedient", "psnr", minus=ask.SHUFFLED)
    assert gain is not None
    assert gain.low > 10
    # The same noise, so that another wording changes nothing.
    assert value(summary, "obedient", minus=ask.PARAPHRASE) == 0


def test_who_ignores_text_is_at_chance(judged: tuple[Summary, Obedient]) -> None:
    summary, _ = judged
    for condition in (ask.PARAPHRASE, ask.SHUFFLED, ask.EMPTY):
        assert value(summary, "copying", minus=condition) == 0
    assert value(summary, "copying", ask.RETRIEVAL) == pytest.approx(0.25)
    assert value(summary, "copying", ask.PREFERRED) == 0.5
    assert value(summary, "obedient", ask.RETRIEVAL) == 1
    assert value(summary, "obedient", f"{ask.RETRIEVAL}, by chance") == 0.25


def test_all_conditions_of_a_start_have_its_noise(judged: tuple[Summary, Obedient]) -> None:
    _, obedient = judged
    seeds = {seed for _, seed in obedient.asked}
    assert len(seeds) == 5
    # 4 instructions, 4 other wordings, none, and one more guidance scale of each instruction.
    assert len(obedient.asked) == 5 * (4 + 4 + 1 + 4)


def test_the_scale_of_the_text_is_varied(judged: tuple[Summary, Obedient]) -> None:
    summary, _ = judged
    assert value(summary, "obedient", condition="s_t=0") < 25
    assert value(summary, "obedient", condition="s_t=2") > 35


def test_a_tie_is_shared() -> None:
    assert ask.credit([1.0, 1.0, 2.0]) == 0.5
    assert ask.credit([2.0, 1.0]) == 0
    assert ask.credit([1.0, 2.0]) == 1


def test_differences_between_predictors_are_paired(
    judged: tuple[Summary, Obedient], tmp_path: Path
) -> None:
    summary, _ = judged
    gain = summary.find("obedient", "psnr", minus="copying")
    assert gain is not None
    assert gain.value == pytest.approx(
        value(summary, "obedient") - value(summary, "copying"), abs=1e-9
    )
