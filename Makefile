# Everything below needs Python 3.11 or later, git and make; the rest is installed into .venv.
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2
ARGS ?=
INDEXES := from mlops_nb.core import fact_index, pillars, verb_index; pillars.write(); verb_index.write(); fact_index.write()
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export GOMP_SPINCOUNT ?= 2000

.DEFAULT_GOAL := help
.PHONY: help demo test prove lab docs bench check export try readme clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

$(READY): settings.ini pyproject.toml setup.py
	@test -n "$(PYTHON)" || { echo "make: Python 3.11, 3.12 or 3.13 is needed and none was found; say which with: make PYTHON=/path/to/python3.11 ..." >&2; exit 4; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip -q
	$(BIN)/python -m pip install -q --disable-pip-version-check 'uv>=0.7,<1'
	$(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -e '.[dev]'
	@touch $@

demo: $(READY) ## The golden path on 336,776 flights, in demo/
	$(BIN)/mlops demo demo $(ARGS)

test: $(READY) ## Every test with reduced counts, lessons of the notebooks included
	$(BIN)/python -m pytest tests -n $(JOBS) --dist loadgroup -rs $(ARGS)

prove: $(READY) ## Every test with the full counts, then the benchmarks; before a release
	MLOPS_PROVE=1 $(BIN)/python -m pytest tests -n $(JOBS) --dist loadgroup --timeout 3600 $(ARGS)
	$(BIN)/python -m bench.run

lab: $(READY) ## JupyterLab on the tutorial
	$(BIN)/mlops demo demo --prepare
	cd demo && ../$(BIN)/jupyter lab flights.ipynb $(ARGS)

docs: $(READY) ## The documentation site in _docs/, where Quarto is installed
	@command -v quarto >/dev/null 2>&1 || { echo "make docs: quarto is not installed; get it from https://quarto.org/docs/get-started and run make docs again" >&2; exit 4; }
	$(BIN)/nbdev-docs

bench: $(READY) ## Benchmarks against peers; writes bench/RESULTS.md
	$(BIN)/python -m bench.run $(ARGS)

check: $(READY) ## Generated modules equal the notebooks; ruff; mypy
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_export.py
	$(BIN)/ruff check .
	$(BIN)/mypy

export: $(READY) ## Notebooks into mlops_nb/, the indexes, the reference page; NB=core/ledger: one, in seconds
ifdef NB
	@ls $(NB:%=nbs/%.ipynb) >/dev/null
	$(BIN)/ruff format -q $(NB:%=nbs/%.ipynb)
	$(BIN)/python -c 'import sys; from nbdev.export import nb_export; [nb_export(n, "mlops_nb") for n in sys.argv[1:]]' $(NB:%=nbs/%.ipynb)
	$(BIN)/python -c '$(INDEXES)'
else
	$(BIN)/ruff format -q nbs
	$(BIN)/nbdev-export
	$(BIN)/python -c '$(INDEXES)'
	$(BIN)/nbdev-test nbs/reference.ipynb --save --n-workers 1
	$(BIN)/nbdev-clean --fname nbs/reference.ipynb
endif

try: $(READY) ## Lessons and tests of one notebook, in seconds: make try NB=core/ledger
	@wanted=$$($(BIN)/python tests/helpers/rooms.py $(NB)) && $(BIN)/python -m pytest $$wanted $(ARGS)

readme: $(READY) ## README.md from nbs/index.ipynb
	$(BIN)/jupyter-nbconvert --log-level WARN --to markdown --output-dir . --output README nbs/index.ipynb

clean: ## Away with what was built; .venv stays
	rm -rf build dist _docs _proc demo .pytest_cache .hypothesis .mypy_cache .ruff_cache *.egg-info
