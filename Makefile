PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test test-slow test-triton bench lint format clean

setup: .venv/installed ## create .venv and install the package with everything for development

.venv/installed: pyproject.toml setup.py $(wildcard src/tsslbp/csrc/*)
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade setuptools wheel
	$(BIN)/pip install --quiet "torch>=2.10" torchvision
	$(BIN)/pip install --quiet --no-build-isolation -e ".[dev]"
	touch $@

run: setup ## train the quick start on the embedded digits
	$(BIN)/tsslbp train quickstart

test: lint ## lint, type check and test
	$(BIN)/python -m pytest -n 2

test-slow: setup ## tests that take minutes
	$(BIN)/python -m pytest -m slow

bench: setup ## speed and memory against other libraries (installed first), into benchmarks/results
	$(BIN)/pip install --quiet --no-build-isolation -e ".[peers]"
	$(BIN)/tsslbp bench

test-triton: setup ## the Triton kernels, in Triton's interpreter on the CPU
	$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/pip install --quiet triton
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m triton tests/test_kernels_gpu.py

lint: setup
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix src tests benchmarks examples
	$(BIN)/ruff format src tests benchmarks examples

clean:
	rm -rf .venv build
