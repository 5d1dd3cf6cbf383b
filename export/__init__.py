"""Export of the model to other runtimes, and the proof that they compute the same.

`to_onnx`, `to_trt` and `verify` are scripts, and the parts of `aid-robot export`.
"""
