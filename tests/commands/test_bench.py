"""`aid-robot bench` times after a warm-up, names the machine, and compares with diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aid_robot.cli import main
from aid_robot.commands.bench_cases import Step, diffusers_pipeline, diffusers_unet
from aid_robot.errors import ConfigError
from aid_robot.model.config import AdapterConfig
from aid_robot.runtime.denoiser import TorchDenoiser
from aid_robot.runtime.measure import Timing, measure, percentile
from tests.tiny import tiny_model


def test_no_figure_without_a_warm_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--warmup", "0"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "a figure without warm-up is none" in said.err
    with pytest.raises(ConfigError, match="make no figure"):
        Timing(seconds=(1.0,), first=1.0, warmup=0, peak_bytes=None)
    with pytest.raises(ConfigError, match="--runs 0"):
        measure(lambda: None, torch.device("cpu"), warmup=1, runs=0)


def test_the_first_runs_are_left_out() -> None:
    calls: list[int] = []

    def call() -> dict[str, float]:
        calls.append(len(calls))
        return {"denoise": float(calls[-1])}

    timing = measure(call, torch.device("cpu"), warmup=2, runs=3)
    assert len(calls) == 5
    assert len(timing.seconds) == 3
    assert timing.stages == {"denoise": (2.0, 3.0, 4.0)}
    assert timing.to_dict()["stages"] == {"denoise": 3.0}


def test_percentiles() -> None:
    values = tuple(float(n) for n in range(100, 0, -1))
    assert percentile(values, 0.95) == 95.0
    assert percentile((3.0, 1.0, 2.0), 0.95) == 3.0
    assert percentile((3.0, 1.0, 2.0), 0.5) == 2.0


def test_memory_of_earlier_calls_is_forgotten() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc")
    size = 200 * 2**20

    def call(count: int) -> None:
        torch.ones(count, dtype=torch.uint8)

    cpu = torch.device("cpu")
    large = measure(lambda: call(size), cpu, warmup=1, runs=1).peak_bytes
    small = measure(lambda: call(1), cpu, warmup=1, runs=1).peak_bytes
    assert large is not None
    assert small is not None
    assert large - small > size / 2


def test_the_table_and_its_record(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "results" / "bench.json"
    options = "--device cpu --dtypes float32 --candidates 1 2 --steps 1 --warmup 1 --runs 2"
    status = main(
        ["bench", "--model", str(tiny_model_dir), *options.split(), "--output", str(record)]
    )
    said = capsys.readouterr()
    assert status == 0, said.err
    assert f"torch {torch.__version__}" in said.out
    assert "2 runs after 1 warm-ups" in said.out
    written = json.loads(record.read_text())
    found = {(r["kind"], r["runtime"], r["candidates"]): r for r in written["rows"]}
    kinds, runtimes = ("step", "predict"), ("torch", "diffusers")
    assert set(found) == {(k, r, c) for k in kinds for r in runtimes for c in (1, 2)}
    # Guided by image and text: three branches a candidate.
    assert found["step", "torch", 2]["rows"] == 6
    assert set(found["predict", "torch", 1]["stages"]) >= {"encode", "denoise", "decode"}
    assert all(len(r["seconds"]) == 2 and r["p50"] > 0 for r in written["rows"])
    assert written["machine"]["cpu"]


def test_a_runtime_that_is_not_there_is_named(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--device cpu --runtimes torch:cuda-graph --candidates 1"
    assert main(["bench", "--model", str(tiny_model_dir), *options.split()]) == 2
    assert "CUDA graphs need a CUDA device" in capsys.readouterr().err


def test_diffusers_computes_the_same_where_nothing_is_added() -> None:
    none = AdapterConfig(spatial=False, short_term=False, long_term=False)
    model = tiny_model(adapters=none)
    step = Step(model, 2)
    unet = diffusers_unet(model)
    context = model.unet.project_context(
        step.plain_context[:, None].expand(-1, 4, -1, -1), step.plain_context
    )
    at = torch.tensor(0.0)
    sample = torch.cat([step.latents, step.condition.latents], dim=2)
    ids = step.condition.added_time_ids
    with torch.no_grad():
        ours = model.unet(sample, at, context, ids)
        theirs = unet(sample, at, step.plain_context, ids).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    # And what is timed runs.
    step.call(TorchDenoiser(model))()
    step.diffusers_call(unet)()


def test_a_unet_of_patches_is_timed_beside_diffusers_own() -> None:
    model = tiny_model(latent_patch_size=2)
    call = Step(model, rows=2).diffusers_call(diffusers_unet(model))
    call()
    assert diffusers_pipeline(model, None) is None
