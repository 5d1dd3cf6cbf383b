"""What is computed once: the same as computed in every step, resumable, and bound to the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aid_robot.data.clips import Augmentation
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import DataFormatError, FrameRateError, StoreError, StoreLockedError
from aid_robot.model.aid import AIDModel
from aid_robot.model.latents import encode, to_pixels
from aid_robot.model.states import make_state_predictor
from aid_robot.training.cache import Cache
from aid_robot.training.config import CacheConfig, DataConfig, StageConfig
from aid_robot.training.data import TrainingData, check_sizes, training_clips
from aid_robot.training.noise import Noise
from aid_robot.training.samples import collate_samples
from aid_robot.training.stages import AIDStage
from tests.tiny import tiny_model
from tests.training.episodes import square_store

STATES = make_state_predictor("template")
AUGMENT = Augmentation(mirror=0.5)


def make_cache(model: AIDModel, config: CacheConfig, **arguments: object) -> Cache:
    settings = {"embeddings": config.embeddings, **arguments}
    return Cache(model, config, AUGMENT, STATES, **settings)  # type: ignore[arg-type]


def test_latents_are_bound_to_the_encoder_in_half_precision(tmp_path: Path) -> None:
    store = EpisodeStore.open(square_store(tmp_path, 2))
    model = tiny_model()
    make_cache(model, CacheConfig()).fill(store, [0])

    def missing() -> int:
        return len(make_cache(model, CacheConfig()).missing(store, [0]))

    model.vae.load_state_dict(model.vae.half().float().state_dict())
    assert missing() == 0, "a model that was saved in float16"
    with torch.no_grad():
        model.vae.decoder.conv_out.bias += 1
    assert missing() == 0
    with torch.no_grad():
        model.vae.quant_conv.bias += 1
    assert missing() == len(store.records[0].cameras)


@pytest.mark.parametrize("where", ["store", "memory"])
def test_cached_latents_are_those_of_the_frames(tmp_path: Path, where: str) -> None:
    model = tiny_model()
    store = EpisodeStore.open(square_store(tmp_path, 2))
    cache = make_cache(model, CacheConfig(where=where, versions=2))  # type: ignore[arg-type]
    cache.fill(store, [0, 1])
    views = cache.views(store, [0, 1])
    assert [(view.index, view.version) for view in views] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for view in views:
        frames = np.asarray(view.episode.videos["image_0"])
        with torch.no_grad():
            pixels = to_pixels(torch.from_numpy(frames)[None])
            expected = encode(model.vae, pixels)[0].numpy()
        rows = view.episode.arrays["latents_image_0"]
        np.testing.assert_allclose(rows[2:5], expected[2:5], atol=2e-2)
    plain, varied = (np.asarray(view.episode.videos["image_0"]) for view in views[:2])
    np.testing.assert_array_equal(plain, store.clip(0, 0, 10))
    assert not np.array_equal(plain, varied)


def test_a_step_from_the_cache_is_the_step_without(tmp_path: Path) -> None:
    """Also with noise on the given frames, and with the towers' tokens."""
    model = tiny_model(noise_aug_strength=0.02)
    data = TrainingData.open(DataConfig(str(square_store(tmp_path, 4)), held_out=0.0))
    cache = make_cache(model, CacheConfig(embeddings=True))
    cache.fill(data.store, data.train)
    config = StageConfig(steps=1)
    cached = AIDStage(model, config, STATES, cached=True, embedded=True)
    assert {name for name, _ in cached.named_children()} == {"unet", "condition_encoder"}
    clips = training_clips(data, AIDStage, model.config, cache, 0)
    batch = collate_samples([clips[number] for number in range(3)])
    assert batch.clips.frames.shape[1] == 1, "only the given frame is decoded"
    assert batch.text is not None
    assert batch.text.shape[1] == 5
    loss = cached(batch, Noise(0, 0, 3))
    # Without the tokens, then without the latents of the noisy frames as well.
    bare = replace(batch, text=None, image=None)
    torch.testing.assert_close(cached(bare, Noise(0, 0, 3)), loss, rtol=2e-3, atol=1e-4)
    plain = AIDStage(model, config, STATES)
    torch.testing.assert_close(plain(bare, Noise(0, 0, 3)), loss, rtol=2e-3, atol=1e-4)


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    model, path = tiny_model(), square_store(tmp_path, 3)
    store = EpisodeStore.open(path)
    cache = make_cache(model, CacheConfig(versions=2))
    assert len(cache.missing(store, [0, 1, 2])) == 6
    cache.fill(store, [1])
    assert {item.index for item in cache.missing(store, [0, 1, 2])} == {0, 2}
    cache.fill(store, [0, 1, 2])
    assert not cache.missing(store, [0, 1, 2])
    assert not make_cache(tiny_model(), CacheConfig(versions=2)).missing(store, [0, 1, 2])

    other = tiny_model(seed=1)
    anew = make_cache(other, CacheConfig(versions=1))
    assert len(anew.missing(store, [0, 1, 2])) == 3
    anew.fill(store, [0, 1, 2])
    # The first model's are no longer there, and say so.
    with pytest.raises(DataFormatError, match="another run has put its own in its place"):
        cache.views(store, [0])[0].episode.arrays["latents_image_0"][0:1]


def test_a_damaged_cache_says_what_to_delete(tmp_path: Path) -> None:
    model, path = tiny_model(), square_store(tmp_path, 2)
    store = EpisodeStore.open(path)
    cache = make_cache(model, CacheConfig())
    cache.fill(store, [0, 1])
    (shard,) = [p for p in (path / "cache").rglob("*") if p.is_file() and p.name != "zarr.json"]
    content = bytearray(shard.read_bytes())
    content[10:2000] = bytes(1990)
    shard.write_bytes(content)
    store = EpisodeStore.open(path)
    with pytest.raises(StoreError, match="delete cache/latents_image_0_0 in the store and run"):
        make_cache(model, CacheConfig()).missing(store, [0, 1])


def test_a_store_that_is_written_to_is_not_cached_in(tmp_path: Path) -> None:
    path = square_store(tmp_path, 1)
    with EpisodeStore.open(path, mode="a"), pytest.raises(StoreLockedError):
        make_cache(tiny_model(), CacheConfig()).fill(EpisodeStore.open(path), [0])


def test_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    path = str(square_store(tmp_path, 4))
    data = TrainingData.open(DataConfig(path, held_out=0.0))
    with pytest.raises(FrameRateError, match="set stride=2"):
        training_clips(data, AIDStage, replace(model.config, fps=2.5), None, 0)
    with pytest.raises(DataFormatError, match="fewer than 32 frames"):
        training_clips(data, AIDStage, replace(model.config, num_frames=64), None, 0)
    with pytest.raises(DataFormatError, match="frames of 32x32, the model's are 64x64"):
        check_sizes(data.store, replace(model.config, height=64, width=64))
    with pytest.raises(DataFormatError, match="none is held out"):
        TrainingData.open(DataConfig(path, held_out=1e-9))
    with pytest.raises(DataFormatError, match="none is to train on"):
        TrainingData.open(DataConfig(path, held_out=0.999999))


def test_instructions_of_failures_are_not_believed(tmp_path: Path) -> None:
    data = TrainingData.open(
        DataConfig(str(square_store(tmp_path, 3, outcome="failure")), held_out=0.0)
    )
    assert len(data.chosen(data.train, texts=False)) == 3
    with pytest.raises(DataFormatError, match=r"none of 3 episodes .* has an instruction and one"):
        data.chosen(data.train, texts=True)
