"""Kill ingest runs at random moments until each is done, and look at the store after every kill.

    python -m tests.data.convert.kill_ingest --kills 100

Prints how many kills there were, and fails where an episode is torn, lost or there twice.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aid_robot.data.store import EpisodeStore
from tests.recordings import write_irasim

EPISODES = 30
# Run in the process that is killed: commits come every few episodes, not every ten seconds.
RUN = """
import sys
from aid_robot.data.convert import ingest
from aid_robot.data.store import writer
if __name__ == "__main__":
    writer.GROUP_SECONDS = 0.05
    ingest([sys.argv[1]], sys.argv[2], workers=int(sys.argv[3]), progress=False)
"""


@dataclass
class Kills:
    """What a loop went through."""

    kills: int = 0
    # Kills after which some, but not all of the episodes were there.
    midway: int = 0
    # Runs that came to their end.
    finished: int = 0


def kill_loop(folder: Path, kills: int, seed: int = 0) -> Kills:
    """Ingest, and kill; raises AssertionError where the store is not as it should be."""
    random.seed(seed)
    recording = write_irasim(folder / "recording", episodes=EPISODES)
    program = folder / "run.py"
    program.write_text(RUN)
    done = Kills()
    store = folder / "store.zarr"
    before: list[str] = []
    while done.kills < kills or before:
        # The last run is left alone.
        finished = _run(program, recording, store, kill=done.kills < kills)
        after = check(store, before)
        if finished:
            assert len(after) == EPISODES
            done.finished += 1
            shutil.rmtree(store)
            before = []
        else:
            done.kills += 1
            done.midway += len(before) < len(after) < EPISODES
            before = after
    return done


def check(path: Path, before: list[str]) -> list[str]:
    """Check every episode of a store; return the ids, which must begin with those of `before`."""
    if not (path / "zarr.json").exists():
        assert not before
        return []
    store = EpisodeStore.open(path)
    ids = list(store.ids)
    assert len(set(ids)) == len(ids)
    assert ids[: len(before)] == before
    for episode in store:
        number = int(episode.id.rpartition("/")[2])
        values = np.asarray(episode.frames).mean(axis=(1, 2, 3))
        expected = 40 + 10 * np.arange(8) + number
        assert np.abs(values - expected).max() < 3, episode.id
        assert episode.state is not None
        assert np.allclose(episode.state[:, 0], np.arange(8) / 10)
    return ids


def _run(program: Path, recording: Path, store: Path, *, kill: bool) -> bool:
    """Run until the end or the kill; return whether it came to its end."""
    workers = random.choice((0, 0, 1, 2))
    command = [sys.executable, str(program), str(recording), str(store), str(workers)]
    with subprocess.Popen(command) as process:
        if kill:
            _wait_for_commits(process, store, random.randrange(6))
            time.sleep(random.uniform(0, 0.1))
            process.kill()
        status = process.wait()
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def _wait_for_commits(process: subprocess.Popen[bytes], store: Path, count: int) -> None:
    """Wait until a run has written to its store, and committed so often, or has ended."""
    last = _committed(store)
    while process.poll() is None and (count or last is None):
        time.sleep(0.002)
        if (now := _committed(store)) != last:
            count, last = max(0, count - 1), now


def _committed(store: Path) -> int | None:
    try:
        return (store / "meta/episode_ends/zarr.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(kill_loop(Path(name), arguments.kills, arguments.seed))
