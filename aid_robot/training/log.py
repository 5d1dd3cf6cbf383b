"""What a run reports: a bar, lines of JSON, and TensorBoard's files if wanted."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image
from tqdm import tqdm

from aid_robot.data.episode import UInt8Array
from aid_robot.extras import require

LOG = "log.jsonl"
_WINDOW = 50
# A loss is a spike where it is so many times the median of the last lines.
_SPIKE = 3.0


class RunLog:
    """Write down what happens in a stage.

    Args:
        folder: `log.jsonl`, `samples/` and TensorBoard's files go here.
        step: Where the run goes on; lines from there on are of a run that was stopped, and go.
        total: Steps of the whole stage, None where it is limited by time.
        clips: Of a step.
        tensorboard: Whether to write for it, too.
        quiet: Show no bar.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        total: int | None,
        clips: int,
        *,
        tensorboard: bool = False,
        quiet: bool = False,
    ) -> None:
        self._folder, self._clips = folder, clips
        self._path = folder / LOG
        self._losses: list[float] = []
        self._keep_until(step)
        self._writer: Any = None
        if tensorboard:
            require("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._bar = tqdm(total=total, initial=step, unit="step", desc=folder.name, disable=quiet)
        self._last = (time.monotonic(), step)

    def advance(self) -> None:
        """Move the bar by a step."""
        self._bar.update()

    def loss(self, step: int, figures: Mapping[str, float]) -> str | None:
        """Report the mean loss of the last steps; returns a warning where it has jumped."""
        now = time.monotonic()
        then, before = self._last
        self._last = (now, step)
        rate = (step - before) * self._clips / max(now - then, 1e-9)
        self._bar.set_postfix(loss=f"{figures['loss']:.4f}", clips_s=f"{rate:.1f}")
        self.write(step, {**figures, "clips_per_second": rate})
        usual = median(self._losses) if len(self._losses) >= 5 else math.inf
        self._losses = [*self._losses[1 - _WINDOW :], figures["loss"]]
        if figures["loss"] > _SPIKE * usual:
            return (
                f"at step {step} the loss jumped to {figures['loss']:.4g}, {usual:.4g} was usual: "
                "if it stays there, begin anew with a lower learning_rate or grad_clip"
            )
        return None

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Add a line."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **_rounded(figures)}) + "\n")
        if self._writer is not None:
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)

    def picture(self, step: int, picture: UInt8Array) -> Path:
        """Keep a picture of samples."""
        path = self._folder / "samples" / f"step-{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
        if self._writer is not None:
            self._writer.add_image("samples", picture, step, dataformats="HWC")
        return path

    def close(self) -> None:
        """Close the bar and the files."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def _keep_until(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a run that was killed
        partial = self._path.with_suffix(".tmp")
        partial.write_text("".join(kept))
        partial.replace(self._path)


def _rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in figures.items()
    }
