"""Exported graphs compute what torch does, and say what they take."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from aid_robot.commands.inputs import read_image
from aid_robot.errors import ConfigError, ExportError
from aid_robot.export import graphs
from aid_robot.export.graphs import make_source, weights_of
from aid_robot.export.onnx_graph import trace_graph
from aid_robot.export.source import Source
from aid_robot.export.to_onnx import _keeping, export_onnx
from aid_robot.hub import bundled_model
from aid_robot.model.aid import AIDModel
from aid_robot.model.latents import to_clip_pixels, to_pixels
from aid_robot.runtime.manifest import (
    Graph,
    Manifest,
    TensorSpec,
    digest_weights,
    digests_by_dtype,
)
from aid_robot.runtime.ort import OrtGraph
from aid_robot.runtime.unet_graph import split_weights
from tests import tiny
from tests.exported import ROLES, Exports, change_trained_part, load, relative_error

CPU = torch.device("cpu")
BATCHES = (1, 2, 3, 24)


@pytest.fixture(scope="module")
def model(onnx_exports: Exports) -> AIDModel:
    return load(onnx_exports.checkpoint)


def scene_pixels(model: AIDModel) -> Tensor:
    """The bundled picture and its mirror image, as CLIP's tower takes them, (2, 3, S, S)."""
    frame = torch.from_numpy(read_image(bundled_model().parent / "observations" / "tabletop.png"))
    pixels = to_clip_pixels(to_pixels(frame[None]), model.image_encoder.config.image_size)
    return torch.cat([pixels, pixels.flip(-1)])


def check_part(folder: Path, model: AIDModel, role: str, limit: float) -> None:
    """Compare a graph with torch at every batch."""
    source = make_source(role, model)
    graph = OrtGraph(folder, Manifest.load(folder), role, CPU, "cpu")
    names = [spec.name for spec in source.inputs]
    # Noise is no picture: of some draws torch's own float16 makes 1 % of error, of pictures 0.1 %.
    pictures = [scene_pixels(model)] if role == "image_encoder" else None
    for batch in BATCHES:
        rows = [row % 2 for row in range(batch)]
        inputs = [tensor[rows] for tensor in (pictures or source.example(batch))]
        with torch.inference_mode():
            truth = source.module(*inputs)
            found = graph(dict(zip(names, inputs, strict=True)))
        truth = truth if isinstance(truth, tuple) else (truth,)
        for spec, expected in zip(source.outputs, truth, strict=True):
            assert found[spec.name].shape == expected.shape
            assert relative_error(found[spec.name], expected) <= limit, f"{spec.name}, {batch}"


@pytest.mark.parametrize("role", ROLES)
def test_the_bundled_model_equals_torch_at_any_batch(
    onnx_exports: Exports, model: AIDModel, role: str
) -> None:
    check_part(onnx_exports.folded, model, role, 1e-5)


def test_a_model_that_drafts_has_its_draft_as_a_graph(tmp_path: Path) -> None:
    plain = tiny.tiny_model()
    drafting = tiny.tiny_model(conditioning_fill="draft")
    assert set(graphs.roles_of(drafting)) - set(graphs.roles_of(plain)) == {"draft"}
    export_onnx(drafting, tmp_path, roles=["draft"])
    check_part(tmp_path, drafting, "draft", 1e-5)
    with pytest.raises(ConfigError, match="has 'learned': leave it out"):
        export_onnx(plain, tmp_path, roles=["draft"])


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_every_part_equals_torch_in_both_precisions(
    tmp_path: Path, model: AIDModel, precision: str, limit: float
) -> None:
    export_onnx(model, tmp_path, precision=precision)
    for role in graphs.roles_of(model):
        check_part(tmp_path, model, role, limit)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_the_structure_of_the_full_size_equals_torch(
    tmp_path: Path, precision: str, limit: float
) -> None:
    """Four resolutions and two layers in each: 16 transformers, as Stable Video Diffusion has."""
    sizes = replace(
        tiny.SIZES,
        unet_channels=(32, 64, 64, 64),
        unet_heads=(2, 4, 4, 4),
        unet_layers_per_block=2,
    )
    full = tiny.tiny_model(sizes=sizes)
    change_trained_part(full, by=1.0)
    export_onnx(full, tmp_path, precision=precision, roles=["denoiser"])
    check_part(tmp_path, full, "denoiser", limit)


def test_the_manifest_describes_what_the_files_hold(onnx_exports: Exports) -> None:
    manifest = Manifest.load(onnx_exports.folded)
    assert set(manifest.graphs) == set(ROLES)
    assert manifest.opset <= 20
    assert manifest.config["num_frames"] == 16
    assert {"torch", "onnx", "aid-robot"} <= set(manifest.versions)
    for role, graph in manifest.graphs.items():
        path = manifest.check_files(onnx_exports.folded, role)
        onnx.checker.check_model(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for specs, found in (
            (graph.inputs, session.get_inputs()),
            (graph.outputs, session.get_outputs()),
        ):
            assert [spec.name for spec in specs] == [value.name for value in found]
            for spec, value in zip(specs, found, strict=True):
                assert list(spec.shape) == value.shape, f"{role}: {spec.name}"
                assert spec.meaning


def test_weights_keep_their_names_and_values(onnx_exports: Exports, model: AIDModel) -> None:
    """What refitting an engine relies on."""
    graph = Manifest.load(onnx_exports.folded).graph("denoiser")
    proto = onnx.load(onnx_exports.folded / graph.file)
    stored = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in
              proto.graph.initializer}  # fmt: skip
    inside, _ = split_weights(model.unet, "folded")
    assert set(graph.names) == set(inside)
    for name, weight in graph.names.items():
        torch.testing.assert_close(stored[weight.initializer], inside[name], rtol=0, atol=0)


def test_what_aid_trained_can_be_handed_in(onnx_exports: Exports, model: AIDModel) -> None:
    graph = Manifest.load(onnx_exports.inputs).graph("denoiser")
    handed = [spec.name for spec in graph.inputs if ".attentions." in spec.name]
    trained = model.unet.aid_parameter_names()
    assert set(handed) == {n for n in trained if "attn2.to_k" not in n and "attn2.to_v" not in n}
    assert not set(handed) & set(graph.names)


def test_a_fixed_batch_and_weights_in_a_file_apart(tmp_path: Path, model: AIDModel) -> None:
    manifest = export_onnx(
        model, tmp_path, roles=["context"], rows=3, external_data=True, precision="fp16"
    )
    graph = manifest.graph("context")
    assert graph.data == "context.data"
    assert (tmp_path / "context.data").stat().st_size > (tmp_path / graph.file).stat().st_size / 4
    source = make_source("context", model, rows=3)
    assert all(spec.shape[0] == 3 for spec in (*graph.inputs, *graph.outputs))
    inputs = source.example()
    found = OrtGraph(tmp_path, manifest, "context", CPU, "cpu")(
        dict(zip(("spatial", "temporal"), inputs, strict=True))
    )
    truth = source.module(*inputs)
    for spec, expected in zip(graph.outputs, truth, strict=True):
        assert found[spec.name].dtype == torch.float16
        assert relative_error(found[spec.name], expected) <= 1e-2


def test_a_model_that_was_exported_is_left_as_it_was(tmp_path: Path, model: AIDModel) -> None:
    before = {name: p.clone() for name, p in model.condition_encoder.named_parameters()}
    export_onnx(model, tmp_path, roles=["dqformer"], precision="fp16")
    for name, parameter in model.condition_encoder.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name])


class _Lonely(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).real


def test_an_operator_that_onnx_lacks_is_named() -> None:
    spec = TensorSpec("x", "float32", ("rows", 4, 4), "matrices")
    source = Source(_Lonely(), (spec,), (replace(spec, name="y"),), {}, "fp32")
    with pytest.raises(ExportError, match=r"graph 'lonely'.*linalg_eig"):
        trace_graph(source, "lonely")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"adapters": "loose"}, "adapters='loose'"),
        ({"rows": 0}, "rows=0"),
        ({"roles": ["unet"]}, "graph 'unet' is unknown"),
        ({"opset": 21, "roles": ["context"]}, "opset=21"),
    ],
)
def test_what_can_not_be_exported_is_refused(
    tmp_path: Path, model: AIDModel, options: dict[str, object], message: str
) -> None:
    with pytest.raises((ConfigError, ExportError), match=message):
        export_onnx(model, tmp_path / "new", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def exported(model: AIDModel, role: str, folder: Path) -> Graph:
    """Write a file, and what a manifest says of it as the graph of a part."""
    digests = digests_by_dtype(make_source(role, model).weights)
    (folder / f"{role}.onnx").write_text(role)
    digest = hashlib.sha256(role.encode()).hexdigest()
    return Graph(f"{role}.onnx", None, {f"{role}.onnx": digest}, "fp32", (), (), digests)


def test_what_else_a_folder_holds_of_the_model_is_kept(tmp_path: Path) -> None:
    model = tiny.tiny_model()
    roles = ("denoiser", "context", "vae_decoder", "dqformer")
    graphs = {role: exported(model, role, tmp_path) for role in roles}
    config, engines = model.config.to_dict(), {"tensorrt": {"denoiser": {}}}
    old = Manifest("tiny", "fp32", "folded", 20, config, {}, graphs, engines)
    old.save(tmp_path)
    (tmp_path / "dqformer.onnx").unlink()
    # How it is sampled is no part of a graph.
    config = {**config, "sampling": {**config["sampling"], "steps": 7}}
    new = replace(old, graphs={}, engines={}, config=config)
    kept = _keeping(new, tmp_path, model, ["context"])
    assert set(kept.graphs) == {"denoiser", "vae_decoder"}, "with their files, as they were"
    assert kept.engines == engines
    with pytest.raises(ConfigError, match="precision fp32 -> fp16"):
        _keeping(replace(new, precision="fp16"), tmp_path, model, ["context"])
    whole = replace(new, precision="fp16")
    assert _keeping(whole, tmp_path, model, roles) == whole
    stranger = tiny.tiny_model(seed=5)
    assert not _keeping(new, tmp_path, stranger, ["context"]).graphs
    with pytest.raises(ConfigError, match="unknown"):
        export_onnx(model, tmp_path, roles=["contxet"])
    assert set(Manifest.load(tmp_path).graphs) == set(graphs), "a typo loses nothing"


@pytest.mark.parametrize("role", ["denoiser", "context", "dqformer"])
def test_weights_are_known_without_a_source(role: str) -> None:
    model = tiny.tiny_model()
    for adapters in ("folded", "inputs"):
        known = weights_of(role, model, adapters)
        assert digest_weights(known) == digest_weights(
            make_source(role, model, adapters=adapters).weights
        )


def test_a_model_in_training_stays_so() -> None:
    model = tiny.tiny_model()
    model.unet.train().requires_grad_(True)
    make_source("denoiser", model)
    assert model.unet.training
    assert all(parameter.requires_grad for parameter in model.unet.parameters())


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path, model: AIDModel) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ExportError, match="taken"):
        export_onnx(model, tmp_path / "taken" / "onnx", roles=["context"])
