"""What the benchmarks measure with: processes of their own, clocks, counters, and the sides that are compared."""
