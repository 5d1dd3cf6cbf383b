"""The dual guidance formula, term by term, through the real model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from aid_robot.errors import SamplingError
from aid_robot.model.guidance import FULL, IMAGE, NULL, Branch, DualGuidance, guide
from tests.tiny import tiny_model

N = 4


@torch.no_grad()
def test_formula_against_three_separate_calls() -> None:
    model = tiny_model()
    # Trained-like weights, so that image and text matter.
    for name, parameter in model.condition_encoder.named_parameters():
        if "norm" not in name:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    pixels = torch.rand(1, 1, 3, 32, 32) * 2 - 1
    encodings = model.encode(pixels, pixels, ["open the drawer"], [["a", "b", "c", "d"]])
    latents = torch.randn(1, *model.latent_shape) * 3
    sigma, s_v, s_t = 3.0, 2.0, 5.0

    e_0, e_v, e_vt = (
        model.denoise(latents, sigma, model.condition(encodings, [branch]))
        for branch in (NULL, IMAGE, FULL)
    )
    assert (e_0 - e_v).abs().max() > 1e-3
    assert (e_v - e_vt).abs().max() > 1e-3
    expected = e_0 + s_v * (e_v - e_0) + s_t * (e_vt - e_v)

    together = model.condition(encodings, [NULL, IMAGE, FULL])

    def branches(x: Tensor, at: float, wanted: list[Branch]) -> Tensor:
        assert wanted == [NULL, IMAGE, FULL]
        return model.denoise(x.repeat(3, 1, 1, 1, 1), at, together).unflatten(0, (3, 1))

    guided = guide(branches, DualGuidance(s_v, s_t))(latents, sigma)
    torch.testing.assert_close(guided, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("s_v", "s_t", "expected"),
    [
        (2.0, 5.0, [NULL, IMAGE, FULL]),
        (1.0, 5.0, [IMAGE, FULL]),
        (3.0, 3.0, [NULL, FULL]),
        (1.0, 1.0, [FULL]),
        (2.0, 0.0, [NULL, IMAGE]),
        (1.0, 0.0, [IMAGE]),
        ((1.0, 3.0), 1.0, [NULL, IMAGE, FULL]),
    ],
)
def test_branches_of_weight_zero_are_not_computed(
    s_v: float | tuple[float, float], s_t: float, expected: list[Branch]
) -> None:
    guidance = DualGuidance(s_v, s_t)
    weights = guidance.weights(1.0, N)
    assert list(weights) == expected
    assert guidance.branches([10.0, 1.0, 0.0], N) == expected
    torch.testing.assert_close(sum(weights.values()), torch.ones(N, 1, 1, 1))


def test_image_scale_grows_over_the_frames_like_svd_s() -> None:
    weights = DualGuidance((1.0, 3.0), 4.0).weights(1.0, 3)
    assert weights[NULL].flatten().tolist() == pytest.approx([0.0, -1.0, -2.0])
    assert weights[IMAGE].flatten().tolist() == pytest.approx([-3.0, -2.0, -1.0])


def test_outside_the_interval_one_branch_is_enough() -> None:
    guidance = DualGuidance(2.0, 5.0, interval=(0.5, 10.0))
    assert list(guidance.weights(20.0, N)) == [FULL]
    assert list(guidance.weights(0.1, N)) == [FULL]
    assert list(guidance.weights(1.0, N)) == [NULL, IMAGE, FULL]
    without_text = DualGuidance(2.0, 0.0, interval=(0.5, 10.0))
    assert list(without_text.weights(20.0, N)) == [IMAGE]


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_scales_out_of_range_are_refused(scale: float) -> None:
    with pytest.raises(SamplingError, match="finite and not negative"):
        DualGuidance(text_scale=scale)
    with pytest.raises(SamplingError, match="low <= high"):
        DualGuidance(interval=(2.0, 1.0))
