# Each target starts from nothing but Python and git.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
RUN ?= runs/demo

.PHONY: help setup demo test test-core test-slow typecheck bench docs format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "make demo takes about 15 minutes on 2 cores after the installation, and 5 GB of disk."

setup: $(STAMP)  ## install into .venv

$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into .venv: some minutes, without a word from pip, and most of 5 GB of disk (PyTorch)."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: setup  ## simulate 660 participants, train, write runs/demo/report.html
	@echo "Simulates 660 participants, trains and reports: about 15 minutes on 2 cores -> $(RUN)/report.html"
	$(BIN)/sepclr-med run pipelines/synthetic/recipe.yaml $(RUN)

# One thread for each of two processes: more wait for one another.
test: export OMP_NUM_THREADS = 1
test: setup  ## lint, import floors, doctests and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --durations=10

# The table world and a small training, in minutes: for another Python or other versions of libraries.
test-core: setup  ## the table world and a small training, in minutes
	$(BIN)/python -m pytest sepclr_med/cohort sepclr_med/analysis tests/test_manifest.py tests/test_bids.py \
	  tests/test_splits.py tests/test_link.py tests/test_card.py tests/test_report.py tests/test_cli.py

typecheck: setup  ## mypy
	$(BIN)/mypy

test-slow: setup  ## tests that take long as well
	$(BIN)/python -m pytest -n 2 --slow --durations=20

bench: setup  ## benchmarks
	$(BIN)/python pipelines/benchmark/run.py
	$(BIN)/python pipelines/benchmark/link_speed.py

docs: $(STAMP)-docs  ## build the documentation into docs/_build/html
	rm -rf docs/_build docs/generated
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/_ext/check_site.py docs/_build/html

$(STAMP)-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

format: setup  ## format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv and everything built
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache docs/_build docs/generated docs/auto_tutorials
