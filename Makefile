# Two commands: `make demo` shows the package at work, `make test` tests it. Both set .venv up when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# without an NVIDIA GPU the plain index would bring several GB of CUDA libraries
CONSTRAINTS := $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints-cpu.txt)
DRUG := $(wildcard sample_data/drug_*.nii.gz)
VFA := $(wildcard sample_data/vfa_*.nii.gz)

.PHONY: demo test test-gui lint clean

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { echo "No venv: on Debian, apt install python3-venv, then make again."; exit 1; }

$(VENV)/.package: $(BIN)/python pyproject.toml constraints-cpu.txt
	$(BIN)/pip install -q $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints-cpu.txt
	$(BIN)/pip install -q $(CONSTRAINTS) -e '.[test,dev]'
	@touch $@ $(VENV)/.package

demo: $(VENV)/.package
	@$(BIN)/nanopinn fit --dce sample_data/dce.nii.gz --cest sample_data/ph.nii.gz --mask sample_data/mask.nii.gz \
	  --vfa $(VFA) --drug $(DRUG) --out demo_result --overwrite; code=$$?; \
	if [ $$code -eq 5 ]; then echo "The fit finished, but its check failed: read the first line of demo_result/report.html."; fi; exit $$code

test: $(VENV)/.test
	$(BIN)/python -m pytest

# napari in a real window, on a screen that nobody sees; a call of its own, because an abort of Qt ends the process
$(VENV)/.gui: $(VENV)/.test
	$(BIN)/pip install -q $(CONSTRAINTS) -e '.[gui]'
	@touch $@

test-gui: $(VENV)/.gui
	xvfb-run -a -s "-screen 0 1400x900x24" $(BIN)/python -m pytest tests/napari

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy nanopinn

clean:
	rm -rf $(VENV) demo_result
