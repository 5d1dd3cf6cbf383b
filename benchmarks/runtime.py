"""Predictions by runtime, precision, steps and candidates, next to diffusers' own pipeline.

    python benchmarks/runtime.py                                     # the bundled model, here
    python benchmarks/runtime.py --model random-full --device cuda --dtypes float16 --steps 10 \\
        --runtimes torch torch:cuda-graph torch:compile -o benchmarks/results/runtime_h100.json

`aid-robot bench` is the same; this file is for those who look among the benchmarks.
"""

from __future__ import annotations

import argparse
import sys

from aid_robot.cli import run_cleanly
from aid_robot.commands import bench

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=bench.HELP)
    bench.add_arguments(parser)
    args = parser.parse_args()
    sys.exit(run_cleanly("runtime.py", lambda: bench.run(args)))
