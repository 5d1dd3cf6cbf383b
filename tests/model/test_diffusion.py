"""Noise levels, preconditioning and samplers, against diffusers and against exact solutions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aid_robot.errors import SamplingError
from aid_robot.model.config import SamplingConfig
from aid_robot.model.diffusion import (
    AYS_SVD_SIGMAS,
    SAMPLERS,
    Preconditioning,
    ays_sigmas,
    karras_sigmas,
    make_sigmas,
)
from tests.tiny import tiny_model


def svd_scheduler(steps: int) -> EulerDiscreteScheduler:
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_type="continuous",
        timestep_spacing="leading",
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    return scheduler


def test_sigmas_are_those_of_svd_s_scheduler() -> None:
    scheduler = svd_scheduler(25)
    ours = make_sigmas(SamplingConfig(steps=25))
    torch.testing.assert_close(torch.tensor(ours), scheduler.sigmas, rtol=1e-4, atol=1e-6)
    times = torch.tensor([Preconditioning.at(sigma).noise for sigma in ours[:-1]])
    torch.testing.assert_close(times, scheduler.timesteps.cpu(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_euler_with_our_preconditioning_is_diffusers_euler() -> None:
    """The same network output must give the same latents at every step."""
    model = tiny_model()
    pixels = torch.rand(1, 1, 3, 32, 32) * 2 - 1
    encodings = model.encode(pixels, pixels, ["open the drawer"], [["a", "b", "c", "d"]])
    condition = model.condition(encodings)
    scheduler = svd_scheduler(6)
    noise = torch.randn(1, *model.latent_shape)

    theirs = noise * 700.0
    for time in scheduler.timesteps:
        scaled = scheduler.scale_model_input(theirs, time)
        sample = torch.cat([scaled, condition.latents], dim=2)
        output = model.unet(sample, time, condition.context, condition.added_time_ids)
        theirs = scheduler.step(output, time, theirs).prev_sample

    sigmas = make_sigmas(SamplingConfig(steps=6))
    ours = SAMPLERS["euler"](
        lambda x, sigma: model.denoise(x, sigma, condition), noise * 700.0, sigmas, None
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("euler", 0.12), ("heun", 0.02), ("dpmpp_2m", 0.03)]
)
def test_samplers_solve_a_gaussian_exactly_in_the_limit(name: str, tolerance: float) -> None:
    """Data N(3, 0.5^2) has a known denoiser and a known flow: x0 = 3 + 0.5 x_T / sqrt(T^2+0.25)."""
    mean, std = 3.0, 0.5

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)

    start = torch.linspace(-2, 2, 9, dtype=torch.float64) * 80
    sigmas = karras_sigmas(40, 0.002, 80.0)
    exact = mean + std * (start - mean) / math.hypot(80.0, std)
    result = SAMPLERS[name](denoise, start, sigmas, None)
    assert (result - exact).abs().max() < tolerance


def test_second_order_samplers_beat_euler_at_the_same_steps() -> None:
    def denoise(x: Tensor, sigma: float) -> Tensor:
        return 0.25 * x / (0.25 + sigma**2)

    start = torch.ones(1, dtype=torch.float64) * 80
    exact = 0.5 * 80 / math.hypot(80.0, 0.5)
    errors = {
        name: abs(sampler(denoise, start, karras_sigmas(30, 0.01, 80.0), None).item() - exact)
        for name, sampler in SAMPLERS.items()
    }
    assert errors["heun"] < 0.5 * errors["euler"]
    assert errors["dpmpp_2m"] < 0.5 * errors["euler"]


def test_steps_are_reported() -> None:
    for name, sampler in SAMPLERS.items():
        seen: list[int] = []
        sampler(lambda x, s: x * 0, torch.ones(1), karras_sigmas(5, 0.1, 10.0), seen.append)
        assert seen == [0, 1, 2, 3, 4], name


@given(st.integers(1, 60), st.floats(1e-3, 0.5), st.floats(1.0, 1000.0))
def test_sigmas_fall_from_the_largest_to_zero(steps: int, low: float, high: float) -> None:
    sigmas = karras_sigmas(steps, low, high)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(high)
    assert sigmas[-1] == 0
    assert all(a > b for a, b in itertools.pairwise(sigmas))


@given(st.integers(1, 60))
def test_ays_keeps_its_ends(steps: int) -> None:
    sigmas = ays_sigmas(steps)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(700)
    assert all(a > b for a, b in itertools.pairwise(sigmas))
    if steps == 10:
        assert sigmas[:-1] == pytest.approx(list(AYS_SVD_SIGMAS))


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_bad_step_counts(steps: object) -> None:
    with pytest.raises(SamplingError, match="steps"):
        make_sigmas(SamplingConfig(), steps)  # type: ignore[arg-type]


@torch.no_grad()
def test_a_unet_of_x0_is_taken_at_its_word() -> None:
    model = tiny_model(prediction_type="sample")
    pixels = torch.rand(1, 1, 3, 32, 32) * 2 - 1
    encodings = model.encode(pixels, pixels, ["open the drawer"], [["a", "b", "c", "d"]])
    condition = model.condition(encodings)
    latents, sigma = torch.randn(1, *model.latent_shape), 3.0
    sample = torch.cat([latents / 10**0.5, condition.latents], dim=2)
    time = torch.full((1,), math.log(sigma) / 4)
    expected = model.unet(sample, time, condition.context, condition.added_time_ids)
    found = model.denoise(latents, sigma, condition)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@torch.no_grad()
def test_one_noise_level_a_row_equals_one_at_a_time(prediction_type: str) -> None:
    model = tiny_model(prediction_type=prediction_type)
    pixels = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    states = [["a", "b", "c", "d"]] * 2
    encodings = model.encode(pixels, pixels, ["open the drawer", "lift the red cube"], states)
    condition = model.condition(encodings)
    latents = torch.randn(2, *model.latent_shape)
    both = model.denoise(latents, torch.tensor([0.5, 4.0]), condition)
    for row, sigma in enumerate((0.5, 4.0)):
        rows = slice(row, row + 1)
        alone = model.denoise(latents[rows], sigma, condition.rows(rows))
        torch.testing.assert_close(both[rows], alone, atol=1e-5, rtol=1e-5)
