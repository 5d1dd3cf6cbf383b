"""Quality against time: steps, sampler, guidance, still threshold on clips that are held out.

    python benchmarks/sampling.py store.zarr --clips 24
    python benchmarks/sampling.py store.zarr --model runs/mine/aid/model -o sweep.json

Every setting predicts the same clips from the same noise. Printed are PSNR of the predicted frames
and LPIPS (where its weights are at hand), how much PSNR falls under an instruction that means
something else, in how many cases the prediction under the true instruction is nearer to what
happened than those under the scene's other instructions, and the seconds of a prediction, all with
95 % intervals over scenes. The settings with the best PSNR for their time are marked: a model's
`aid/config.json` should hold one of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from aid_robot import VideoForesight
from aid_robot.errors import WeightsNotFoundError
from aid_robot.evaluation.clips import ClipAt, Source, choose_clips, cut_clip
from aid_robot.evaluation.intervals import Interval, mean_interval
from aid_robot.evaluation.metrics.lpips import LPIPS
from aid_robot.evaluation.protocols import EvaluationProtocol, get_protocol
from aid_robot.evaluation.psnr import psnr
from aid_robot.hub import BUNDLED, resolve
from aid_robot.predictor import Request
from aid_robot.training.data import read_split
from aid_robot.training.start import set_config

Frames = NDArray[np.uint8]
_BATCH, _SEED = 4, 0


@dataclass(frozen=True)
class Setting:
    """How predictions are sampled."""

    sampler: str
    steps: int
    sigma_min: float
    text_guidance_scale: float
    still_threshold: float

    def __str__(self) -> str:
        return (
            f"{self.sampler:<8} {self.steps:>2} steps  sigma_min {self.sigma_min:<4g}  "
            f"s_t {self.text_guidance_scale:<3g}  still {self.still_threshold:<4g}"
        )


@dataclass(frozen=True)
class Row:
    """What a setting gives."""

    setting: Setting
    psnr: Interval
    lpips: Interval | None
    # PSNR under the true instruction less that under another.
    instruction: Interval
    # Share of clips whose own prediction, of all of their start, is nearest to what happened.
    own: Interval
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", help="a recording of any layout")
    parser.add_argument("--model", default=BUNDLED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--protocol", default="tabletop")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3, 4, 6, 10])
    parser.add_argument("--samplers", nargs="+", default=["euler", "dpmpp_2m", "heun"])
    parser.add_argument("--sigma-mins", type=float, nargs="+", default=[0.02, 0.3, 1.0])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument(
        "--still-thresholds", type=float, nargs="+", default=[0.0, 0.5, 0.75, 1.0, 1.5]
    )
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON, too")
    args = parser.parse_args()
    model = VideoForesight.from_pretrained(args.model, device=args.device)
    protocol = get_protocol(args.protocol).replace(
        clips=args.clips, size=(model.config.height, model.config.width)
    )
    clips, truths = read_clips(args.store, protocol, args.model)
    try:
        lpips = LPIPS.load(device=args.device)
    except WeightsNotFoundError:
        lpips = None
    own = model.config.sampling
    # Steps and samplers as the model has the rest, then its other settings at its own steps.
    few = [steps for steps in args.steps if 1 < steps <= 4]
    same = Setting(
        own.sampler, own.steps, own.sigma_min, own.text_guidance_scale, own.still_threshold
    )
    settings = [
        *(replace(same, sampler=s, steps=n) for s, n in product(args.samplers, args.steps)),
        *(replace(same, steps=n, sigma_min=low) for n, low in product(few, args.sigma_mins)),
        *(replace(same, text_guidance_scale=scale) for scale in args.scales),
        *(replace(same, still_threshold=threshold) for threshold in args.still_thresholds),
    ]
    rows = []
    for setting in tqdm(list(dict.fromkeys(settings)), desc="settings"):
        rows.append(measure(model, setting, clips, truths, lpips))
        tqdm.write(line(rows[-1]))
    print(f"\n{len(clips)} clips of {len({c.cluster for c in clips})} scenes, {args.model}; "
          f"{platform.machine()}, {model.model.device}, {torch.get_num_threads()} threads, torch "
          f"{torch.__version__}")  # fmt: skip
    front = best_for_their_time(rows)
    for row in sorted(rows, key=lambda row: row.seconds):
        print(("* " if row in front else "  ") + line(row))
    if args.output:
        facts = {"model": str(args.model), "clips": len(clips), "torch": torch.__version__}
        rows_ = [asdict(row) for row in rows]
        args.output.write_text(json.dumps({**facts, "rows": rows_}, indent=1) + "\n")


def read_clips(
    store: str, protocol: EvaluationProtocol, model: str
) -> tuple[list[ClipAt], list[Frames]]:
    """Read held-out clips, those of one start beside each other."""
    source = Source(store)
    chosen = choose_clips([source], protocol, read_split(resolve(model)))
    recording = source.open()
    clips = list(chosen.clips)
    return clips, [cut_clip(recording[clip.index], clip, protocol) for clip in clips]


def measure(
    model: VideoForesight,
    setting: Setting,
    clips: Sequence[ClipAt],
    truths: Sequence[Frames],
    lpips: LPIPS | None,
) -> Row:
    """Predict every clip under its own instruction, and under another."""
    given = model.num_conditioning_frames
    predict(model, setting, truths[:1], [clips[0].instruction])  # a warm-up
    started = time.perf_counter()
    shown = predict(model, setting, truths, [clip.instruction for clip in clips])
    seconds = (time.perf_counter() - started) / len(clips)
    others = predict(model, setting, truths, [clip.other or "-" for clip in clips])
    names = [clip.cluster for clip in clips]
    true = np.array([psnr(a[given:], b[given:]) for a, b in zip(shown, truths, strict=True)])
    other = np.array([psnr(a[given:], b[given:]) for a, b in zip(others, truths, strict=True)])
    other[[not clip.other for clip in clips]] = np.nan
    distances = None
    if lpips is not None:
        values = [float(lpips.distance(a[given:], b[given:]).mean())
                  for a, b in zip(shown, truths, strict=True)]  # fmt: skip
        distances = mean_interval(values, names)
    return Row(
        setting,
        mean_interval(true, names),
        distances,
        mean_interval(true - other, names),
        mean_interval(nearest_to_own(clips, shown, truths, given), names),
        seconds,
    )


def predict(
    model: VideoForesight, setting: Setting, truths: Sequence[Frames], texts: Sequence[str]
) -> list[Frames]:
    """Predict clips from their given frames, all from the same noise."""
    found: list[Frames] = []
    changes: Any = asdict(setting)
    scale: Any = {"text_guidance_scale": changes.pop("text_guidance_scale")}
    config = model.config
    set_config(model.model, config.replace(sampling=replace(config.sampling, **changes)))
    given = model.num_conditioning_frames
    requests = [
        Request(frames[:given], text, _SEED) for frames, text in zip(truths, texts, strict=True)
    ]
    for start in range(0, len(requests), _BATCH):
        some = requests[start : start + _BATCH]
        found += [foresight.frames[0] for foresight in model.predict_many(some, **scale)]
    return found


def nearest_to_own(
    clips: Sequence[ClipAt], shown: Sequence[Frames], truths: Sequence[Frames], given: int
) -> NDArray[np.float64]:
    """Say for each clip (n,) whether its own prediction is the nearest to what happened.

    The others are those under the instructions of the other futures of its start; NaN where there
    is none.
    """
    found = np.full(len(clips), np.nan)
    for number, clip in enumerate(clips):
        group = [i for i, other in enumerate(clips) if other.group == clip.group]
        if len(group) > 1:
            values = [psnr(shown[i][given:], truths[number][given:]) for i in group]
            found[number] = group[int(np.argmax(values))] == number
    return found


def best_for_their_time(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that no quicker row equals in PSNR."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: row.seconds):
        if not found or row.psnr.value > found[-1].psnr.value:
            found.append(row)
    return found


def line(row: Row) -> str:
    """Print a row."""
    distance = "" if row.lpips is None else f"LPIPS {row.lpips.value:.3f}  "
    return (
        f"{row.setting}  PSNR {row.psnr.value:5.2f} [{row.psnr.low:5.2f}, {row.psnr.high:5.2f}] dB"
        f"  {distance}instruction {row.instruction.value:+.2f} dB  "
        f"own future {row.own.value:4.0%}  {row.seconds:.2f} s"
    )


if __name__ == "__main__":
    main()
