# One command per task; `make help` lists them.
#
# PYTHON is the interpreter that the virtual environment is made of. Everything is installed in
# .venv; caches that are slow to fill go to $(CTRT_CACHE), outside the clone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build
CTRT_CACHE ?= $(HOME)/.cache/ctrt-tests
export CTRT_CACHE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCES := $(shell find ctrt kernel labextension/src labextension/schema -name '*.py' -o -name '*.ts' -o -name '*.sh' \
	-o -name '*.json' 2>/dev/null) pyproject.toml README.md \
	labextension/package.json labextension/package-lock.json labextension/tsconfig.json
PYTEST := $(BIN)/python -m pytest

FOLDERS := unit images registry runtime seeing kernel notebooks browser peers vm

.PHONY: help demo lab test lint format test-root test-rootless $(FOLDERS:%=test-%) \
	test-labextension benchmarks pictures notebooks clean

help: ## list the tasks
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

# --- environments ----------------------------------------------------------------------------

$(BUILD)/.wheel: $(SOURCES)
	@mkdir -p $(BUILD)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf $(BUILD)/wheel labextension/dist kernel/ctrt_kernel/static
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $(BUILD)/wheel .
	@touch $@

$(BUILD)/.jupyter: $(BUILD)/.wheel
	$(BIN)/pip install --quiet "ctrt[jupyter] @ file://$$(ls $(CURDIR)/$(BUILD)/wheel/ctrt-*.whl)"
	$(BIN)/pip install --quiet --no-deps --force-reinstall $(BUILD)/wheel/ctrt-*.whl
	@touch $@

$(BUILD)/.test: $(BUILD)/.wheel
	$(BIN)/pip install --quiet "ctrt[test] @ file://$$(ls $(CURDIR)/$(BUILD)/wheel/ctrt-*.whl)"
	$(BIN)/pip install --quiet --no-deps --force-reinstall $(BUILD)/wheel/ctrt-*.whl
	@touch $@

# --- to see it ---------------------------------------------------------------------------------

demo: $(BUILD)/.jupyter ## run the tour headless and keep the result in build/demo
	@sh tests/system-packages demo
	@$(BIN)/python tests/demo.py $(BUILD)/demo

lab: $(BUILD)/.jupyter ## open JupyterLab on the tour, with the course beside it
	@sh tests/system-packages demo
	@sh tests/system-packages lab || echo "some cells of the course will say that these are missing"
	@mkdir -p $(BUILD)/lab && cp notebooks/*.ipynb $(BUILD)/lab/
	$(BIN)/jupyter lab $(LABFLAGS) $(BUILD)/lab/00-tour.ipynb

# In a pid namespace, so that no process of this machine is in a picture; that takes root.
notebooks: $(BUILD)/.test ## run the tour and the course and store their outputs in them
	unshare --pid --fork --mount-proc $(BIN)/python tests/demo.py --store

# --- to test it ----------------------------------------------------------------------------------

test: ## install what the tests need and run them all
	@sh tests/system-packages test
	@$(MAKE) --no-print-directory lint test-labextension
	$(PYTEST) -n 2 --dist loadscope --no-loadscope-reorder --durations=20 tests

lint: $(BUILD)/.test ## formatting, linting, types and the import rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(BUILD)/.test ## format the Python and TypeScript code
	$(BIN)/ruff format .
	cd labextension && npm run --silent format

test-labextension: $(BUILD)/.wheel ## lint, types and unit tests of the JupyterLab side
	cd labextension && npm run --silent lint && npm run --silent test

$(FOLDERS:%=test-%): test-%: $(BUILD)/.test
	$(PYTEST) tests/$*

test-root: $(BUILD)/.test
	$(PYTEST) tests/root tests/start -k "not rootless"

test-rootless: $(BUILD)/.test
	$(PYTEST) tests/rootless tests/start -k rootless

pictures: $(BUILD)/.test ## make the pictures of docs/guide.md anew
	CTRT_SCREENSHOTS=$(CURDIR)/$(BUILD)/pictures $(PYTEST) tests/browser/test_lab_person.py \
		tests/browser/test_lab_panel.py tests/browser/test_lab_views.py
	for picture in docs/pictures/notebook-*.png; do \
		cp $(BUILD)/pictures/$${picture#docs/pictures/notebook-} $$picture; done

benchmarks: $(BUILD)/.test ## measure against crun, runc and podman, and print the table
	@sh tests/system-packages benchmarks
	$(BIN)/python tests/benchmarks/start.py
	$(BIN)/python tests/benchmarks/runtime.py
	$(BIN)/python tests/benchmarks/pull.py
	$(BIN)/python tests/benchmarks/seeing.py
	$(BIN)/python tests/benchmarks/notebook.py
	$(BIN)/python tests/benchmarks/browser.py

clean: ## remove what was built
	rm -rf $(VENV) $(BUILD) labextension/dist labextension/lib kernel/ctrt_kernel/static
