# Two commands do everything on a fresh machine with Python 3.11+:
#   make demo    set up, then train one model with seven optimizers and draw the results
#   make test    set up, then run the tests
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

# Real data for tests and recipes, where it is at hand.
export LAYERPACE_DATA ?= $(abspath $(wildcard ../shared/data))

.PHONY: demo test check lint types format clean setup

setup: .venv/.installed

.venv/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/layerpace compare --out runs/demo --overwrite

test: setup
	$(BIN)/python -m pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# What CI runs; if this passes here, CI passes.
check: lint types test

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
