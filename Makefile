# Two commands suffice: `make run` shows a call, `make test` proves the rest. Only Python (3.11 or newer) and make are needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help run install test check format bench lock clean

help:  ## Show these targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/installed  ## Start the whole system on this machine and show a call.
	@$(BIN)/dialdesk dev $(ARGS)

install: $(VENV)/installed  ## Make .venv with the `dialdesk` command in it.

test: $(VENV)/installed-dev  ## Run every test, with a coverage floor.
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term $(ARGS)

check: $(VENV)/installed-dev  ## Lint, formatting, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev  ## Format the code and mend what the linter can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed-dev  ## Measure: dial to phone on two nodes, idle sessions, recordings, and a console.
	$(BIN)/python tests/bench/run.py dial $(ARGS)
	$(BIN)/python tests/bench/run.py sessions
	$(BIN)/python tests/bench/run.py recordings
	$(BIN)/python tests/bench/run.py channels

lock: $(VENV)/installed-dev  ## Renew the pinned versions in requirements*.lock.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--python-version 3.11 --extra embedded pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--python-version 3.11 --extra embedded --extra dev pyproject.toml -c requirements.lock -o requirements-dev.lock

clean:  ## Remove the virtual environment and the caches; the data in .dialdesk stays.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* *.egg-info

$(VENV)/created:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/created requirements.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/created requirements-dev.lock pyproject.toml
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $(VENV)/installed $@
