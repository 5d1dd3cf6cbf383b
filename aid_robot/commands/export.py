"""`aid-robot export onnx | calibrate | quantize | trt | verify`: graphs and engines, gated."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module

HELP = "export the model to ONNX or TensorRT, quantise it, or compare an export with torch"

# Modules with `add_arguments` and `run`, which are scripts too. They load torch, so that only the
# one asked for is imported.
_PARTS: Mapping[str, str] = {
    "onnx": "aid_robot.export.to_onnx",
    "calibrate": "aid_robot.export.calibration",
    "quantize": "aid_robot.export.quantize",
    "trt": "aid_robot.export.to_trt",
    "verify": "aid_robot.export.verify",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which part; its own arguments are declared once it is chosen."""
    parser.add_argument(
        "part",
        choices=_PARTS,
        help="onnx: write the parts of a model as graphs; calibrate: record what the denoiser is "
        "called with; quantize: round it to int8 or fp8 by that; trt: build TensorRT engines; "
        "verify: compare graphs or engines with torch",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see: export PART --help")


def run(args: argparse.Namespace) -> int:
    """Run the part; returns 1 where the accuracy gate fails."""
    module = import_module(_PARTS[args.part])
    parser = argparse.ArgumentParser(
        prog=f"aid-robot export {args.part}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    status: int = module.run(parser.parse_args(args.arguments))
    return status
