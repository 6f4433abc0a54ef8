"""The tables: which forward operation treats samples how. A new loss or layer goes here.

Names are those of autograd nodes without ``Backward0``. An operation that stands in no table and is not
pointwise is unproven: a false claim would cost a user their result, a missing name only a remark.
"""

from __future__ import annotations

import re
from functools import cache

import torch

# Copies and casts that PyTorch does not tag as pointwise, and dropout.
_POINTWISE = frozenset({
    "Alias", "Copy", "ToCopy", "NativeDropout", "FusedDropout", "LogSigmoid", "Hardswish", "PreluKernel", "Fill",
    "Zero", "ThnnFusedLstmCell", "ThnnFusedGruCell", "RreluWithNoise", "NanToNum", "FakeQuantizePerTensorAffine",
    "Real", "Imag", "ViewAsReal", "ViewAsComplex", "Complex", "Polar", "CopySlices", "MaskedScatter",
})  # fmt: skip

VIEWS = frozenset({"View", "UnsafeView", "ReshapeAlias"})
AXES = frozenset({"Unsqueeze", "Squeeze", "Transpose", "T", "Permute", "Expand", "Movedim", "Clone"})
JOINS = frozenset({"Cat", "Stack"})
SPLITS = frozenset({"Slice", "Split", "UnsafeSplit", "SplitWithSizes", "UnsafeSplitWithSizes"})
PICKS = frozenset({"Select", "Unbind"})
INDEXES = frozenset({"Index", "UnsafeIndex"})
INDEX_WRITES = frozenset({"IndexPut", "IndexPutImpl", "UnsafeIndexPut"})
SELECTIONS = frozenset({"MaskedSelect", "PackPaddedSequence"})

# Per operation the place of (left, right) among the inputs, and of an addend if there is one.
MATMULS: dict[str, tuple[int, int]] = {
    "Mm": (0, 1), "Bmm": (0, 1), "Mv": (0, 1), "Dot": (0, 1), "Vdot": (0, 1), "Linear": (0, 1),
    "Addmm": (1, 2), "Baddbmm": (1, 2), "Addbmm": (1, 2), "Addmv": (1, 2),
}  # fmt: skip

# Reduce some dimensions to one value each; the growing one is not among them where it is still there.
REDUCERS = frozenset({
    "Sum", "Nansum", "Mean", "Var", "Std", "VarMean", "StdMean", "Max", "Min", "Amax", "Amin", "Aminmax", "Median",
    "Nanmedian", "Mode", "Kthvalue", "Logsumexp", "Prod", "Norm", "LinalgVectorNorm",
})  # fmt: skip

# Mix the values along one dimension, saved as `dim`, `dims` or `dimension`.
ALONG_DIM = frozenset({
    "Softmax", "LogSoftmax", "SafeSoftmax", "Cumsum", "Cumprod", "Cummax", "Cummin", "Logcumsumexp", "Sort", "Topk",
    "Gather", "Scatter", "ScatterAdd", "ScatterReduce", "IndexSelect", "IndexAdd", "IndexCopy", "IndexFill", "Flip",
    "Roll", "Unfold", "Renorm", "FftR2C", "FftC2C", "FftC2R", "Glu", "LinalgCross", "SegmentReduce", "Kthvalue",
})  # fmt: skip

# Mix the values of their last dimensions: how many; 0 is "as many as the digit in the name".
TRAILING: dict[str, int] = {
    "PixelShuffle": 3, "PixelUnshuffle": 3, "ChannelShuffle": 3, "NativeChannelShuffle": 3, "Im2Col": 2, "Col2Im": 2,
    "Tril": 2, "Triu": 2, "LinalgInvEx": 2, "LinalgSolveEx": 2, "LinalgCholeskyEx": 2, "LinalgDet": 2,
    "LinalgSlogdet": 2, "LinalgQr": 2, "LinalgSvd": 2, "LinalgEigh": 2, "LinalgMatrixExp": 2,
}  # fmt: skip
_TRAILING_PATTERN = re.compile(
    r"(?:Max|Avg|AdaptiveAvg|AdaptiveMax|FractionalMax|MaxUn)[Pp]ool(\d)D|MaxUnpool(\d)D|Upsample\w*?(\d)D|(?:Reflection|Replication)Pad(\d)D",
)

# Samples stand in dimension 0 of the output (of the input, where a loss reduces it).
FIRST_DIM = frozenset({
    "GridSampler2D", "GridSampler3D", "CudnnGridSampler", "NativeGroupNorm", "EmbeddingBag", "CtcLoss", "CudnnCtcLoss",
})  # fmt: skip
CONVOLUTIONS = frozenset({
    "Convolution", "ConvolutionOverrideable", "MkldnnConvolution", "CudnnConvolution", "CudnnConvolutionTranspose",
    "MiopenConvolution", "MiopenDepthwiseConvolution", "MpsConvolution", "SlowConv2D", "ConvDepthwise2D",
    "ConvDepthwise3D", "SlowConvTranspose2D",
})  # fmt: skip
ANY_DIM = frozenset({"Embedding", "Repeat"})
RECURRENT = frozenset({"MkldnnRnnLayer", "CudnnRnn", "MiopenRnn", "LstmMps"})
BATCH_NORMS = frozenset({
    "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNormWithUpdate", "NativeBatchNormLegit",
    "SyncBatchNorm",
})  # fmt: skip
LAYER_NORMS = frozenset({"NativeLayerNorm", "FusedRmsNorm", "RmsNorm"})

# Losses with a saved `reduction`: 0 none, 1 mean, 2 sum.
LOSSES = frozenset({
    "MseLoss", "SmoothL1Loss", "HuberLoss", "BinaryCrossEntropy", "BinaryCrossEntropyWithLogits", "SoftMarginLoss",
    "MultiMarginLoss", "MultilabelMarginLoss", "KlDiv", "NllLoss", "NllLoss2D", "L1Loss",
})  # fmt: skip
NLL = frozenset({"NllLoss", "NllLoss2D"})

# A factor on the way in is a factor on the way out.
LINEAR = (
    VIEWS | AXES | JOINS | SPLITS | PICKS | INDEXES | INDEX_WRITES | SELECTIONS | CONVOLUTIONS
    | frozenset(MATMULS)
    | frozenset({"Add", "Sub", "Rsub", "Neg", "Sum", "Nansum", "Mean", "Copy", "ToCopy", "Alias", "Gather",
                 "IndexSelect", "MaskedFill", "Where", "NanToNum", "Repeat", "CopySlices", "NativeDropout",
                 "Trace", "Diagonal"})
)  # fmt: skip
# Over a value that is reduced already, a condition may hang on that value, so `Where` proves nothing.
LINEAR_OVER_BATCH = LINEAR - {"Where", "CopySlices"} - INDEX_WRITES

# What a loss of several terms is added up by, seen from above: each input has a gradient of its own.
ADDERS = (
    VIEWS | AXES | JOINS
    | frozenset({"Add", "Sub", "Rsub", "Neg", "Sum", "Nansum", "Mean", "Copy", "ToCopy", "Alias", "Select"})
)  # fmt: skip

# Python functions of PyTorch's own that hand gradients through unchanged.
PASS_THROUGH = frozenset({"_DDPSink", "RegisterPostBackwardFunction", "BackwardHookFunction"})

_WORDS = {
    "Sqrt": "the square root", "Rsqrt": "the inverse square root", "Log": "the logarithm", "Exp": "the exponential",
    "Pow": "a power", "Abs": "the absolute value", "Reciprocal": "the reciprocal", "Max": "the maximum",
    "Maximum": "the maximum", "Minimum": "the minimum", "Min": "the minimum", "Amax": "the maximum",
    "Amin": "the minimum",
    "Clamp": "a clamp", "ClampMin": "a clamp", "ClampMax": "a clamp", "Relu": "a ReLU", "LinalgVectorNorm": "the norm",
    "Norm": "the norm", "Std": "the standard deviation", "Var": "the variance", "Logsumexp": "the logsumexp",
    "Mm": "a matrix product", "Bmm": "a matrix product", "Addmm": "a matrix product", "Mul": "a product",
    "Div": "a quotient", "Add": "a sum", "Sub": "a difference", "Rsub": "a difference", "Expand": "broadcasting",
    "Sort": "sorting", "Cumsum": "a running sum", "Softmax": "a softmax", "LogSoftmax": "a softmax",
    "Median": "the median", "Prod": "the product", "Log1P": "the logarithm", "Square": "a square",
}  # fmt: skip


def words_for(op: str) -> str:
    """An operation in the user's words."""
    return _WORDS.get(op, f"`{op}`")


@cache
def is_pointwise(op: str) -> bool:
    """Whether every output value reads only the input values at its own place; PyTorch tags such operations."""
    if op in _POINTWISE:
        return True
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", op).lower()
    for name in (snake, re.sub(r"(?<=\d)_", "", snake), snake.replace("_", "")):
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None:
            return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())
    return False


@cache
def trailing_dims(op: str) -> int:
    """How many of its last dimensions an operation mixes; 0 for none."""
    if op.startswith("ScaledDotProduct"):
        return 2
    found = _TRAILING_PATTERN.match(op)
    return int(next(filter(None, found.groups()))) if found else TRAILING.get(op, 0)
