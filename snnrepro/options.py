"""The names that may appear in a configuration, one spelling from YAML to kernel. Imports nothing."""

FAMILIES = ("as_sg", "rs_sg", "trsg")
RESETS = ("soft", "hard")
SURROGATES = ("rectangular", "triangular", "arctan", "sigmoid")
NORMS = ("tdbn", "tebn", "tab", "bntt")
LOSSES = ("ce", "tet", "lts", "rmp", "mps")
SPARSITY_KINDS = ("l1", "target")
ARCHS = ("resnet19", "cnn7", "resnet34", "sew_resnet34")
STEMS = ("imagenet", "small")
CONNECTS = ("add", "and", "iand")
HEADS = ("official", "tet", "tebn")
DATASETS = ("digits", "synthetic", "cifar10", "cifar100")
OPTIMIZERS = ("sgd", "adamw", "lamb")
SCHEDULES = ("cosine", "constant")
LOGGERS = ("none", "wandb")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16", "fp16")
LIF_BACKENDS = ("reference", "compiled", "triton")
BACKENDS = ("auto", *LIF_BACKENDS)
# A fused layer packs the spikes of a window into one integer per neuron.
MAX_TIMESTEPS = {"compiled": 32, "triton": 16}
