"""The main path: what a control loop relies on when it calls predict."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aid_robot import VideoForesight
from aid_robot.errors import (
    ConfigError,
    FrameCountError,
    FrameRateError,
    InstructionError,
    ObservationError,
    SamplingError,
    StatePredictionError,
)
from aid_robot.observation import resize_frames
from aid_robot.predictor import Predictor, Request
from tests.tiny import tiny_model

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 256, (480, 640, 3), np.uint8)
OTHER = RNG.integers(0, 256, (60, 80, 3), np.uint8)


def outspoken(**changes: Any) -> VideoForesight:
    """A random model whose condition matters, as a trained one's does."""
    model = tiny_model(**changes)
    torch.manual_seed(5)
    with torch.no_grad():
        for module in (model.condition_encoder, model.text_encoder):
            for name, parameter in module.named_parameters():
                if "norm" not in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, parameter in model.unet.named_parameters():
            if ".attn2." in name:
                parameter.mul_(3)
    return VideoForesight(model)


@pytest.fixture(scope="module")
def foresight() -> VideoForesight:
    return outspoken()


def test_prediction_has_the_promised_shape_and_record(foresight: VideoForesight) -> None:
    assert isinstance(foresight, Predictor)
    result = foresight.predict(FRAME, "open the drawer", num_samples=2, seed=7)
    assert result.frames.shape == (2, 4, 32, 32, 3)
    assert result.frames.dtype == np.uint8
    assert (result.fps, result.seed, result.instruction) == (5.0, 7, "open the drawer")
    assert len(result.states) == 4
    assert set(result.timings) == {"states", "encode", "condition", "denoise", "decode"}
    assert result.settings["steps"] == 3
    assert not np.array_equal(result.frames[0, 1:], result.frames[1, 1:]), "samples differ"


@pytest.mark.parametrize("given", [1, 2])
def test_given_frames_come_back_unchanged(given: int) -> None:
    foresight = outspoken(num_conditioning_frames=given)
    history = RNG.integers(0, 256, (3, 48, 40, 3), np.uint8)
    result = foresight.predict(history, "open the drawer", seed=1)
    expected = resize_frames(history[-given:], (32, 32))
    np.testing.assert_array_equal(result.frames[0, :given], expected)
    assert not np.array_equal(result.frames[0, given], expected[-1])


def test_same_seed_same_frames_alone_and_in_a_batch(foresight: VideoForesight) -> None:
    requests = [
        Request(FRAME, "open the drawer", 1),
        Request(OTHER, "lift the red cube", 2),
        Request(FRAME, "lift the red cube", 1),
    ]
    alone = [foresight.predict(r.obs, r.instruction, seed=r.seed).frames for r in requests]
    for batch_size in (1, 2, 3):
        batch = foresight.predict_many(requests, batch_size=batch_size)
        for one, other in zip(alone, batch, strict=True):
            # 1e-4 before rounding to 8 bits: a level at the most, and hardly anywhere
            delta = np.abs(one.astype(int) - other.frames)
            assert delta.max() <= 1
            assert delta.mean() < 0.01
    more = foresight.predict(FRAME, "open the drawer", seed=1, num_samples=3).frames
    assert np.abs(more[0].astype(int) - alone[0][0]).max() <= 1, "sample 0 is always sample 0"


def test_batched_latents_agree_to_1e_4(foresight: VideoForesight) -> None:
    """The same in float, before 8-bit rounding hides it."""
    model = foresight.model
    pixels = torch.rand(3, 1, 3, 32, 32) * 2 - 1
    texts, states = ["open the drawer", "lift", "put it down"], [["a", "b", "c", "d"]] * 3
    latents = torch.randn(3, *model.latent_shape)
    with torch.inference_mode():
        condition = model.condition(model.encode(pixels, pixels, texts, states))
        together = model.denoise(latents, 2.0, condition)
        for row in range(3):
            one = slice(row, row + 1)
            encoded = model.encode(pixels[one], pixels[one], texts[one], states[one])
            alone = model.denoise(latents[one], 2.0, model.condition(encoded))
            torch.testing.assert_close(alone, together[one], atol=1e-4, rtol=0)


def test_sampled_latents_agree_to_1e_4_over_all_steps() -> None:
    class Keeping(VideoForesight):
        kept: list[torch.Tensor]

        def _decode(self, latents: torch.Tensor, *args: Any) -> list[np.ndarray]:
            self.kept.append(latents.clone())
            return super()._decode(latents, *args)

    keeping = Keeping(tiny_model())

    def latents(*requests: Request) -> torch.Tensor:
        keeping.kept = []
        keeping.predict_many(requests)
        return torch.cat(keeping.kept)

    requests = Request(FRAME, "open the drawer", 1), Request(OTHER, "lift the red cube", 2)
    alone = torch.cat([latents(request) for request in requests])
    torch.testing.assert_close(latents(*requests), alone, atol=1e-4, rtol=0)


def test_instruction_states_and_seed_change_the_future(foresight: VideoForesight) -> None:
    def future(instruction: str = "open the drawer", **kwargs: Any) -> np.ndarray:
        return foresight.predict(FRAME, instruction, **{"seed": 1, **kwargs}).frames[:, 1:]

    base = future()
    assert np.array_equal(base, future())
    for other in (
        future("put the carrot on the plate"),
        future(states=["lift", "the red cube", "carrot", "plate"]),
        future(seed=2),
        future(text_guidance_scale=0.0),
        future(image_guidance_scale=4.0),
    ):
        assert not np.array_equal(base, other)


def test_predict_without_text_needs_no_instruction(foresight: VideoForesight) -> None:
    blank = foresight.predict(FRAME, "", seed=1, text_guidance_scale=0)
    named = foresight.predict(FRAME, "open the drawer", seed=1, text_guidance_scale=0)
    np.testing.assert_array_equal(blank.frames, named.frames)


def test_instruction_may_come_with_the_observation(foresight: VideoForesight) -> None:
    observation = {"observation/image": FRAME, "prompt": "open the drawer"}
    carried = foresight.predict(observation, seed=1)
    assert carried.instruction == "open the drawer"
    np.testing.assert_array_equal(
        carried.frames, foresight.predict(FRAME, "  open the\n drawer ", seed=1).frames
    )


def test_rollout_starts_each_step_from_the_last_frame(foresight: VideoForesight) -> None:
    plan = ["open the drawer", "lift the red cube", "put the carrot on the plate"]
    rolled = foresight.rollout(FRAME, plan, num_samples=2, seed=4)
    assert rolled.frames.shape == (2, 1 + 3 * 3, 32, 32, 3)
    first = foresight.predict(FRAME, plan[0], num_samples=2, seed=4)
    np.testing.assert_array_equal(rolled.frames[:, :4], first.frames)
    second = foresight.predict(first.frames[0, -1], plan[1], seed=5)
    delta = np.abs(rolled.frames[0, 4:7].astype(int) - second.frames[0, 1:])
    assert delta.max() <= 1
    with pytest.raises(InstructionError, match="for a single one call predict"):
        foresight.rollout(FRAME, "open the drawer")


def test_a_plan_is_checked_before_time_is_spent(foresight: VideoForesight) -> None:
    seen: list[int] = []
    with pytest.raises(InstructionError, match="blank"):
        foresight.rollout(
            FRAME, ["open the drawer", " "], progress=lambda done, total: seen.append(done)
        )
    assert not seen
    with pytest.raises(TypeError, match="takes no states"):
        foresight.rollout(FRAME, ["open the drawer"], states=["a", "b", "c", "d"])


@pytest.mark.parametrize("given_frames", ["pinned", "sampled"])
def test_given_frames_are_held_in_every_step(given_frames: str) -> None:
    """Pinned, the network sees the given latents with exactly the noise of the step."""
    foresight = outspoken(given_frames=given_frames)
    seen: list[torch.Tensor] = []
    inner = foresight.denoiser

    class Watching:
        def denoise(self, latents: torch.Tensor, sigma: float, condition: Any) -> torch.Tensor:
            known = condition.latents[-1:, :1] * foresight.model.vae.config.scaling_factor
            seen.append((latents[-1:, :1] - known) / sigma)
            return inner.denoise(latents, sigma, condition)

    foresight.denoiser = Watching()
    foresight.predict(FRAME, "open the drawer", seed=1)
    # The same noise at every level; the first step starts from sigma * noise alone.
    drift = (seen[-1] - seen[1]).abs().max().item()
    assert (drift < 1e-3) == (given_frames == "pinned")


def test_still_places_keep_the_pixels_of_the_last_given_frame() -> None:
    foresight = outspoken(num_conditioning_frames=2)
    history = np.stack([FRAME, FRAME[::-1]])

    def future(**options: Any) -> np.ndarray:
        return foresight.predict(history, "open the drawer", seed=1, **options).frames[0]

    decoded, kept, whole = future(), future(still_threshold=1e6), future(still_threshold=1e-6)
    assert not np.array_equal(decoded[2], decoded[1])
    for frame in kept[2:]:  # a change so great that there is none
        np.testing.assert_array_equal(frame, kept[1])
    np.testing.assert_array_equal(whole, decoded)
    foresight.model.config = foresight.config.replace(
        sampling=replace(foresight.config.sampling, still_threshold=1e6)
    )
    np.testing.assert_array_equal(future(), kept)
    np.testing.assert_array_equal(future(still_threshold=0), decoded)


def test_a_predictor_of_states_with_the_wrong_count_is_named() -> None:
    class Three:
        identity = "three"

        def __call__(self, frame: np.ndarray, instruction: str) -> list[str]:
            assert frame.shape == FRAME.shape, "it sees the picture as observed"
            return ["a", "b", "c"]

    foresight = VideoForesight(tiny_model(), state_predictor=Three())
    with pytest.raises(StatePredictionError, match="three gave 3 states"):
        foresight.predict(FRAME, "open the drawer")


def test_an_instruction_too_long_for_the_text_tower_is_told(foresight: VideoForesight) -> None:
    with pytest.warns(UserWarning, match="its end is not read"):
        foresight.predict(FRAME, "put the carrot on the plate " * 9, states=["a", "b", "c", "d"])


def test_two_threads_share_one_model(foresight: VideoForesight) -> None:
    texts = ["open the drawer", "lift the red cube"]
    expected = [foresight.predict(FRAME, text, seed=1).frames for text in texts]
    results: dict[int, list[np.ndarray]] = {0: [], 1: []}

    def work(index: int) -> None:
        for _ in range(3):
            results[index].append(foresight.predict(FRAME, texts[index], seed=1).frames)

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in (0, 1):
        assert len(results[index]) == 3
        for frames in results[index]:
            np.testing.assert_array_equal(frames, expected[index])


def test_progress_counts_to_the_end(foresight: VideoForesight) -> None:
    seen: list[tuple[int, int]] = []
    foresight.predict(
        FRAME,
        "open the drawer",
        num_samples=2,
        batch_size=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i + 1, 6) for i in range(6)]


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_every_sampler_and_step_count(foresight: VideoForesight, sampler: str) -> None:
    result = foresight.predict(FRAME, "open the drawer", seed=1, steps=1, sampler=sampler)
    assert result.settings["sampler"] == sampler
    assert result.settings["steps"] == 1


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"instruction": ""}, InstructionError, "text_guidance_scale=0"),
        ({"instruction": None}, InstructionError, "blank"),
        ({"instruction": 3}, InstructionError, "expected text"),
        ({"fps": 30.0}, FrameRateError, "30.0 frames a second.*5.0"),
        ({"num_frames": 16}, FrameCountError, "16 frames were asked for"),
        ({"steps": 0}, SamplingError, "steps=0"),
        ({"steps": 2.5}, SamplingError, "steps=2.5"),
        ({"num_samples": 0}, SamplingError, "num_samples=0"),
        ({"seed": -1}, SamplingError, "seed=-1"),
        ({"seed": 1.5}, SamplingError, "seed=1.5"),
        ({"batch_size": 0}, SamplingError, "batch_size=0"),
        ({"decode_tile_size": 1}, SamplingError, "decode_tile_size=1"),
        ({"guidance_interval": 3}, SamplingError, "two noise levels"),
        ({"image_guidance_scale": "2"}, SamplingError, "must be a number"),
        ({"fps": "5"}, FrameRateError, "must be a number"),
        ({"still_threshold": -1}, ConfigError, "still_threshold=-1"),
        ({"still_threshold": "low"}, SamplingError, "must be a number"),
        ({"schedule": "ays"}, ConfigError, "sigma_max of 700"),
        ({"text_guidance_scale": -1}, SamplingError, "finite and not negative"),
        ({"sampler": "ddim"}, ConfigError, "euler, heun, dpmpp_2m"),
        ({"states": ["one"]}, InstructionError, "a list of 4 texts"),
        ({"states": "abcd"}, InstructionError, "a list of 4 texts"),
        ({"step": 3}, TypeError, "no option step; it has steps"),
        ({"obs": FRAME.astype(np.uint16)}, ObservationError, "uint16"),
        ({"obs": {"thermal": FRAME}}, ObservationError, "thermal"),
    ],
)
def test_bad_input_is_named(
    foresight: VideoForesight, kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    call = {"obs": FRAME, "instruction": "open the drawer", **kwargs}
    with pytest.raises(error, match=message):
        foresight.predict(call.pop("obs"), call.pop("instruction"), **call)


def test_history_that_is_too_short() -> None:
    with pytest.raises(FrameCountError, match="2"):
        outspoken(num_conditioning_frames=2).predict(FRAME, "open the drawer")


def test_noise_augmentation_depends_on_the_seed_alone() -> None:
    foresight = outspoken(noise_aug_strength=0.3)
    first = foresight.predict(FRAME, "open the drawer", seed=1).frames
    batch = foresight.predict_many(
        [Request(OTHER, "lift", 9), Request(FRAME, "open the drawer", 1)]
    )
    assert np.abs(first.astype(int) - batch[1].frames).max() <= 1


def test_overflow_is_an_error_not_a_black_clip() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.vae.decoder.conv_in.weight.fill_(float("nan"))
    with pytest.raises(SamplingError, match=r"not finite in torch\.float32"):
        VideoForesight(model).predict(FRAME, "open the drawer")


def test_from_pretrained_names_what_it_cannot_do(tiny_model_dir: Path) -> None:
    with (
        pytest.raises(ConfigError, match="sees no CUDA")
        if not torch.cuda.is_available()
        else (pytest.raises(ConfigError, match="cuda:99"))
    ):
        VideoForesight.from_pretrained(tiny_model_dir, device="cuda:99")
    with pytest.raises(ConfigError, match="dtype='int8'"):
        VideoForesight.from_pretrained(tiny_model_dir, dtype="int8")
    with pytest.raises(ConfigError, match="runtime='tpu'"):
        VideoForesight.from_pretrained(tiny_model_dir, runtime="tpu")


def test_bfloat16_predicts(tiny_model_dir: Path) -> None:
    low = VideoForesight.from_pretrained(tiny_model_dir, dtype="bfloat16")
    full = VideoForesight.from_pretrained(tiny_model_dir, dtype="float32")
    one, other = (f.predict(FRAME, "open the drawer", seed=1).frames for f in (low, full))
    assert np.abs(one.astype(int) - other).mean() < 8
