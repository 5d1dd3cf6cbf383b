"""How a stage is trained."""

from __future__ import annotations

from dataclasses import dataclass

from aid_robot.errors import ConfigError


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training stage."""

    batch_size: int = 8
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup_steps: int = 100
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    # ln sigma ~ N(p_mean, p_std^2)
    p_mean: float = 0.7
    p_std: float = 1.4
    # Share of clips whose instruction, or image, is left out, for the guidance's null branches.
    text_dropout: float = 0.1
    image_dropout: float = 0.05
    # Train the image and text towers too, for models whose towers are not pretrained.
    train_towers: bool = True
    # Augmented copies of each video whose latents are computed once; not for the VAE's stage.
    cached_versions: int = 6
    # Minutes between two saves of the state to resume from.
    save_every_minutes: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate={self.learning_rate} must be positive")
        for name in ("text_dropout", "image_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be in [0, 1)")


STAGE_DEFAULTS: dict[str, TrainingConfig] = {
    "vae": TrainingConfig(learning_rate=2e-3, warmup_steps=50, ema_decay=0.998),
    "prior": TrainingConfig(batch_size=4, ema_decay=0.995),
    "aid": TrainingConfig(batch_size=4, ema_decay=0.995),
}
