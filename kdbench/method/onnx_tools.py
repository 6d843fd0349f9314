"""The packages that read and write ONNX files, imported when they are asked for."""

from typing import Any

from kdbench.errors import UserError


def onnx_package() -> Any:
    """Raises UserError with the extra that brings it."""
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise UserError("ONNX files need onnx and onnxscript: pip install 'kdbench[compress]'") from error
    return onnx


def onnxruntime_package() -> Any:
    """Raises UserError with the extra that brings it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("ONNX files are run by onnxruntime: pip install 'kdbench[compress]'") from error
    return onnxruntime


def quantization() -> Any:
    """ONNX Runtime's quantisers. Raises UserError with the extra that brings them."""
    onnx_package()
    onnxruntime_package()
    import onnxruntime.quantization

    return onnxruntime.quantization
