"""Kill a writer at random moments, again and again, and look at what it leaves.

    python -m tests.data.store.kill_writer 200

Each round a process appends episodes, alone, in groups or as recordings, and gets SIGKILL after a
random time. Then the store must hold whole episodes only, all of which it said that they are
committed, none twice; and the next writer must be able to go on at once. A reader that was opened
before must see what it saw.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from aid_robot.data.store import EpisodeStore
from tests.data.store.episodes import assert_same, episode_of

SIZE = (32, 32)


def expected(seed: int) -> dict[str, object]:
    """Say what the episode of a number is like."""
    cameras = [("image_0",), ("image_0", "wrist"), ("wrist",)][seed % 3]
    arrays = ("joints",) if seed % 2 else ()
    return {"length": 1 + seed * 7 % 40, "cameras": cameras, "arrays": arrays, "size": SIZE}


def write(path: str) -> None:
    """Append without end, and print the number of episodes after each commit."""
    with EpisodeStore.open(path, "a") as store:
        seed = len(store)
        while True:
            count = 1 + seed % 5
            if seed % 4 == 3:
                episode = episode_of(seed, **expected(seed))  # type: ignore[arg-type]
                with store.record(id=episode.id, instruction=episode.instruction, fps=5) as writer:
                    for place in range(len(episode)):
                        frames = {name: video[place] for name, video in episode.videos.items()}
                        rows = {name: rows[place] for name, rows in episode.arrays.items()}
                        assert episode.actions is not None
                        writer.add(frames, episode.actions[place], **rows)
                seed += 1
            else:
                store.extend(
                    episode_of(number, **expected(number))  # type: ignore[arg-type]
                    for number in range(seed, seed + count)
                )
                seed += count
            print(seed, flush=True)


def kill_once(path: Path, rng: random.Random) -> int:
    """Start a writer, kill it, check the store, and count its episodes."""
    reader = EpisodeStore.open(path)
    before = len(reader)
    command = [sys.executable, "-m", __spec__.name, "--write", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]  # it is past its imports
        time.sleep(rng.expovariate(1 / 0.08))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().split()
    promised = int([line for line in lines if line.strip()][-1])

    store = EpisodeStore.open(path)
    assert len(store) >= promised, f"{promised} episodes were committed, {len(store)} are there"
    assert list(store.ids) == [f"e{number}" for number in range(len(store))]
    for number in range(before, len(store)):
        assert_same(store[number], episode_of(number, **expected(number)))  # type: ignore[arg-type]
    assert len(reader) == before
    if before:
        number = rng.randrange(before)
        assert_same(reader[number], episode_of(number, **expected(number)))  # type: ignore[arg-type]
    assert np.array_equal(reader.lengths, store.lengths[:before])
    return len(store)


def kill_often(rounds: int, folder: Path, seed: int = 0, shard_frames: int = 64) -> int:
    """Kill writers of one store, and count the episodes that it ends up with."""
    path, rng = folder / "killed.zarr", random.Random(seed)
    EpisodeStore.create(path, codec="png", shard_frames=shard_frames).close()
    count = 0
    for _ in range(rounds):
        count = kill_once(path, rng)
    with EpisodeStore.open(path, "a") as store:
        problems = store.verify(deep=True)
    assert not problems, problems[:3]
    return count


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        write(sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            episodes = kill_often(int(sys.argv[1]), Path(folder), seed=int(time.time()))
            print(f"{sys.argv[1]} kills in {time.monotonic() - began:.0f} s: {episodes} episodes, "
                  "none torn, none lost, none twice")  # fmt: skip
