"""One loop for every stage: read clips, step, average, judge, save, go on."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from aid_robot.data.clips import ClipLoader
from aid_robot.errors import CheckpointError, ConfigError, TrainingError
from aid_robot.interrupt import stop_requests
from aid_robot.training.config import StageConfig
from aid_robot.training.log import RunLog
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch, Sample, SampleDataset, collate_samples
from aid_robot.training.stages.stage import Figures, Stage, all_parts_on
from aid_robot.training.state import (
    copy_whole,
    disk_errors,
    gathered,
    read_state,
    state_files,
    whole,
    write_state,
)

_BETAS = (0.9, 0.99)


class Trainer:
    """Train one stage within its budget, going on where an earlier run was stopped.

    A run that is limited by steps and goes on is the same as one that was never stopped: weights,
    averages, optimizer and the place in the stream of clips are restored, and the noise of a step
    depends on nothing but its number. How many processes share a step makes no difference either,
    but for rounding. A run that is limited by minutes depends on the clock.

    Args:
        stage: What is trained, and its loss.
        clips: Where batches come from.
        config: Settings.
        folder: State, log and samples go here; a state that is found here is gone on with.
        accelerator: Hugging Face's; it knows the device, the precision and the other processes.
        seed: Of the noise.
        recipe: What else must be the same when a run goes on.
        held_out: Clips to judge by.
        tensorboard: Whether to write for it.
        workers: Processes that read clips ahead.
    """

    def __init__(
        self,
        stage: Stage,
        clips: SampleDataset,
        config: StageConfig,
        folder: Path,
        accelerator: Any,
        *,
        seed: int = 0,
        recipe: Mapping[str, Any] | None = None,
        held_out: Sequence[Sample] = (),
        tensorboard: bool = False,
        workers: int = 0,
    ) -> None:
        self.stage, self.config, self.folder, self.seed = stage, config, folder, seed
        self.accelerator, self.held_out = accelerator, held_out
        self.device: torch.device = accelerator.device
        shares = accelerator.num_processes * config.accumulation
        if config.batch_size % shares:
            raise ConfigError(
                f"batch_size={config.batch_size} can't be shared by {accelerator.num_processes} "
                f"processes in {config.accumulation} parts: make it a multiple of {shares}"
            )
        # As JSON gives it back, to be compared with that of a saved run.
        self.recipe: dict[str, Any] = json.loads(
            json.dumps({**(recipe or {}), "config": config.identity, "seed": seed,
                        "clips": clips.fingerprint})
        )  # fmt: skip
        self._part = config.batch_size // shares
        self.loader = ClipLoader(
            clips,
            self._part,
            infinite=True,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            num_workers=workers,
            collate_fn=collate_samples,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
        )
        if config.gradient_checkpointing:
            stage.model.unet.enable_gradient_checkpointing()
        if config.compile:
            stage.model.unet.compile()
        optimizer = torch.optim.AdamW(
            stage.trained.values(),
            lr=config.learning_rate,
            betas=_BETAS,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.module, self.optimizer = accelerator.prepare(stage, optimizer)
        self._names = list(stage.trained)
        self._parameters: list[Tensor] = list(stage.trained.values())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self.step, self.elapsed = 0, 0.0
        self._judged: tuple[int, Figures] | None = None
        self._tensorboard = tensorboard
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    def run(self) -> dict[str, Tensor]:
        """Train to the end of the budget.

        Returns:
            The averaged weights by name, on the CPU.

        Raises:
            TrainingError: The loss is no longer finite, or the disk is full.
            KeyboardInterrupt: By Ctrl-C or SIGTERM, after the state was saved.
        """
        config, main = self.config, self.accelerator.is_main_process
        started, last_save = time.monotonic() - self.elapsed, self.elapsed
        log = RunLog(self.folder, self.step, config.steps, config.batch_size,
                     tensorboard=self._tensorboard, quiet=not main) if main else None  # fmt: skip
        losses: list[Tensor] = []
        batches = iter(self.loader)
        try:
            with disk_errors(self.folder), stop_requests() as stop:
                while not self._is_over():
                    losses.append(self.take_step(batches))
                    self.elapsed, stopped = self._agreed(time.monotonic() - started, stop())
                    if log is not None:
                        log.advance()
                    over = self._is_over()
                    if over or stopped or self.step % config.log_every == 0:
                        self._report(losses, log)
                        losses = []
                    if over or (config.validate_every and self.step % config.validate_every == 0):
                        self._judge(log)
                    due = self.elapsed - last_save > config.save_every_minutes * 60
                    if over or stopped or due:
                        self._check(losses)
                        self._save()
                        last_save = self.elapsed
                    if stopped and not over:
                        raise KeyboardInterrupt
        finally:
            if log is not None:
                log.close()
        return {name: whole(a) for name, a in zip(self._names, self._averages, strict=True)}

    def measure(self) -> Figures:
        """Judge the averaged weights by the held-out clips."""
        if self._judged is not None and self._judged[0] == self.step:
            return self._judged[1]
        batch = collate_samples(self.held_out).to(self.device)
        count = self.config.validation_predictions
        with self._averaged(), all_parts_on(self.stage.model, self.device), self._autocast():
            figures: Figures = self.module(batch, task="measure", count=count)
        self._judged = self.step, figures
        return figures

    # -- one step ----------------------------------------------------------------------------

    def take_step(self, batches: Iterator[Any]) -> Tensor:
        """Read a step's clips and learn from them; returns its loss and gradient norm, (2,)."""
        config, processes = self.config, self.accelerator.num_processes
        rank, total = self.accelerator.process_index, torch.zeros((), device=self.device)
        for part in range(config.accumulation):
            batch: Batch = next(batches).to(self.device)
            start = part * processes * self._part
            rows = slice(start + rank, start + processes * self._part, processes)
            noise = Noise(self.seed, self.step, config.batch_size, rows, self.device)
            last = part == config.accumulation - 1
            with nullcontext() if last else self.accelerator.no_sync(self.module):
                loss = self.module(batch, noise) / config.accumulation
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = self.accelerator.clip_grad_norm_(self._parameters, config.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * self._rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)
        return torch.stack([total, gathered(norm).detach().to(total.device)])

    def _rate(self) -> float:
        """Return the share of the learning rate: up over the warm-up, down over the budget."""
        warmup = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, self._progress())))

    def _progress(self) -> float:
        steps, minutes = self.config.steps, self.config.minutes
        of_steps = self.step / steps if steps else 0.0
        return max(of_steps, self.elapsed / (minutes * 60) if minutes else 0.0)

    def _is_over(self) -> bool:
        return self._progress() >= 1

    def _agreed(self, elapsed: float, stop: bool) -> tuple[float, bool]:
        """Let all processes have the same clock, and stop together."""
        if self.accelerator.num_processes == 1:
            return elapsed, stop
        first = elapsed if self.accelerator.is_main_process else 0.0
        told = torch.tensor([first, float(stop)], dtype=torch.float64, device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return told[0].item(), bool(told[1].item())

    # -- reports -----------------------------------------------------------------------------

    def _report(self, losses: Sequence[Tensor], log: RunLog | None) -> None:
        if not losses:
            return
        loss, norm = self._check(losses)
        if log is not None:
            rate = self.config.learning_rate * self._rate()
            figures = {"seconds": self.elapsed, "loss": loss, "grad_norm": norm,
                       "learning_rate": rate}  # fmt: skip
            warning = log.loss(self.step, figures)
            if warning:
                warnings.warn(warning, stacklevel=2)

    def _check(self, losses: Sequence[Tensor]) -> tuple[float, float]:
        """Return means of losses and gradient norms; stop where one isn't finite."""
        if not losses:
            return math.nan, math.nan
        table = torch.stack(list(losses))  # (steps, 2)
        if self.accelerator.num_processes > 1:
            dist.all_reduce(table)
            table /= self.accelerator.num_processes
        finite = table.isfinite().all(1)
        if not finite.all():
            place = int((~finite).int().argmax())
            step = self.step - len(losses) + place
            kind = 0 if not table[place, 0].isfinite() else 1
            what, value = ("loss", "gradient")[kind], table[place, kind].item()
            states = state_files(self.folder)
            safe = f"{states[-1].name} is the last good state" if states else "nothing was saved"
            raise TrainingError(
                f"the {what} of step {step} is {value}; {safe}: "
                f"lower learning_rate={self.config.learning_rate:g} or "
                f"grad_clip={self.config.grad_clip:g}, or use precision='fp32', and train into "
                f"another folder than {self.folder}"
            )
        loss, norm = table.mean(0).tolist()
        return loss, norm

    def _judge(self, log: RunLog | None) -> None:
        if not self.held_out:
            return
        count = self.config.validation_predictions
        figures = {
            f"held_out_{name}": float(values.mean()) for name, values in self.measure().items()
        }
        picture = None
        if count:
            batch = collate_samples(self.held_out).to(self.device)
            with self._averaged(), all_parts_on(self.stage.model, self.device), self._autocast():
                picture = self.module(batch, task="draw", count=count)
        if log is not None:
            log.write(self.step, figures)
            if picture is not None:
                log.picture(self.step, picture)

    def _autocast(self) -> Any:
        return self.accelerator.autocast()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights into the stage for a while."""
        kept = [parameter.detach().clone() for parameter in self._parameters]
        with torch.no_grad():
            for parameter, average in zip(self._parameters, self._averages, strict=True):
                parameter.copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._parameters, kept, strict=True):
                    parameter.copy_(value)

    # -- the state ---------------------------------------------------------------------------

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        for name, parameter, average in self._each():
            tensors[f"weights/{name}"] = whole(parameter)
            tensors[f"average/{name}"] = whole(average)
            for key, value in self._optimizer_state(parameter).items():
                tensors[f"{key}/{name}"] = whole(value)
        facts = {
            "step": self.step,
            "elapsed": self.elapsed,
            "loader": self.loader.state_dict(),
            "recipe": self.recipe,
        }
        if self.accelerator.is_main_process:
            write_state(self.folder, self.step, tensors, facts)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = read_state(self.folder)
        if found is None:
            return
        tensors, facts, problems = found
        for problem in problems:
            warnings.warn(f"{problem}: going on from step {facts['step']}", stacklevel=3)
        check_recipe(self.folder, facts["recipe"], self.recipe)
        saved = {name.removeprefix("weights/") for name in tensors if name.startswith("weights/")}
        if saved != set(self._names):
            raise CheckpointError(
                f"{self.folder} holds a run that trained other parameters ({len(saved)} against "
                f"{len(self._names)}): train into another folder"
            )
        self.step, self.elapsed = facts["step"], facts["elapsed"]
        self.loader.load_state_dict(facts["loader"])
        for name, parameter, average in self._each():
            copy_whole(parameter, tensors[f"weights/{name}"])
            copy_whole(average, tensors[f"average/{name}"])
            if f"exp_avg/{name}" in tensors:
                state = self._optimizer_state(parameter)
                # Shaped, and shared out, as the parameter is.
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = torch.zeros_like(parameter)
                    copy_whole(state[key], tensors[f"{key}/{name}"])
                step = tensors[f"step/{name}"]
                state["step"] = step.to(self.device) if self.device.type == "cuda" else step

    def _each(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        return zip(self._names, self._parameters, self._averages, strict=True)

    def _optimizer_state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        return state


def check_recipe(folder: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than a folder's run had."""
    before, now = _flat(saved), _flat(wanted)
    differing = [
        f"{name} {before.get(name)!r} -> {now.get(name)!r}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{folder} holds a run with other settings (saved -> wanted): "
            f"{'; '.join(differing)}; go on with the same ones, or train into another folder"
        )


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
