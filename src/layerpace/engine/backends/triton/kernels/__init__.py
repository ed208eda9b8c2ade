"""The kernels, in Triton; importing this package imports triton.

With ``TRITON_INTERPRET=1`` in the environment at that time they run in Triton's interpreter, on CPU tensors.
"""
