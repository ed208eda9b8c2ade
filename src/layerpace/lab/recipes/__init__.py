"""The figures and tables of the papers as recipes: `layerpace reproduce`; `recipe` says what one is."""
