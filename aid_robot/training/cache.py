"""What frozen parts of a model give for each episode, computed once.

The arrays lie in the episode store beside the frames (`EpisodeStore.write_cached`), under a hash of
all that they depend on: other weights, sizes or augmentations compute anew. Then neither the VAE
nor the towers take part in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from aid_robot.data.clips import Augmentation, latents_key
from aid_robot.data.episode import FloatArray
from aid_robot.data.store import EpisodeRecord, EpisodeStore
from aid_robot.data.store.reader import StoreReader
from aid_robot.errors import DataFormatError, StoreError
from aid_robot.model.aid import AIDModel
from aid_robot.model.conditioning import encode_image, encode_text
from aid_robot.model.latents import encode, to_pixels
from aid_robot.model.states import StatePredictor
from aid_robot.training.config import CacheConfig
from aid_robot.training.views import LookedFrames, View, draw_look, make_episode, plain_view

# Under this hash `latents_<camera>` stands in a view's own arrays.
IN_VIEW = "view"
# Episodes between two places that a run which is killed goes on from.
_GROUP = 32
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Item:
    """One array that is cached: of a camera in a version, or of a wording."""

    kind: str  # "latents", "given", "image" or "text"
    index: int
    key: str
    hash: str
    camera: str = ""
    version: int = 0
    wording: int = 0


class StoreRows:
    """Rows of a cached array, read from the store when they are asked for."""

    def __init__(self, store: StoreReader, item: Item, length: int) -> None:
        self._store, self._item, self._length = store, item, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, span: slice) -> FloatArray:
        item = self._item
        rows = _read(self._store, item, span)
        if rows is None:
            raise DataFormatError(
                f"{self._store.url} no longer has '{item.key}' of episode {item.index}; another "
                "run has put its own in its place: run again, which computes it anew, and let two "
                "models not share a store at the same time"
            )
        return rows.astype(np.float32, copy=False)


class MemoryRows:
    """Rows of a cached array that are at hand."""

    def __init__(self, rows: Array) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, span: slice) -> FloatArray:
        return self._rows[span].astype(np.float32, copy=False)


class Cache:
    """Compute what a stage can do without computing, and make views of episodes with it.

    Args:
        model: Its VAE, and its towers where `config.embeddings`.
        config: What is kept, and where.
        augment: How the versions but the first vary.
        states: Who splits instructions, of each episode's first frame.
        seed: Of the versions and of the noise on given frames.
    """

    def __init__(
        self,
        model: AIDModel,
        config: CacheConfig,
        augment: Augmentation,
        states: StatePredictor,
        *,
        embeddings: bool = False,
        seed: int = 0,
    ) -> None:
        self.model, self.config, self.augment, self.states = model, config, augment, states
        self.seed, self.embeddings = seed, embeddings and config.embeddings
        self.size = (model.config.height, model.config.width)
        self.noisy = model.config.noise_aug_strength > 0
        looks = digest(repr((self.size, augment, seed)))
        vae = digest(looks, model.vae.encoder, model.vae.quant_conv)
        self._hashes = {
            "latents": vae,
            "given": digest(vae, repr(model.config.noise_aug_strength)),
        }
        if self.embeddings:
            self._hashes["image"] = digest(looks, model.config.image_tokens, model.image_encoder)
            self._hashes["text"] = digest(
                repr((states.identity, model.config.num_states)),
                repr(sorted(model.tokenizer.get_vocab().items())),
                model.text_encoder,
            )
        self._memory: dict[Item, Array] = {}

    def items(self, index: int, record: EpisodeRecord) -> Iterator[Item]:
        """Name what is cached of an episode."""
        kinds = ["latents", *["given"] * self.noisy, *["image"] * self.embeddings]
        for camera in record.cameras:
            for version in range(self.config.versions):
                for kind in kinds:
                    key = f"{kind}_{camera}_{version}"
                    yield Item(kind, index, key, self._hashes[kind], camera, version)
        if self.embeddings:
            for wording in range(len(record.instructions)):
                yield Item("text", index, f"text_{wording}", self._hashes["text"], wording=wording)

    def missing(self, store: StoreReader, indices: Sequence[int]) -> list[Item]:
        """Find what isn't in the store yet."""
        there = store.cached
        found = []
        for index in indices:
            record = store.records[index]
            for item in self.items(index, record):
                if there.get(item.key) != item.hash or not _is_complete(store, item, record.length):
                    found.append(item)
        return found

    def fill(self, store: StoreReader, indices: Sequence[int]) -> None:
        """Compute what is missing; what a run that was killed had written is not done again."""
        if self.config.where == "memory":
            wanted = [item for i in indices for item in self.items(i, store.records[i])]
            for item, array in self._computed(store, wanted):
                self._memory[item] = array
            return
        missing = self.missing(store, indices)
        if not missing:
            return
        with EpisodeStore.open(store.url, mode="a") as writer:
            for place, (item, array) in enumerate(self._computed(store, missing)):
                per: Any = "episode" if item.kind == "text" else "frame"
                name = store.ids[item.index]
                writer.write_cached(item.key, name, array, model_hash=item.hash, per=per)
                if place % _GROUP == _GROUP - 1:  # reading brings it to the disk
                    writer.read_cached(item.key, name, 0, 1, model_hash=item.hash)

    def views(self, store: StoreReader, indices: Sequence[int]) -> list[View]:
        """See episodes in all their versions, with what was cached of them."""
        found = []
        for index in indices:
            record = store.records[index]
            plain = plain_view(store, index, record).plain
            items = {
                (item.kind, item.camera, item.version, item.wording): item
                for item in self.items(index, record)
            }

            def rows(
                kind: str,
                camera: str = "",
                version: int = 0,
                wording: int = 0,
                items: Mapping[tuple[str, str, int, int], Item] = items,
                length: int = record.length,
            ) -> StoreRows | MemoryRows:
                item = items[kind, camera, version, wording]
                if self.config.where == "memory":
                    return MemoryRows(self._memory[item])
                return StoreRows(store, item, length)

            for version in range(self.config.versions):
                videos, arrays, given, images = {}, {}, {}, {}
                for camera, frames in plain.items():
                    look = draw_look(self.augment, record, camera, version, self.seed)
                    videos[camera] = LookedFrames(frames, look, self.size)
                    arrays[latents_key(camera)] = rows("latents", camera, version)
                    if self.noisy:
                        given[camera] = rows("given", camera, version)
                    if self.embeddings:
                        images[camera] = rows("image", camera, version)
                count = len(record.instructions) if self.embeddings else 0
                found.append(
                    View(
                        make_episode(record, f"{record.id}#{version}", videos, arrays),
                        index,
                        version,
                        plain,
                        given,
                        images,
                        [rows("text", wording=wording) for wording in range(count)],
                    )
                )
        return found

    def _computed(self, store: StoreReader, items: Sequence[Item]) -> Iterator[tuple[Item, Array]]:
        bar = tqdm(items, desc="cache", unit="array")
        for item in bar:
            yield item, self._compute(store, item)

    @torch.inference_mode()
    def _compute(self, store: StoreReader, item: Item) -> Array:
        record, model = store.records[item.index], self.model
        plain = plain_view(store, item.index, record).plain
        if item.kind == "text":
            text = record.instructions[item.wording]
            states = self.states(next(iter(plain.values()))[0], text)
            tokens = encode_text(model.text_encoder, model.tokenizer, [text, *states])
            return _half(tokens)
        look = draw_look(self.augment, record, item.camera, item.version, self.seed)
        frames = LookedFrames(plain[item.camera], look, self.size)
        noise = np.random.default_rng([self.seed, item.index, item.version])
        parts = []
        for start in range(0, len(frames), self.config.batch_size):
            block = torch.from_numpy(frames[start : start + self.config.batch_size])
            device = next(model.vae.parameters()).device
            pixels = to_pixels(block.to(device))
            parts.append(_half(self._of_frames(item.kind, pixels, noise)))
        return np.concatenate(parts)

    def _of_frames(self, kind: str, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        model = self.model
        if kind == "image":
            return encode_image(model.image_encoder, pixels, model.config)
        if kind == "given":
            noise = torch.from_numpy(rng.standard_normal(pixels.shape, np.float32))
            pixels = pixels + model.config.noise_aug_strength * noise.to(pixels.device)
        return encode(model.vae, pixels[None], chunk_size=self.config.batch_size)[0]


def digest(*parts: str | nn.Module) -> str:
    """Name texts and the weights of modules in a few letters.

    Weights count in float16, as what is cached is kept: a model that was saved so is the same.
    """
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            state.update(part.encode())
        else:
            for name, tensor in part.state_dict().items():
                state.update(name.encode())
                state.update(tensor.detach().half().cpu().contiguous().numpy().data)
    return state.hexdigest()


def _is_complete(store: StoreReader, item: Item, length: int) -> bool:
    last = 0 if item.kind == "text" else length - 1
    return all(_read(store, item, slice(at, at + 1)) is not None for at in {0, last})


def _read(store: StoreReader, item: Item, span: slice) -> Array | None:
    try:
        return store.read_cached(
            item.key, item.index, span.start or 0, span.stop, model_hash=item.hash
        )
    except (StoreError, ValueError) as error:
        raise StoreError(
            f"'{item.key}' of episode {item.index} in {store.url} can't be read ({error}): delete "
            f"cache/{item.key} in the store and run again, which computes it anew"
        ) from error


def _half(tensor: Tensor) -> Array:
    return tensor.float().cpu().numpy().astype(np.float16)
