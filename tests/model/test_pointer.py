"""Tokens that say where what an instruction names is, beside DQFormer's own."""

from __future__ import annotations

import pytest
import torch

from aid_robot.errors import ConfigError
from aid_robot.model.config import DQFormerConfig
from aid_robot.model.dqformer import DQFormer
from aid_robot.model.draft import DraftHead
from aid_robot.model.pointer import PlaceTokens
from aid_robot.model.positions import sine_places
from tests.tiny import tiny_config

CLIPS, STATES, TOKENS, PATCHES, WIDTH = 2, 4, 3, 9, 12


def parts() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "text": torch.randn(CLIPS, TOKENS, WIDTH),
        "states": torch.randn(CLIPS, STATES, TOKENS, WIDTH),
        "image": torch.randn(CLIPS, 1 + PATCHES, WIDTH),
    }


def dqformer(**changes: object) -> DQFormer:
    torch.manual_seed(0)
    config = DQFormerConfig(num_attention_heads=2, tokens_per_frame=5, **changes)  # type: ignore[arg-type]
    return DQFormer(tiny_config(dqformer=config), WIDTH, WIDTH, WIDTH).eval()


@torch.no_grad()
@pytest.mark.parametrize("shape", [{}, {"enabled": False}, {"join": "channels"}])
def test_places_come_after_a_context_that_stays(shape: dict[str, object]) -> None:
    if shape.get("join") == "channels":
        shape = {**shape}
        given = parts() | {"text": torch.randn(CLIPS, 5, WIDTH)}
        given["states"] = torch.randn(CLIPS, STATES, 5, WIDTH)
    else:
        given = parts()
    plain, pointing = dqformer(**shape)(**given), dqformer(**shape, pointing=True)(**given)
    assert pointing.spatial[:, :, :-2].equal(plain.spatial)
    assert pointing.temporal[:, :-2].equal(plain.temporal)
    of_frames = pointing.spatial[:, :, -2:]
    assert of_frames.equal(of_frames[:, :1].expand_as(of_frames)), "what is named is where it is"
    assert pointing.temporal[:, -2:].equal(of_frames[:, 0])


@torch.no_grad()
def test_some_frames_have_the_places_of_all() -> None:
    model = dqformer(pointing=True)
    full, some = model(**parts()), model(**parts(), frames=[3, 1])
    torch.testing.assert_close(some.spatial, full.spatial[:, [3, 1]])


@torch.no_grad()
def test_a_token_tells_the_place_and_what_is_seen_there() -> None:
    tokens = PlaceTokens(WIDTH, 16)
    image = torch.randn(1, 1 + PATCHES, WIDTH)
    logits = torch.full((1, 2, PATCHES), -1e4)
    logits[0, 0, 5] = logits[0, 1, 2] = 1e4  # row 1, column 2; row 0, column 2
    places = sine_places((3, 3), 64)[[5, 2]]
    expected = tokens.where(places) + tokens.what(image[0, [6, 3]]) + tokens.roles
    torch.testing.assert_close(tokens(logits, image)[0], expected)


@torch.no_grad()
def test_layers_of_a_draft_start_as_if_absent() -> None:
    context, given = torch.randn(2, 3, 7, 16), torch.randn(2, 4, 8, 8)
    plain, layered = (DraftHead.sized(16, 4, (8, 8), layers) for layers in (0, 2))
    layered.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(layered(context, given), plain(context, given))


def test_layers_bring_the_tokens_of_a_frame_together() -> None:
    head = DraftHead.sized(16, 4, (8, 8), 1)
    for parameter in head.mix.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randn(1, 7, 16, requires_grad=True)
    head.mix[0](tokens)[0, 0].sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[0, 1:].any(1).all()


def test_a_pooled_picture_has_no_places() -> None:
    with pytest.raises(ConfigError, match=r"pointing .* image_tokens='pooled'.*'patches'"):
        tiny_config(dqformer=DQFormerConfig(pointing=True), image_tokens="pooled")
    with pytest.raises(ConfigError, match="draft_layers=-1"):
        tiny_config(draft_layers=-1)
