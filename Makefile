# The four things a person does with a checkout. Each makes the environment it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint .ci/constraints.txt

.PHONY: demo test bench results accuracy check fix clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the main job: a phantom archive in by C-STORE, SR and SQL rows out (demo/)"
	@echo "make test    the whole test suite"
	@echo "make bench   the benchmarks in a short form (bench/results/)"
	@echo "make results  what was measured against what was wanted, on one page (bench/RESULTS.md)"
	@echo "make accuracy  tables and figures of the models, remade from kept predictions (docs/models/accuracy.md)"
	@echo "make check   formatting, lint, types, import contracts, doctests"
	@echo "make fix     mend what ruff can mend"
	@echo "make clean   remove what the above made, but not the environment"

$(VENV)/runtime.stamp: pyproject.toml .ci/constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the runtime into $(VENV) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/runtime.stamp
	@echo "installing what tests and training need into $(VENV) ..."
	@$(PIP) --editable ".[dev]"
	@touch $@

demo: $(VENV)/runtime.stamp
	@$(BIN)/python -m bench.demo

test: $(VENV)/dev.stamp
	@.ci/tools
	$(BIN)/python -m pytest -n 2 --dist loadfile

$(VENV)/bench.stamp: $(VENV)/dev.stamp
	@echo "installing what benchmarks compare with into $(VENV) ..."
	@$(PIP) --editable ".[dev,bench]"
	@touch $@

bench: $(VENV)/bench.stamp
	$(BIN)/python -m bench.stages --short
	$(BIN)/python -m bench.receive --short
	$(BIN)/python -m bench.database --short
	$(BIN)/python -m bench.loader --short

results:
	@$(BIN)/python -m bench.results_page

accuracy: $(VENV)/dev.stamp
	$(BIN)/python -m bench.accuracy

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict engine db dicom_node exporters
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --doctest-modules engine db dicom_node exporters tests/test_house.py

fix: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
