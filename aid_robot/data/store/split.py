"""Divide episodes into a part to train on and others to judge by."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from aid_robot.errors import StoreError

if TYPE_CHECKING:
    from aid_robot.data.store.reader import StoreReader

By: TypeAlias = Literal["hash", "scene", "episode"]


def split_episodes(
    store: StoreReader, fractions: Mapping[str, float], by: By, seed: int
) -> dict[str, list[int]]:
    """Name the part of each episode, as EpisodeStore.split says."""
    shares = list(fractions.values())
    sound = all(math.isfinite(share) and share >= 0 for share in shares)
    if not shares or not sound or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise StoreError(
            f"fractions are {dict(fractions)}; expected numbers from 0 that add up to 1"
        )
    if by not in ("hash", "scene", "episode"):
        raise StoreError(f"by is '{by}'; expected 'hash', 'scene' or 'episode'")
    bounds = np.cumsum(shares)
    if by == "episode":
        order = np.random.default_rng(seed).permutation(len(store))
        places = np.empty(len(store))
        places[order] = (np.arange(len(store)) + 0.5) / max(1, len(store))
    elif by == "hash":
        places = np.array([hashed(name, seed) for name in store.ids])
    else:
        # An episode of an unknown scene is a scene of its own.
        scenes = (f"scene {r.scene}" if r.scene else f"id {r.id}" for r in store.records)
        places = np.array([hashed(name, seed) for name in scenes])
    parts = np.minimum(np.searchsorted(bounds, places, side="right"), len(shares) - 1)
    return {name: np.flatnonzero(parts == number).tolist() for number, name in enumerate(fractions)}


def hashed(name: str, seed: int = 0) -> float:
    """Place a name in [0, 1), the same on every machine."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64
