"""What snnrepro imports: each module registers its options."""

from snnrepro_example import ds_atgo_options, folders_options, two_conv_options

__all__ = ["ds_atgo_options", "folders_options", "two_conv_options"]
__version__ = "0.1.0"
