"""The names that may appear in a configuration, one spelling from YAML to kernel. Imports nothing."""

FAMILIES = ("as_sg", "rs_sg", "trsg")
RESETS = ("soft", "hard")
SURROGATES = ("rectangular", "triangular", "arctan", "sigmoid", "dspike", "linear")
THRESHOLD_MAPS = ("softplus", "tanh")
INPUT_SCALES = ("decay", "none")
SPARSITY_KINDS = ("l1", "target")
STEMS = ("imagenet", "small")
CONNECTS = ("add", "and", "iand")
HEADS = ("official", "tet", "tebn")
EVENT_SPLITS = ("tebn_first100", "last100", "random_seeded")
CONTAINERS = ("aedat2", "aedat4")
SLICES = ("number", "time")
ERASERS = ("noise", "mean")
SCHEDULES = ("cosine", "constant")
SCHEDULE_PERIODS = ("epoch", "step")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16", "fp16")
LIF_BACKENDS = ("reference", "compiled", "triton")
BACKENDS = ("auto", *LIF_BACKENDS)
# A fused layer packs the spikes of a window into one integer per neuron.
MAX_TIMESTEPS = {"compiled": 32, "triton": 16}
