"""Episodes a second of `aid-robot simulate`, by size, renderer, shadows and number of processes.

python benchmarks/simulate.py --episodes 48 --sizes 128 --output simulate.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import tempfile
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from aid_robot import __version__
from aid_robot.envs.tabletop.generate import DataConfig
from aid_robot.envs.tabletop.simulate import num_cores, simulate
from aid_robot.errors import AIDRobotError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=24, help="of each row, all skills in turn")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--renderers", nargs="+", default=["egl", "rays"])
    parser.add_argument("--shadows", nargs="+", choices=("yes", "no"), default=["yes", "no"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, num_cores()])
    parser.add_argument("--preset", default="default")
    parser.add_argument("--output", type=Path, help="write the figures here as JSON")
    args = parser.parse_args()

    hardware = f"{_processor()}, {num_cores()} cores"
    versions = {"mujoco": mujoco.__version__, "numpy": np.__version__, "aid_robot": __version__}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"{hardware}; Python {platform.python_version()}, {listed}")
    print(
        f"{args.episodes} episodes a row, preset {args.preset}; CPU is that of all processes\n"
        f"{'size':>5} {'renderer':>9} {'shadows':>8} {'workers':>8} {'episodes/s':>11} "
        f"{'frames/s':>9} {'CPU s/episode':>14} {'KB/episode':>11} {'5000 take':>10}"
    )
    rows = []
    table = itertools.product(args.renderers, args.sizes, args.shadows, sorted(set(args.workers)))
    for renderer, size, shadows, workers in table:
        config = DataConfig(
            size=size, preset=args.preset, renderer=renderer, shadows=shadows == "yes"
        )
        try:
            row = measure(config, args.episodes, workers)
        except AIDRobotError as error:
            print(f"{size:>5} {renderer:>9}  {error}")
            continue
        rows.append(row)
        minutes = 5000 / row["episodes_per_s"] / 60
        print(
            f"{size:>5} {renderer:>9} {shadows:>8} {workers:>8} {row['episodes_per_s']:>11.2f} "
            f"{row['frames_per_s']:>9.1f} {row['cpu_s_per_episode']:>14.2f} "
            f"{row['kb_per_episode']:>11.1f} {minutes:>6.0f} min",
            flush=True,
        )
    if args.output:
        record = {
            "hardware": hardware,
            "python": platform.python_version(),
            "versions": versions,
            "arguments": {name: str(value) for name, value in vars(args).items()},
            "rows": rows,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=2) + "\n")


def measure(config: DataConfig, episodes: int, workers: int) -> dict[str, Any]:
    """Fill a store that is thrown away; the time counts from when the first process is ready."""
    before = _cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        summary = simulate(Path(folder) / "store", config, episodes, workers=workers)
    counts = summary.skills.values()
    return {
        "renderer": summary.renderer,
        "size": config.size,
        "shadows": config.shadows,
        "workers": workers,
        "episodes": summary.made,
        "seconds": summary.seconds,
        "episodes_per_s": summary.made / summary.seconds,
        "frames_per_s": sum(count.frames for count in counts) / summary.seconds,
        "cpu_s_per_episode": (_cpu_seconds() - before) / summary.made,
        "kb_per_episode": sum(count.bytes for count in counts) / summary.made / 1e3,
        "scripted_success": sum(count.done for count in counts)
        / max(1, sum(count.tried for count in counts)),
    }


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
