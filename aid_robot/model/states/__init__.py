"""State prediction: what the scene looks like at S moments between the start and the end.

`make_state_predictor` is the way in. Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from aid_robot.errors import ConfigError
from aid_robot.model.states.cache import CachedStatePredictor
from aid_robot.model.states.fallback import FallbackStatePredictor, StateFallbackWarning
from aid_robot.model.states.instruction import ParsedInstruction, parse_instruction, parse_steps
from aid_robot.model.states.predictor import StatePredictor, check_num_states
from aid_robot.model.states.prompt import PROMPT_VERSION
from aid_robot.model.states.template import TemplateStatePredictor

__all__ = [
    "PROMPT_VERSION",
    "CachedStatePredictor",
    "FallbackStatePredictor",
    "ParsedInstruction",
    "StateFallbackWarning",
    "StatePredictor",
    "TemplateStatePredictor",
    "make_state_predictor",
    "parse_instruction",
    "parse_steps",
]

# What a user may write, by the word before the colon.
_FORMS = {
    "template": "template",
    "llava": "llava:<folder or hub id>",
    "endpoint": "endpoint:<base url>#<model>",
}


def make_state_predictor(
    spec: str | StatePredictor = "template",
    *,
    num_states: int = 4,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    fallback: bool = True,
    **options: Any,
) -> StatePredictor:
    """Build the predictor that `spec` names; one that is already built is returned as it is.

    Args:
        spec: "template", "llava:<folder or hub id>" or "endpoint:<base url>#<model>".
        num_states: S, from 2 to 8.
        cache: keep a model's answers on disk (the template's are quicker to make than to read).
        cache_dir: where; default `$AID_ROBOT_CACHE/states`, else `~/.cache/aid_robot/states`.
        fallback: where the model or server fails, warn and use the template's states. Such states
            are never cached. Choose False where answers are kept for long, as in training.
        options: go to LlavaStatePredictor or EndpointStatePredictor.

    Raises ConfigError for an unknown spec, WeightsNotFoundError for a folder that isn't there.
    """
    check_num_states(num_states)
    if not isinstance(spec, str):
        if not isinstance(spec, StatePredictor) or not callable(spec):
            raise ConfigError(
                f"{spec!r} is not a state predictor: it needs an attribute `identity` and a call "
                f"(frame, instruction) -> list[str]; or write one of {_forms()}"
            )
        return spec

    kind, _, name = spec.partition(":")
    model: StatePredictor
    if kind == "template" and not name:
        if options:
            raise ConfigError(
                f"the template takes no option {', '.join(sorted(options))}: leave it out"
            )
        return TemplateStatePredictor(num_states=num_states)
    if kind == "llava" and name:
        from aid_robot.model.states.llava import LlavaStatePredictor

        model = LlavaStatePredictor(name, num_states=num_states, **options)
    elif kind == "endpoint" and name:
        from aid_robot.model.states.endpoint import EndpointStatePredictor

        base_url, _, model_name = name.partition("#")
        model = EndpointStatePredictor(base_url, model_name, num_states=num_states, **options)
    else:
        raise ConfigError(f"unknown state predictor {spec!r}: {_suggestion(spec, kind)}")

    if cache:
        model = CachedStatePredictor(model, num_states=num_states, cache_dir=cache_dir)
    if fallback:
        model = FallbackStatePredictor(model, TemplateStatePredictor(num_states=num_states))
    return model


def _suggestion(spec: str, kind: str) -> str:
    """Say which form was probably meant."""
    if kind in ("http", "https"):
        form = f"endpoint:{spec}" if "#" in spec else f"endpoint:{spec}#<model>"
        return f"did you mean '{form}'?"
    close = difflib.get_close_matches(kind.strip().lower(), _FORMS, n=1, cutoff=0.5)
    return f"did you mean '{_FORMS[close[0]]}'?" if close else f"write one of {_forms()}"


def _forms() -> str:
    return ", ".join(f"'{form}'" for form in _FORMS.values())
