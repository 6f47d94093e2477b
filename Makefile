# Every target does its own set-up in a local .venv; nothing is installed elsewhere.
#   make demo   the whole tool on the bundled models, ending with the paths to open
#   make test   the tests          make lint   linters, types, layer rules
#   make clean  forget the environment and caches (never run folders)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
DEMO_FLAGS ?=
PYTEST_FLAGS ?= -n auto --dist worksteal

# Without a GPU the CPU build of torch is wanted: the default build of the package index brings
# several GB of CUDA libraries. The version is pinned so that the fallback without the index of
# CPU builds is the release that this project was measured with.
TORCH_VERSION := 2.13.0
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

# A stamp's name carries the checksum of what it depends on: a changed pyproject.toml or set-up
# script installs again, an interrupted installation leaves no stamp.
KEY := $(shell cat pyproject.toml .ci/setup-venv.sh | cksum | cut -d ' ' -f 1)-$(TORCH_VERSION)
CORE := $(VENV)/.core-$(KEY)
DEV := $(VENV)/.dev-$(KEY)
BIN := $(VENV)/bin

SETUP = PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH_VERSION="$(TORCH_VERSION)" \
	TORCH_CPU_INDEX="$(TORCH_CPU_INDEX)" .ci/setup-venv.sh

.PHONY: demo test lint format env clean
.DEFAULT_GOAL := demo

demo: $(CORE)
	$(BIN)/schedlab demo $(DEMO_FLAGS)

test: $(DEV)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

env: $(DEV)

$(CORE):
	$(SETUP) "."
	touch $@

# The development environment holds the core one, so both stamps are set.
$(DEV):
	$(SETUP) ".[dev]"
	touch $(CORE) $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
