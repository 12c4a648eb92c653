# `make app` opens the workbench, `make test` checks it. Both install what is missing and nothing twice.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 7860
# Tests run in so many processes, a file in one; what measures the machine runs after them, alone.
JOBS   ?= 2
# Side by side, each process and all that it starts has one thread: a second one waits for a core that others have, and
# what is small can take ten times as long.
SIDE_BY_SIDE := OMP_NUM_THREADS=1
IN_ORDER := --dist loadfile --no-loadscope-reorder

.PHONY: app model install browser check test test-all screenshots bench clean

app: install model
	$(BIN)/python app.py ui --port $(PORT)

install: $(VENV)/.installed

model: install
	@$(BIN)/python -m core.models.starter

$(VENV)/.installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

browser:
	@sh tests/browser/install.sh

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/.installed-dev model browser check
	$(SIDE_BY_SIDE) $(BIN)/python -m pytest -m "not slow and not alone" -n $(JOBS) $(IN_ORDER)
	$(BIN)/python -m pytest -m "not slow and alone"

test-all: $(VENV)/.installed-dev model browser check
	$(SIDE_BY_SIDE) $(BIN)/python -m pytest -m "not alone" -n $(JOBS) $(IN_ORDER)
	$(BIN)/python -m pytest -m alone

screenshots: $(VENV)/.installed-dev model browser
	$(BIN)/python -m docs.screenshots

$(VENV)/.installed-bench: benchmarks/requirements.txt $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	touch $@

bench: $(VENV)/.installed-bench model
	$(BIN)/python app.py bench

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
