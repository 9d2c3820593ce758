"""What OpenVINO's device plugins are known to refuse or to compute wrongly, looked for in a folder's graphs.

These are lints: nothing is run. Each says where its knowledge comes from. What no lint finds may still fail on a
device.
The preprocessor is not looked at for GPU and NPU, because the clients always run it on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.bundle import GRAPHS, Bundle
from export.weight_types import constants, elements

if TYPE_CHECKING:
    import openvino as ov

DEVICES = ("CPU", "GPU", "NPU")

NOT_RUN = "lint, not run on a device"
"""What every report of these lints must say."""

F16_MAX = 65504.0
"""Largest number of IEEE 754's binary16."""

_BLOCK = 1 << 22
"""Elements of a constant that are looked at together."""


@dataclass(frozen=True)
class Finding:
    """Something that a device cannot run, or that it may run otherwise than the CPU does.

    Attributes:
        graph: one of :data:`export.bundle.GRAPHS`.
        text: what, and where.
        blocks: the device cannot run the graph, or computes something else; otherwise the text says when it would.
    """

    graph: str
    text: str
    blocks: bool = True


Found = Iterator[tuple[str, bool]]
Lint = Callable[[Any], Found]
"""From a graph to what is wrong with it, and whether that blocks the device."""


def device_findings(bundle: Bundle) -> dict[str, list[Finding]]:
    """What the lints find, by device."""
    import openvino as ov

    core = ov.Core()
    found: dict[str, list[Finding]] = {device: [] for device in DEVICES}
    for graph in GRAPHS:
        try:
            model = core.read_model(bundle.graph_path(graph))
        except (RuntimeError, UnicodeDecodeError):
            for findings in found.values():
                findings.append(Finding(graph, "OpenVINO cannot read it"))
            continue
        for device in DEVICES if graph != "preprocessor" else ("CPU",):
            found[device] += findings_in(model, graph, device)
    return found


def findings_in(model: ov.Model, graph: str, device: str) -> list[Finding]:
    """What the lints of one device find in one graph."""
    return [Finding(graph, text, blocks) for lint in LINTS[device] for text, blocks in lint(model)]


def dynamic_shapes(model: ov.Model) -> Found:
    """Shapes that are not fixed.

    Source: OpenVINO's documentation of the NPU device, Limitations: only models with static shapes are supported
    (npu-device.rst, 2025). Newer compilers take bounded dimensions of some operations; none of that was tried.
    """
    for node, shape in _shapes(model):
        if shape.is_dynamic:
            yield f"{_name(node)} has the shape {shape}, which is not static", True
            return  # the shapes after it follow from it


def dynamic_ranks(model: ov.Model) -> Found:
    """Tensors whose number of dimensions is not fixed.

    Source: Intel's support article 000095644 on the GPU plugin: dynamic rank is not supported. Dynamic shapes are
    supported in part (OpenVINO's table of supported devices, 2025).
    """
    for node, shape in _shapes(model):
        if shape.rank.is_dynamic:
            yield f"{_name(node)} has no fixed number of dimensions", True
            return


def ranks_beyond_8(model: ov.Model) -> Found:
    """Tensors of more than eight dimensions.

    Source: the GPU plugin's memory formats, of which the largest has eight (``bfvuwzyx`` in
    src/plugins/intel_gpu/src/runtime/format.cpp).
    """
    for node, shape in _shapes(model):
        if shape.rank.is_static and shape.rank.get_length() > 8:
            yield f"{_name(node)} has {shape.rank.get_length()} dimensions, and there are formats for 8", True
            return


def boolean_bitwise_not(model: ov.Model) -> Found:
    """``BitwiseNot`` on booleans, which the NPU plugin compiles to something else.

    Source: the eddy-audio clients' second generation, which rewrites it to ``LogicalNot`` when it loads a graph.
    """
    for node in model.get_ops():
        if node.get_type_name() == "BitwiseNot" and node.get_output_element_type(0).to_string() == "boolean":
            yield f"{_name(node)} is BitwiseNot on booleans, which is miscompiled; LogicalNot is not", True


def operations_without_gpu_kernel(model: ov.Model) -> Found:
    """Operations that the GPU plugin does not register.

    Source: src/plugins/intel_gpu/include/intel_gpu/plugin/primitives_list.hpp (2025); ``BitwiseNot``: OpenVINO's issue
    28334. Versions of an operation are not told apart, since the plugin converts them first.
    """
    return _unknown_operations(model, _GPU_OPERATIONS)


def operations_unknown_to_npu(model: ov.Model) -> Found:
    """Operations that the NPU compiler's importer does not name.

    Source: ``NGraphImporter::getParser`` in openvinotoolkit/npu_compiler, src/vpux_compiler/src/frontend/IE.cpp, and
    the transformations that run before it: ``Slice`` becomes ``StridedSlice`` there, and ``Einsum`` becomes products.
    Versions of an operation are not told apart.
    """
    return _unknown_operations(model, _NPU_OPERATIONS)


def types_without_npu(model: ov.Model) -> Found:
    """Element types that an NPU has no arithmetic for.

    Source: ``importPrecision`` of the same IE.cpp; f64, which it names, is not documented as a type of the device
    (npu-device.rst).
    """
    unknown: dict[str, list[Any]] = {}
    for node in model.get_ordered_ops():
        for output in node.outputs():
            if output.get_element_type().to_string() not in _NPU_TYPES.split():
                unknown.setdefault(output.get_element_type().to_string(), []).append(node)
    for kind, nodes in unknown.items():
        yield f"{kind} is no type of the plugin ({len(nodes)} tensors, that of {_name(nodes[0])} the first)", True


def constants_beyond_f16(model: ov.Model) -> Found:
    """Constants that are infinite or NaN in f16: weights, and masks such as -inf or the least f32.

    Source: npu-device.rst: computation precision for the hardware is FP16.
    """
    return ((text, True) for text in _beyond_f16(model))


def constants_beyond_f16_on_gpu(model: ov.Model) -> Found:
    """The same where a GPU computes in f16; in f32 they are as they are.

    Source: precision-control.rst: the GPU supports f32 and f16, and a hint chooses.
    """
    return ((f"{text}, unless INFERENCE_PRECISION_HINT is f32", False) for text in _beyond_f16(model))


LINTS: dict[str, tuple[Lint, ...]] = {
    "CPU": (),  # where folders are run: see the contract, and docs/compatibility.md
    "GPU": (dynamic_ranks, ranks_beyond_8, operations_without_gpu_kernel, constants_beyond_f16_on_gpu),
    "NPU": (dynamic_shapes, boolean_bitwise_not, operations_unknown_to_npu, types_without_npu, constants_beyond_f16),
}

_NPU_TYPES = "boolean bf16 f16 f32 i4 i8 i16 i32 i64 u2 u4 u8 u16 u32 u64 nf4 f8e4m3 f8e5m2"

_NPU_OPERATIONS = """
Abs Acos Acosh AdaptiveAvgPool AdaptiveMaxPool Add Asin Asinh Assign Atan Atanh AvgPool BatchNormInference BatchToSpace
BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Broadcast Bucketize CTCGreedyDecoder CTCGreedyDecoderSeqLen Ceiling Clamp
Concat Constant Convert ConvertLike Convolution ConvolutionBackpropData Cos Cosh CumSum DFT DeformableConvolution
DeformablePSROIPooling DepthToSpace DetectionOutput Divide Einsum Elu EmbeddingBagOffsetsSum EmbeddingBagPackedSum
EmbeddingSegmentsSum Equal Erf Exp ExperimentalDetectronROIFeatureExtractor ExtractImagePatches Eye FakeConvert
FakeQuantize Floor FloorMod GRN GRUCell GRUSequence Gather GatherElements GatherND GatherTree Gelu Greater GreaterEqual
GridSample GroupConvolution GroupConvolutionBackpropData GroupNormalization HSigmoid HSwish HardSigmoid I420toBGR
I420toRGB IDFT IRDFT Identity If Interpolate Inverse LRN LSTMCell LSTMSequence Less LessEqual Log LogSoftmax LogicalAnd
LogicalNot LogicalOr LogicalXor Loop MVN MatMul MaxPool Maximum Minimum Mish Mod Multiply NV12toBGR NV12toRGB Negative
NonMaxSuppression NonZero NormalizeL2 NotEqual OneHot PRelu PSROIPooling Pad Parameter Power Proposal RDFT ROIAlign
ROIPooling RandomUniform Range ReadValue ReduceL1 ReduceL2 ReduceLogicalAnd ReduceLogicalOr ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum RegionYolo Relu ReorgYolo Reshape Result Reverse ReverseSequence Roll Round STFT
ScaledDotProductAttention ScatterElementsUpdate ScatterNDUpdate ScatterUpdate Select Selu ShapeOf ShuffleChannels
Sigmoid Sign Sin Sinh Slice SoftPlus Softmax SpaceToBatch SpaceToDepth Split Sqrt SquaredDifference Squeeze StridedSlice
Subtract Swish Tan Tanh TensorIterator Tile TopK Transpose Unsqueeze VariadicSplit
"""

_GPU_OPERATIONS = """
Abs Acos Acosh AdaptiveAvgPool AdaptiveMaxPool Add Asin Asinh Assign Atan Atanh AvgPool BatchToSpace BinaryConvolution
BitwiseAnd BitwiseLeftShift BitwiseOr BitwiseRightShift BitwiseXor Broadcast Bucketize CTCGreedyDecoder
CTCGreedyDecoderSeqLen CTCLoss Ceiling Clamp Col2Im Concat Constant Convert ConvertLike Convolution
ConvolutionBackpropData Cos Cosh CumSum DFT DeformableConvolution DeformablePSROIPooling DepthToSpace DetectionOutput
Divide Elu EmbeddingBagOffsetsSum EmbeddingBagPackedSum EmbeddingSegmentsSum Equal Erf Exp
ExperimentalDetectronDetectionOutput ExperimentalDetectronGenerateProposalsSingleImage
ExperimentalDetectronPriorGridGenerator ExperimentalDetectronROIFeatureExtractor ExperimentalDetectronTopKROIs
ExtractImagePatches Eye FakeConvert FakeQuantize Floor FloorMod GRN Gather GatherElements GatherND GatherTree Gelu
Greater GreaterEqual GridSample GroupConvolution GroupConvolutionBackpropData GroupNormalization HSigmoid HSwish
HardSigmoid I420toBGR I420toRGB IDFT IRDFT If Interpolate IsFinite IsInf IsNaN LRN LSTMCell LSTMSequence Less LessEqual
Log LogSoftmax LogicalAnd LogicalNot LogicalOr LogicalXor Loop MVN MatMul MaxPool Maximum Minimum Mish Mod Multinomial
Multiply NV12toBGR NV12toRGB Negative NonMaxSuppression NonZero NormalizeL2 NotEqual OneHot PRelu PSROIPooling Pad
Parameter Power PriorBox PriorBoxClustered Proposal RDFT ROIAlign ROIAlignRotated ROIPooling RandomUniform Range
ReadValue ReduceL1 ReduceL2 ReduceLogicalAnd ReduceLogicalOr ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
RegionYolo Relu ReorgYolo Reshape Result Reverse ReverseSequence Roll Round STFT ScaledDotProductAttention
ScatterElementsUpdate ScatterNDUpdate ScatterUpdate SearchSorted Select Selu ShapeOf ShuffleChannels Sigmoid Sign Sin
Sinh Slice SoftPlus SoftSign Softmax SpaceToBatch SpaceToDepth Split Sqrt SquaredDifference Squeeze StridedSlice
Subtract Swish Tan Tanh TensorIterator Tile TopK Transpose Unique Unsqueeze VariadicSplit
"""


def _shapes(model: ov.Model) -> Iterator[tuple[Any, Any]]:
    return ((node, output.get_partial_shape()) for node in model.get_ordered_ops() for output in node.outputs())


def _unknown_operations(model: ov.Model, names: str) -> Found:
    known = set(names.split())
    unknown: dict[str, list[Any]] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() not in known:
            unknown.setdefault(node.get_type_name(), []).append(node)
    for kind, nodes in unknown.items():
        yield f"{kind} is no operation of the plugin ({len(nodes)} of them, {_name(nodes[0])} the first)", True


def _beyond_f16(model: ov.Model) -> Iterator[str]:
    for node in constants(model):
        if elements(node) and node.get_element_type().to_string() in ("f16", "bf16", "f32", "f64"):
            largest = _largest(node)
            if not largest <= F16_MAX:  # NaN is not either
                yield f"{_name(node)} holds {largest:g}, which is not within f16's ±{F16_MAX:g}"


def _largest(node: Any) -> float:
    """Largest absolute value of a constant; NaN where it holds one."""
    data = np.asarray(node.data).reshape(-1)  # a view of the mapped file
    kind = node.get_element_type().to_string()
    largest = 0.0
    for first in range(0, len(data), _BLOCK):
        block = data[first : first + _BLOCK]
        if kind == "bf16":
            block = (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif kind == "f16":
            exponents = block.view(np.uint16) & 0x7C00  # numpy compares f16 itself far more slowly
            block = block[exponents == 0x7C00].astype(np.float32)  # infinities and NaN
        if len(block):
            largest = float(np.maximum(largest, np.maximum(block.max(), -block.min())))
    return largest


def _name(node: Any) -> str:
    return str(node.get_friendly_name())
