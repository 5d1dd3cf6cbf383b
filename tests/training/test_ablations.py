"""Variants of AID, and the table of what they are worth."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from aid_robot.errors import ConfigError
from aid_robot.training.ablations import compare, run_ablations
from tests.training.conftest import DebugRun

SMALL = ("aid.auxiliary_weight=0.0", "aid.steps=1", "aid.validation_predictions=2")


def test_variants_are_trained_from_one_prior(debug_run: DebugRun, tmp_path: Path) -> None:
    for stage in ("vae", "clip", "prior"):
        shutil.copytree(debug_run.folder / stage, tmp_path / stage)
    changes = (
        "ablations.no_mcondition={'model.config.dqformer.enabled' = false}",
        "ablations.full_finetune={'model.config.adapters' = {spatial = false, short_term = false,"
        " long_term = false}, 'aid.trains' = 'full'}",
    )
    table = run_ablations(debug_run.recipe(*SMALL, *changes), tmp_path, device="cpu")
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| full",
        "| no_mcondition",
        "| full_finetune",
    ]
    assert (tmp_path / "ablations.md").read_text() == table + "\n"
    found = json.loads((tmp_path / "ablations.json").read_text())
    assert found["figures"]["full"]["psnr_gain"]["clips"] == 2

    def names(variant: str) -> set[str]:
        path = Path(found["models"][variant]) / "aid" / "model.safetensors"
        with safe_open(path, framework="pt") as file:
            return set(file.keys())

    assert any("decomposed" in name for name in names("full"))
    assert not any("decomposed" in name for name in names("no_mcondition"))
    assert not any(".adapters." in name for name in names("full_finetune"))


def test_a_mistake_in_a_variant_comes_first(debug_run: DebugRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no variants"):
        run_ablations(debug_run.recipe(), tmp_path)
    wrong = "ablations.a={'model.config.dqformer.stats' = false}"
    with pytest.raises(ConfigError, match=r"did you mean 'dqformer.states'"):
        run_ablations(debug_run.recipe(wrong), tmp_path)
    assert not list(tmp_path.iterdir())


def test_differences_are_paired_by_clip() -> None:
    full = [float(value) for value in range(100)]
    figures = {
        "full": {"psnr_gain": full},
        "worse": {"psnr_gain": [value - 1 + 0.01 * (value % 3) for value in full]},
    }
    table, values = compare(figures)
    row = values["worse"]["psnr_gain"]
    # The clips differ by far more than the variants, and still the difference is sure.
    assert row["high"] - row["low"] > 5
    assert -1.01 < row["difference_low"] < row["difference_high"] < -0.98
    assert values["full"]["psnr_gain"]["difference_high"] == 0
    assert table.splitlines()[0].startswith("| variant | PSNR over copying [dB] | from full |")
