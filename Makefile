# `make demo` and `make test` need Python 3.11+ and nothing else; both set up .venv when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo setup test test-all lint bench clean

demo: setup  ## train seven methods on handwritten digits and write runs/demo/report.html
	$(BIN)/multimix compare digits --seeds 5 --out runs/demo

setup: .venv/.ready  ## create .venv with everything installed

.venv/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "multimix needs Python 3.11 or newer, found " + sys.version.split()[0] + ": try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	# An oracle of the attack tests; without its dependencies, since it pins an old requests that others refuse.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'torchattacks==3.5.1'
	touch $@

test: setup  ## run the default test suite
	$(BIN)/python -m pytest -m "not slow" -n 2

test-all: setup  ## run the slow tests too
	$(BIN)/python -m pytest -n 2

lint: setup  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## measure the loss on this machine
	$(BIN)/multimix bench

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
