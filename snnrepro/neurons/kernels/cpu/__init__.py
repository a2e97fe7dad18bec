"""The LIF layer on CPUs."""
