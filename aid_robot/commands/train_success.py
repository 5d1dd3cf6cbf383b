"""`aid-robot train-success`: train the classifier that judges imagined ends."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aid_robot.errors import ConfigError

if TYPE_CHECKING:
    from aid_robot.foresight import VideoForesight

HELP = "train the success classifier on a store's outcomes; run it again to go on after a stop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("store", help="episode store, a path or URL, best of 'aid-robot simulate'")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where the classifier goes, MODEL/success for that of a model; FOLDER.run holds the "
        "state to go on from",
    )
    parser.add_argument("--minutes", type=float, help="budget of time (default: 20)")
    parser.add_argument("--steps", type=int, help="budget of steps, instead of minutes")
    parser.add_argument(
        "--size",
        type=int,
        help="height and width it sees (default: that of --start or --model, else 64)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="pairs of pictures a step")
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        help="model whose VAE the ends are sent through, so that its blur is known, and which "
        "imagines with --imagine; its size must be the classifier's",
    )
    parser.add_argument(
        "--start",
        metavar="FOLDER",
        help="trained classifier to begin with, or the model that has one: it knows what it knew, "
        "and learns new words",
    )
    parser.add_argument(
        "--imagine",
        action="store_true",
        help="have the model imagine how each episode ends, and learn what such pictures are worth "
        "(a second or so an episode and clip on a CPU, beside --minutes); take episodes it was not "
        "trained on",
    )
    parser.add_argument(
        "--clips-per-step",
        type=int,
        default=1,
        metavar="N",
        help="imagined clips of each instruction, as in planning (default: 1)",
    )
    parser.add_argument("--device", default="auto", help="of the model: auto, cpu, cuda, ...")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of scenes to judge by")
    parser.add_argument("--split-seed", type=int, default=0, help="the same as the model's")
    parser.add_argument("--limit", type=int, help="episodes to read at most")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")


def run(args: argparse.Namespace) -> int:
    """Train, measure on held-out scenes, and save."""
    from aid_robot.data.clips import Split
    from aid_robot.data.store import EpisodeStore
    from aid_robot.envs.tabletop.asking import TabletopAsker
    from aid_robot.hub import resolve
    from aid_robot.planning.success.examples import Asker, RecordedAsker, read_examples
    from aid_robot.planning.success.measure import measure
    from aid_robot.planning.success.model import SuccessConfig, SuccessModel
    from aid_robot.planning.success.train import SuccessTraining, train

    minutes = args.minutes if args.minutes or args.steps else 20.0
    settings = SuccessTraining(
        minutes=minutes, steps=args.steps, batch_size=args.batch_size, seed=args.seed
    )
    if args.imagine and not args.model:
        raise ConfigError("--imagine asks a model: name it by --model")
    start = None
    if args.start:
        start = SuccessModel.load(resolve(args.start), device="cpu")
        if start.folder.resolve() == args.output.resolve():
            raise ConfigError(
                f"--start and --output are both {args.output}: a stop could lose it; write the new "
                "one into another folder"
            )
    size = args.size if start is None else start.net.config.size
    if start is not None and args.size not in (None, size):
        raise ConfigError(
            f"--size {args.size} is not that of the classifier in {args.start}, {size}: leave it "
            "out"
        )
    predictor = None
    if args.model:
        predictor, size = _predictor(args.model, size, args.device)
    size = size or 64
    vae = None if predictor is None else predictor.model.vae
    work = args.output.with_name(f"{args.output.name}.run")
    config = SuccessConfig(size=size)
    with EpisodeStore.open(args.store) as store:
        episodes = [store[i] for i in range(min(len(store), args.limit or len(store)))]
        records = store.records
        held_out = Split(args.held_out, args.split_seed).held_out(
            records[i] for i in range(len(episodes))
        )
        asker: Asker
        if all(TabletopAsker.knows(episode) for episode in episodes):
            asker = TabletopAsker()
        else:
            asker = RecordedAsker([text for e in episodes for text in e.instructions])
        sides = [[e for e in episodes if (e.id in held_out) is side] for side in (False, True)]
        examples = read_examples(sides[0], asker, size, vae=vae, bar="read")
        judged = read_examples(sides[1], asker, size, bar="read held out")
        if predictor is not None and args.imagine:
            from aid_robot.planning.success.imagined import imagine_ends

            known = {*examples.ids, *judged.ids}
            ends = imagine_ends(
                predictor,
                [episode for episode in episodes if episode.id in known],
                size,
                work / "imagined",
                source=_source(predictor),
                clips_per_step=args.clips_per_step,
            )
            if not ends:
                raise ConfigError(
                    f"no episode of {args.store} has an instruction to imagine: leave --imagine out"
                )
            examples, judged = examples.with_imagined(ends), judged.with_imagined(ends)
            del ends
    predictor = vae = None  # memory for the training
    model = train(examples, config, settings, work, start)
    facts: dict[str, Any] = {"episodes": len(examples)}
    model.save(args.output, facts)
    figures = measure(model, judged)
    model.save(args.output, {"figures": figures, **facts})
    print(json.dumps(figures, indent=1))
    weight = (args.output / "model.safetensors").stat().st_size
    print(f"wrote {args.output}, {weight / 1e6:.2f} MB")
    return 0


def _predictor(folder: str, size: int | None, device: str) -> tuple[VideoForesight, int]:
    """Load a model, and say the size of its frames, which the classifier's must be."""
    from aid_robot.foresight import VideoForesight

    model = VideoForesight.from_pretrained(folder, device=device, dtype="float32")
    height, width = model.model.config.height, model.model.config.width
    if height != width or size not in (None, height):
        raise ConfigError(
            f"{folder} makes frames of {height}x{width} and the classifier sees squares of "
            f"{size or height}: take a model of square frames, and leave out --size or a --start "
            "of another size"
        )
    return model, height


def _source(predictor: VideoForesight) -> str:
    """Tell a model from others, by its weights and how it samples."""
    from aid_robot.runtime.manifest import digest_weights

    state = {
        f"{part}.{name}": tensor
        for part, module in predictor.model.modules.items()
        for name, tensor in module.state_dict().items()
    }
    return f"{digest_weights(state)} {predictor.model.config}"
