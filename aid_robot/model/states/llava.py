"""States from a multimodal language model on this machine: LLaVA, or any of its interface."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from aid_robot.errors import (
    CheckpointError,
    ConfigError,
    StatePredictionError,
    WeightsNotFoundError,
)
from aid_robot.model.states.predictor import Frame, check_inputs, check_num_states
from aid_robot.model.states.prompt import build_prompt, parse_answer

_SAMPLE_BYTES = 64 * 1024


class LlavaStatePredictor:
    """Ask a model of transformers' image-text-to-text kind, loaded at the first call.

    Decoding is greedy: the same frame and instruction give the same states. Threads may share one
    object; they take turns. Hub ids follow the environment of huggingface_hub (`HF_HOME`,
    `HF_HUB_OFFLINE`, ...).
    """

    def __init__(
        self,
        name_or_path: str,
        *,
        num_states: int = 4,
        revision: str | None = None,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        max_new_tokens: int = 256,
    ) -> None:
        """Check a folder at once; a hub id is looked up at the first call.

        Args:
            name_or_path: a folder with config.json and safetensors, or a hub id.
            num_states: S, from 2 to 8.
            revision: a hub id's branch, tag or commit.
            device: "auto" is CUDA where there is one, else the CPU.
            dtype: "auto" is bfloat16, or float16 on a GPU without bfloat16.
            max_new_tokens: the longest answer.

        Raises WeightsNotFoundError or CheckpointError for a folder that is missing or incomplete.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={max_new_tokens}: it must be positive, such as 256")
        self.num_states = check_num_states(num_states)
        self.revision = revision
        self.max_new_tokens = max_new_tokens
        self.device = _device(device)
        self.dtype = _dtype(dtype, self.device)
        folder = Path(name_or_path).expanduser()
        if folder.is_dir():
            self.name_or_path = str(folder)
            self.identity = f"llava:{folder.resolve().name}@{_fingerprint(folder)}"
        elif _looks_like_path(name_or_path):
            raise WeightsNotFoundError(
                f"there is no folder '{name_or_path}': give a folder with config.json and "
                "*.safetensors, or a hub id such as 'llava-hf/llava-1.5-7b-hf'"
            )
        else:
            self.name_or_path = name_or_path
            self.identity = f"llava:{name_or_path}" + (f"@{revision}" if revision else "")
        self._loaded: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, frame: Frame, instruction: str) -> list[str]:
        check_inputs(frame, instruction)
        prompt = build_prompt(instruction, self.num_states)
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            model, processor = self._loaded
            try:
                answer = self._generate(model, processor, frame, prompt)
            except torch.OutOfMemoryError as error:
                raise StatePredictionError(
                    f"'{self.name_or_path}' runs out of memory on {self.device} in {self.dtype}: "
                    "choose a smaller model or another device, or let a server with more memory "
                    "answer ('endpoint:<base url>#<model>')"
                ) from error
        return parse_answer(answer, self.num_states)

    def _load(self) -> tuple[Any, Any]:
        """Return model and processor; only safetensors are read, no code from the folder runs."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        where = {"revision": self.revision} if self.revision else {}
        try:
            processor = AutoProcessor.from_pretrained(
                self.name_or_path, trust_remote_code=False, **where
            )
            model = AutoModelForImageTextToText.from_pretrained(
                self.name_or_path,
                dtype=self.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                **where,
            )
        except OSError as error:
            raise WeightsNotFoundError(
                f"'{self.name_or_path}' can't be loaded ({_first_line(error)}): check the hub id "
                "and the network, download it beforehand where HF_HUB_OFFLINE is set, or give a "
                "folder with *.safetensors"
            ) from error
        except ValueError as error:
            raise CheckpointError(
                f"'{self.name_or_path}' is no model that takes images and text "
                f"({_first_line(error)}): use one such as 'llava-hf/llava-1.5-7b-hf'"
            ) from error
        return model.to(self.device).eval(), processor

    @torch.inference_mode()
    def _generate(self, model: Any, processor: Any, frame: Frame, prompt: str) -> str:
        inputs = processor(
            images=Image.fromarray(frame),
            text=_conversation(processor, prompt),
            return_tensors="pt",
        )
        inputs = inputs.to(self.device, self.dtype)  # changes floating-point tensors' dtype only
        tokens = model.generate(
            **inputs,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            # A checkpoint's own sampling settings would only be warned of.
            temperature=None,
            top_p=None,
            top_k=None,
        )
        new_tokens = tokens[0, inputs["input_ids"].shape[1] :]
        answer: str = processor.decode(new_tokens, skip_special_tokens=True)
        return answer


def _conversation(processor: Any, prompt: str) -> str:
    """Wrap the prompt as the model was trained to see it, with one place for the image."""
    image_token = str(getattr(processor, "image_token", None) or "<image>")
    # In the instruction it would stand for a second image.
    prompt = prompt.replace(image_token, " ")
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return text
    return f"USER: {image_token}\n{prompt} ASSISTANT:"  # LLaVA-1.5


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device '{name}': write 'auto', 'cpu' or 'cuda'") from error


def _dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        half_only = device.type == "cuda" and not torch.cuda.is_bf16_supported()
        return torch.float16 if half_only else torch.bfloat16
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(
            f"unknown dtype '{name}': write 'auto', 'bfloat16', 'float16' or 'float32'"
        )
    return dtype


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def _fingerprint(folder: Path) -> str:
    """Hash the configuration and samples of the weights, wherever the folder lies.

    A cache must tell a retrained model from the one before; reading all of its gigabytes for that
    would take longer than answering.
    """
    config, weights = folder / "config.json", sorted(folder.glob("*.safetensors"))
    if not config.is_file() or not weights:
        missing = "config.json" if not config.is_file() else "*.safetensors"
        raise CheckpointError(
            f"folder '{folder}' holds no {missing}: give the folder that save_pretrained wrote, "
            "with safetensors (pickled weights are not read)"
        )
    digest = hashlib.sha256(config.read_bytes())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
