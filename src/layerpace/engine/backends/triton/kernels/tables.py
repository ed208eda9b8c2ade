"""What lies where in the tables that kernels read: written by `triton/tables.py`, read by all kernels.

Numbers in this file are constants of the kernels, and Python reads them by ``.value``.
"""

from __future__ import annotations

import triton.language as tl

# A layer: int64 [layers, LAYER].
PARAM = tl.constexpr(0)  # its parameter
START = tl.constexpr(1)  # of its entries within that
ENTRIES = tl.constexpr(2)
FIRST_CHUNK = tl.constexpr(3)
CHUNKS = tl.constexpr(4)
CHUNK = tl.constexpr(5)  # entries of each of them but the last
KIND = tl.constexpr(6)  # of its options
EXCLUDED = tl.constexpr(7)  # from the rule
ROWS = tl.constexpr(8)  # how many numbers the next two are, side by side
STEP = tl.constexpr(9)  # address of its step count, float32 on this device, or 0
PRODUCT = tl.constexpr(10)  # address of NAdam's product, float64, or 0
MEMORY = tl.constexpr(11)  # address of the rule's number, float64, or 0
SEED = tl.constexpr(12)  # of the random numbers of its parameter
LAYER = tl.constexpr(13)

# A parameter: addresses, int64 [parameters, PLACES]; that of the gradient in a table of its own.
WEIGHT = tl.constexpr(0)
MOMENT = tl.constexpr(1)  # and the two behind it
VELOCITY = tl.constexpr(4)
MASTER = tl.constexpr(5)
PLACES = tl.constexpr(6)

# What the host says, and may change from step to step: numbers, then kinds; int64 [HEADER + kinds * KIND_WIDTH].
# Numbers are the bits of a float64: as arguments of a kernel they would be float32 in some versions of Triton.
OPTION = tl.constexpr(0)  # six of the direction
RULE_OPTION = tl.constexpr(6)  # five of the rule
MIN_RMS = tl.constexpr(11)
MAX_NORM = tl.constexpr(12)
GIVEN = tl.constexpr(13)  # six, which are those of SCALARS, the first to be multiplied by what the device knows
HEADER = tl.constexpr(19)
RATE_ADDRESS = tl.constexpr(0)  # of a learning rate on this device, or 0
RATE_IS_DOUBLE = tl.constexpr(1)
RATE = tl.constexpr(2)  # bits of a float64
DECAY = tl.constexpr(3)  # likewise; that of excluded layers is zero
UNDECAYED = tl.constexpr(4)
KIND_WIDTH = tl.constexpr(5)

# What a step works out for each layer: float64 [layers, NUMBERS].
K = tl.constexpr(0)  # eight constants of the direction
T = tl.constexpr(8)  # the number of the step
TAKES = tl.constexpr(9)  # 1: the layer takes the step
STEPS = tl.constexpr(10)  # what goes into its step count
MOMENTA = tl.constexpr(11)  # and into NAdam's product
NUMBERS = tl.constexpr(12)

# Of a bucket: float64 [SCALARS].
FACTOR = tl.constexpr(0)  # on every gradient
L2 = tl.constexpr(1)
MOMENTUM = tl.constexpr(2)
KEPT = tl.constexpr(3)  # share of d that enters the velocity
EPS = tl.constexpr(4)
FLOOR = tl.constexpr(5)
SCALARS = tl.constexpr(6)

# A task: a number of layer or chunk, and what is to be done; int32 [tasks, 2].
FIRST = tl.constexpr(1)  # the first pass over a chunk
REDUCE = tl.constexpr(2)  # the sums of a layer, and the rule
SECOND = tl.constexpr(4)  # the second pass over a chunk
BOTH = tl.constexpr(8)  # both at once: the coefficients do not depend on the sums
MEASURE = tl.constexpr(16)  # the sums of a layer that monitors read
TOTAL = tl.constexpr(32)  # what is common to all layers
KEEP_COUNTS = tl.constexpr(64)  # write the step count of a layer and NAdam's product, once for each of its rows
OF_LAYER = tl.constexpr(2 | 16 | 64)  # those that name a layer where no chunk is worked on

# Counters, int32: tickets of the launches of a step, then three for each layer.
TICKETS = tl.constexpr(2)  # of both launches, if the rule is not built in
DONE = tl.constexpr(0)  # chunks of the first pass
READY = tl.constexpr(1)  # whether the coefficients are known
MOVED = tl.constexpr(2)  # chunks of the second pass
PER_LAYER = tl.constexpr(3)
