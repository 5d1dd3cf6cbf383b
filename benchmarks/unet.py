"""Our UNet against diffusers' own at the same shapes, in one run.

    python benchmarks/unet.py                      # small, on the CPU
    python benchmarks/unet.py --size full --device cuda --dtype float16

Both get the same random weights (ours with adapters on top, unless --no-adapters) and a context of
154 tokens, AID's. Ours is timed as it is used, with keys and values cached over the steps; "keys
each step" is ours without that cache. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

from aid_robot.model.build import ModelSizes, build_unet
from aid_robot.model.config import preset
from aid_robot.model.unet import AIDUNet

SIZES = {
    # 29 M parameters at 16x16 latents: 64/128/256 channels.
    "small": (
        ModelSizes(
            unet_channels=(64, 128, 256),
            unet_heads=(2, 4, 8),
            context_dim=256,
            time_embed_dim=64,
        ),
        16,
    ),
    "full": (ModelSizes(), 32),
}


def measure(
    calls: dict[str, Callable[[], object]], device: torch.device, warmup: int, runs: int
) -> dict[str, float]:
    """Return the median time of each call in milliseconds; they take turns."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + runs):
        for name, call in calls.items():
            wait()
            started = time.perf_counter()
            call()
            wait()
            if turn >= warmup:
                times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=int, default=1, help="guidance branches x clips")
    parser.add_argument("--tokens", type=int, default=154)
    parser.add_argument("--no-adapters", action="store_true")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if args.warmup < 1:
        parser.error("a figure without warm-up is no figure: --warmup must be at least 1")

    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    sizes, side = SIZES[args.size]
    config = preset("svd")
    torch.manual_seed(0)
    with device:
        theirs = build_unet(config, sizes).to(dtype).eval()
    ours = copy.deepcopy(theirs)
    adapters = config.adapters
    if args.no_adapters:
        from dataclasses import replace

        adapters = replace(adapters, spatial=False, short_term=False, long_term=False)
    ours = AIDUNet.adapt(ours, adapters).eval()

    frames = config.num_frames
    make = {"device": device, "dtype": dtype}
    sample = torch.randn(args.batch, frames, 2 * sizes.latent_channels, side, side, **make)
    context = torch.randn(args.batch, args.tokens, sizes.context_dim, **make)
    spatial = context[:, None].expand(-1, frames, -1, -1).contiguous()
    time_ids = torch.tensor([[4.0, 127.0, 0.02]], device=device).expand(args.batch, -1)
    at = torch.tensor(0.25, device=device)

    with torch.inference_mode():
        cached = ours.project_context(spatial, context)
        difference = (
            (ours(sample, at, cached, time_ids) - theirs(sample, at, context, time_ids).sample)
            .abs()
            .max()
            .item()
        )
        calls: dict[str, Callable[[], object]] = {
            "diffusers": lambda: theirs(sample, at, context, time_ids),
            "ours, keys each step": lambda: ours(
                sample, at, ours.project_context(spatial, context), time_ids
            ),
            "ours, keys cached": lambda: ours(sample, at, cached, time_ids),
        }
        times = measure(calls, device, args.warmup, args.runs)

    reference = times["diffusers"]
    hardware = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    parameters = sum(p.numel() for p in theirs.parameters()) / 1e6
    print(f"{hardware}; torch {torch.__version__}, diffusers {diffusers.__version__}")
    print(
        f"UNet {parameters:.1f} M, batch {args.batch}, {frames} frames, {side}x{side} latents, "
        f"{args.tokens} tokens, {args.dtype}; median of {args.runs} after {args.warmup} warm-ups; "
        f"largest difference of outputs {difference:.1e}"
    )
    for name, milliseconds in times.items():
        print(f"  {name:22s} {milliseconds:9.1f} ms   {reference / milliseconds:5.2f}x")
    if args.output:
        record = {
            "hardware": hardware,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "arguments": {k: str(v) for k, v in vars(args).items()},
            "parameters_M": parameters,
            "max_difference": difference,
            "milliseconds": times,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
