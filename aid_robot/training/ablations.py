"""What each part of AID is worth: variants of the last stage, all from one prior, in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from aid_robot.errors import ConfigError
from aid_robot.model.config import preset
from aid_robot.training.config import Recipe
from aid_robot.training.recipes import make_recipe
from aid_robot.training.run import MODEL, figures_of, train
from aid_robot.training.start import with_changes
from aid_robot.training.tables import Table, from_dotted, merge

# The recipe as it is, against which the variants are held.
FULL = "full"
_DRAWS = 2000
# Figures of the table.
_SHOWN = (
    ("psnr_gain", "PSNR over copying [dB]"),
    ("psnr_gain_of_instruction", "PSNR of its own instruction over another's [dB]"),
    ("loss_sigma_5", "loss at sigma 5"),
    ("loss_sigma_25", "loss at sigma 25"),
)


def run_ablations(recipe: Recipe, folder: Path, *, device: str = "auto") -> str:
    """Train the recipe's variants and write `ablations.md` and `ablations.json`.

    The stages before the last are run once, in `folder`; each variant then trains a fresh AID part
    from their model, in `folder/ablations/<name>`. What an earlier run has done isn't done again.

    Returns:
        The table, as Markdown.
    """
    if not recipe.ablations:
        raise ConfigError(
            f"recipe '{recipe.name}' has no variants: add tables [ablations.NAME], or use the "
            "recipe 'ablations'"
        )
    order = list(recipe.stages)
    if order[-1] != "aid":
        raise ConfigError(
            f"stages={order} end in '{order[-1]}'; variants are of 'aid': let it be the last one"
        )
    variants = {FULL: {}, **recipe.ablations}
    for name, changes in variants.items():  # before hours are spent on the stages before
        model = make_recipe(name, merge(recipe.tables, from_dotted(changes))).model
        with_changes(preset(model.preset), model.config)
    start = recipe.model.start
    if order[:-1]:
        before = make_recipe(recipe.name, {**recipe.tables, "stages": order[:-1]})
        # Absolute, so that it is the same wherever the command is run again from.
        start = str(train(before, folder, device=device).absolute())
    figures: dict[str, Mapping[str, Sequence[float]]] = {}
    for name, changes in variants.items():
        place = folder / "ablations" / name
        variant = make_recipe(name, _variant(recipe, start, changes))
        train(variant, place, device=device)
        figures[name] = figures_of(place / "aid")
    table, values = compare(figures)
    trained = {name: str(folder / "ablations" / name / "aid" / MODEL) for name in figures}
    content = {"recipe": recipe.tables, "models": trained, "figures": values}
    (folder / "ablations.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
    (folder / "ablations.md").write_text(table + "\n")
    return table


def compare(
    figures: Mapping[str, Mapping[str, Sequence[float]]], seed: int = 0
) -> tuple[str, dict[str, dict[str, dict[str, float]]]]:
    """Compare variants by figures of the same clips.

    Args:
        figures: Variant -> figure -> a value for each clip. One is called "full".
        seed: Of the bootstrap over clips.

    Returns:
        A Markdown table of means, with 95 % intervals, and of paired differences from "full"; and
        the same as numbers.
    """
    rng = np.random.default_rng(seed)
    shown = [(key, text) for key, text in _SHOWN if all(key in row for row in figures.values())]
    values: dict[str, dict[str, dict[str, float]]] = {}
    lines = [
        "| variant | " + " | ".join(f"{text} | from full" for _, text in shown) + " |",
        "|---" * (1 + 2 * len(shown)) + "|",
    ]
    for name, row in figures.items():
        cells, values[name] = [name], {}
        for key, _ in shown:
            own, full = np.asarray(row[key]), np.asarray(figures[FULL][key])
            picks = rng.integers(len(own), size=(_DRAWS, len(own)))
            found = {"clips": float(len(own))}
            for what, numbers in (("", own), ("difference", own - full)):
                low, high = np.percentile(numbers[picks].mean(1), [2.5, 97.5])
                prefix = f"{what}_" if what else ""
                found |= {f"{prefix}mean": float(numbers.mean()), f"{prefix}low": float(low),
                          f"{prefix}high": float(high)}  # fmt: skip
            values[name][key] = found
            cells.append(f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]")
            cells.append(
                "-" if name == FULL else f"{found['difference_mean']:+.3f} "
                f"[{found['difference_low']:+.3f}, {found['difference_high']:+.3f}]"
            )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines), values


def _variant(recipe: Recipe, start: str, changes: Mapping[str, object]) -> Table:
    tables = {k: v for k, v in recipe.tables.items() if k not in ("ablations", "stages")}
    # The towers and the prior are those of `start`, and so is the vocabulary.
    tables["model"] = {
        **{k: v for k, v in tables.get("model", {}).items() if k in ("config", "states")},
        "start": start,
        "fresh_aid": True,
    }
    return merge({**tables, "stages": ["aid"]}, from_dotted(changes))
