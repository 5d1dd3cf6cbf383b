"""Who judges: this process, a process a device, or a Ray cluster; all by the same `Judge`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeAlias

from aid_robot.errors import ConfigError, EvaluationError
from aid_robot.evaluation.clips import ClipAt
from aid_robot.evaluation.judge import Judge, Judged, Plan
from aid_robot.extras import require

Task: TypeAlias = Sequence[ClipAt]


class _Worker:
    """What a worker process judges with, made when it is first asked."""

    settings: tuple[Plan, str]
    judge: Judge | None = None


def judge_here(plan: Plan, tasks: Sequence[Task], device: str = "auto") -> Iterator[list[Judged]]:
    """Judge in this process."""
    judge = Judge(plan, device)
    for task in tasks:
        yield judge.judge(task)


def judge_on_devices(plan: Plan, tasks: Sequence[Task], count: int) -> Iterator[list[Judged]]:
    """Judge in `count` processes, one for each local GPU, or on the CPU where there is none."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus and count > gpus:
        raise ConfigError(f"{count} devices were asked for, but torch sees {gpus} GPUs")
    _check_specs(plan)
    # As this process has them: another number of threads may round otherwise.
    threads = torch.get_num_threads()
    context = multiprocessing.get_context("spawn")
    places = context.SimpleQueue()
    for number in range(count):
        places.put(f"cuda:{number}" if gpus else "cpu")
    pool = ProcessPoolExecutor(count, context, _start, (plan, places, threads))
    try:
        with pool:
            yield from _in_flight(pool, tasks, 2 * count)
    except BrokenProcessPool as error:
        raise EvaluationError(
            "a process that judged clips died, as the system kills one where memory runs out; what "
            "was done is kept: run it again, with fewer devices or a smaller batch"
        ) from error


def judge_on_ray(plan: Plan, tasks: Sequence[Task], address: str) -> Iterator[list[Judged]]:
    """Judge on a Ray cluster, an actor a GPU, or a CPU where it has no GPU.

    The recordings and models must be under the same paths on all of its machines.
    """
    ray: Any = require("ray", "ray")
    _check_specs(plan)
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"there is no Ray cluster at '{address}' ({error}); expected host:port, "
                "ray://host:port, 'auto' for the one of this machine, or 'local' to start one"
            ) from error
    try:
        resources = ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        needs = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        device = "cuda" if gpus else "cpu"
        actor = ray.remote(**needs)(Judge)
        count = max(1, min(gpus or cores, len(tasks)))
        pool = ray.util.ActorPool([actor.remote(plan, device) for _ in range(count)])
        yield from pool.map_unordered(lambda judge, task: judge.judge.remote(task), tasks)
    except ray.exceptions.RayError as error:
        message = " ".join(str(error).split())
        raise EvaluationError(
            f"the Ray cluster could not judge a clip ({message[-300:]}); what was done is kept: "
            "mend it and run again"
        ) from error
    finally:
        if started:
            ray.shutdown()


def _in_flight(
    pool: ProcessPoolExecutor, tasks: Sequence[Task], count: int
) -> Iterator[list[Judged]]:
    """Keep `count` tasks under way, so that results don't pile up."""
    waiting = iter(tasks)
    under_way: set[Future[list[Judged]]] = set()
    while True:
        while len(under_way) < count and (task := next(waiting, None)) is not None:
            under_way.add(pool.submit(_judge_task, task))
        if not under_way:
            return
        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


def _start(plan: Plan, places: Any, threads: int) -> None:
    """Prepare a worker process."""
    import signal

    import cv2
    import torch

    # Ctrl-C reaches all processes of a terminal; the one that writes decides what is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(threads)
    _Worker.settings = plan, places.get()


def _judge_task(task: Task) -> list[Judged]:
    if _Worker.judge is None:
        # Here, so that what is wrong with the plan is told as it is.
        _Worker.judge = Judge(*_Worker.settings)
    return _Worker.judge.judge(task)


def _check_specs(plan: Plan) -> None:
    for name, spec in plan.predictors.items():
        if not isinstance(spec, str):
            raise ConfigError(
                f"predictor '{name}' is an object, which other processes can't make: name what it "
                "is made of, or judge in this process"
            )
