"""Readers, writers and killed writers in several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aid_robot.data.store import EpisodeStore
from aid_robot.data.store.lock import lock_path
from aid_robot.data.store.reader import _shown_again
from aid_robot.errors import StoreError, StoreFullError, StoreLockedError
from tests.data.store.episodes import assert_same, episode_of
from tests.data.store.kill_writer import kill_often

ROOT = Path(__file__).resolve().parents[3]


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_killed_writers_lose_and_tear_nothing(tmp_path: Path) -> None:
    assert kill_often(4, tmp_path) > 0


HOLD = """
import sys
from aid_robot.data.store import EpisodeStore
with EpisodeStore.open(sys.argv[1], "a") as store:
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    EpisodeStore.create(path).close()
    with python(HOLD, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(
            StoreLockedError, match=rf"written by process {process.pid} on \S+ since"
        ):
            EpisodeStore.open(path, "a")
        with pytest.raises(StoreLockedError):
            EpisodeStore.create(path, overwrite=True)
        EpisodeStore.open(path).close()  # readers don't mind
        # However it ends, the lock goes with it.
        process.kill()
        process.wait()
        EpisodeStore.open(path, "a").close()
    assert not lock_path(path).exists()


def test_a_second_writer_in_the_same_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path) as store:
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"):
            EpisodeStore.open(path, "a")
        store.append(episode_of(1))
    EpisodeStore.open(path, "a").close()


def test_a_forked_child_neither_writes_nor_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    store = EpisodeStore.create(path)
    store.append(episode_of(1))
    started, ended = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            store.append(episode_of(2))
            answer = b"written"
        except StoreError as error:
            answer = b"refused" if "write in the parent alone" in str(error) else b"other"
        store.close()
        os.write(started[1], answer)
        os.read(ended[0], 1)
        os._exit(0)
    assert os.read(started[0], 100) == b"refused"
    # The child closed its copy: the lock is still ours, and goes when we let it go.
    with pytest.raises(StoreLockedError):
        EpisodeStore.open(path, "a")
    store.close()
    EpisodeStore.open(path, "a").close()
    os.write(ended[1], b".")
    os.waitpid(child, 0)


FORK = """
import os, sys
from aid_robot.data.store import EpisodeStore
store = EpisodeStore.open(sys.argv[1], "a")
if os.fork():
    print("held", flush=True)
sys.stdin.read()
"""


def test_a_workers_copy_of_the_lock_does_not_outlive_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    EpisodeStore.create(path).close()
    with python(FORK, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
        process.wait()
        # The child lives on, waiting for its input.
        EpisodeStore.open(path, "a").close()


APPEND = """
import sys
from aid_robot.data.store import EpisodeStore
from tests.data.store.episodes import episode_of
with EpisodeStore.open(sys.argv[1], "a") as store:
    print("open", flush=True)
    for seed in range(len(store), len(store) + 60):
        store.append(episode_of(seed, 1 + seed % 9, size=(8, 8)))
"""


def test_readers_see_whole_episodes_while_a_writer_appends(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"

    def expected(seed: int) -> Any:
        return episode_of(seed, 1 + seed % 9, size=(8, 8))

    with EpisodeStore.create(path, codec="png", shard_frames=16) as store:
        store.extend(expected(seed) for seed in range(3))
    old = EpisodeStore.open(path)
    store = EpisodeStore.open(path)
    rng = np.random.default_rng(0)
    with python(APPEND, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        lengths = []
        while process.poll() is None or not lengths or lengths[-1] < 63:
            store.refresh()
            lengths.append(len(store))
            for seed in rng.integers(len(store), size=3):
                assert_same(store[int(seed)], expected(int(seed)))
            assert_same(store[-1], expected(len(store) - 1))
            assert_same(old[2], expected(2))
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2
    assert len(old) == 3


def test_threads_share_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = [episode_of(seed, 9, size=(8, 8)) for seed in range(40)]
    with EpisodeStore.create(tmp_path / "s.zarr", codec="png", shard_frames=4) as store:
        store.extend(episodes)
    store = EpisodeStore.open(tmp_path / "s.zarr")
    store._shown.shards._capacity = 2  # shards are closed while other threads read from them
    failures: list[BaseException] = []

    def read(seed: int) -> None:
        try:
            for number in np.random.default_rng(seed).integers(40, size=60):
                clip = store.clip(int(number), 2, 6)
                np.testing.assert_array_equal(clip, episodes[number].frames[2:8])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def look(store: EpisodeStore, results: Any) -> None:
    results.put((len(store), store.clip(1, 0, 3).tolist(), list(store.ids)))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_show_the_same_episodes(tmp_path: Path, method: str) -> None:
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path, codec="png") as writer:
        writer.extend(episode_of(seed, size=(2, 2)) for seed in range(3))
        store = EpisodeStore.open(path)
        store.clip(0, 0)
        writer.append(episode_of(3, size=(2, 2)))
        writer.drop(["e0"])
    context: Any = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    worker = context.Process(target=look, args=(store, results))
    worker.start()
    count, clip, ids = results.get()
    worker.join()
    assert (count, ids) == (3, ["e0", "e1", "e2"])
    assert clip == episode_of(1, size=(2, 2)).frames[:3].tolist()


def test_what_was_sent_is_small_and_knows_its_store(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with EpisodeStore.create(path, codec="png") as store:
        store.extend(episode_of(seed, 40) for seed in range(20))
        sent = pickle.dumps(store)
    assert len(sent) < 1000
    found = pickle.loads(sent)
    assert isinstance(found, EpisodeStore)
    assert_same(found[7], episode_of(7, 40))
    with EpisodeStore.open(path, "a") as store:
        store.append(episode_of(20))
    again = pickle.loads(sent)
    again.refresh()
    assert (len(again), len(found)) == (21, 20)
    frames = pickle.loads(pickle.dumps(found[7].frames))
    np.testing.assert_array_equal(frames[2:5], episode_of(7, 40).frames[2:5])
    with EpisodeStore.open(path, "a") as store:
        store.compact()
    _shown_again.cache_clear()  # as in a new process
    with pytest.raises(StoreError, match="was compacted or replaced"):
        pickle.loads(sent)


def check_full(path: Path, fill: Callable[[EpisodeStore], None]) -> None:
    """Let `fill` run into the end of the space, and look at what is left."""
    episodes = [episode_of(seed, 6) for seed in range(3)]
    with EpisodeStore.create(path, codec="png", shard_frames=8) as store:
        store.extend(episodes)
        with pytest.raises(StoreFullError, match=r"at its last commit, with \d+ episodes"):
            fill(store)
        count = len(store)
        assert count >= 3
    found = EpisodeStore.open(path)
    assert len(found) == count
    for episode, again in zip(episodes, found, strict=False):
        assert_same(again, episode)
    assert found.verify(deep=True) == []


def noisy(store: EpisodeStore, count: int) -> None:
    """Append episodes that don't compress."""
    rng = np.random.default_rng(0)
    for number in range(count):
        with store.record(id=f"n{number}") as episode:
            for _ in range(20):
                episode.add({"image_0": rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)})


def test_a_full_disk(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(mounted)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a full disk: mounting a small tmpfs is not allowed here")
    try:
        check_full(mounted / "s.zarr", lambda store: noisy(store, 10**6))
        with EpisodeStore.open(mounted / "s.zarr", "a") as store:
            store.drop(store.ids[2:])
        # Compaction needs room for the copy, and says so; the store stays.
        assert len(EpisodeStore.open(mounted / "s.zarr")) == 2
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(store: EpisodeStore) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (7000, before[1]))
        try:
            noisy(store, 100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    check_full(tmp_path / "s.zarr", fill)


def test_a_lock_left_by_a_crashed_machine_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    EpisodeStore.create(path).close()
    lock_path(path).write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "long ago"}))
    EpisodeStore.open(path, "a").close()
