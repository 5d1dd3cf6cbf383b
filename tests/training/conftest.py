"""One whole run of the debug recipe, which several files of tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from aid_robot.training.config import Recipe
from aid_robot.training.recipes import load_recipe
from aid_robot.training.run import train
from tests.training.episodes import square_store


@dataclass(frozen=True)
class DebugRun:
    """Where it is."""

    store: Path
    folder: Path
    model: Path

    def recipe(self, *changes: str) -> Recipe:
        """Give the recipe that was run, with changes."""
        return load_recipe("debug", [f"data.store={self.store}", *SMALLER, *changes])


# Smaller still than the recipe is.
SMALLER = (
    "vae.steps=2",
    "vae.log_every=1",
    "clip.steps=2",
    "clip.log_every=1",
    "prior.save_every_minutes=0",
    "vae.validation_clips=2",
    "clip.validation_clips=2",
)


@pytest.fixture(scope="session")
def debug_run(tmp_path_factory: pytest.TempPathFactory) -> DebugRun:
    """Run every stage for a few steps, never stopped."""
    folder = tmp_path_factory.mktemp("debug")
    store = square_store(folder, count=10)
    recipe = load_recipe("debug", [f"data.store={store}", *SMALLER])
    model = train(recipe, folder / "run", device="cpu")
    return DebugRun(store, folder / "run", model)
