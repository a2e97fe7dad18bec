"""The benchmark suite behind ``make bench``: a correctness gate, then interleaved timing, then one table."""
