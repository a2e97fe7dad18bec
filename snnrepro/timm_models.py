"""The networks under timm's roof: importing this module registers them, and does nothing else.

    import timm, snnrepro.timm_models
    model = timm.create_model("snn_resnet19", num_classes=100, timesteps=4)

Images (B, C, H, W) or frames (T, B, C, H, W) give logits (B, num_classes), the mean over time. Values that a call
does not name come from the same YAML files as those of ``train.py``.
"""

import json
from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from snnrepro.build import build_model
from snnrepro.compose import compose_run
from snnrepro.errors import UserError

# The shape each network is meant for: CIFAR, digits, DVS frames, frames simulated from the digits.
_IN_SHAPE = {
    "snn_resnet19": (3, 32, 32),
    "snn_resnet19_mini": (1, 8, 8),
    "snn_cnn7": (2, 48, 48),
    "snn_cnn7_mini": (2, 8, 8),
    "snn_resnet34": (3, 224, 224),
    "snn_resnet34_mini": (1, 8, 8),
    "snn_sew_resnet34": (3, 224, 224),
    "snn_sew_resnet34_mini": (1, 8, 8),
}
default_cfgs = generate_default_cfgs({name: {"input_size": shape} for name, shape in _IN_SHAPE.items()})


def _create(
    name: str,
    pretrained: bool,
    *,
    num_classes: int = 10,
    in_chans: int | None = None,
    img_size: int | Sequence[int] | None = None,
    timesteps: int | None = None,
    neuron: str | None = None,
    surrogate: str | None = None,
    norm: str | None = None,
    drop_rate: float | None = None,
    overrides: Sequence[str] = (),
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **model_keys: Any,
) -> nn.Module:
    if pretrained:
        raise UserError(f"{name}: no pretrained weights are published; use pretrained=False or checkpoint_path=FILE")
    if drop_rate is not None:
        model_keys["dropout"] = drop_rate
    named = {"neuron": neuron, "surrogate": surrogate, "norm": norm, "timesteps": timesteps}
    words = [f"model={name.removeprefix('snn_')}"]
    words += [f"{key}={value}" for key, value in named.items() if value is not None]
    words += [f"model.{key}={json.dumps(value)}" for key, value in model_keys.items()]
    channels, height, width = _IN_SHAPE[name]
    if img_size is not None:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    in_shape = (channels if in_chans is None else in_chans, height, width)
    model: Any = build_model(
        compose_run([*words, *overrides]), in_shape=in_shape, num_classes=num_classes, mean_over_time=True
    )
    # Where timm.data.resolve_model_data_config looks for the input size. Mean and std belong to the data.
    model.pretrained_cfg = model.default_cfg = {"input_size": in_shape, "num_classes": num_classes}
    return model


@register_model
def snn_resnet19(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns spiking ResNet-19, for 32x32 RGB images unless ``in_chans`` and ``img_size`` say otherwise.

    num_classes: 10 unless given; 0 leaves the classifier out. neuron, surrogate, norm: names of config options, such
    as ``neuron="lif"``. drop_rate: timm's name for the key ``dropout``. Further keywords are keys of
    ``configs/model`` (``widths``, ``head``, ...). overrides: words as on the command line, such as
    ``["neuron.v_threshold=0.5"]``. Raises ConfigError for a wrong name or value, and UserError for
    ``pretrained=True``: no weights are published.
    """
    return _create("snn_resnet19", pretrained, **options)


@register_model
def snn_resnet19_mini(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the narrow ResNet-19 for 8x8 grey images; options as in ``snn_resnet19``."""
    return _create("snn_resnet19_mini", pretrained, **options)


@register_model
def snn_cnn7(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the 7-layer CNN for 48x48 frames of two polarities; options as in ``snn_resnet19``."""
    return _create("snn_cnn7", pretrained, **options)


@register_model
def snn_cnn7_mini(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the narrow 7-layer CNN for 8x8 frames of two polarities; options as in ``snn_resnet19``."""
    return _create("snn_cnn7_mini", pretrained, **options)


@register_model
def snn_resnet34(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns spiking ResNet-34 for 224x224 RGB images; options as in ``snn_resnet19``."""
    return _create("snn_resnet34", pretrained, **options)


@register_model
def snn_resnet34_mini(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the narrow ResNet-34 for 8x8 grey images; options as in ``snn_resnet19``."""
    return _create("snn_resnet34_mini", pretrained, **options)


@register_model
def snn_sew_resnet34(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns SEW-ResNet-34 for 224x224 RGB images; options as in ``snn_resnet19``."""
    return _create("snn_sew_resnet34", pretrained, **options)


@register_model
def snn_sew_resnet34_mini(pretrained: bool = False, **options: Any) -> nn.Module:
    """Returns the narrow SEW-ResNet-34 for 8x8 grey images; options as in ``snn_resnet19``."""
    return _create("snn_sew_resnet34_mini", pretrained, **options)
