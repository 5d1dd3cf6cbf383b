"""Time a step of training: with and without the cache, AID on a frozen prior and the whole UNet.

    python benchmarks/training.py                     # the bundled model, or any other: --model
    python benchmarks/training.py --full-size         # SVD's size, random weights; needs a GPU
    python benchmarks/training.py --device cuda --precision bf16 --batch-size 64

A step is all of it: reading clips, forward, backward, update, average. Printed are the median of
the steps after a warm-up, clips a second, and the most memory that was held (on a GPU torch's own
count of its steps, on a CPU all that the process had). The clips are drawn noise of the right
shape: their content changes nothing of the time, but that noise makes the largest JPEGs there are.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from aid_robot.commands import quiet_libraries
from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.store import EpisodeStore
from aid_robot.model.aid import AIDModel
from aid_robot.model.build import ModelSizes, build_model, build_tokenizer
from aid_robot.model.checkpoint import load_model
from aid_robot.model.config import preset
from aid_robot.model.states import make_state_predictor
from aid_robot.training.cache import Cache
from aid_robot.training.config import CacheConfig, DataConfig, StageConfig
from aid_robot.training.data import TrainingData, training_clips
from aid_robot.training.recipes import load_recipe
from aid_robot.training.run import make_accelerator
from aid_robot.training.stages import AIDStage, make_stage
from aid_robot.training.trainer import Trainer

TEXTS = ("put the carrot on the plate", "open the drawer", "push the red cube to the left")
STATES = make_state_predictor("template")


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    cached: bool
    full: bool = False
    checkpointing: bool = False
    embeddings: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="timed, after two that aren't")
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--model", default="bundled", help="who is trained, by folder or hub id")
    parser.add_argument(
        "--full-size", action="store_true", help="in place of a model: SVD's size, random weights"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON, too")
    args = parser.parse_args()
    cases = [
        Case("AID, frozen prior, cached", cached=True),
        Case("AID, frozen prior, cached with towers", cached=True, embeddings=True),
        Case("AID, frozen prior, no cache", cached=False),
        Case("AID, frozen prior, cached, checkpointing", cached=True, checkpointing=True),
        Case("full fine-tune, cached", cached=True, full=True),
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            # A process for each, whose memory is its own.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                row = pool.submit(measure, case, args, Path(folder)).result()
            if not rows:
                print(
                    f"{row['hardware']}; torch {torch.__version__}, {row['threads']} threads, "
                    f"{args.precision}, batch {args.batch_size}, median of {args.steps} steps"
                )
            rows.append(row)
            print(
                f"  {case.name:42s} {row['ms']:9.1f} ms {row['clips_per_second']:8.2f} clips/s "
                f"{row['memory_gb']:7.2f} GB {row['trained'] / 1e6:8.2f} M trained",
                flush=True,
            )
    if args.output:
        arguments = {name: value for name, value in vars(args).items() if name != "output"}
        if args.full_size:
            arguments["model"] = None
        found = {"torch": torch.__version__, "arguments": arguments, "rows": rows}
        args.output.write_text(json.dumps(found, indent=1) + "\n")


def measure(case: Case, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run a few steps of a case."""
    quiet_libraries()
    recipe = load_recipe("debug", [f"precision={args.precision}"])
    accelerator = make_accelerator(recipe, args.device)
    model = make_model(args)
    store = make_store(folder / "store.zarr", args.episodes, model)
    states = STATES
    config = StageConfig(
        steps=args.steps + 2,
        batch_size=args.batch_size,
        trains="full" if case.full else "aid",
        gradient_checkpointing=case.checkpointing,
        # Else nothing would train the draft that such a model's UNet reads.
        auxiliary_weight=0.3 if model.config.conditioning_fill == "draft" else 0.0,
    )
    data = TrainingData.open(DataConfig(str(store), held_out=0.0))
    cache = None
    if case.cached:
        settings = CacheConfig(embeddings=case.embeddings)
        for part in (model.vae, model.image_encoder, model.text_encoder):
            torch.nn.Module.to(part, device=accelerator.device)
        cache = Cache(model, settings, data.config.augment, states, embeddings=case.embeddings)
        cache.fill(data.store, data.train)
        for part in (model.vae, model.image_encoder, model.text_encoder):
            torch.nn.Module.to(part, device="cpu")
    clips = training_clips(data, AIDStage, model.config, cache, 0)
    stage = make_stage("aid", model, config, states, cached=case.cached, embedded=case.embeddings)
    on_gpu = accelerator.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(stage, clips, config, folder / case.name, accelerator)
    times = list(timed_steps(trainer, on_gpu))[2:]
    seconds = median(times)
    return {
        "case": case.name,
        "ms": seconds * 1e3,
        "clips_per_second": args.batch_size / seconds,
        "memory_gb": (torch.cuda.max_memory_allocated() if on_gpu else peak_memory()) / 1e9,
        "hardware": device_name(accelerator.device),
        "threads": torch.get_num_threads(),
        "trained": sum(parameter.numel() for parameter in stage.trained.values()),
    }


def timed_steps(trainer: Trainer, on_gpu: bool) -> Iterator[float]:
    """Time every step to its end."""
    batches = iter(trainer.loader)
    for _ in range(trainer.config.steps or 0):
        started = time.perf_counter()
        trainer.take_step(batches)
        if on_gpu:
            torch.cuda.synchronize()
        yield time.perf_counter() - started


def make_model(args: argparse.Namespace) -> AIDModel:
    """Load the model, or build one of the full size with random weights."""
    if not args.full_size:
        return load_model(args.model)
    blank = np.zeros((16, 16, 3), np.uint8)
    texts = [*TEXTS, *(state for text in TEXTS for state in STATES(blank, text))]
    sizes = ModelSizes()
    return build_model(preset("svd"), sizes, build_tokenizer(texts, 2048, sizes.text_length))


def make_store(path: Path, episodes: int, model: AIDModel) -> Path:
    """Fill a store with noise, once."""
    if not path.exists():
        rng = np.random.default_rng(0)
        shape = (model.config.num_frames, model.config.height, model.config.width, 3)
        with EpisodeStore.create(path) as store:
            store.extend(
                Episode(
                    id=f"{number}",
                    videos={"image_0": ArrayFrames(rng.integers(0, 256, shape, np.uint8))},
                    instructions=(TEXTS[number % len(TEXTS)],),
                    outcome="success",
                    fps=model.config.fps,
                )
                for number in range(episodes)
            )
    return path


def peak_memory() -> int:
    """Say how many bytes this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    """Name the hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
