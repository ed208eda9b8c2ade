# Two commands do everything on a fresh machine with Python 3.11+:
#   make demo    set up, train one model with seven optimizers, and write a report of it
#   make test    set up, then run the tests
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin

# Real data for tests and recipes, where it is at hand.
export LAYERPACE_DATA ?= $(abspath $(wildcard ../shared/data))

.PHONY: demo test test-all check lint types format clean setup data reproduce reproduce-smoke bench bench-gpu bench-peers sanitize arm64

setup: .venv/.installed

# The build tools are in the lock file, too: the same versions everywhere.
.venv/.installed: requirements.lock pyproject.toml native/CMakeLists.txt $(wildcard native/src/*.?pp native/src/*/*.?pp)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup
	$(BIN)/layerpace compare --out runs/demo --overwrite
	$(BIN)/layerpace report runs/demo

# Both cores: a worker of pytest-xdist on each, with one thread for torch.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2
test: setup
	$(PYTEST) -m "not slow"

# And what takes long: before a release.
test-all: setup
	$(PYTEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup
	$(BIN)/mypy

# What CI runs; if this passes here, CI passes.
check: lint types test

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Every figure and table of the papers: tiny, in minutes and without data; and at the size for two cores, in hours.
reproduce-smoke: setup
	$(BIN)/layerpace reproduce all --scale smoke --out runs/reproduce-smoke

reproduce: setup data
	$(BIN)/layerpace reproduce all --scale cpu --results docs/results
	$(BIN)/layerpace reproduce --page --results docs/results

# Where a copy of CIFAR-10 as JPEG is at hand, it becomes the official binary files, which are else downloaded.
JPEG := $(wildcard ../shared/data/cifar10_binary.py)
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/layerpace
data: setup
	$(if $(JPEG),test -f $(CACHE)/cifar-10-batches-bin/test_batch.bin || $(BIN)/python $(JPEG) $(CACHE))

# Step times of all methods and sweeps, into runs/bench; some of it: make bench BENCH="--parts steps --sets S1 S4".
bench: setup
	PYTHONPATH=build/peers $(BIN)/python -m benchmarks $(BENCH)

# The fused GPU step, on a machine that has a GPU: correctness, then timings, into runs/bench-gpu.
bench-gpu: setup
	PYTHONPATH=build/peers $(BIN)/python -m benchmarks.gpu $(BENCH)

# The libraries that it compares with, in a folder of their own: the tests' environment stays as it is.
bench-peers: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/peers \
		-r benchmarks/requirements.lock

# AddressSanitizer and UndefinedBehaviorSanitizer in the compiled module, gcc only, within 20 minutes on two cores: tests
# of whatever reaches it, each kernel, each storage, each way in. Agreement of numbers is the business of `make test`.
SANITIZE := build/sanitize
SANITIZED := tests/fused tests/engine/test_extremes.py tests/engine/test_default_device.py \
	tests/monitors/test_measure.py tests/monitors/test_lost.py tests/monitors/test_values.py
UNSANITIZED := --ignore=tests/fused/test_processes.py --ignore=tests/fused/test_missing.py \
	-k "not several_chunks or (adam and not float16 or adam and bfloat16)"
sanitize: setup
	$(BIN)/python -m venv $(SANITIZE)
	echo $(abspath $(BIN))/../lib/python3.*/site-packages > $$(echo $(SANITIZE)/lib/python3.*/site-packages)/main.pth
	$(SANITIZE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		-C cmake.define.LAYERPACE_SANITIZE=ON -C build-dir=build/sanitize-objects .
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		$(SANITIZE)/bin/python -m pytest -q -m "not slow" $(SANITIZED) $(UNSANITIZED)

# The kernels for arm64, cross-compiled and emulated, give the bits that they give here
# (Debian: apt install g++-aarch64-linux-gnu qemu-user).
BITS := -std=c++20 -O3 -ffp-contract=off -fno-math-errno -DLP_ISA=baseline native/check/bits.cpp native/src/kernels/kernels.cpp
arm64:
	mkdir -p build
	$(CXX) $(BITS) -o build/bits && build/bits > build/bits.txt
	aarch64-linux-gnu-g++ $(BITS) -static -o build/bits-arm64 && qemu-aarch64 build/bits-arm64 | diff build/bits.txt -
	@echo "$$(wc -l < build/bits.txt) kernels give the same bits on arm64"

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/layerpace/engine/backends/cpu/*.so
	git clean -fdXq native
