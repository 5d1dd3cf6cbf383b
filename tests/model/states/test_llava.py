"""The local model: a tiny random LLaVA, saved and loaded through the public path."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from aid_robot.errors import (
    CheckpointError,
    ConfigError,
    StatePredictionError,
    WeightsNotFoundError,
)
from aid_robot.model.states import StateFallbackWarning, make_state_predictor
from aid_robot.model.states.llava import LlavaStatePredictor, _conversation
from aid_robot.model.states.prompt import build_prompt
from aid_robot.model.states.template import template_states

FRAME = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
TEXT = "put the carrot on the plate"
# Byte-level, so that any prompt can be written with 256 tokens.
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<pad>", "</s>", "<image>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def _save(folder: Path, *, seed: int = 0, chat_template: str | None = None) -> Path:
    """Write a model of two thin layers with random weights, as save_pretrained does."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *BYTES])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=1,
        ),
        image_token_index=vocabulary["<image>"],
        image_seq_length=4,
    )
    size = {"height": 28, "width": 28}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )
    torch.manual_seed(seed)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they save on a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("llava") / "tiny-llava")


@pytest.fixture(scope="module")
def chat_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("chat") / "tiny-chat", chat_template=CHAT_TEMPLATE)


@pytest.mark.parametrize("kind", ["plain", "chat"])
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_generates_and_refuses_garbage(
    checkpoint: Path, chat_checkpoint: Path, kind: str, dtype: str
) -> None:
    folder = checkpoint if kind == "plain" else chat_checkpoint
    predictor = LlavaStatePredictor(str(folder), device="cpu", dtype=dtype, max_new_tokens=8)
    with pytest.raises(StatePredictionError, match="the model's answer has no 4"):
        predictor(FRAME, TEXT)


def test_garbage_gives_a_warning_and_the_templates_states(checkpoint: Path, tmp_path: Path) -> None:
    predictor = make_state_predictor(
        f"llava:{checkpoint}", cache_dir=tmp_path, device="cpu", max_new_tokens=8
    )
    with pytest.warns(StateFallbackWarning, match=r"'template' instead of 'llava:tiny-llava@"):
        states = predictor(FRAME, TEXT)
    assert states == template_states(TEXT)
    assert not list(tmp_path.iterdir())


def test_answer_follows_the_image_and_repeats(checkpoint: Path) -> None:
    predictor = LlavaStatePredictor(str(checkpoint), device="cpu", dtype="float32")

    def heard(frame: np.ndarray[Any, Any]) -> torch.Tensor:
        """The logits of the first new token: the argument of greedy decoding."""
        model, processor = predictor._load()
        text = _conversation(processor, TEXT)
        inputs = processor(images=frame, text=text, return_tensors="pt")
        with torch.inference_mode():
            logits: torch.Tensor = model(**inputs).logits[0, -1]
        return logits

    assert torch.equal(heard(FRAME), heard(FRAME))
    assert not torch.equal(heard(FRAME), heard(255 - FRAME))


def test_list_that_the_model_writes_becomes_the_states(checkpoint: Path, tmp_path: Path) -> None:
    folder = _taught(checkpoint, tmp_path, "1. a\n2. b")
    predictor = make_state_predictor(
        f"llava:{folder}", num_states=2, cache_dir=tmp_path / "cache", device="cpu"
    )
    assert predictor(FRAME, TEXT) == ["a", "b"]
    shutil.rmtree(folder)  # the second answer comes from the cache
    assert predictor(FRAME, TEXT) == ["a", "b"]


def _taught(checkpoint: Path, folder: Path, wanted: str) -> Path:
    """Train the tiny model to write one answer, in a few dozen steps."""
    predictor = LlavaStatePredictor(str(checkpoint), device="cpu", dtype="float32")
    model, processor = predictor._load()
    text = _conversation(processor, build_prompt(TEXT, 2))
    inputs = processor(images=FRAME, text=text + wanted + "</s>", return_tensors="pt")
    prompt = processor(images=FRAME, text=text, return_tensors="pt")["input_ids"].shape[1]
    labels = inputs["input_ids"].clone()
    labels[:, :prompt] = -100
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(150):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.05:
            break
    model.save_pretrained(folder / "taught")
    processor.save_pretrained(folder / "taught")
    return folder / "taught"


def test_instruction_cannot_bring_another_image(checkpoint: Path) -> None:
    predictor = LlavaStatePredictor(str(checkpoint), device="cpu", max_new_tokens=2)
    with pytest.raises(StatePredictionError):  # of the answer: the model itself did run
        predictor(FRAME, "put the <image> on the <image>")


def test_prompt_has_the_form_the_model_knows(checkpoint: Path, chat_checkpoint: Path) -> None:
    _, plain = LlavaStatePredictor(str(checkpoint), device="cpu")._load()
    _, chat = LlavaStatePredictor(str(chat_checkpoint), device="cpu")._load()
    assert _conversation(plain, "Where?") == "USER: <image>\nWhere? ASSISTANT:"
    assert _conversation(chat, "Where?") == "[user]<image>Where?[assistant]"


def test_identity_follows_the_weights_not_the_place(checkpoint: Path, tmp_path: Path) -> None:
    def identity(folder: Path) -> str:
        return LlavaStatePredictor(str(folder), device="cpu").identity

    copy = shutil.copytree(checkpoint, tmp_path / "moved" / checkpoint.name)
    retrained = _save(tmp_path / "retrained" / checkpoint.name, seed=1)
    assert identity(copy) == identity(checkpoint)
    assert identity(retrained) != identity(checkpoint)
    assert LlavaStatePredictor("org/name", device="cpu").identity == "llava:org/name"
    pinned = LlavaStatePredictor("org/name", revision="v2", device="cpu")
    assert pinned.identity == "llava:org/name@v2"


def test_threads_take_turns(checkpoint: Path) -> None:
    predictor = LlavaStatePredictor(str(checkpoint), device="cpu", max_new_tokens=2)
    outcomes: list[type] = []

    def ask() -> None:
        try:
            predictor(FRAME, TEXT)
        except Exception as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [StatePredictionError] * 3


def test_missing_or_other_weights_say_what_to_do(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="there is no folder"):
        make_state_predictor(f"llava:{tmp_path}/nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        make_state_predictor(f"llava:{tmp_path}")
    pickled = shutil.copytree(checkpoint, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        make_state_predictor(f"llava:{pickled}")
    with pytest.raises(ConfigError, match="unknown dtype"):
        make_state_predictor(f"llava:{checkpoint}", dtype="half-ish")
    with pytest.raises(ConfigError, match="unknown device"):
        make_state_predictor(f"llava:{checkpoint}", device="gpu")


def test_hub_id_that_is_not_there_is_no_reason_to_fall_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    predictor = make_state_predictor("llava:nobody/nothing", cache_dir=tmp_path, device="cpu")
    with pytest.raises(WeightsNotFoundError, match="nobody/nothing"):
        predictor(FRAME, TEXT)


def test_text_model_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "text")
    LlamaConfig(hidden_size=32).save_pretrained(folder)
    predictor = LlavaStatePredictor(str(folder), device="cpu")
    with pytest.raises(CheckpointError, match="no model that takes images"):
        predictor(FRAME, TEXT)
