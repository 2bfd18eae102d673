"""Which encoders are known to compute each image's features from that image alone, but for task batch norms.

Only these may take the images of several tasks as one batch. The list is of exact types: a subclass, a hook, a
parametrization or a module of unknown kind may look at the whole batch.
"""

from torch import nn

from metacontrast.model.efficientnet_lite import EfficientNetLite, FixedLength, InvertedResidual
from metacontrast.model.encoders import Encoder, ResidualBlock, UnitLength
from metacontrast.model.fused.sequential import FusedSequential
from metacontrast.model.normalization import TaskBatchNorm, has_own_call

_CONTAINERS = (nn.Sequential, FusedSequential, Encoder, UnitLength, ResidualBlock, EfficientNetLite, InvertedResidual)
_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.LPPool1d, nn.LPPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardshrink),
    *(nn.Softshrink, nn.Tanhshrink, nn.Threshold, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm),
    *(nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
    TaskBatchNorm,
    FixedLength,
)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def keeps_images_apart(module: nn.Module, *known: type[nn.Module]) -> bool:
    """Whether every layer of a module in evaluation mode is known to keep images apart, or is a task batch norm.

    Args:
        known: further types of layers that do.
    """
    if has_own_call(module):
        return False
    if type(module) in _CONTAINERS:
        return all(keeps_images_apart(child, *known) for child in module.children())
    if isinstance(module, nn.Flatten):
        return type(module) is nn.Flatten and module.start_dim >= 1
    if type(module) in _BATCH_NORMS + _INSTANCE_NORMS:
        return not module.training and (module.running_mean is not None or type(module) in _INSTANCE_NORMS)
    return type(module) in (*_LAYERS, *known)
