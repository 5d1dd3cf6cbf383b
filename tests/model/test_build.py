"""Fresh models."""

from __future__ import annotations

from dataclasses import replace

import torch

from aid_robot.model.build import (
    build_image_encoder,
    build_text_encoder,
    build_tokenizer,
    sine_places,
)
from tests.tiny import SIZES, TEXTS


def test_a_vocabulary_is_the_same_every_time() -> None:
    first, second = (build_tokenizer(TEXTS, 600, 16) for _ in range(2))
    assert first.get_vocab() == second.get_vocab()
    text = "put the purple carrot on the plate"
    assert first(text).input_ids == second(text).input_ids


def test_no_two_places_are_alike() -> None:
    places = sine_places((8, 8), 64)
    assert places.shape == (64, 64)
    assert abs(places.square().mean().item() - 1) < 0.05
    distances = torch.cdist(places, places) + torch.eye(64) * 100
    assert distances.min() > 1


def test_unit_positions_let_a_fresh_tower_tell_places() -> None:
    """The patches of an even picture differ by nothing but their place."""
    differences = []
    for unit in (False, True):
        torch.manual_seed(0)
        tower = build_image_encoder(replace(SIZES, unit_positions=unit))
        with torch.no_grad():
            tokens = tower.vision_model(torch.ones(1, 3, 16, 16)).last_hidden_state[0, 1:]
        differences.append(((tokens - tokens.mean(0)).norm() / tokens.norm()).item())
    assert differences[1] > 2 * differences[0]


def test_unit_positions_let_a_text_tower_begin_with_words_of_unit_scale() -> None:
    torch.manual_seed(0)
    tower = build_text_encoder(replace(SIZES, unit_positions=True))
    words = dict(tower.named_parameters())
    (name,) = (name for name in words if name.endswith("token_embedding.weight"))
    assert abs(words[name].std().item() - 1) < 0.01
