"""The LIF layer as kernels: for CPUs in C++, for GPUs in Triton. Both have the functions of one interface."""
