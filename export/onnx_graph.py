"""One part of the model to one ONNX file.

The exporter's own clean-up renames half of the weights, transposes some and joins those that happen
to be equal, after which none can be replaced by name. So it is done here while the weights stand
aside as inputs: each keeps the name that it has in the torch module.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from aid_robot.errors import ExportError
from aid_robot.export.source import Source
from aid_robot.extras import require
from aid_robot.runtime.manifest import Graph, TensorSpec, Weight, digests_by_dtype

# GroupNormalization, new in opset 21, has open bugs in TensorRT 10.
MAX_OPSET = 20
MIN_OPSET = 18
# A protocol-buffer file ends at 2 GiB; the margin is for the graph itself.
_SINGLE_FILE_BYTES = 2**31 - 2**27
# Constants up to this size are folded; weights never are.
_FOLDED_BYTES = 2**20
# Those of onnxscript's rewrites that such graphs have use for. `slice_split_rule`, which its own
# optimizer applies too, compares every node with every other: two thirds of an export's time.
_REWRITES = (
    "mul_by_1_rule",
    "add_0_rule",
    "sub_0_rule",
    "div_by_1_rule",
    "dropout_inference_rule",
    "two_reshapes_matmul_reshape_rule",
    "one_reshape_matmul_reshape_rule",
    "cast_constant_of_shape_rule",
    "cast_constant_of_shape_without_value_rule",
    "collapse_slice_rule",
    "collapse_slice2_rule",
    "materialize_reshape_shape_rule",
    "cast_cast_rule",
    "no_op_cast_rule",
    "no_op_expand_rule",
    "flatten_to_reshape_rule",  # before the reshapes are joined
    "reshape_reshape_rule",
    "no_op_transpose_rule",
    "transpose_transpose_rule",
    "unsqueeze_unsqueeze_rule",
    "squeeze_reshape_1d_rule",
    "normalize_pad_format_conv_rule",
    "fuse_pad_into_conv_rule",
)


def trace_graph(source: Source, name: str, *, opset: int = MAX_OPSET) -> Any:
    """Trace a source and clean the graph; it holds all weights by the names they have in torch.

    Args:
        source: The part of the model.
        name: Of the graph, for errors.
        opset: 18 to 20.

    Returns:
        A model of onnx_ir.

    Raises:
        ExportError: The exporter can't translate an operator.
    """
    check_opset(opset)
    model = _trace(source, name, opset)
    _clean(model, {name for name, _ in source.module.named_parameters()})
    return model


def check_opset(opset: int) -> None:
    """Raise ExportError for an opset that graphs can't be of."""
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ExportError(
            f"opset={opset} can't be exported: choose {MIN_OPSET} to {MAX_OPSET} (later ones have "
            "a GroupNormalization that TensorRT gets wrong)"
        )


def save_graph(
    model: Any,
    source: Source,
    path: Path,
    *,
    external_data: bool | None = None,
) -> Graph:
    """Write a traced graph, after what the source is handed became inputs.

    Args:
        model: By `trace_graph`.
        source: What it was traced from.
        path: Of the .onnx file.
        external_data: Put the weights into a file apart, `<name>.data`; None does so above 2 GB,
            where a single file can't hold them.

    Raises:
        ExportError: The disk is full.
    """
    handed = _hand_over(model, source.handed)
    names = set(model.graph.initializers)
    data = _save(model, path, external_data)
    files = [path.name, *([data] if data else [])]
    return Graph(
        file=path.name,
        data=data,
        sha256={name: _sha256(path.parent / name) for name in files},
        precision=source.precision,
        inputs=(*source.inputs, *handed),
        outputs=source.outputs,
        weights=digests_by_dtype(source.weights),
        names={name: Weight(name) for name in source.weights if name in names},
    )


def _trace(source: Source, name: str, opset: int) -> Any:
    """Let torch trace and translate the module, without its own clean-up."""
    require("onnxscript", "onnx")
    sizes: dict[str, Any] = {}
    dynamic = tuple(_dynamic(spec, sizes) for spec in source.inputs)
    shapes: Any = dynamic
    if source.varargs_from is not None:  # the denoiser's keys and values are one *argument
        shapes = (*dynamic[: source.varargs_from], dynamic[source.varargs_from :])
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                source.module.eval(),
                source.example(),
                input_names=[spec.name for spec in source.inputs],
                output_names=[spec.name for spec in source.outputs],
                dynamic_shapes=shapes if sizes else None,
                opset_version=opset,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises classes that are not public
        raise ExportError(_explain(error, name)) from error
    assert program is not None
    return program.model


def _dynamic(spec: TensorSpec, sizes: dict[str, Any]) -> dict[int, Any]:
    axes = {}
    for axis, size in enumerate(spec.shape):
        if isinstance(size, str):
            axes[axis] = sizes.setdefault(size, torch.export.Dim(size, min=1, max=2**16))
    return axes


def _explain(error: BaseException, name: str) -> str:
    """Say which operator can't be exported, if that is the cause."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    found = re.search(
        r"No (?:decompositions|ONNX function) .*?for.*?'?((?:aten|\w+)[:.][\w.:]+)",
        "\n".join(chain),
    )
    if found:
        return (
            f"graph '{name}' has the operator {found.group(1)}, which ONNX lacks: leave this part "
            "in torch, or write it with other operators"
        )
    reason = next((line for text in reversed(chain) for line in text.splitlines() if line), "")
    return f"graph '{name}' can't be exported: {reason}"


def _clean(model: Any, parameters: Collection[str]) -> None:
    """Fold constants and drop what is unused; let weights keep names and values."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(model)  # stack traces, with paths of this machine
    graph = model.graph
    weights = [value for value in graph.initializers.values() if value.name in parameters]
    held = [value.const_value for value in weights]
    for value in weights:
        del graph.initializers[value.name]
        value.const_value = None  # or it would be folded all the same
        graph.inputs.append(value)
    with _quiet():
        _simplify(model)
    for value, tensor in zip(weights, held, strict=True):
        graph.inputs.remove(value)
        if value.uses():
            # The wrapper's own attribute comes first: "unet.conv_in.weight" -> "conv_in.weight".
            value.name = value.name.partition(".")[2] or value.name
            value.const_value = tensor
            graph.register_initializer(value)


def _simplify(model: Any) -> None:
    """Inline, fold, rewrite and drop what is unused, twice, as `onnxscript.optimizer` does."""
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants_ir
    from onnxscript.rewriter import RewritePass
    from onnxscript.rewriter.rules import common as rules

    common.InlinePass()(model)
    rewrite = RewritePass([getattr(rules, name) for name in _REWRITES])
    for _ in range(2):
        fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=_FOLDED_BYTES,
            output_size_limit=_FOLDED_BYTES,
        )
        rewrite(model)
        common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.OutputFixPass()(model)
    common.NameFixPass()(model)


def _hand_over(model: Any, names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Turn weights into inputs."""
    specs = []
    for name in names:
        value = model.graph.initializers.pop(name, None)
        if value is None:  # a weight that the graph has no use for
            continue
        shape = tuple(int(size) for size in value.shape)
        specs.append(TensorSpec(name, _dtype_name(value.dtype), shape, "weight that AID trained"))
        value.const_value = None
        model.graph.inputs.append(value)
    return tuple(specs)


def _dtype_name(dtype: Any) -> str:
    return {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}[dtype.name]


def _save(model: Any, path: Path, external_data: bool | None) -> str | None:
    """Write the files and return the name of the weights' own, if there is one."""
    import onnx_ir as ir

    if external_data is None:
        initializers = model.graph.initializers.values()
        external_data = sum(value.const_value.nbytes for value in initializers) > _SINGLE_FILE_BYTES
    apart = path.with_suffix(".data")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in (path, apart):
            stale.unlink(missing_ok=True)
        ir.save(model, path, external_data=apart.name if external_data else None)
    except OSError as error:
        raise ExportError(f"{path} can't be written ({error}): free some disk space") from error
    return apart.name if external_data else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's advice to its own developers off a user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
