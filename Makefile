# Ampacity: make help. `make demo` and `make test` each set up everything they need.

export PATH := $(PATH):/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench wheel clean servers

BIN := .venv/bin
STAMP := .venv/.ampacity-installed
PACKAGES := facility predictors controllers collectors actuators simulator daemon
CODE := $(wildcard $(PACKAGES) scenarios benchmarks) tests

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP)  ## .venv with the command `ampacity` and everything that works on it

$(STAMP): pyproject.toml constraints.txt deploy/setup/venv
	@PYTHON='$(PYTHON)' deploy/setup/venv
	@touch $@

demo: $(STAMP)  ## the whole system on a simulated row (DEMO_ARGS="--duration-s 120 --json")
	@$(BIN)/ampacity demo $(DEMO_ARGS)

servers:
	@deploy/setup/servers

test: servers $(STAMP)  ## every test, against real servers (TEST_ARGS="-k lease")
	@$(BIN)/python -m pytest -n auto --dist loadfile $(TEST_ARGS)

check: $(STAMP)  ## format, lint, types, house rules
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/mypy $(CODE)
	@$(BIN)/python -m pytest -q tests/test_tidy.py

format: $(STAMP)  ## rewrite the code as `make check` wants it
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

bench: servers $(STAMP)  ## figures against the budgets, as tables (BENCH=name for one)
	@$(BIN)/python -m benchmarks $(BENCH)

wheel: $(STAMP)  ## dist/ampacity-*.whl
	@rm -rf build
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@rm -rf build
	@ls dist/*.whl

clean:  ## remove what was made here
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
