"""Parts of a model are off, and nothing else is; names make predictors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel

from aid_robot import VideoForesight
from aid_robot.baselines import (
    CopyLastFrame,
    FlowExtrapolation,
    ImagePrior,
    make_predictor,
    switched_off,
)
from aid_robot.baselines.image_prior import load_prior
from aid_robot.baselines.variants import PARTS
from aid_robot.errors import CheckpointError, ConfigError, WeightsNotFoundError
from aid_robot.model.adapters import LongTermTemporalAdapter
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import save_model
from aid_robot.model.conditioning import encode_image
from aid_robot.model.diffusion import Preconditioning
from aid_robot.model.guidance import IMAGE, NULL
from aid_robot.model.latents import to_pixels
from aid_robot.predictor import Predictor, Request
from tests.tiny import tiny_config, tiny_model

FRAME = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
TEXT = "put the carrot on the plate"
ADAPTERS = ("spatial", "short_term", "long_term")


@pytest.fixture(scope="module")
def trained() -> AIDModel:
    """A tiny model whose adapters do something."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.unet.named_parameters():
            if ".adapters." in name and ".up.weight" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def whole(trained: AIDModel) -> VideoForesight:
    return VideoForesight(trained, model_id="tiny")


@pytest.mark.parametrize("part", PARTS)
def test_each_part_changes_the_prediction_and_leaves_the_model(
    whole: VideoForesight, part: str
) -> None:
    before = whole.predict(FRAME, TEXT, seed=1).frames
    without = switched_off(whole, part)
    assert isinstance(without, Predictor)
    foresight = without.predict(FRAME, TEXT, seed=1)
    assert foresight.model_id == f"tiny?off={part}"
    assert (foresight.frames != before).any()
    np.testing.assert_array_equal(foresight.frames[0, 0], FRAME)
    np.testing.assert_array_equal(whole.predict(FRAME, TEXT, seed=1).frames, before)


def test_without_all_adapters_is_a_model_that_never_had_any(
    trained: AIDModel, whole: VideoForesight
) -> None:
    bare = switched_off(whole, ADAPTERS)
    untrained = tiny_model()  # its adapters still add nothing
    untrained.condition_encoder.load_state_dict(trained.condition_encoder.state_dict())
    expected = VideoForesight(untrained).predict(FRAME, TEXT, seed=2).frames
    np.testing.assert_array_equal(bare.predict(FRAME, TEXT, seed=2).frames, expected)
    kinds = {type(module) for module in bare.model.unet.modules()}
    assert LongTermTemporalAdapter not in kinds
    assert not bare.config.adapters.spatial
    assert trained.config.adapters.spatial
    # The weights are held once.
    assert bare.model.unet.conv_in.weight is trained.unet.conv_in.weight


def test_text_is_off_whatever_is_asked_for(whole: VideoForesight) -> None:
    without = switched_off(whole, "text")
    first = without.predict(FRAME, TEXT, seed=1, text_guidance_scale=5.0)
    other = without.predict(FRAME, "open the drawer", seed=1)
    blank = without.predict(FRAME, "", seed=1)
    assert first.settings["text_guidance_scale"] == 0.0
    np.testing.assert_array_equal(first.frames, other.frames)
    np.testing.assert_array_equal(first.frames, blank.frames)


def test_states_are_the_instruction(whole: VideoForesight) -> None:
    without = switched_off(whole, "states")
    own = Request(FRAME, TEXT, 1, states=["a", "b", "c", "d"])
    (foresight,) = without.predict_many([own])
    assert foresight.states == (TEXT,) * 4
    asked = whole.predict(FRAME, TEXT, seed=1, states=[TEXT] * 4)
    np.testing.assert_array_equal(foresight.frames, asked.frames)


def test_parts_that_do_not_exist(whole: VideoForesight) -> None:
    with pytest.raises(ConfigError, match="did you mean 'states'"):
        switched_off(whole, "state")
    with pytest.raises(ConfigError, match="no spatial adapters"):
        switched_off(VideoForesight(switched_off(whole, "spatial").model), "spatial")


# -- the prior -----------------------------------------------------------------------------------


def test_the_prior_is_diffusers_own_unet(tmp_path: Path, trained: AIDModel) -> None:
    save_model(trained, tmp_path)
    prior = load_prior(tmp_path)
    config = prior.config
    pixels = to_pixels(torch.from_numpy(FRAME[None, None]))
    noise = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    sigma = 3.0
    with torch.inference_mode():
        encodings = prior.encode(pixels, pixels, [TEXT], [[TEXT] * 4])
        condition = prior.condition(encodings, [NULL, IMAGE])
        ours = prior.denoise(noise.repeat(2, 1, 1, 1, 1), sigma, condition)

        reference = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path / "unet")
        at = Preconditioning.at(sigma)
        pooled = config.replace(image_tokens="pooled")
        image = encode_image(trained.image_encoder, pixels[:, 0], pooled)  # (1, 1, D)
        first = trained.vae.encode(pixels[0]).latent_dist.mode()[:, None]
        given = first.expand(-1, config.num_frames, -1, -1, -1)
        ids = torch.tensor([[config.fps - 1, config.motion_bucket_id, config.noise_aug_strength]])
        for row, share in ((0, 0.0), (1, 1.0)):
            sample = torch.cat([at.in_ * noise, share * given], dim=2)
            output = reference(sample, torch.tensor(at.noise), share * image, ids).sample
            expected = at.skip * noise + at.out * output
            torch.testing.assert_close(ours[row : row + 1], expected, rtol=1e-4, atol=1e-4)


def test_a_base_that_was_trained_along_is_no_prior(tmp_path: Path, trained: AIDModel) -> None:
    config = trained.config.replace(tuned_base=True)
    save_model(dataclasses.replace(trained, config=config), tmp_path)
    with pytest.raises(CheckpointError, match="take the prior that it was trained from"):
        load_prior(tmp_path)


def test_the_prior_reads_no_text(tmp_path: Path, trained: AIDModel) -> None:
    save_model(trained, tmp_path)
    prior = ImagePrior.from_pretrained(tmp_path, device="cpu")
    assert isinstance(prior, Predictor)
    first = prior.predict(FRAME, TEXT, seed=1, text_guidance_scale=3.0)
    other = prior.predict(FRAME, "open the drawer", seed=1)
    np.testing.assert_array_equal(first.frames, other.frames)
    assert (first.frames != prior.predict(FRAME, TEXT, seed=2).frames).any()
    assert first.model_id == f"prior:{tmp_path}"


# -- by name -------------------------------------------------------------------------------------


def test_names_make_predictors(tiny_model_dir: Path) -> None:
    name = str(tiny_model_dir)
    model = make_predictor(name, device="cpu")
    assert isinstance(model, VideoForesight)
    assert make_predictor(f"aid:{name}", device="cpu") is model
    without = make_predictor(f"aid:{name}?off=states,text", device="cpu")
    assert without.model_id == f"{name}?off=states,text"  # type: ignore[attr-defined]
    assert without.model is model.model  # type: ignore[attr-defined]
    prior = make_predictor(f"prior:{name}", device="cpu")
    assert isinstance(prior, ImagePrior)
    assert prior.num_frames == 4


def test_baselines_take_their_shape(tiny_model_dir: Path) -> None:
    copying = make_predictor("copy-last-frame")
    assert isinstance(copying, CopyLastFrame)
    assert copying.num_frames == 16
    config = tiny_config(num_conditioning_frames=2)
    flow = make_predictor("flow", like=config)
    assert isinstance(flow, FlowExtrapolation)
    assert (flow.num_frames, flow.num_conditioning_frames) == (4, 2)
    assert make_predictor(f"copy-last-frame:{tiny_model_dir}", like=config).num_frames == 4


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("copy-last-fram", WeightsNotFoundError, "copy-last-fram"),
        ("pior:bundled", ConfigError, "did you mean 'prior'"),
        ("aid:bundled?of=states", ConfigError, "expected '.off=<part>"),
        ("aid:bundled?off=", ConfigError, "says nothing"),
        ("prior:bundled?off=text", ConfigError, "only an AID"),
        ("aid:nowhere", WeightsNotFoundError, "nowhere"),
    ],
)
def test_names_that_mean_nothing(name: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        make_predictor(name, device="cpu")
