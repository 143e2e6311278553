# `make demo` sets up and runs the quickstart; `make test` sets up and tests. Both need Python 3.11+, make and git only.
# Paths are relative and quoted, so that a directory with a space in its name works.

PYTHON ?= python3
VENV := .venv
RUN := "$(VENV)/bin/python" -m

.PHONY: demo test test-all lint clean help

help:
	@echo "make demo      set up, then train and evaluate a model from raw text (about six minutes on two cores with bfloat16)"
	@echo "make test      set up, then lint, types and tests"
	@echo "make test-all  the same with the slow tests"
	@echo "make clean     remove the environment and what tests and builds left; runs/ stays"

demo: $(VENV)/.neolm-demo
	$(RUN) neolm run quickstart
	@echo
	$(RUN) neolm generate runs/quickstart/model "def read_file(path):" --max-new-tokens 96 --temperature 0.7 --seed 1
	@echo
	@echo "Open runs/quickstart/report.html in a browser. Serve the model: $(VENV)/bin/neolm serve runs/quickstart/model"

test: lint
	$(RUN) pytest -n 2 --dist loadfile -m "not slow"

test-all: lint
	$(RUN) pytest -n 2 --dist loadfile

lint: $(VENV)/.neolm-dev
	$(RUN) ruff check --quiet .
	$(RUN) ruff format --quiet --check .
	$(RUN) mypy

# A stamp is newer than pyproject.toml and names this directory: a moved or copied checkout is set up again.
$(VENV)/.neolm-%: pyproject.toml $(VENV)/.made-for
	$(RUN) pip install --quiet --disable-pip-version-check -e ".[$(if $(filter dev,$*),dev,serve)]"
	@touch $@

$(VENV)/.made-for: FORCE
	@[ "$$(cat $@ 2>/dev/null)" = "$$PWD" ] || { \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "NeoLM needs Python 3.11 or newer; for example: make PYTHON=python3.12" >&2; exit 2; }; \
	  rm -rf "$(VENV)" && "$(PYTHON)" -m venv "$(VENV)" && printf '%s\n' "$$PWD" > $@; }

FORCE:

clean:
	rm -rf "$(VENV)" build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
