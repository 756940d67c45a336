# twodim: the front door. `make` lists the targets; `make run` and `make test` need nothing before them.

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
.PHONY: help setup run test lint bench verilog waves clean

# The environment is .venv and nothing else, whatever is active in the caller's shell.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH PIP_REQUIRE_VIRTUALENV PIP_USER PIP_TARGET
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1

VENV := .venv
BIN := $(VENV)/bin
TRACE ?= cocotb_tests/data/nvme_huge.jsonl.gz
SIM ?= verilator
PRESET ?= default
ARGS ?=

help: ## list the targets
	@echo "twodim: IOMMU RTL in lock-step with a golden model of KVM's page tables"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: SIM=verilator|icarus|lean  TRACE=recording  PRESET=name  ARGS='more options'"

setup: ## create .venv, install the pinned tools, look for the simulators
	@PYTHON='$(PYTHON)' scripts/setup.sh

run: setup ## replay a DMA recording of a real machine on the RTL, in lock-step with the golden model
	@$(BIN)/twodim replay $(TRACE) --sim $(SIM) $(ARGS)

lint: setup ## ruff, mypy and the import contracts
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: lint ## lint, then all tests, in every simulator that is installed
	@$(BIN)/python -m pytest $(ARGS)

bench: setup ## measure the RTL against its bounds; ARGS=--sim-speed: the simulation lanes against each other
	@$(BIN)/twodim bench $(ARGS)

verilog: setup ## write the Verilog of PRESET to build/
	@$(BIN)/twodim verilog --preset $(PRESET) $(ARGS)

waves: setup ## the replay of `make run`, with a wave dump in waves/
	@$(BIN)/twodim replay $(TRACE) --sim $(SIM) --waves $(ARGS)

clean: ## remove everything that was generated, .venv too
	@rm -rf .venv sim_build build out *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@rm -f waves/*.vcd waves/*.fst
	@find pymodel hdl cocotb_tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
