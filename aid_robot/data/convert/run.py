"""One ingest run: find what the store lacks, have it prepared, append it."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from aid_robot.data.convert.checks import check_sizes, compare_with_store
from aid_robot.data.convert.prepare import Failure, Settings, open_source
from aid_robot.data.convert.quarantine import Quarantine
from aid_robot.data.convert.report import Report, Tally
from aid_robot.data.convert.sources import Source, find_sources
from aid_robot.data.convert.target import beside, create_target, open_target, settle
from aid_robot.data.convert.workers import InProcess, Processes, RayTasks, Result, Workers
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import DataFormatError, StoreError, StoreFullError
from aid_robot.interrupt import stop_requests

# Episodes that are prepared ahead of the one that is appended next, for each worker.
_AHEAD = 2
# Seconds after which a wait for a worker looks whether Ctrl-C was pressed.
_LOOK = 0.2


@dataclass(frozen=True)
class Item:
    """An episode that the store lacks."""

    source: Source
    index: int
    # As the store will call it.
    id: str


def ingest(
    sources: Sequence[str | Path],
    target: str | Path,
    *,
    format: str | None = None,
    size: tuple[int, int] | None = None,
    cameras: Sequence[tuple[str, str]] = (),
    fps: float | None = None,
    trim_static: bool = False,
    codec: Literal["jpeg", "png"] | None = None,
    quality: int | None = None,
    workers: int | None = None,
    ray: str | None = None,
    limit: int | None = None,
    retry: bool = False,
    progress: bool = True,
) -> Report:
    """Bring all episodes of recordings into a store, which is made where there is none.

    What the store has stays as it is, so that a run that was stopped, however, is taken up by the
    same call. Episodes come in the order of their recordings, whatever the number of workers. One
    that can't be read is quarantined, the others go on. The first Ctrl-C ends the run with a
    commit, and the report says so; the second ends it at once.

    Args:
        sources: PATH or "NAME=PATH" each. Ids are NAME/<id in the recording>; NAME is by default
            what the file or folder is called.
        target: Folder or URL of the store.
        format: One of FORMATS; by default what each source looks like.
        size: (height, width) that frames are squashed to. By default what the store was made with;
            in a new one frames keep their size.
        cameras: (name in the store, name in the recording), the default camera first; by default
            all.
        fps: Rate of the world, for recordings that don't say it, or say it wrongly.
        trim_static: Cut off what comes before the robot first moves.
        codec: By default the store's; in a new one "jpeg".
        quality: Of JPEG, 1 to 100; by default the store's, in a new one 95.
        workers: Processes, by default one a core; 0 reads in this process. They are spawned, so a
            script calls this below `if __name__ == "__main__":`.
        ray: Address of a Ray cluster that reads in their place.
        limit: Only the first so many episodes of each source.
        retry: Try again what is in quarantine.
        progress: Show a bar.

    Raises StoreFullError where the disk is full; what was committed before is safe.
    """
    started = time.monotonic()
    found = find_sources([str(source) for source in sources], format)
    # A recording may have grown since this process last read it.
    open_source.cache_clear()
    wanted = Settings(
        size, codec or "jpeg", quality or 95, tuple(cameras), fps, trim_static=trim_static
    )
    with ExitStack() as stack:
        store = open_target(target)
        if store is not None:
            stack.enter_context(store)
            wanted = settle(store, wanted, codec, quality)
        left_out = beside(target, "quarantine.jsonl")
        if store is None:
            # Of a store that was deleted.
            left_out.unlink(missing_ok=True)
        stored = frozenset(store.ids if store is not None else ())
        quarantine = stack.enter_context(closing(Quarantine(left_out, stored)))
        report = Report(str(target), quarantine=quarantine.path)
        work = _find_work(found, store, quarantine if not retry else (), wanted, limit, report)
        _check(work, store, wanted)
        spool = beside(target, "spool")
        team = stack.enter_context(
            closing(_start_workers(workers, ray, replace(wanted, spool=spool), found, len(work)))
        )
        if store is None:
            store = stack.enter_context(create_target(target, wanted))
        with _folder(spool):
            _append_all(team, work, store, quarantine, report, progress=progress)
        names = {source.name for source in found}
        report.quarantined = [entry for entry in quarantine if entry.id.partition("/")[0] in names]
        report.stored = len(store)
    report.elapsed = time.monotonic() - started
    return report


def _find_work(
    sources: Iterable[Source],
    store: EpisodeStore | None,
    left_out: Quarantine | tuple[()],
    settings: Settings,
    limit: int | None,
    report: Report,
) -> list[Item]:
    """List what the store lacks, and count what it has."""
    stored = dict.fromkeys(store.ids if store is not None else ())
    of_source = Counter(id.partition("/")[0] for id in stored)
    work = []
    for source in sources:
        recording = open_source(source, settings.fps)
        report.notes.update(recording.notes)
        tally = report.tallies[source] = Tally()
        ids = [source.id_of(name) for name in recording.ids]
        known = [index for index, id in enumerate(ids) if id in stored]
        if store is not None and known:
            note = compare_with_store(store, source, known, settings)
            report.notes.update([note] if note else [])
        if gone := of_source[source.name] - len(known):
            episodes = "1 episode" if gone == 1 else f"{gone} episodes"
            verb = "is" if gone == 1 else "are"
            note = f"the store has {episodes} of '{source.name}' that {verb} no longer there"
            report.notes[note] += 1
        for index, id in enumerate(ids[:limit]):
            if id in stored:
                tally.skipped += 1
            elif id in left_out:
                tally.quarantined += 1
            else:
                work.append(Item(source, index, id))
    return work


def _check(work: Iterable[Item], store: EpisodeStore | None, settings: Settings) -> None:
    first: dict[Source, list[int]] = {}
    for item in work:
        first.setdefault(item.source, []).append(item.index)
    check_sizes(first, store.cameras if store is not None else {}, settings)


def _start_workers(
    count: int | None, ray: str | None, settings: Settings, sources: Sequence[Source], work: int
) -> Workers:
    if ray is not None:
        # Its machines need not share the folder for long episodes.
        return RayTasks(ray, count, replace(settings, spool=None), sources)
    if count == 0 or not work:
        return InProcess(settings)
    return Processes(min(count or _cores(), work), settings)


def _append_all(
    workers: Workers,
    work: Sequence[Item],
    store: EpisodeStore,
    quarantine: Quarantine,
    report: Report,
    *,
    progress: bool,
) -> None:
    started, frames, done = time.monotonic(), 0, 0
    with (
        stop_requests() as interrupted,
        tqdm(total=len(work), desc="ingest", unit="episode", disable=not progress) as bar,
        store.group(),
    ):
        for item, result in _in_order(workers, work, interrupted):
            tally = report.tallies[item.source]
            result = _append(store, item, result)
            if isinstance(result, Failure):
                tally.quarantined += 1
                quarantine.add(item.source, item.index, item.id, result)
            else:
                quarantine.release(item.id)
                tally.add(result)
                report.notes.update(result.episode.notes)
                frames += len(result.episode)
            done += 1
            bar.update()
            rate = frames / (time.monotonic() - started)
            bar.set_postfix_str(f"{rate:.0f} frames/s, {len(quarantine)} in quarantine")
    report.interrupted = done < len(work)


def _append(store: EpisodeStore, item: Item, result: Result) -> Result:
    """Append what was prepared; where it can't be, return why."""
    if isinstance(result, Failure):
        if result.disk_full:
            raise StoreFullError(
                f"{result.message}; the store is whole: make room, then run again to go on"
            )
        return result
    try:
        if result.episode.id != item.id:
            return Failure("DataFormatError", f"{item.source.path} was changed while it was read")
        store.append(result.episode)
    except StoreFullError:
        raise
    except (StoreError, DataFormatError) as error:
        return Failure(type(error).__name__, " ".join(str(error).split()))
    finally:
        result.discard()
    return result


def _in_order(
    workers: Workers, work: Sequence[Item], interrupted: Callable[[], bool]
) -> Iterator[tuple[Item, Result]]:
    """Give the results in the order of the work, with only so much begun ahead.

    After an interrupt, what is prepared comes too.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    rest = iter(work)
    while not interrupted():
        while len(waiting) < workers.count * _AHEAD and (item := next(rest, None)) is not None:
            waiting.append((item, workers.submit(item.source, item.index)))
        if not waiting:
            return
        if wait([waiting[0][1]], timeout=_LOOK).done:
            item, future = waiting.popleft()
            yield item, future.result()
    for item, future in waiting:
        if future.done():
            yield item, future.result()


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Have an empty folder for a while."""
    # A run that was killed leaves it behind.
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
