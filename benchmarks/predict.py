"""Time of one `predict` with the bundled model on its sample observation.

python benchmarks/predict.py
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import cv2
import torch

from aid_robot import VideoForesight
from aid_robot.hub import bundled_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    model = VideoForesight.from_pretrained(device=args.device)
    picture = bundled_model().parent / "observations" / "tabletop.png"
    frame = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    times = []
    for seed in range(-2, args.runs):  # two warm-ups
        started = time.perf_counter()
        result = model.predict(frame, "put the carrot on the plate", seed=max(seed, 0))
        if seed >= 0:
            times.append(time.perf_counter() - started)
    print(f"{platform.machine()}, {model.model.device}, {torch.get_num_threads()} threads; torch "
          f"{torch.__version__}; {result.settings}")  # fmt: skip
    print(f"predict: median {statistics.median(times):.2f} s of {args.runs} after 2 warm-ups "
          f"({min(times):.2f} to {max(times):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
