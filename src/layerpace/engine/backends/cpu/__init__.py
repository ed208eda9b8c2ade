"""The backend of CPU tensors: C++ kernels for every direction and rule; see native/README.md.

What they cannot treat (tensors that are not dense, a direction or a rule of the user's own) runs on `reference`, tensor
by tensor, in every step anew.
"""

from __future__ import annotations

from layerpace.engine.backends.cpu.kernel import accumulate, apply, fuses, gradient_sums, step, takes
from layerpace.engine.backends.cpu.library import (
    available,
    bandwidth,
    compiled,
    instruction_sets,
    native,
    use_instruction_set,
    warn_if_missing,
)

__all__ = [
    "accumulate",
    "apply",
    "available",
    "bandwidth",
    "compiled",
    "fuses",
    "gradient_sums",
    "instruction_sets",
    "native",
    "step",
    "takes",
    "use_instruction_set",
    "warn_if_missing",
]
