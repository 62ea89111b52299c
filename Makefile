# Each target first sets up what is missing (`.venv`); what is up to date is skipped.
#   make TORCH_INDEX=https://download.pytorch.org/whl/cpu demo   chooses where torch comes from
#   make PYTHON=python3.12 demo                                  chooses the Python of a new .venv
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format bench faults clean

# The first Python on the path that is new enough; else python3, which the set-up then names as too old.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; \
	done),python3)
else
CHOSEN := --python-chosen
endif

# Extras of pyproject.toml, by comma; what was installed before stays.
EXTRAS ?= dev

RUN := .venv/bin/python -m

help: ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 16

setup: ## install what is missing into .venv (EXTRAS=dev,bench,aws)
	@command -v $(PYTHON) >/dev/null || { echo "setup: no '$(PYTHON)' on the path;" \
		"Debian: sudo apt install python3 python3-venv python3-dev"; exit 2; }
	@$(PYTHON) -m cluster.setup_env --extras $(EXTRAS) $(CHOSEN) $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

demo: setup ## raw text to a trained model on this machine: runs/demo/report.html
	@$(RUN) llm.demo

# Most in two processes, then alone those that start Ray or look at the clock. Both are run, and both results count.
QUICK := not slow and not gpu and not faults
test: setup ## the tests that need no GPU and no patience
	@$(RUN) pytest -n 2 --dist loadfile -m "$(QUICK) and not ray and not alone"; first=$$?; [ $$first -eq 2 ] && exit 2; \
	$(RUN) pytest -m "$(QUICK) and (ray or alone)"; second=$$?; [ $$first -ne 0 ] && exit $$first; exit $$second

test-slow: setup ## the tests that `make test` leaves out for their length
	@$(RUN) pytest -m "slow and not gpu"

check: setup ## format, lint, types, import arrows
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@.venv/bin/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

format: setup ## rewrite the code in the house format
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

bench: EXTRAS = dev,bench
bench: setup ## benchmarks side by side with peers: benchmarks/results/
	@$(RUN) benchmarks

faults: setup ## the long proofs: seeded kills and flips (FAULTS=name for one)
	@$(RUN) tests.faults $(FAULTS)

clean: ## remove caches; runs/ and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +
