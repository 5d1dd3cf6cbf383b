"""Measure a model on held-out episodes against copying the last frame.

    python launch/validate.py RECORDING... [--model MODEL] [-o runs/validation]

Held out are the episodes that the training of the model left out, as its `aid/split.json` says; of
other recordings, those that the same rule leaves out. Reported over
the predicted frames only: PSNR of the prediction, of copying the last given frame, and of the
VAE's own reconstruction of the truth (about the best that this model could reach); and the PSNR
under another episode's instruction with the same noise, which tells whether the text matters.
Intervals are a bootstrap over episodes, of which there may be few. Writes figures as JSON and
strips of the first clips as PNG.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from aid_robot import VideoForesight
from aid_robot.baselines import CopyLastFrame
from aid_robot.data.clips import Clip, ClipConfig, ClipDataset, Split
from aid_robot.data.ingest import open_recording
from aid_robot.evaluation.psnr import psnr
from aid_robot.hub import resolve
from aid_robot.model.latents import decode, encode, to_frames, to_pixels
from aid_robot.predictor import Request
from aid_robot.training.data import read_split


def reconstruct(foresight: VideoForesight, clip: Clip) -> np.ndarray:
    """Send the true frames through the VAE."""
    vae = foresight.model.vae
    with torch.inference_mode():
        pixels = to_pixels(torch.from_numpy(clip.frames[None]).to(foresight.model.device))
        return to_frames(decode(vae, encode(vae, pixels)))[0].cpu().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--episodes", type=int, default=200, help="at most so many")
    parser.add_argument("--train-split", action="store_true", help="measure what was trained on")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--text-guidance-scale", type=float)
    parser.add_argument("--strips", type=int, default=6)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/validation"))
    args = parser.parse_args()

    foresight = VideoForesight.from_pretrained(args.model)
    config = foresight.config
    given = config.num_conditioning_frames
    size = (config.height, config.width)
    episodes = [episode for source in args.sources for episode in open_recording(source)]
    held_out = (read_split(resolve(args.model)) or Split()).held_out(episodes)
    chosen = [
        episode
        for episode in episodes
        if (episode.id in held_out) != args.train_split
        and episode.fps is not None
        and abs(episode.fps - config.fps) < 1e-3
        and episode.instructions
        and len(episode.frames) > given
    ][: args.episodes]
    if not chosen:
        parser.error(
            f"none of the {len(episodes)} episodes is held out, has an instruction and "
            f"{config.fps:g} frames a second"
        )
    cut = ClipConfig(config.num_frames, given, size, fps=config.fps, min_frames=given + 1)
    clips = list(ClipDataset(chosen, cut).fixed())
    options = {
        name: getattr(args, name)
        for name in ("steps", "text_guidance_scale")
        if getattr(args, name) is not None
    }

    copying = CopyLastFrame(config)
    rows = []
    args.output.mkdir(parents=True, exist_ok=True)
    for index, clip in enumerate(tqdm(clips, unit="clip")):
        history = clip.frames[:given]
        others = [c.instruction for c in clips if c.instruction != clip.instruction]
        wrong = others[index % len(others)] if others else "open the drawer"
        right, other = foresight.predict_many(
            [Request(history, clip.instruction, index), Request(history, wrong, index)], **options
        )
        window = slice(given, clip.valid)
        truth = clip.frames[window]
        rows.append(
            {
                "episode": clip.episode,
                "instruction": clip.instruction,
                "frames": clip.valid - given,
                "model": psnr(right.frames[0, window], truth),
                "other_instruction": psnr(other.frames[0, window], truth),
                "copy": psnr(copying.predict(history).frames[0, window], truth),
                "vae": psnr(reconstruct(foresight, clip)[window], truth),
                "seconds": right.timings["denoise"] / 2 + right.timings["decode"] / 2,
            }
        )
        if index < args.strips:
            right.save(args.output / f"strip_{index}.png", truth=clip.frames[: clip.valid])

    episodes = sorted({row["episode"] for row in rows})

    def by_episode(values: list[float]) -> np.ndarray:
        return np.array(
            [
                np.mean([v for v, row in zip(values, rows, strict=True) if row["episode"] == name])
                for name in episodes
            ]
        )

    def column(name: str) -> np.ndarray:
        return by_episode([row[name] for row in rows])

    figures = {
        "prediction": column("model"),
        "copying the last frame": column("copy"),
        "VAE's reconstruction": column("vae"),
        "prediction - copying": column("model") - column("copy"),
        "prediction - under another instruction": column("model") - column("other_instruction"),
    }
    split = "training" if args.train_split else "held-out"
    print(
        f"{len(rows)} clips of {len(episodes)} {split} episodes, frames {given} to "
        f"{config.num_frames - 1}, {size[1]}x{size[0]}, {right.settings}"
    )
    summary = {}
    for name, values in figures.items():
        draws = np.random.default_rng(0).choice(values, (2000, len(values))).mean(1)
        low, high = np.percentile(draws, [2.5, 97.5])
        summary[name] = {"mean": values.mean(), "low": low, "high": high}
        print(f"  {name:40s} {values.mean():6.2f} dB   [{low:.2f}, {high:.2f}]")
    record = {"arguments": {k: str(v) for k, v in vars(args).items()}, "settings": right.settings}
    record["summary"] = summary
    (args.output / "validation.json").write_text(json.dumps({**record, "clips": rows}, indent=1))


if __name__ == "__main__":
    main()
