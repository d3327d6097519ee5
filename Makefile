# Each target starts from nothing but Python and git.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
RUN ?= runs/demo

.PHONY: setup demo test test-core test-slow typecheck bench docs format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

demo: setup
	$(BIN)/sepclr-med run pipelines/synthetic/recipe.yaml $(RUN)

# One thread for each of two processes: more wait for one another.
test: export OMP_NUM_THREADS = 1
test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --durations=10

# The table world and a small training, in minutes: for another Python or other versions of libraries.
test-core: setup
	$(BIN)/python -m pytest sepclr_med/cohort sepclr_med/analysis tests/test_manifest.py tests/test_bids.py \
	  tests/test_splits.py tests/test_link.py tests/test_card.py tests/test_report.py tests/test_cli.py

typecheck: setup
	$(BIN)/mypy

test-slow: setup
	$(BIN)/python -m pytest -n 2 --slow --durations=20

bench: setup
	$(BIN)/python pipelines/benchmark/run.py
	$(BIN)/python pipelines/benchmark/link_speed.py

docs: $(STAMP)-docs
	rm -rf docs/_build docs/generated
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/_ext/check_site.py docs/_build/html

$(STAMP)-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache docs/_build docs/generated docs/auto_tutorials
