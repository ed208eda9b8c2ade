"""One table of many runs: those of compare, train and sweep, and what `layerpace.Monitor` recorded elsewhere.

rows = collect(["runs"])             # list of dicts: pandas.DataFrame(rows), polars.from_dicts(rows)
rows = curves(["runs"])              # a row an evaluation
write(rows, Path("results.parquet"))
"""

from .files import write
from .run_rows import collect, curves

__all__ = ["collect", "curves", "write"]
