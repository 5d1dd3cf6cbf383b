"""AID with parts of it off: what each is worth, in the same run and with the same noise.

Off are parts of a *trained* model, which never learnt to do without them. Training anew without a
part (`aid_robot.training.ablations`) is the fairer question, and the dearer one.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any, Unpack, cast

from torch import nn

from aid_robot import VideoForesight
from aid_robot.baselines.baseline import Baseline
from aid_robot.clip import Foresight
from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel
from aid_robot.model.states.predictor import Frame
from aid_robot.predictor import PredictOptions, Request

# What `switched_off` knows.
PARTS = {
    "text": "the instruction and its states: the branch of the guidance that sees the image alone",
    "states": "the states: each is the instruction itself",
    "spatial": "the spatial adapters",
    "short_term": "the short-term temporal adapters",
    "long_term": "the long-term temporal adapters",
    "image_guidance": "guidance by the image: its scale is 1",
}
_ADAPTERS = ("spatial", "short_term", "long_term")


class HeldForesight(Baseline):
    """A `VideoForesight` some of whose options are held, whatever a caller asks for.

    Args:
        foresight: Who predicts.
        held: The options, as of `PredictOptions`.
        model_id: What foresights say they are by.
        takes_states: Whether a caller may hand over states of its own.
        base: The whole model that parts were taken from, which is kept with it.
    """

    def __init__(
        self,
        foresight: VideoForesight,
        held: PredictOptions,
        model_id: str,
        *,
        takes_states: bool = True,
        base: VideoForesight | None = None,
    ) -> None:
        super().__init__(foresight.config, model_id)
        self.foresight = foresight
        self.base = base or foresight
        self.held = held
        self._takes_states = takes_states

    @property
    def model(self) -> AIDModel:
        """The model, without the parts that are off."""
        return self.foresight.model

    def predict_many(
        self,
        requests: Sequence[Request | tuple[Any, str]],
        *,
        num_samples: int = 1,
        **options: Unpack[PredictOptions],
    ) -> list[Foresight]:
        """Answer several requests in one batch, with the noise that AID itself would take."""
        asked = [r if isinstance(r, Request) else Request(*r) for r in requests]
        if not self._takes_states:
            asked = [dataclasses.replace(request, states=None) for request in asked]
        merged = PredictOptions({**options, **self.held})
        clips = self.foresight.predict_many(asked, num_samples=num_samples, **merged)
        return [dataclasses.replace(clip, model_id=self.model_id) for clip in clips]


def switched_off(model: VideoForesight, part: str | Sequence[str]) -> HeldForesight:
    """Return a predictor with one or more parts of a model off, see `PARTS`.

    It shares all weights with the model, which stays as it is.

    Raises ConfigError for an unknown part, and for adapters that the model doesn't have.
    """
    parts = (part,) if isinstance(part, str) else tuple(dict.fromkeys(part))
    for name in parts:
        if name not in PARTS:
            close = difflib.get_close_matches(name, PARTS, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise ConfigError(f"no part '{name}'{hint}; expected some of {', '.join(PARTS)}")
    held = PredictOptions()
    if "text" in parts:
        held["text_guidance_scale"] = 0.0
    if "image_guidance" in parts:
        held["image_guidance_scale"] = 1.0
    states = model.state_predictor
    if "states" in parts:
        states = InstructionAsStates(model.config.num_states)
    adapters = [name for name in _ADAPTERS if name in parts]
    if adapters:
        # Who ran the UNet may have been built for the adapters, so that torch takes over.
        changed = VideoForesight(_without_adapters(model.model, adapters), state_predictor=states)
    else:
        changed = VideoForesight(model.model, state_predictor=states, denoiser=model.denoiser)
    name = f"{model.model_id}?off={','.join(parts)}"
    takes_states = "states" not in parts
    return HeldForesight(changed, held, name, takes_states=takes_states, base=model)


class InstructionAsStates:
    """Hand the instruction itself over in place of each state: AID without the language model."""

    identity = "instruction"

    def __init__(self, num_states: int) -> None:
        self._num_states = num_states

    def __call__(self, frame: Frame, instruction: str) -> list[str]:
        """Return the instruction S times."""
        return [instruction] * self._num_states


def _without_adapters(model: AIDModel, kinds: Sequence[str]) -> AIDModel:
    """Return a model of the same weights whose UNet lacks some kinds of adapters."""
    config = model.config.adapters
    missing = [kind for kind in kinds if not getattr(config, kind)]
    if missing:
        raise ConfigError(
            f"this model has no {' and no '.join(missing)} adapters to switch off; it has "
            f"{', '.join(kind for kind in _ADAPTERS if getattr(config, kind)) or 'none'}"
        )
    # The structure is copied, the tensors are shared.
    shared = [*model.unet.parameters(), *model.unet.buffers()]
    unet = copy.deepcopy(model.unet, {id(tensor): tensor for tensor in shared})
    for _, transformer in unet.transformers():
        for adapters in transformer.adapters:
            for kind in kinds:
                del cast(nn.ModuleDict, adapters)[kind]
    off: dict[str, Any] = dict.fromkeys(kinds, False)
    left = dataclasses.replace(config, **off)
    unet.adapter_config = left
    return dataclasses.replace(model, unet=unet, config=model.config.replace(adapters=left))
