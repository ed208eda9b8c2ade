"""`python -m layerpace` is the command `layerpace`."""

from layerpace.cli import main

if __name__ == "__main__":
    main()
