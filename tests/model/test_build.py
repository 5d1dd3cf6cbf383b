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


def test_unit_positions_let_towers_tell_places_and_the_order_of_words() -> None:
    """Of fresh towers: patches of an even picture differ by their place, words by theirs."""
    changes = []
    for unit in (False, True):
        torch.manual_seed(0)
        sizes = replace(SIZES, unit_positions=unit)
        image, text = build_image_encoder(sizes), build_text_encoder(sizes)
        with torch.no_grad():
            tokens = image.vision_model(torch.ones(1, 3, 16, 16)).last_hidden_state[0, 1:]
            same = text(torch.tensor([[0, *[5] * 6, 1]])).last_hidden_state[0, 1:-1]
        places = (tokens - tokens.mean(0)).norm() / tokens.norm()
        order = (same - same.mean(0)).norm() / same.norm()
        changes.append((places.item(), order.item()))
    assert changes[1][0] > 2 * changes[0][0]
    assert changes[1][1] > 2 * changes[0][1]
