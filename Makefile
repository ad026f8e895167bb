PYTHON ?= python3
BIN := .venv/bin
PYTHONS ?= $(PYTHON) # where make wheel tries the wheel

.PHONY: setup constraints run test test-baseline test-slow test-triton test-clang peers test-peers wheel docs bench lint format clean

setup: .venv/installed ## create .venv and install the package with everything for development

.venv/installed: pyproject.toml setup.py constraints.txt $(wildcard src/tsslbp/kernels/csrc/*)
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt setuptools wheel
	$(BIN)/pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $@

constraints: ## the newest versions that pyproject.toml allows, into constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --dry-run --ignore-installed setuptools wheel ".[dev]" \
		| sed -n 's/^Would install //p' | tr ' ' '\n' | sed 's/-\([^-]*\)$$/==\1/; s/+.*//' | grep -v '^tsslbp==' > constraints.new
	(echo "# What make setup installs, for Python 3.11 to 3.13; make constraints writes it."; cat constraints.new) > constraints.txt
	rm constraints.new

run: setup ## train the quick start on the embedded digits
	$(BIN)/tsslbp train quickstart

test: lint ## lint, type check and test
	$(BIN)/python -m pytest -n 2

# What another processor would compute otherwise, without waiting for the rest.
BASELINE := events golden gradcheck kernels neuron rules layers networks parts recurrent losses cli training models

test-baseline: setup ## a part of the tests on one thread with the plainest instructions, as on an old processor
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 TSSLBP_CPU_CAPABILITY=baseline \
		$(BIN)/python -m pytest -n 2 $(BASELINE:%=tests/test_%.py)

test-slow: setup ## tests that take minutes
	$(BIN)/python -m pytest -m slow

CLANG ?= clang++

test-clang: setup ## the C++ kernels and the C that is written, built by Clang if there is one
	@if ! command -v $(CLANG) > /dev/null; then echo "skipped: there is no $(CLANG)"; else \
		rm -rf build && export CC=$(CLANG) CXX=$(CLANG) PYTHONPATH=build/clang && \
		$(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/clang . && \
		$(BIN)/python -c 'from tsslbp import kernels; exit(not kernels.backends()["cpp"].usable)' && \
		$(BIN)/python -m pytest -n 2 tests/test_kernels.py tests/test_golden.py && \
		CC=$(CLANG:++=) $(BIN)/python -m pytest tests/test_c.py; fi

peers: setup ## install the libraries that are compared with
	$(BIN)/pip install --quiet -c constraints.txt spikingjelly snntorch norse  # norse builds with tools that are not here
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e ".[peers]"

test-peers: peers ## what is compared with other libraries, which are installed first
	$(BIN)/python -m pytest -n 2 tests/test_bench.py tests/test_energy_counters.py tests/test_exchange.py tests/test_simulators.py
	$(BIN)/python -m pytest -n 2 -m slow tests/test_simulators.py

wheel: setup ## one wheel for every Python from 3.11 on, into dist, tried without a compiler
	rm -rf build dist
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	ls dist/tsslbp-*-cp311-abi3-*.whl
	for python in $(PYTHONS); do PYTHON=$$python .ci/install dist/*.whl || exit 1; done

docs: setup ## the documentation as a site, docs/_build/html/index.html; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going --nitpicky -d docs/_build/doctrees docs docs/_build/html
	@echo docs/_build/html/index.html

bench: peers ## speed and memory against other libraries (installed first), into benchmarks/results
	$(BIN)/tsslbp bench

test-triton: setup ## the Triton kernels, in Triton's interpreter on the CPU
	$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/pip install --quiet -c constraints.txt triton
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m triton tests/test_kernels.py tests/test_kernels_gpu.py

lint: setup
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix src tests benchmarks examples docs
	$(BIN)/ruff format src tests benchmarks examples docs

clean:
	rm -rf .venv build dist docs/_build docs/reference docs/repository
