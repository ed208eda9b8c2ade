"""How the options of the commands are read."""

from cyclopts import Parameter

many = Parameter(consume_multiple=True, negative="")
flag = Parameter(negative="", show_default=False)
