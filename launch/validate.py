"""Measure a model on held-out episodes against copying the last frame.

    python launch/validate.py RECORDING... [--model MODEL] [-o runs/validation]

Held out are the episodes that `aid-robot train` leaves out of the same recordings. Reported over
the predicted frames only: PSNR of the prediction, of copying the last given frame, and of the
VAE's own reconstruction of the truth (the best this model can reach); and the PSNR under another
episode's instruction with the same noise, which tells whether the text matters. Writes figures as
JSON and strips of the first clips as PNG.
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
from aid_robot.data.clips import Clip, fixed_clips
from aid_robot.evaluation.psnr import psnr
from aid_robot.model.latents import decode, encode, to_frames, to_pixels
from aid_robot.predictor import Request
from aid_robot.training.run import load_sources


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
    train, held_out = load_sources(args.sources, *size, all_cameras=False)
    chosen = [
        episode
        for episode in (train if args.train_split else held_out)
        if episode.fps == config.fps and episode.instructions
    ]
    clips = fixed_clips(chosen, config.num_frames, size)
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
        # Another scene's instruction: half-way round the list is never the same episode.
        wrong = clips[(index + len(clips) // 2) % len(clips)].instruction
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
            right.save(args.output / f"strip_{index}.png", truth=clip.frames)

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    def interval(values: np.ndarray) -> tuple[float, float, float]:
        rng = np.random.default_rng(0)
        draws = rng.choice(values, (2000, len(values))).mean(1)
        return values.mean(), *np.percentile(draws, [2.5, 97.5])

    print(f"{len(rows)} clips of {len(chosen)} episodes, frames {given}..{config.num_frames - 1}")
    figures = {
        "prediction": column("model"),
        "copying the last frame": column("copy"),
        "VAE's reconstruction": column("vae"),
        "prediction - copying": column("model") - column("copy"),
        "prediction - under another instruction": column("model") - column("other_instruction"),
    }
    summary = {}
    for name, values in figures.items():
        mean, low, high = interval(values)
        summary[name] = {"mean": mean, "low": low, "high": high}
        print(f"  {name:40s} {mean:6.2f} dB   [{low:.2f}, {high:.2f}]")
    record = {"arguments": {k: str(v) for k, v in vars(args).items()}, "summary": summary}
    (args.output / "validation.json").write_text(json.dumps({**record, "clips": rows}, indent=1))


if __name__ == "__main__":
    main()
