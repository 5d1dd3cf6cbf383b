"""The main path: from an observation and an instruction to predicted frames.

    check -> states -> encode -> condition -> denoise -> decode

Shapes: R rows (requests x samples), K given frames, N frames of a clip, C latent channels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aid_robot.clip import Foresight
from aid_robot.errors import InstructionError, SamplingError, StatePredictionError
from aid_robot.hub import BUNDLED
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import load_model
from aid_robot.model.conditioning import Condition, Encodings
from aid_robot.model.config import AIDConfig
from aid_robot.model.diffusion import SAMPLERS, make_sigmas
from aid_robot.model.guidance import Branch, guide, pin
from aid_robot.model.latents import to_frames, to_pixels
from aid_robot.model.states import StatePredictor, make_state_predictor
from aid_robot.options import (
    Job,
    check_count,
    check_instruction,
    check_options,
    check_request,
    choose_sampling,
    describe_sampling,
    draw_seed,
)
from aid_robot.predictor import PredictOptions, Progress, Request
from aid_robot.runtime import choose_model_dtype, choose_runtimes, make_denoiser
from aid_robot.runtime.denoiser import Denoiser, StageTimer, choose_device

if TYPE_CHECKING:
    from aid_robot.planning.decision import Decision
    from aid_robot.planning.goals import Goal
    from aid_robot.planning.plans import PlanLike
    from aid_robot.planning.scorers.scorer import Scorer

_MAX_SEED = 2**63 - 1


class VideoForesight:
    """Predict the next seconds of video from what a robot sees and what it is told.

    Holds no state between calls: threads may share one object.
    """

    def __init__(
        self,
        model: AIDModel,
        *,
        state_predictor: StatePredictor | None = None,
        denoiser: Denoiser | None = None,
        model_id: str = "",
    ) -> None:
        self.model = model
        self.model_id = model_id
        self.state_predictor = state_predictor or make_state_predictor(
            "template", num_states=model.config.num_states
        )
        self.denoiser = denoiser or make_denoiser(model)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = BUNDLED,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        runtime: str | Sequence[str] = "auto",
        engines: str | os.PathLike[str] | None = None,
        states: str | StatePredictor = "template",
    ) -> VideoForesight:
        """Load a model: bundled with the package, from a folder, or from a hub id.

        Args:
            name_or_path: "bundled", a folder with an `aid/` part, or a hub id.
            device: "auto", "cpu", "cuda", "cuda:1", ...
            dtype: "auto", "float32", "float16", "bfloat16".
            runtime: Who runs the UNet, such as "torch", "ort" or "trt"; several are tried in
                order. See `aid_robot.runtime.make_denoiser`.
            engines: Folder of exported graphs or engines, for "ort" and "trt".
            states: "template", "llava:<folder or hub id>", "endpoint:<url>#<model>", or a
                predictor of your own.

        Raises:
            WeightsNotFoundError, CheckpointError, ConfigError, EngineError,
            RuntimeUnavailableError: Each says what to do.
        """
        runtimes = choose_runtimes(runtime, engines)
        target = choose_device(device)
        chosen = choose_model_dtype(dtype, target, engines, runtimes)
        model = load_model(name_or_path, dtype=chosen).to(target, chosen)
        return cls(
            model,
            state_predictor=make_state_predictor(states, num_states=model.config.num_states),
            denoiser=make_denoiser(model, runtimes, engines),
            model_id=os.fspath(name_or_path),
        )

    @property
    def config(self) -> AIDConfig:
        """The model's config."""
        return self.model.config

    @property
    def fps(self) -> float:
        """Frames a second of the recorded world."""
        return self.config.fps

    @property
    def num_frames(self) -> int:
        """N, the frames of a foresight."""
        return self.config.num_frames

    @property
    def num_conditioning_frames(self) -> int:
        """K, the frames that an observation must give."""
        return self.config.num_conditioning_frames

    def predict(
        self,
        obs: Any,
        instruction: str | None = None,
        *,
        num_samples: int = 1,
        seed: int | None = None,
        states: Sequence[str] | None = None,
        **options: Unpack[PredictOptions],
    ) -> Foresight:
        """Predict what follows an observation under an instruction.

        Args:
            obs: A frame (H, W, 3) uint8 RGB, a history (K, H, W, 3), or any other layout that
                `aid_robot.observation` knows.
            instruction: What the robot is told; None takes the text that the observation carries.
            num_samples: How many futures to draw.
            seed: Same seed, same frames, on the same device, alone or in a batch.
            states: State descriptions; None asks the state predictor.
            **options: See `aid_robot.predictor.PredictOptions`.

        Returns:
            Frames (num_samples, N, H, W, 3) uint8 whose first K are the observation's, resized.
        """
        request = Request(obs, instruction, seed, states)
        return self.predict_many([request], num_samples=num_samples, **options)[0]

    def predict_many(
        self,
        requests: Sequence[Request | tuple[Any, str]],
        *,
        num_samples: int = 1,
        **options: Unpack[PredictOptions],
    ) -> list[Foresight]:
        """Answer several requests in one batch, each with the frames it would get alone.

        The timings of every foresight are those of the whole call.
        """
        check_count("num_samples", num_samples)
        check_options(options, self.config)
        jobs = [
            check_request(request, range(num_samples), options, self.config)
            for request in (r if isinstance(r, Request) else Request(*r) for r in requests)
        ]
        return self._run(jobs, options)

    def rollout(
        self,
        obs: Any,
        plan: Sequence[str],
        *,
        num_samples: int = 1,
        seed: int | None = None,
        **options: Unpack[PredictOptions],
    ) -> Foresight:
        """Predict a plan of several instructions, each starting from the last predicted frames.

        Returns:
            One foresight of the joined clips, (num_samples, K + steps x (N - K), H, W, 3).
        """
        if isinstance(plan, str) or not plan:
            raise InstructionError(
                f"a plan is a list of instructions, got {plan!r}; for a single one call predict"
            )
        if "states" in options:
            raise TypeError("rollout asks the state predictor at every step and takes no states")
        seed = draw_seed(seed)
        for instruction in plan:  # before minutes are spent on the steps before a bad one
            check_instruction(instruction, options, self.config)
        step = self.predict(obs, plan[0], num_samples=num_samples, seed=seed, **options)
        steps = [step]
        later = PredictOptions(**options)
        later.pop("camera", None)
        for index, instruction in enumerate(plan[1:], start=1):
            jobs = [
                check_request(
                    Request(clip[-self.num_conditioning_frames :], instruction, seed + index),
                    range(sample, sample + 1),
                    later,
                    self.config,
                )
                for sample, clip in enumerate(step.frames)
            ]
            clips = self._run(jobs, later)
            step = replace(clips[0], frames=np.concatenate([clip.frames for clip in clips]))
            steps.append(step)
        return Foresight.chain(steps)

    def score(
        self,
        obs: Any,
        plans: Sequence[PlanLike],
        scorer: Scorer,
        goal: Goal | None = None,
        **options: Any,
    ) -> Decision:
        """Imagine every plan, score what was imagined and rank the plans; see `decide`."""
        from aid_robot.planning.choose import decide

        return decide(self, obs, plans, goal, scorer, **options)

    # -- the stages ------------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self, jobs: Sequence[Job], options: PredictOptions) -> list[Foresight]:
        if not jobs:
            return []
        model, timer = self.model, StageTimer(self.model.device)
        sampling, guidance = choose_sampling(options, self.config)
        sigmas = make_sigmas(sampling)

        with timer.stage("states"):
            states = [self._describe(job) for job in jobs]
        with timer.stage("encode"):
            encodings = self._encode(jobs, states)
        branches = guidance.branches(sigmas, model.config.num_frames)

        rows = [(index, sample) for index, job in enumerate(jobs) for sample in job.samples]
        default_batch = 4 if model.device.type == "cpu" else len(rows)
        batch_size = options.get("batch_size", default_batch)
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        report = _reporter(options.get("progress", False), len(batches) * (len(sigmas) - 1))

        frames: list[NDArray[np.uint8]] = []
        for batch in batches:
            with timer.stage("condition"):
                # Samples of one request share its condition, which is computed once.
                asked = sorted({index for index, _ in batch})
                condition = model.condition(encodings.select(asked), branches)
                if len(asked) < len(batch):
                    row_of = [asked.index(index) for index, _ in batch]
                    condition = condition.rows(
                        [at * len(asked) + row for at in range(len(branches)) for row in row_of]
                    )
                part = encodings.select([index for index, _ in batch])
            with timer.stage("denoise"):
                noise = torch.stack([self._noise(jobs[i].seed, s) for i, s in batch])
                latents = noise.to(model.device) * sigmas[0]
                denoise = guide(self._branch_denoiser(condition, branches), guidance)
                if model.config.given_frames == "pinned":
                    known = model.to_diffusion(part.given, part.given).to(latents.dtype)
                    denoise = pin(denoise, known)
                latents = SAMPLERS[sampling.sampler](denoise, latents, sigmas, report)
            with timer.stage("decode"):
                given = np.stack([jobs[index].frames for index, _ in batch])
                threshold = sampling.still_threshold
                frames.extend(self._decode(latents, part, given, threshold, options))

        settings = describe_sampling(sampling, guidance)
        settings["dtype"] = str(model.dtype).removeprefix("torch.")
        clips = iter(frames)
        return [
            Foresight(
                frames=np.stack([next(clips) for _ in job.samples]),
                fps=model.config.fps,
                instruction=job.instruction,
                num_conditioning_frames=model.config.num_conditioning_frames,
                states=described,
                seed=job.seed,
                timings=dict(timer.seconds),
                model_id=self.model_id,
                settings=settings,
            )
            for job, described in zip(jobs, states, strict=True)
        ]

    def _describe(self, job: Job) -> tuple[str, ...]:
        if job.states is not None:
            return job.states
        if not job.instruction:
            return ("",) * self.config.num_states
        states = tuple(self.state_predictor(job.first_frame, job.instruction))
        if len(states) != self.config.num_states:
            raise StatePredictionError(
                f"{self.state_predictor.identity} gave {len(states)} states, the model takes "
                f"{self.config.num_states}: {states!r}"
            )
        return states

    def _encode(self, jobs: Sequence[Job], states: Sequence[tuple[str, ...]]) -> Encodings:
        frames = torch.from_numpy(np.stack([job.frames for job in jobs]))
        pixels = to_pixels(frames.to(self.model.device))  # (requests, K, 3, H, W)
        strength = self.config.noise_aug_strength
        if strength > 0:  # SVD was trained on slightly noisy conditioning frames
            noise = [
                torch.randn(pixels.shape[1:], generator=_generator(job.seed, -1)) for job in jobs
            ]
            noisy = pixels + strength * torch.stack(noise).to(pixels.device)
        else:
            noisy = pixels
        return self.model.encode(pixels, noisy, [job.instruction for job in jobs], states)

    def _branch_denoiser(
        self, condition: Condition, branches: Sequence[Branch]
    ) -> Callable[[Tensor, float, list[Branch]], Tensor]:
        def denoise(latents: Tensor, sigma: float, wanted: list[Branch]) -> Tensor:
            # Wanted branches are neighbours, so that their rows are a view of the condition.
            first, count = branches.index(wanted[0]), len(latents)
            rows = slice(first * count, (first + len(wanted)) * count)
            repeated = latents.repeat(len(wanted), 1, 1, 1, 1)
            prediction = self.denoiser.denoise(repeated, sigma, condition.rows(rows))
            by_branch: Tensor = prediction.unflatten(0, (len(wanted), count))
            return by_branch

        return denoise

    def _noise(self, seed: int, sample: int) -> Tensor:
        # Drawn on the CPU: the same on every device.
        return torch.randn(self.model.latent_shape, generator=_generator(seed, sample))

    def _decode(
        self,
        latents: Tensor,
        encodings: Encodings,
        given: NDArray[np.uint8],
        still_threshold: float,
        options: PredictOptions,
    ) -> list[NDArray[np.uint8]]:
        last = torch.from_numpy(given[:, -1]).to(self.model.device)
        pixels = self.model.decode(
            latents,
            encodings.given,
            to_pixels(last),
            still_threshold,
            options.get("decode_chunk_size"),
            options.get("decode_tile_size"),
        )
        if not torch.isfinite(pixels).all():
            raise SamplingError(
                f"the prediction is not finite in {self.model.dtype}: load the model with "
                "dtype='bfloat16' or 'float32'"
            )
        frames = to_frames(pixels).cpu().numpy()
        frames[:, : given.shape[1]] = given
        return list(frames)


def _generator(seed: int, sample: int) -> torch.Generator:
    """Seed a generator by request and sample, so that neither batch nor order matters."""
    mixed = np.random.SeedSequence([seed, sample + 1]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]) & _MAX_SEED)


def _reporter(progress: bool | Progress, total: int) -> Callable[[int], None] | None:
    """Turn the caller's wish into a function that a sampler calls after every step."""
    if progress is False:
        return None
    done = 0
    if progress is True:
        from tqdm import tqdm

        bar = tqdm(total=total, desc="denoise", unit="step")

        def show(current: int, of: int) -> None:
            bar.update()
            if current == of:
                bar.close()

        progress = show
    tell = progress

    def report(_: int) -> None:
        nonlocal done
        done += 1
        tell(done, total)

    return report
