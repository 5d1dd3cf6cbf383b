"""What the prior and AID share: the diffusion loss, and how predictions are judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from aid_robot.data.episode import UInt8Array
from aid_robot.model.conditioning import Condition
from aid_robot.model.diffusion import SAMPLERS, make_sigmas
from aid_robot.model.guidance import Branch, DualGuidance, guide, pin
from aid_robot.model.latents import encode, to_frames, to_pixels
from aid_robot.training.losses import edm_loss, motion_weights
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch, first
from aid_robot.training.stages.stage import Figures, Stage, psnr_by_clip, tiled

# Noise levels at which validation measures the loss.
FIXED_SIGMAS = (0.2, 1.0, 5.0, 25.0)
# Min-SNR's own choice; a UNet that predicts x0 would else hear of little but the smallest noise.
_SNR_GAMMA = 5.0
_VALIDATION_SEED = 2**31 - 1


class DiffusionStage(Stage):
    """A stage that trains the denoiser of clips."""

    @abstractmethod
    def condition(self, batch: Batch, noise: Noise, latents: Tensor) -> tuple[Condition, Tensor]:
        """Build the condition of a training step, with its dropouts, and a loss of its own."""

    @abstractmethod
    def full_condition(self, batch: Batch, given: Tensor) -> Condition:
        """Build the condition without dropouts."""

    @abstractmethod
    def branches(
        self, batch: Batch, given: Tensor
    ) -> tuple[DualGuidance, Callable[[list[Branch]], Condition]]:
        """Say how predictions are guided, and build the condition of the branches for that."""

    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        latents = self.latents_of(batch)
        condition, further = self.condition(batch, noise, latents)
        # Spread evenly over the step's clips: few of them tell much of all noise levels.
        drawn = torch.special.ndtri(noise.spread())
        sigma = (drawn * self.config.p_std + self.config.p_mean).exp()
        loss = self.denoising_loss(
            *(batch, latents, condition, sigma, noise),
            motion_weight=self.config.motion_weight,
            snr_gamma=self.snr_gamma,
        )
        return loss.mean() + further

    @property
    def snr_gamma(self) -> float | None:
        """The greatest weight of a noise level."""
        by_v = self.model.config.prediction_type == "v_prediction"
        return self.config.snr_gamma or (None if by_v else _SNR_GAMMA)

    def denoising_loss(
        self,
        batch: Batch,
        latents: Tensor,
        condition: Condition,
        sigma: Tensor,
        noise: Noise,
        *,
        motion_weight: float = 0.0,
        snr_gamma: float | None = None,
    ) -> Tensor:
        """Return the loss of each clip at its noise level, (B,)."""
        count = self.model.config.num_conditioning_frames
        target = self.model.to_diffusion(latents, latents[:, :count])
        noisy = target + sigma.reshape(-1, 1, 1, 1, 1) * noise.normal(*target.shape[1:])
        prediction = self.model.denoise(noisy, sigma, condition)
        where = motion_weights(target, motion_weight) if motion_weight else None
        weight = self.weight_of(batch)
        return edm_loss(prediction.float(), target, sigma, weight, where, snr_gamma)

    def given(self, batch: Batch, latents: Tensor, noise: Noise) -> Tensor:
        """Return the conditioning latents (B, K, C, h, w), with SVD's noise and the recipe's."""
        given = self.clean_given(batch, latents, noise)
        limit = self.config.conditioning_noise
        if limit:
            level = limit * noise.uniform(1, 1, 1, 1) / self.model.vae.config.scaling_factor
            given = given + level * noise.normal(*given.shape[1:])
        return given

    def clean_given(self, batch: Batch, latents: Tensor, noise: Noise) -> Tensor:
        """Return the conditioning latents as a prediction sees them, with SVD's noise alone."""
        count, strength = self.model.config.num_conditioning_frames, self.noise_strength
        if strength == 0:
            return latents[:, :count]
        if batch.given is not None:
            return batch.given
        pixels = self.pixels(batch)[:, :count]
        with torch.no_grad():
            noisy = pixels + strength * noise.normal(*pixels.shape[1:])
            return encode(self.model.vae, noisy).float()

    @property
    def noise_strength(self) -> float:
        """Strength of SVD's noise on the given frames."""
        return self.model.config.noise_aug_strength

    def dropped(self, noise: Noise, share: float) -> Tensor:
        """Draw which clips lose their image or text, (B,) bool."""
        return noise.uniform() < share

    # -- validation --------------------------------------------------------------------------

    def measure(self, batch: Batch, predictions: int) -> Figures:
        latents = self.latents_of(batch)
        noise = _validation_noise(batch)
        condition = self.full_condition(batch, self.clean_given(batch, latents, noise))
        figures: Figures = {}
        for level in FIXED_SIGMAS:
            sigma = torch.full((len(batch),), level, device=latents.device)
            loss = self.denoising_loss(batch, latents, condition, sigma, noise)
            figures[f"loss_sigma_{level:g}"] = loss.cpu().numpy()
        if predictions:
            some = first(batch, predictions)
            truth, weight = some.clips.frames, self.weight_of(some)
            count = self.model.config.num_conditioning_frames
            copied = truth[:, count - 1 : count].expand_as(truth)
            figures["psnr"] = psnr_by_clip(self.predict(some), truth, weight)
            figures["psnr_copying"] = psnr_by_clip(copied, truth, weight)
            figures["psnr_gain"] = figures["psnr"] - figures["psnr_copying"]
        return figures

    def draw(self, batch: Batch, count: int) -> UInt8Array | None:
        some = first(batch, count)
        made = self.predict(some)
        rows = []
        for truth, clip in zip(some.clips.frames, made, strict=True):
            rows += [truth, clip]
        return tiled(rows)

    def predict(self, batch: Batch) -> Tensor:
        """Predict clips from their given frames, (B, N, H, W, 3) uint8."""
        model = self.model
        config = model.config
        sigmas = make_sigmas(config.sampling)
        noise = _validation_noise(batch)
        given_frames = batch.clips.frames[:, : config.num_conditioning_frames]
        start = encode(model.vae, self.pixels(batch)[:, : config.num_conditioning_frames]).float()
        given = self.clean_given(batch, start, noise)
        guidance, build = self.branches(batch, given)
        branches = guidance.branches(sigmas, config.num_frames)
        condition = build(branches)

        def denoise(latents: Tensor, sigma: float, wanted: list[Branch]) -> Tensor:
            count = len(latents)
            rows = [branches.index(branch) * count + i for branch in wanted for i in range(count)]
            repeated = latents.repeat(len(wanted), 1, 1, 1, 1)
            found = model.denoise(repeated, sigma, condition.rows(rows))
            by_branch: Tensor = found.unflatten(0, (len(wanted), count))
            return by_branch

        guided = guide(denoise, guidance)
        if config.given_frames == "pinned":
            guided = pin(guided, model.to_diffusion(given, given))
        latents = noise.normal(*model.latent_shape) * sigmas[0]
        latents = SAMPLERS[config.sampling.sampler](guided, latents, sigmas, None)
        last = to_pixels(given_frames[:, -1])
        frames = to_frames(model.decode(latents, given, last))
        frames[:, : config.num_conditioning_frames] = given_frames
        return frames


def _validation_noise(batch: Batch) -> Noise:
    return Noise(_VALIDATION_SEED, 0, len(batch), device=batch.clips.frames.device)
