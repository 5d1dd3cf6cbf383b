"""Put a trained model into the package: float16 files with checksums.

python launch/install_bundled.py runs/bundled/aid/model
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from aid_robot.errors import ConfigError
from aid_robot.hub import bundled_model, write_checksums
from aid_robot.model.checkpoint import load_base_unet, load_model, save_model

LIMIT_MB = 40


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
    write_checksums(fresh)
    card = target / "README.md"
    if card.exists():
        shutil.copy(card, fresh)
    size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file()) / 1e6
    if size > LIMIT_MB:
        raise ConfigError(f"{fresh} has {size:.1f} MB, over the {LIMIT_MB} MB of a bundled model")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    print(f"{target}: {size:.1f} MB; bring its README.md up to date")


if __name__ == "__main__":
    main()
