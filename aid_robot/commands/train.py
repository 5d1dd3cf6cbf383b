"""`aid-robot train`: run a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

from aid_robot.commands import quiet_libraries

HELP = "train a model by a recipe, stage by stage; run it again to go on after a stop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="CONFIG",
        help="a TOML file, or the name of a shipped recipe, see --list",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="RUN",
        help="folder of the run; a stage works in RUN/STAGE",
    )
    parser.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, such as aid.steps=2000 or data.store=STORE; may be repeated",
    )
    parser.add_argument(
        "--ablations",
        action="store_true",
        help="train the recipe's variants of its last stage, all from the same prior, and write "
        "a table of them",
    )
    parser.add_argument("--list", action="store_true", help="list the shipped recipes")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def run(args: argparse.Namespace) -> int:
    """Train, and print where the model is."""
    from aid_robot.training.recipes import load_recipe, shipped_recipes

    if args.list:
        recipes = shipped_recipes()
        width = max(map(len, recipes))
        for name, about in recipes.items():
            print(f"{name:{width}s}  {about}")
        return 0
    if args.recipe is None or args.output is None:
        args.parser.error("CONFIG and -o RUN are needed; --list names the shipped recipes")
    recipe = load_recipe(args.recipe, args.assignments)
    if "debug" not in args:
        quiet_libraries()
    if args.ablations:
        from aid_robot.training.ablations import run_ablations

        print(run_ablations(recipe, args.output, device=args.device))
        return 0
    from aid_robot.training.run import train

    print(f"wrote {train(recipe, args.output, device=args.device)}")
    return 0
