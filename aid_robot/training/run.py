"""The whole of a training: every stage of a recipe, from a store to a model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aid_robot.errors import CheckpointError, ConfigError
from aid_robot.extras import require
from aid_robot.hub import resolve
from aid_robot.model.aid import AIDModel
from aid_robot.model.states import make_state_predictor
from aid_robot.training.cache import Cache, digest
from aid_robot.training.config import ModelConfig, Recipe, StageConfig, StageName
from aid_robot.training.data import (
    TrainingData,
    check_sizes,
    held_out_clips,
    training_clips,
)
from aid_robot.training.samples import collate_samples
from aid_robot.training.stages import STAGE_CLASSES, Stage, make_stage
from aid_robot.training.stages.stage import Figures
from aid_robot.training.start import (
    EXTRAS,
    check_output,
    first_config,
    first_model,
    load_changed,
    put_weights,
    save_trained,
    silence,
    trains_unet,
)
from aid_robot.training.trainer import Trainer, check_recipe

MODEL, DONE = "model", "stage.json"
# Training clips that a stage may look at when it is done.
_FINISHING_CLIPS = 64


def train(recipe: Recipe, folder: Path, *, device: str = "auto") -> Path:
    """Run a recipe; what an earlier run of it has done isn't done again.

    Args:
        recipe: What to do.
        folder: Of the run; a stage works in `folder/<stage>`.
        device: "auto", "cpu" or "cuda".

    Returns:
        The folder of the last stage's model.
    """
    run = Run(recipe, folder, make_accelerator(recipe, device))
    for name in recipe.stages:
        run.stage(name)
    return run.folder_of(list(recipe.stages)[-1]) / MODEL


def make_accelerator(recipe: Recipe, device: str = "auto") -> Any:
    """Set up one process or one of many, as torchrun or accelerate have started it."""
    accelerate = require("accelerate", "train")
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"device='{device}' is unknown; it is auto, cpu or cuda; a certain GPU is chosen by "
            "CUDA_VISIBLE_DEVICES"
        )
    utils = require("accelerate.utils", "train")
    # Others wait while the first process fills the cache.
    patience = utils.InitProcessGroupKwargs(timeout=timedelta(hours=12))
    unused = utils.DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = accelerate.Accelerator(
        cpu=device == "cpu",
        mixed_precision={"fp32": "no", "bf16": "bf16"}[recipe.precision],
        kwargs_handlers=[patience, unused],
    )
    if device == "cuda" and accelerator.device.type != "cuda":
        raise ConfigError("device='cuda' was asked for, but torch sees no CUDA device: use cpu")
    if accelerator.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # Threads of several processes that wait for each other on the same cores hardly get on.
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
        torch.set_num_threads(max(1, torch.get_num_threads() // neighbours))
    return accelerator


@contextmanager
def _all_cores(accelerator: Any) -> Iterator[None]:
    """Compute on the cores of the processes that wait, too, where there are several on a CPU."""
    threads = torch.get_num_threads()
    if accelerator.device.type == "cpu":
        torch.set_num_threads(threads * accelerator.num_processes)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Run:
    """A recipe at work in a folder."""

    def __init__(self, recipe: Recipe, folder: Path, accelerator: Any) -> None:
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        check_output(recipe)
        self.data = TrainingData.open(recipe.data)
        self.states = make_state_predictor(
            recipe.model.states, num_states=first_config(recipe.model).num_states, fallback=False
        )

    def folder_of(self, name: StageName) -> Path:
        """Name the folder in which a stage works."""
        return self.folder / name

    def stage(self, name: StageName) -> None:
        """Run a stage, unless it is done."""
        recipe, folder = self.recipe, self.folder_of(name)
        identity, start = self._identity(name), self._start(name)
        if (folder / DONE).exists():
            done = json.loads((folder / DONE).read_text())
            check_recipe(folder, done["recipe"], identity)
            self._say(f"stage {name}: done before, {folder / MODEL}")
            return
        config, kind = recipe.stages[name], STAGE_CLASSES[name]
        model = self._model(name, start)
        check_sizes(self.data.store, model.config)
        cache = self._cache(kind, model) if config.use_cache else None
        clips = training_clips(
            self.data, kind, model.config, cache, recipe.seed, config.alternatives
        )
        held_out = held_out_clips(self.data, kind, model.config, config.validation_clips)
        stage = self._make_stage(name, model, cache, start)
        self._say(
            f"stage {name}: {len(clips.windows)} windows of {len(self.data.train)} episodes to "
            f"train on, {len(held_out)} held-out clips to judge by\n{stage.table()}"
        )
        trainer = Trainer(
            stage,
            clips,
            config,
            folder,
            self.accelerator,
            seed=recipe.seed,
            recipe=identity,
            held_out=held_out,
            tensorboard=recipe.tensorboard,
            workers=recipe.data.workers,
        )
        weights = trainer.run()
        figures = trainer.measure() if held_out else {}
        if self.accelerator.is_main_process:
            self._finish(name, start, weights, figures, clips_of=kind)
        self.accelerator.wait_for_everyone()

    # -- before ------------------------------------------------------------------------------

    def _start(self, name: StageName) -> Path | None:
        order = list(self.recipe.stages)
        if name != order[0]:
            return self.folder_of(order[order.index(name) - 1]) / MODEL
        return resolve(self.recipe.model.start) if self.recipe.model.start else None

    def _model(self, name: StageName, start: Path | None) -> AIDModel:
        recipe = self.recipe
        if start is None or not (start / "aid").is_dir():
            model = first_model(recipe, self.data.store, self.states)
        else:
            wanted = self._model_config(start)
            if not trains_unet(name, recipe.stages[name]):  # a later stage turns the UNet's output
                kept = {k: v for k, v in wanted.config.items() if k != "prediction_type"}
                wanted = replace(wanted, config=kept)
            model = load_changed(start, wanted, recipe.seed)
        # The prior knows no text, and so no draft.
        drafts = model.config.conditioning_fill == "draft" and not model.config.tuned_base
        if name == "aid" and drafts:
            silence(model)
        return model

    def _model_config(self, start: Path) -> ModelConfig:
        # What the recipe itself has trained is not begun anew.
        own = start.is_relative_to(self.folder)
        return replace(self.recipe.model, fresh_aid=False) if own else self.recipe.model

    def _identity(self, name: StageName) -> dict[str, Any]:
        """Return what a stage's weights depend on, beside its clips."""
        recipe = self.recipe
        data = {k: v for k, v in asdict(recipe.data).items() if k not in ("store", "workers")}
        cache = {k: v for k, v in asdict(recipe.cache).items() if k in ("versions", "embeddings")}
        cache["cached"] = recipe.cache.where != "none" and recipe.stages[name].use_cache
        order = list(recipe.stages)
        before = {s: recipe.stages[s].identity for s in order[: order.index(name)]}
        identity = {
            "stage": name,
            "config": recipe.stages[name].identity,
            "model": asdict(recipe.model),
            "data": data,
            "cache": cache,
            "precision": recipe.precision,
            "seed": recipe.seed,
            "before": digest(json.dumps(before)) if before else "",
        }
        found: dict[str, Any] = json.loads(json.dumps(identity))
        return found

    def _cache(self, kind: type[Stage], model: AIDModel) -> Cache | None:
        recipe, accelerator = self.recipe, self.accelerator
        if recipe.cache.where == "none" or not kind.whole_clips:
            return None
        parts = [model.vae, *[model.image_encoder, model.text_encoder] * kind.embeddings]
        for part in parts:
            nn.Module.to(part, device=accelerator.device)
        cache = Cache(
            model,
            recipe.cache,
            recipe.data.augment,
            self.states,
            embeddings=kind.embeddings,
            seed=recipe.seed,
        )
        indices = self.data.chosen(self.data.train, kind.texts)
        if recipe.cache.where == "memory" or accelerator.is_main_process:
            with _all_cores(accelerator):
                cache.fill(self.data.store, indices)
        accelerator.wait_for_everyone()
        for part in parts:
            nn.Module.to(part, device="cpu")
        return cache

    def _make_stage(
        self, name: StageName, model: AIDModel, cache: Cache | None, start: Path | None
    ) -> Stage:
        stage = make_stage(
            name,
            model,
            self.recipe.stages[name],
            self.states,
            cached=cache is not None,
            embedded=cache is not None and cache.embeddings,
        )
        # The heads that a stage before has trained, in this run or in the one that it goes on from.
        places = [
            self.folder_of("draft"),
            self.folder_of("clip"),
            *([start.parent] if start else []),
        ]
        extras = [place / EXTRAS for place in places if (place / EXTRAS).exists()]
        if name in ("ground", "clip", "draft", "aid") and extras:
            known = stage.state_dict()
            fitting = {
                key: tensor
                for key, tensor in load_file(extras[0]).items()
                if key in known and known[key].shape == tensor.shape
            }
            stage.load_state_dict(fitting, strict=False)
        return stage

    # -- after -------------------------------------------------------------------------------

    def _finish(
        self,
        name: StageName,
        start: Path | None,
        weights: Mapping[str, Tensor],
        figures: Figures,
        clips_of: type[Stage],
    ) -> None:
        """Save the model, made anew from where the stage began and the trained weights."""
        recipe, folder = self.recipe, self.folder_of(name)
        model = self._model(name, start)
        extras = put_weights(model, weights)
        if name == "vae":
            # What is scaled is clips, whatever the stage looked at.
            stage = make_stage(name, model, recipe.stages[name], self.states)
            clips = training_clips(
                self.data, STAGE_CLASSES["prior"], model.config, None, recipe.seed
            )
            count = min(_FINISHING_CLIPS, len(clips))
            stage.finish(collate_samples([clips[number] for number in range(count)]))
        fresh = folder / f"{MODEL}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        config = recipe.stages[name]
        save_trained(
            model,
            fresh,
            start,
            keeps_base=name == "aid" and config.trains == "aid",
            keeps_towers=not config.train_towers,
            tuned_base=_tunes(name, config, model),
        )
        self.data.write_split(fresh)
        if start is not None and (start.parent / EXTRAS).exists():
            # Those of stages before are for the stages after this one.
            extras = load_file(start.parent / EXTRAS) | extras
        if extras:
            save_file({key: t.contiguous() for key, t in extras.items()}, folder / EXTRAS)
        shutil.rmtree(folder / MODEL, ignore_errors=True)
        fresh.rename(folder / MODEL)
        done = {
            "recipe": self._identity(name),
            "figures": {key: values.tolist() for key, values in figures.items()},
        }
        partial = folder / f"{DONE}.tmp"
        partial.write_text(json.dumps(done, indent=1))
        partial.rename(folder / DONE)
        means = ", ".join(f"{key} {values.mean():.4g}" for key, values in figures.items())
        self._say(
            f"stage {name}: wrote {folder / MODEL}" + (f"; held out: {means}" if means else "")
        )

    def _say(self, text: str) -> None:
        self.accelerator.print(text, flush=True)


def _tunes(name: StageName, config: StageConfig, model: AIDModel) -> bool:
    """Say whether the UNet's own weights have been trained along with AID after a stage."""
    if name == "prior":
        return False
    return model.config.tuned_base or (name == "aid" and config.trains == "full")


def figures_of(folder: Path) -> dict[str, list[float]]:
    """Read what a finished stage measured, by held-out clip."""
    path = folder / DONE
    if not path.exists():
        raise CheckpointError(f"{folder} holds no finished stage: run it first")
    figures: dict[str, list[float]] = json.loads(path.read_text())["figures"]
    return figures
