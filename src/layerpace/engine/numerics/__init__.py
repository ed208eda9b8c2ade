"""Arithmetic over buckets of tensors, the sums over a layer, and weights and state in few bits."""
