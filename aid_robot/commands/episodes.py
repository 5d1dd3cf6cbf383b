"""`aid-robot episodes`: list, show and export episodes, and tend the store that they are in."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aid_robot.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from aid_robot.data.episode import Episode
    from aid_robot.data.ingest import Recording
    from aid_robot.data.store import EpisodeRecord, EpisodeStore

HELP = "list, filter, show and export episodes, and tend the store that they are in"
_EPILOG = """
Without an action the episodes are listed. Filters stand before the action, and hold for list and
export: aid-robot episodes store.zarr --outcome success export --to mp4 -o successes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("store", metavar="STORE", help="a store, or a recording of any layout")
    parser.add_argument("--json", action="store_true", help="print JSON, of a list one a line")
    parser.set_defaults(act=_list)
    filters = parser.add_argument_group("which episodes")
    filters.add_argument("--text", metavar="WORDS", help="with these words in an instruction")
    filters.add_argument("--outcome", choices=("demo", "success", "failure"))
    filters.add_argument("--source", metavar="WORDS", help="with these words in its id or source")
    filters.add_argument("--min-frames", type=int, default=0, metavar="N", help="as long at least")
    filters.add_argument("--camera", metavar="NAME", help="with this camera, which is then shown")
    filters.add_argument("--limit", type=int, metavar="N", help="only the first N of those")
    actions = parser.add_subparsers(title="actions", metavar="ACTION")

    def action(
        name: str, act: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=help, description=help)
        sub.set_defaults(act=act)
        return sub

    show = action("show", _show, "print all that is known of an episode, or draw it")
    show.add_argument("episode", metavar="EPISODE", help="its number, from 0, or its id")
    show.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help=".png (a strip of all cameras), .mp4 (one camera) or .rrd (for Rerun)",
    )
    show.add_argument("--rerun", action="store_true", help="open it in Rerun's viewer")
    export = action("export", _export, "write episodes in a layout that other programs read")
    export.add_argument("--to", required=True, choices=("lerobot", "mp4"))
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    action("info", _info, "print what a store holds")
    verify = action("verify", _verify, "look for damage; exit status 1 where there is some")
    verify.add_argument("--deep", action="store_true", help="decode every frame too")
    drop = action("drop", _drop, "let episodes no longer count; compact frees their space")
    drop.add_argument("episodes", nargs="+", metavar="EPISODE", help="its number or id")
    action("compact", _compact, "rewrite a store without what was dropped")
    merge = action("merge", _merge, "append the episodes of other stores")
    merge.add_argument("others", nargs="+", metavar="OTHER")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    status: int = args.act(args)
    return status


def _list(args: argparse.Namespace) -> int:
    recording = _open(args.store)
    count = frames = 0
    seconds = 0.0
    if not args.json:
        print(f"{'':>6}  frames  outcome  id: instruction")
    for index, record in _chosen(recording, args):
        count, frames = count + 1, frames + record.length
        seconds += record.length / record.fps if record.fps else 0.0
        if args.json:
            print(json.dumps({"index": index, **asdict(record)}))
        else:
            text = record.instruction or "(no instruction)"
            outcome = record.outcome or "-"
            print(f"{index:>6}  {record.length:>6}  {outcome:<7}  {record.id}: {text}")
    if not args.json:
        print(
            f"{count} of {len(recording)} episodes, {frames:,} frames, {seconds / 3600:.2f} hours"
        )
    return 0


def _show(args: argparse.Namespace) -> int:
    from aid_robot.commands.inputs import find_episode

    recording = _open(args.store)
    episode = recording[find_episode(recording, args.episode)]
    if args.output is None and not args.rerun:
        _print_episode(episode, as_json=args.json)
        return 0
    from aid_robot.commands import views

    if args.output is not None:
        views.save(episode, args.output, args.camera)
        print(f"wrote {args.output}")
    if args.rerun:
        views.open_in_rerun(episode, args.camera)
    return 0


def _export(args: argparse.Namespace) -> int:
    from aid_robot.data.writers import write_lerobot, write_videos

    recording = _open(args.store)
    indices = [index for index, _ in _chosen(recording, args)]
    if not indices:
        raise ConfigError(f"no episode of {args.store} is as asked for: leave out a filter")
    write = write_lerobot if args.to == "lerobot" else write_videos
    episodes = _Selection(recording, indices)
    folder = write(episodes, args.output, progress=sys.stderr.isatty())
    print(f"wrote {len(indices)} episodes to {folder}")
    return 0


def _info(args: argparse.Namespace) -> int:
    info = _open_store(args.store).info()
    print(json.dumps(info, indent=2) if args.json else info)
    return 0


def _verify(args: argparse.Namespace) -> int:
    store = _open_store(args.store)
    problems = store.verify(deep=args.deep)
    for problem in problems:
        print(problem)
    found = "1 problem" if len(problems) == 1 else f"{len(problems) or 'no'} problems"
    print(f"{len(store)} episodes, {found}")
    return 1 if problems else 0


def _drop(args: argparse.Namespace) -> int:
    with _open_store(args.store, "a") as store:
        store.drop(
            int(name) if name.isdecimal() and name not in store.ids else name
            for name in args.episodes
        )
        print(f"{len(store)} episodes are left; compact frees the space of the dropped ones")
    return 0


def _compact(args: argparse.Namespace) -> int:
    with _open_store(args.store, "a") as store:
        store.compact()
        print(f"{len(store)} episodes in {args.store}")
    return 0


def _merge(args: argparse.Namespace) -> int:
    with _open_store(args.store, "a") as store:
        for other in args.others:
            before = len(store)
            store.merge(other)
            print(f"{len(store) - before} episodes of {other}")
        print(f"{len(store)} episodes in {args.store}")
    return 0


class _Selection:
    """Some episodes of a recording, each read when its turn comes."""

    def __init__(self, recording: Recording, indices: Sequence[int]) -> None:
        self._recording, self._indices = recording, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[Episode]:
        return (self._recording[index] for index in self._indices)


def _open(text: str) -> Recording:
    from aid_robot.data.ingest import detect_format, open_recording
    from aid_robot.data.ingest.store import StoreRecording

    # A store may be empty.
    if "://" in text or (Path(text).is_dir() and detect_format(text) == "store"):
        return StoreRecording(text)
    return open_recording(text)


def _open_store(text: str, mode: Literal["r", "a"] = "r") -> EpisodeStore:
    from aid_robot.data.ingest import detect_format
    from aid_robot.data.store import EpisodeStore

    if "://" not in text and Path(text).exists() and (found := detect_format(text)) != "store":
        raise StoreError(
            f"'{text}' is a recording ({found}), no store: make one by aid-robot ingest {text} "
            "-o store.zarr"
        )
    return EpisodeStore.open(text, mode)


def _chosen(recording: Recording, args: argparse.Namespace) -> Iterator[tuple[int, EpisodeRecord]]:
    """Give the numbers and records of the episodes that pass the filters."""
    passing = (
        (index, record) for index, record in enumerate(_records(recording)) if _passes(record, args)
    )
    return islice(passing, args.limit)


def _records(recording: Recording) -> Iterator[EpisodeRecord]:
    from aid_robot.data.ingest.store import StoreRecording
    from aid_robot.data.store import EpisodeRecord

    if isinstance(recording, StoreRecording):
        yield from recording.store.records
    else:
        for episode in recording:
            yield EpisodeRecord.of(episode, len(episode))


def _passes(record: EpisodeRecord, args: argparse.Namespace) -> bool:
    return (
        (args.text is None or any(_has(text, args.text) for text in record.instructions))
        and (args.outcome is None or record.outcome == args.outcome)
        and (args.source is None or _has(f"{record.id}\n{record.source}", args.source))
        and record.length >= args.min_frames
        and (args.camera is None or args.camera in record.cameras)
    )


def _has(text: str, words: str) -> bool:
    return words.casefold() in text.casefold()


def _print_episode(episode: Episode, *, as_json: bool) -> None:
    from aid_robot.data.store import EpisodeRecord

    record = EpisodeRecord.of(episode, len(episode))
    if as_json:
        print(json.dumps(asdict(record)))
        return
    sizes = {camera: frames.size for camera, frames in episode.videos.items()}
    shapes = {name: rows.shape[1:] for name, rows in episode.arrays.items()}
    rows = [
        ("id", record.id),
        *(("instruction" if not i else "", text) for i, text in enumerate(record.instructions)),
        ("frames", f"{record.length}" + (f" at {record.fps:g} fps" if record.fps else "")),
        ("outcome", record.outcome),
        ("cameras", ", ".join(f"{name} {w}x{h}" for name, (h, w) in sizes.items())),
        ("arrays", ", ".join(f"{key} {shapes.get(key, (7,))}" for key in record.keys)),
        ("scene", record.scene),
        ("source", record.source),
        ("info", json.dumps(record.info) if record.info else ""),
    ]
    for name, value in rows:
        if value:
            print(f"{name:<12} {value}")
    for note in record.notes:
        print(f"note: {note}")
