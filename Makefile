# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check fix bench deep lock install clean
.DEFAULT_GOAL := test

# The stamp is written last: an interrupted installation is done again.
.venv/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

install: .venv/.installed

demo: install  ## the main job on the embedded default, under five minutes
	$(BIN)/python examples/demo/run.py demo

test: install  ## every test but the long ones, about ten minutes
	$(BIN)/python -m pytest -m "not deep" --numprocesses 2 --dist loadgroup --no-loadscope-reorder

deep: install  ## the long suites too
	ANWEN_HYPOTHESIS=deep $(BIN)/python -m pytest

check: install  ## what CI runs beside the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pip check

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## the figures of docs/benchmarks.md
	$(BIN)/python bench/run.py

COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --all-build-deps \
  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

lock:  ## resolve anew, with hashes: all extras and development tools; of these, what services need
	$(COMPILE) --all-extras --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra cassandra --extra postgresql --constraint requirements.lock \
	  --output-file requirements-service.lock pyproject.toml

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
