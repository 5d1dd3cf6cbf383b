"""Pixels to latents and back: scaling, masks, chunks and tiles."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.model.latents import (
    _starts,
    decode,
    encode,
    fill_conditioning,
    from_diffusion,
    keep_still,
    to_clip_pixels,
    to_diffusion,
    to_frames,
    to_pixels,
)
from tests.tiny import tiny_config, tiny_model


def test_every_uint8_survives_the_way_to_pixels_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    pixels = to_pixels(levels)
    assert pixels.shape == (1, 3, 16, 16)
    assert (pixels.min(), pixels.max()) == (-1.0, 1.0)
    assert torch.equal(to_frames(pixels), levels)
    assert to_frames(torch.tensor([-9.0, 9.0, 0.0]).reshape(3, 1, 1)).flatten().tolist() == [
        0,
        255,
        128,
    ]


@pytest.mark.parametrize("fill", ["repeat", "zeros", "learned"])
def test_masked_frames_are_filled_as_the_config_says(fill: str) -> None:
    given_latents = torch.randn(2, 2, 4, 3, 3)
    token = torch.zeros(4, 1, 1)
    config = tiny_config(num_frames=5, num_conditioning_frames=2, conditioning_fill=fill)
    filled = fill_conditioning(given_latents, config, token)
    assert filled.shape == (2, 5, 4, 3, 3)
    assert torch.equal(filled[:, :2], given_latents)
    last = given_latents[:, -1:].expand(-1, 3, -1, -1, -1)
    expected = torch.zeros_like(last) if fill == "zeros" else last
    assert torch.equal(filled[:, 2:], expected), "a learned fill starts as a repeat, as in SVD"
    if fill == "learned":
        moved = fill_conditioning(given_latents, config, token + 1)
        torch.testing.assert_close(moved[:, 2:], last + 1)


@pytest.mark.parametrize("reference", ["none", "conditioning"])
def test_diffusion_space_is_invertible(reference: str) -> None:
    config = tiny_config(latent_reference=reference, latent_reference_scale=2.5)
    latents = torch.randn(2, 4, 4, 3, 3)
    there = to_diffusion(latents, latents[:, :1], 0.18215, config)
    torch.testing.assert_close(from_diffusion(there, latents[:, :1], 0.18215, config), latents)
    if reference == "conditioning":
        assert there[:, 0].abs().max() == 0, "the given frame is the reference"
    else:
        torch.testing.assert_close(there, latents * 0.18215)


def test_what_is_decoded_fades_in_as_the_change_grows() -> None:
    change = torch.tensor([0.0, 0.1, 0.2, 0.3, 9.0]).reshape(1, 5, 1, 1).expand(-1, -1, 4, 4)
    given, pixels = torch.zeros(1, 3, 16, 16), torch.ones(1, 5, 3, 16, 16)
    shown = keep_still(pixels, change, given, threshold=0.2)
    assert shown.shape == pixels.shape
    torch.testing.assert_close(shown[0, :, 0, 3, 3], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    corner = torch.zeros(1, 1, 4, 4)
    corner[..., :2, :2] = 9.0
    shown = keep_still(pixels[:, :1], corner, given, threshold=0.2)[0, 0, 0]
    assert shown[:6, :6].eq(1).all(), "where it changes, all is decoded"
    assert shown[10:].eq(0).all(), "and elsewhere nothing"
    assert shown[:, 10:].eq(0).all()


@torch.no_grad()
def test_chunked_encoding_is_exact_and_unscaled() -> None:
    vae = tiny_model().vae
    pixels = torch.rand(2, 5, 3, 16, 16) * 2 - 1
    whole = encode(vae, pixels)
    torch.testing.assert_close(encode(vae, pixels, chunk_size=3), whole, atol=1e-5, rtol=1e-5)
    direct = vae.encode(pixels[0]).latent_dist.mode()
    torch.testing.assert_close(whole[0], direct, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoding_in_one_piece_is_diffusers_own() -> None:
    vae = tiny_model().vae
    latents = torch.randn(2, 4, 4, 8, 8)
    expected = torch.stack([vae.decode(clip, num_frames=4).sample for clip in latents])
    torch.testing.assert_close(decode(vae, latents), expected)
    torch.testing.assert_close(decode(vae, latents, chunk_size=4, tile_size=8), expected)


@torch.no_grad()
def test_chunks_and_tiles_come_close_to_the_whole() -> None:
    vae = tiny_model().vae
    # Without its one global attention the decoder only looks around, as a trained one mostly does.
    vae.decoder.mid_block.attentions = torch.nn.ModuleList([torch.nn.Identity()])
    vae.decoder.mid_block.attentions[0].forward = lambda hidden, *args, **kwargs: hidden
    latents = torch.randn(1, 6, 4, 24, 20)
    whole = decode(vae, latents)
    scale = whole.std()
    tiled = decode(vae, latents, tile_size=12)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.3 * scale
    chunked = decode(vae, latents, chunk_size=3)
    interior = (chunked - whole).abs().mean(dim=(0, 2, 3, 4))
    assert interior[[0, 5]].max() < interior[[2, 3]].max(), "only the seam differs"


@given(st.integers(1, 200), st.integers(4, 64))
def test_tiles_cover_a_frame_and_overlap(size: int, tile: int) -> None:
    overlap = max(1, tile // 4)
    starts = _starts(size, tile, overlap)
    assert starts[0] == 0
    if size <= tile:
        assert starts == [0]
        return
    assert starts[-1] + tile == size
    assert all(b - a <= tile - overlap + 1 for a, b in itertools.pairwise(starts))


def test_clip_pixels_have_clip_s_size_and_scale() -> None:
    grey = torch.zeros(1, 3, 64, 48)
    out = to_clip_pixels(grey, 16)
    assert out.shape == (1, 3, 16, 16)
    expected = (0.5 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    torch.testing.assert_close(out[0, :, 8, 8], expected, atol=1e-4, rtol=1e-3)
