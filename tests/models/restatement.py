"""The published networks once more, as plain loops over steps on a dict of weights. float64, no dropout."""

import torch
from torch.nn import functional as F


def lif(steps, weights, name):
    """Soft reset, output V*S (trsg)."""
    v = (1 + weights[f"{name}.v_threshold_raw"].exp()).log()
    leak = 1 / (1 + (-weights[f"{name}.tau_raw"]).exp())
    u, outputs = weights[f"{name}.u_init"], []
    for current in steps:
        m = (1 - leak) * u + leak * current
        s = (m >= v).double()
        u = m - v * s
        outputs.append(v * s)
    return outputs


def norm(steps, weights, name, training):
    """Batch normalisation with one mean and variance for all steps."""
    if training:
        pooled = torch.cat(steps)
        mean = pooled.mean((0, 2, 3))
        variance = ((pooled - mean[:, None, None]) ** 2).mean((0, 2, 3))
    else:
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    gain = weights[f"{name}.weight"] / (variance + 1e-5).sqrt()
    shift = weights[f"{name}.bias"] - gain * mean
    return [gain[:, None, None] * step + shift[:, None, None] for step in steps]


def conv(steps, weights, name, stride=1):
    kernel = weights[f"{name}.weight"]
    return [F.conv2d(step, kernel, stride=stride, padding=kernel.shape[-1] // 2) for step in steps]


def linear(steps, weights, name):
    return [step @ weights[f"{name}.weight"].T + weights[f"{name}.bias"] for step in steps]


def pool2(steps):
    return [F.avg_pool2d(step, 2) for step in steps]


def stem(steps, weights, training):
    return lif(norm(conv(steps, weights, "stem.conv"), weights, "stem.norm", training), weights, "sn1")


def resnet19(weights, steps, blocks, head, training):
    """Logits per step; ``weights`` is the state dict."""
    x = stem(steps, weights, training)
    for stage, depth in enumerate(blocks, start=1):
        for block in range(depth):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(conv(x, weights, f"{name}.conv1", stride), weights, f"{name}.norm1", training)
            y = norm(conv(lif(y, weights, f"{name}.sn1"), weights, f"{name}.conv2"), weights, f"{name}.norm2", training)
            if f"{name}.shortcut_conv.weight" in weights:
                x = conv(x, weights, f"{name}.shortcut_conv", stride)
                x = norm(x, weights, f"{name}.shortcut_norm", training)
            x = lif([a + b for a, b in zip(y, x, strict=True)], weights, f"{name}.sn2")
    if head == "tebn":
        hidden = linear([step.flatten(1) for step in pool2(x)], weights, "head.fc1")
        return linear(hidden, weights, "head.fc")
    x = [step.mean((2, 3)) for step in x]
    if head == "tet":
        x = lif(linear(x, weights, "head.fc1"), weights, "head.sn")
    return linear(x, weights, "head.fc")


def resnet34(weights, steps, blocks, large, connect, training):
    """Logits per step, of spiking ResNet-34 (connect None) or SEW-ResNet-34; ``weights`` is the state dict."""
    x = lif(norm(conv(steps, weights, "stem.conv", 2 if large else 1), weights, "stem.norm", training), weights, "sn1")
    if large:
        x = [F.max_pool2d(step, 3, 2, 1) for step in x]
    join = {"add": lambda a, b: a + b, "and": lambda a, b: a * b, "iand": lambda a, b: b - a * b}.get(connect)
    for stage, depth in enumerate(blocks, start=1):
        for block in range(depth):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(conv(x, weights, f"{name}.conv1", stride), weights, f"{name}.norm1", training)
            y = norm(conv(lif(y, weights, f"{name}.sn1"), weights, f"{name}.conv2"), weights, f"{name}.norm2", training)
            if f"{name}.shortcut_conv.weight" in weights:
                x = conv(x, weights, f"{name}.shortcut_conv", stride)
                x = norm(x, weights, f"{name}.shortcut_norm", training)
                if connect is not None:
                    x = lif(x, weights, f"{name}.shortcut_sn")
            if connect is None:
                x = lif([a + b for a, b in zip(y, x, strict=True)], weights, f"{name}.sn2")
            else:
                x = [join(a, b) for a, b in zip(lif(y, weights, f"{name}.sn2"), x, strict=True)]
    return linear([step.mean((2, 3)) for step in x], weights, "head.fc")


def cnn7(weights, steps, fc_spike, training):
    """Logits per step; ``weights`` is the state dict."""
    x = pool2(stem(steps, weights, training))
    for index in (2, 3, 4, 5):
        name = f"conv{index}"
        x = lif(norm(conv(x, weights, f"{name}.conv"), weights, f"{name}.norm", training), weights, f"{name}.sn")
        if index in (3, 5):
            x = pool2(x)
    x = linear([step.flatten(1) for step in x], weights, "fc1")
    if fc_spike:
        x = lif(x, weights, "sn6")
    return linear(x, weights, "fc")
