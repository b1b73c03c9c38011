# demo   the whole loop on the built-in model and simulated people, then the report: make demo ARGS="--seed 1"
# test   the tests; what was skipped and why is printed at the end
# check  format, lint, types, import layers, and the honesty of the tests
# prove  the long proofs
# peers  the environments of the libraries that we are compared with, in .bench/
# bench  side by side with those libraries, the demo over three seeds, the runs on real preferences, the web app,
#        what answers are worth, rewards, the guard, safety, credit, and real preferences in folds; hours on 2 cores
#
# Each makes .venv when it is missing, with the exact versions of constraints.txt.
# PYTHON=python3.12 chooses another interpreter. On Linux without a GPU, set PIP_EXTRA_INDEX_URL to PyTorch's
# index of CPU builds (its installation page names it) for the small build of torch.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=

.PHONY: demo test check prove peers bench clean
.DEFAULT_GOAL := demo

demo: $(INSTALLED)
	@$(BIN)/prefloop demo $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/honesty.py

prove: $(INSTALLED)
	$(BIN)/python -m pytest -m prove -n 0 --timeout 0 $(ARGS)

peers: $(INSTALLED)
	$(BIN)/python -m benchmarks.peers.environments

bench: peers
	$(BIN)/prefloop bench
	$(BIN)/python -m benchmarks.demo
	$(BIN)/python -m benchmarks.hh
	$(BIN)/python -m benchmarks.increasing --out .bench/increasing
	$(BIN)/python -m benchmarks.sentiment --out .bench/sentiment
	$(BIN)/python -m benchmarks.offline --out .bench/offline
	$(BIN)/python benchmarks/realisable.py
	$(BIN)/python -m benchmarks.web --peer
	$(BIN)/python -m benchmarks.worth
	$(BIN)/python -m benchmarks.rewards
	$(BIN)/python -m benchmarks.guard
	$(BIN)/python -m benchmarks.safety
	$(BIN)/python -m benchmarks.credit
	$(BIN)/python -m benchmarks.kinds linear
	$(BIN)/python -m benchmarks.kinds model
	$(BIN)/python -m benchmarks.folds hh
	$(BIN)/python -m benchmarks.folds ukp
	$(BIN)/python -m benchmarks.folds rag

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"prefloop needs Python 3.11 or newer, this is {v[0]}.{v[1]}; name another one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
