"""From a store to what a stage is trained on and judged by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aid_robot.data.clips import Augmentation, ClipConfig, Split
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import ConfigError, DataFormatError
from aid_robot.model.checkpoint import AID_FOLDER
from aid_robot.model.config import AIDConfig
from aid_robot.training.cache import IN_VIEW, Cache
from aid_robot.training.config import DataConfig
from aid_robot.training.samples import Sample, SampleDataset, knows_places
from aid_robot.training.stages.stage import Stage
from aid_robot.training.views import PLACES, plain_view

SPLIT = "split.json"


@dataclass(frozen=True)
class TrainingData:
    """The episodes of a store by their numbers, divided once and for all."""

    store: EpisodeStore
    config: DataConfig
    train: tuple[int, ...]
    held_out: tuple[int, ...]

    @classmethod
    def open(cls, config: DataConfig) -> TrainingData:
        """Open a store and divide it by the hash of its scenes."""
        if not config.store:
            raise ConfigError(
                "data.store is not set: make one by `aid-robot simulate` or `aid-robot ingest`, "
                "and add --set data.store=PATH"
            )
        store = EpisodeStore.open(config.store)
        split = Split(config.held_out, config.split_seed).held_out(store.records)
        sides: dict[bool, list[int]] = {True: [], False: []}
        for index, name in enumerate(store.ids):
            sides[name in split].append(index)
        for side, name in ((False, "to train on"), (True, "held out")):
            if not sides[side] and (config.held_out or not side):
                raise DataFormatError(
                    f"of {len(store)} episodes in {config.store} none is {name}; expected one at "
                    f"least: record more, or change data.held_out={config.held_out:g} or "
                    "data.split_seed"
                )
        return cls(store, config, tuple(sides[False]), tuple(sides[True]))

    def chosen(self, side: Sequence[int], texts: bool, places: bool = False) -> list[int]:
        """Leave out what a stage that believes instructions, or points at things, can't use."""
        if not texts:
            return list(side)
        records = self.store.records
        found = [
            index
            for index in side
            if (records[index].outcome or "") in self.config.outcomes
            and records[index].instructions
        ]
        if side and not found:
            raise DataFormatError(
                f"none of {len(side)} episodes in {self.config.store} has an instruction and one "
                f"of the outcomes {list(self.config.outcomes)}; expected one at least: annotate "
                "them, or change data.outcomes"
            )
        if not places:
            return found
        pointed = [index for index in found if knows_places(records[index].info)]
        if found and not pointed:
            raise DataFormatError(
                f"none of {len(found)} episodes in {self.config.store} says where things are; "
                f"expected '{PLACES}' in the info of one at least, as `aid-robot simulate` writes "
                "them: leave out the stage 'ground'"
            )
        return pointed

    def write_split(self, folder: Path) -> None:
        """Say in a model's folder which episodes it has never seen."""
        held_out = [self.store.ids[index] for index in self.held_out]
        content = {
            "share": self.config.held_out,
            "seed": self.config.split_seed,
            "episodes": len(self.store),
            "held_out": held_out,
        }
        (folder / AID_FOLDER).mkdir(parents=True, exist_ok=True)
        (folder / AID_FOLDER / SPLIT).write_text(json.dumps(content, indent=1) + "\n")


def read_split(folder: Path) -> Split | None:
    """Read which episodes a model has never seen; None where its folder doesn't say.

    Episodes of other stores are divided as those of its own were.
    """
    path = folder / AID_FOLDER / SPLIT
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        return Split(share=float(content["share"]), seed=int(content["seed"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataFormatError(f"{path} can't be read ({error!r}): restore it") from error


def check_sizes(store: EpisodeStore, config: AIDConfig) -> None:
    """Refuse frames that would have to be enlarged."""
    for camera, (height, width) in store.cameras.items():
        if height < config.height or width < config.width:
            raise DataFormatError(
                f"camera '{camera}' of {store.url} has frames of {width}x{height}, the model's "
                f"are {config.width}x{config.height}; expected none smaller: record larger ones, "
                "or set model.config.height and width"
            )


def training_clips(
    data: TrainingData,
    stage: type[Stage],
    config: AIDConfig,
    cache: Cache | None,
    seed: int,
    alternatives: int = 1,
) -> SampleDataset:
    """Cut the clips that a stage is trained on; a cache must be filled."""
    indices = data.chosen(data.train, stage.texts, stage.places)
    pairs = data.config.augment if stage.captions else None
    cut = cut_of(data.config, stage, config, cached=cache is not None)
    if cache is None:
        views = [plain_view(data.store, i, data.store.records[i]) for i in indices]
        augment: Augmentation | None = data.config.augment
    else:
        views, augment = cache.views(data.store, indices), None
    points = data.config.augment if stage.points else None
    return SampleDataset(
        views, cut, augment=augment, pairs=pairs, points=points, alternatives=alternatives,
        seed=seed,
    )  # fmt: skip


def held_out_clips(
    data: TrainingData, stage: type[Stage], config: AIDConfig, count: int
) -> list[Sample]:
    """Choose the clips that a stage is judged by, from episodes that none is trained on."""
    indices = data.chosen(data.held_out, stage.texts, stage.places)
    if not indices:
        return []
    views = [plain_view(data.store, i, data.store.records[i]) for i in indices]
    cut = cut_of(data.config, stage, config, cached=False)
    pairs = data.config.augment if stage.captions else None
    points = data.config.augment if stage.points else None
    return SampleDataset(views, cut, pairs=pairs, points=points).choose(count)


def cut_of(data: DataConfig, stage: type[Stage], config: AIDConfig, *, cached: bool) -> ClipConfig:
    """Say what clips a stage looks at."""
    size = (config.height, config.width)
    if not stage.whole_clips:
        return ClipConfig(1, 0, size, camera=data.camera, weighting=data.weighting)
    return ClipConfig(
        config.num_frames,
        config.num_conditioning_frames,
        None if cached else size,
        stride=data.stride,
        fps=config.fps,
        camera=data.camera,
        weighting=data.weighting,
        min_motion=data.min_motion,
        latents=IN_VIEW if cached else "",
    )
