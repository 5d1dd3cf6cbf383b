"""torch's faster ways to run the UNet give eager torch's prediction, or say why they can't."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aid_robot.errors import RuntimeUnavailableError
from aid_robot.model.aid import AIDModel
from aid_robot.model.conditioning import Condition, Encodings
from aid_robot.model.config import PredictionType
from aid_robot.model.guidance import FULL, IMAGE
from aid_robot.runtime import make_denoiser
from aid_robot.runtime.buffers import InputBuffers, Recent
from aid_robot.runtime.denoiser import NetworkDenoiser, TorchDenoiser
from aid_robot.runtime.torch_compiled import compiled
from tests.tiny import tiny_model


@torch.no_grad()
def make_step(model: AIDModel) -> tuple[Tensor, Condition]:
    """Latents and a condition of two branches for one clip."""
    draw = torch.Generator().manual_seed(0)
    frames, channels, height, width = model.latent_shape
    text = (model.text_encoder.config.max_position_embeddings, 32)
    encodings = Encodings(
        text=torch.randn(1, *text, generator=draw),
        states=torch.randn(1, model.config.num_states, *text, generator=draw),
        image=torch.randn(1, 5, 32, generator=draw),
        given=torch.randn(1, 1, channels, height, width, generator=draw),
    )
    latents = torch.randn(2, frames, channels, height, width, generator=draw)
    return latents, model.condition(encodings, [IMAGE, FULL])


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_a_compiled_network_predicts_what_eager_torch_does(
    prediction_type: PredictionType,
) -> None:
    model = tiny_model(prediction_type=prediction_type)
    latents, condition = make_step(model)
    # Traced whole, graph breaks and all, without the minutes of a C++ compiler.
    network = compiled(model, backend="eager")
    denoiser = NetworkDenoiser(network, model.dtype, prediction_type)
    with torch.no_grad():
        expected = TorchDenoiser(model).denoise(latents, 3.0, condition)
        found = denoiser.denoise(latents, 3.0, condition)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            model.unet.conv_out.bias.add_(1.0)  # weights are shared, not copied
        changed = denoiser.denoise(latents, 3.0, condition)
    assert not torch.allclose(changed, found)


@pytest.mark.slow
def test_the_runtime_torch_compile_predicts_what_eager_torch_does() -> None:
    model = tiny_model()
    latents, condition = make_step(model)
    with torch.inference_mode():
        expected = make_denoiser(model, "torch").denoise(latents, 3.0, condition)
        found = make_denoiser(model, "torch:compile").denoise(latents, 3.0, condition)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_cuda_graph_needs_cuda() -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"need a CUDA device.*on 'cpu'.*'torch'"):
        make_denoiser(tiny_model(), "torch:cuda-graph")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replayed_graph_predicts_what_eager_torch_does() -> None:
    model = tiny_model().to(torch.device("cuda"), torch.float32)
    latents, condition = make_step(model)
    graph = make_denoiser(model, "torch:cuda-graph")
    with torch.inference_mode():
        for sigma in (3.0, 0.5):
            expected = TorchDenoiser(model).denoise(latents.cuda(), sigma, condition)
            found = graph.denoise(latents.cuda(), sigma, condition)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_belongs_to_a_request_is_copied_once() -> None:
    key, sample = torch.ones(2, 3), torch.ones(2)
    buffers = InputBuffers({"key": key, "sample": sample}, changing=("sample",))
    addresses = {name: tensor.data_ptr() for name, tensor in buffers.tensors.items()}
    assert buffers.fill({"key": key, "sample": sample}) == 2
    sample.fill_(2.0)
    # A view of the same rows, as every step makes one.
    assert buffers.fill({"key": key[:2], "sample": sample}) == 1
    assert buffers.fill({"key": key * 5, "sample": sample}) == 2
    assert buffers.tensors["key"].eq(5).all()
    assert buffers.tensors["sample"].eq(2).all()
    assert {name: tensor.data_ptr() for name, tensor in buffers.tensors.items()} == addresses


def test_buffers_made_for_inference_take_inputs_outside_it() -> None:
    with torch.inference_mode():
        key = torch.ones(3)
        buffers = InputBuffers({"key": key}, changing=())
        buffers.fill({"key": key})
    buffers.fill({"key": torch.zeros(3)})
    assert not buffers.tensors["key"].any()


def test_a_new_request_at_a_freed_address_is_copied() -> None:
    buffers = InputBuffers({"key": torch.zeros(1000)}, changing=())
    for value in range(20):  # the allocator gives freed memory again
        buffers.fill({"key": torch.full((1000,), float(value))})
        assert buffers.tensors["key"].eq(value).all()


def test_the_batch_size_unused_longest_is_forgotten() -> None:
    made: list[int] = []
    recent: Recent[int] = Recent(size=2)

    def get(key: int) -> int:
        return recent.get(key, lambda: made.append(key) or key)

    assert [get(key) for key in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2]
