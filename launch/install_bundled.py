"""Put a trained model into the package: float16 files with checksums; draw README's picture anew.

python launch/install_bundled.py runs/bundled/aid/model
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aid_robot import VideoForesight
from aid_robot.errors import ConfigError
from aid_robot.hub import bundled_model, write_checksums
from aid_robot.model.checkpoint import load_base_unet, load_model, save_model

LIMIT_MB = 40
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "prediction.png"
INSTRUCTIONS = ("put the carrot on the plate", "lift the purple cube")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    target = bundled_model()
    fresh = target.with_name("model.new")
    shutil.rmtree(fresh, ignore_errors=True)
    save_model(model, fresh, base_unet=load_base_unet(args.model), dtype=torch.float16)
    held_out = args.model / "aid" / "split.json"
    if held_out.exists():
        shutil.copy(held_out, fresh / "aid")
    for success in (args.model / "success", target / "success"):
        if success.is_dir():
            # Another model's decisions were scored otherwise.
            other = success.parent == target
            ignored = shutil.ignore_patterns("calibration.*") if other else None
            shutil.copytree(success, fresh / "success", ignore=ignored)
            break
    write_checksums(fresh)
    card = target / "README.md"
    if card.exists():
        shutil.copy(card, fresh)
    size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file()) / 1e6
    if size > LIMIT_MB:
        raise ConfigError(f"{fresh} has {size:.1f} MB, over the {LIMIT_MB} MB of a bundled model")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    draw_prediction(PICTURE)
    print(f"{target}: {size:.1f} MB; bring its README.md up to date, and look at {PICTURE}")


def draw_prediction(path: Path) -> None:
    """Draw what the bundled model foresees under two instructions, one strip below the other."""
    model = VideoForesight.from_pretrained()
    with Image.open(bundled_model().parent / "observations" / "tabletop.png") as image:
        frame = np.array(image.convert("RGB"))
    strips = [model.predict(frame, text, seed=0).strip(columns=8) for text in INSTRUCTIONS]
    size = max(strip.width for strip in strips), sum(strip.height for strip in strips)
    sheet = Image.new("RGB", size, "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    main()
