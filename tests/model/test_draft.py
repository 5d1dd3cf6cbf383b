"""A draft of the clip, and a UNet that predicts what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aid_robot.foresight import VideoForesight
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import load_model, save_model
from aid_robot.model.conditioning import Encodings
from aid_robot.model.guidance import FULL, IMAGE, NULL
from tests.model.test_checkpoint import FRAME
from tests.tiny import tiny_model

TEXT = "open the drawer"


def drafting_model(**changes: object) -> AIDModel:
    """A tiny model that drafts, and whose UNet has nothing to add to it."""
    model = tiny_model(conditioning_fill="draft", prediction_type="sample", **changes)
    with torch.no_grad():
        for parameter in model.unet.conv_out.parameters():
            parameter.zero_()
    return model


def encoded(model: AIDModel, text: str = TEXT) -> Encodings:
    count = model.config.num_conditioning_frames
    pixels = torch.rand(1, count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return model.encode(pixels, pixels, [text], [["a", "b", "c", "d"]])


@pytest.mark.parametrize("reference", ["none", "conditioning"])
@pytest.mark.parametrize("count", [1, 2])
@torch.no_grad()
def test_a_unet_that_adds_nothing_leaves_the_draft(count: int, reference: str) -> None:
    model = drafting_model(num_conditioning_frames=count, latent_reference=reference)
    encodings = encoded(model)
    condition = model.condition(encodings, [IMAGE, FULL])
    draft, known = condition.draft, model.to_diffusion(encodings.given, encodings.given)
    assert draft is not None
    latents = torch.randn(2, *model.latent_shape)
    torch.testing.assert_close(model.denoise(latents, 5.0, condition), draft)
    torch.testing.assert_close(draft[:, :count], known.expand(2, -1, -1, -1, -1))
    assert not torch.allclose(draft[0], draft[1]), "the instruction says what comes"
    # The UNet sees what it has to mend, as frames like the given ones.
    seen = model.to_diffusion(condition.latents, encodings.given)
    torch.testing.assert_close(seen, draft, atol=1e-5, rtol=1e-5)
    rows = condition.rows([1, 0])
    assert rows.draft is not None
    assert rows.draft.equal(draft.flip(0))


@torch.no_grad()
def test_each_branch_of_the_guidance_denoises_around_its_own_draft() -> None:
    model = drafting_model()
    found = model.condition(encoded(model), [NULL, IMAGE, FULL])
    other = model.condition(encoded(model, "lift the red cube"), [NULL, IMAGE, FULL])
    assert found.draft is not None
    assert other.draft is not None
    assert not found.draft[0].any(), "nothing is seen, nothing is drafted"
    assert not found.latents[0].any()
    torch.testing.assert_close(found.draft[1], other.draft[1])
    assert not torch.allclose(found.draft[2], other.draft[2])


@torch.no_grad()
def test_a_half_precise_model_drafts_beside_a_vae_that_stays_in_float32() -> None:
    model = drafting_model()
    model.vae.register_to_config(force_upcast=True)
    expected = model.condition(encoded(model)).draft
    model.to(torch.device("cpu"), torch.float16)
    condition = model.condition(encoded(model))
    assert condition.draft is not None
    torch.testing.assert_close(condition.draft.float(), expected, atol=0.02, rtol=0.02)
    latents = torch.randn(1, *model.latent_shape, dtype=torch.float16)
    assert model.denoise(latents, 5.0, condition).dtype == torch.float16


def test_a_drafting_model_is_saved_and_loaded_with_its_draft(tmp_path: Path) -> None:
    model = drafting_model()
    with torch.no_grad():
        for parameter in model.condition_encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    one, other = (VideoForesight(m).predict(FRAME, TEXT, seed=3).frames for m in (model, loaded))
    assert (one == other).all()
