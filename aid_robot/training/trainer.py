"""One loop for every stage: draw clips, step, average, save, resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from aid_robot.data.clips import ClipDataset, ClipSampler
from aid_robot.errors import CheckpointError, ConfigError, TrainingError
from aid_robot.training.config import TrainingConfig
from aid_robot.training.stages import Stage

_STATE, _META, _LOG = "state.safetensors", "state.json", "log.jsonl"


class Trainer:
    """Train one stage for a given time, going on where an earlier run was stopped.

    Weights, averages, optimizer, noise and the place in the stream of clips are restored as they
    were at the last save; the learning rate follows the time spent training.

    Args:
        stage: What is trained, and its loss.
        clips: Where batches come from.
        config: Settings.
        folder: State and log go here; a state found here is resumed.
        recipe: What else must be the same when a run goes on, such as its sources.
        minutes: Length of the whole stage; the learning rate falls to zero over it.
    """

    def __init__(
        self,
        stage: Stage,
        clips: ClipDataset,
        config: TrainingConfig,
        folder: Path,
        minutes: float,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        if minutes <= 0:
            raise ConfigError(f"minutes={minutes} must be positive")
        if clips.config.num_frames != stage.frames_per_clip:
            raise ConfigError(
                f"the clips have num_frames={clips.config.num_frames}; the stage takes "
                f"{stage.frames_per_clip} frames a clip: cut them so"
            )
        self.stage, self.clips, self.config, self.folder = stage, clips, config, folder
        self.seconds = minutes * 60
        # As JSON gives it back, to be compared with that of a saved run.
        self.recipe = json.loads(
            json.dumps(
                {
                    **(recipe or {}),
                    "minutes": minutes,
                    "config": asdict(config),
                    "clips": clips.fingerprint,
                }
            )
        )
        self.step, self.elapsed = 0, 0.0
        self.sampler = ClipSampler(clips, infinite=True)
        self.noise_rng = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.AdamW(
            stage.parameters.values(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )
        self.average: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in stage.parameters.items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _META).exists():
            self._resume()

    def run(self) -> None:
        """Train until the time is up; at the end the model holds the averaged weights."""
        recent: list[float] = []
        last_save, started = self.elapsed, time.monotonic() - self.elapsed
        total = round(self.seconds)
        bar = tqdm(total=total, initial=round(self.elapsed), unit="s")
        while self.elapsed < self.seconds:
            try:
                loss = self._step()
            except KeyboardInterrupt:
                self._save()
                raise
            recent = [*recent[-99:], loss]
            self.elapsed = time.monotonic() - started
            bar.update(min(round(self.elapsed), total) - round(bar.n))
            bar.set_postfix(step=self.step, loss=f"{np.mean(recent):.4f}")
            if self.step % 50 == 0:
                self._log(float(np.mean(recent)))
            if self.elapsed - last_save > self.config.save_every_minutes * 60:
                self._save()
                last_save = self.elapsed
        bar.close()
        self._save()
        self.use_average()

    def use_average(self) -> None:
        """Put the averaged weights into the model."""
        with torch.no_grad():
            for name, parameter in self.stage.parameters.items():
                parameter.copy_(self.average[name])

    def _step(self) -> float:
        config = self.config
        clips = [self.clips[number] for number in islice(self.sampler, config.batch_size)]
        loss = self.stage.loss(clips, self.noise_rng)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at step {self.step}: lower learning_rate="
                f"{config.learning_rate} and train into another folder, or delete {self.folder}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.stage.parameters.values(), config.grad_clip)
        progress = min(1.0, self.elapsed / self.seconds)
        warmup = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * progress))
        self.optimizer.step()
        self.step += 1
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.stage.parameters.items():
                self.average[name].lerp_(parameter, 1 - decay)
        return value

    def _log(self, loss: float) -> None:
        record = {"step": self.step, "seconds": round(self.elapsed, 1), "loss": round(loss, 5)}
        with (self.folder / _LOG).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {"noise_rng": self.noise_rng.get_state()}
        for name, parameter in self.stage.parameters.items():
            tensors[f"weights/{name}"] = parameter.detach().contiguous()
            tensors[f"average/{name}"] = self.average[name].contiguous()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value.contiguous()
        meta = {
            "step": self.step,
            "elapsed": self.elapsed,
            "sampler": self.sampler.state_dict(),
            "recipe": self.recipe,
        }
        # The weights name their step, and the meta file is renamed last: a run that is killed
        # between the two leaves the former pair whole.
        weights = self.folder / f"{self.step:07d}-{_STATE}"
        partial = self.folder / (_STATE + ".tmp")
        save_file(tensors, partial)
        partial.replace(weights)
        temporary = self.folder / (_META + ".tmp")
        temporary.write_text(json.dumps(meta))
        temporary.replace(self.folder / _META)
        for other in self.folder.glob(f"*-{_STATE}"):
            if other != weights:
                other.unlink()

    def _resume(self) -> None:
        meta = json.loads((self.folder / _META).read_text())
        differing = {
            name: (meta["recipe"].get(name), value)
            for name, value in self.recipe.items()
            if meta["recipe"].get(name) != value
        }
        if differing:
            raise CheckpointError(
                f"{self.folder} holds a run of another recipe (saved, wanted): {differing}; "
                "continue it with the same one, or train into another folder"
            )
        tensors = load_file(self.folder / f"{meta['step']:07d}-{_STATE}")
        self._check_names(tensors)
        self.step, self.elapsed = meta["step"], meta["elapsed"]
        self.sampler.load_state_dict(meta["sampler"])
        self.noise_rng.set_state(tensors["noise_rng"])
        with torch.no_grad():
            for name, parameter in self.stage.parameters.items():
                parameter.copy_(tensors[f"weights/{name}"])
                self.average[name].copy_(tensors[f"average/{name}"])
                self.optimizer.state[parameter] = {
                    key: tensors[f"{key}/{name}"].to(parameter.device if key != "step" else "cpu")
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{key}/{name}" in tensors
                }

    def _check_names(self, tensors: Mapping[str, Tensor]) -> None:
        saved = {name.removeprefix("weights/") for name in tensors if name.startswith("weights/")}
        if saved != set(self.stage.parameters):
            raise CheckpointError(
                f"{self.folder} holds a run that trained other parameters "
                f"({len(saved)} against {len(self.stage.parameters)}): train into another folder"
            )
