# `make demo` shows the package at work, `make cohort-demo` a cohort, `make test` tests it. All set .venv up when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The lock names every file for Python 3.11 on Linux x86-64 without a GPU; elsewhere pip takes what it finds that day.
HERE := $(shell $(PYTHON) -c "import platform as p; print(*p.python_version_tuple()[:2], p.system(), p.machine(), sep='-')")
LOCKED := $(if $(shell command -v nvidia-smi 2>/dev/null),,$(filter 3-11-Linux-x86_64,$(HERE)))
# where the CPU build of torch lies, unless pip's own settings name a place to look
INDEX = $(if $(findstring find-links,$(shell $(BIN)/pip config list)),,--extra-index-url https://download.pytorch.org/whl/cpu)
LOCK := $(BIN)/pip install -q --require-hashes --no-deps --no-build-isolation
# $(call install,LAYER,EXTRAS): a layer of the lock, then the package alone, then whether all needs are met
install = $(if $(LOCKED),$(LOCK) $(INDEX) -r locks/$(1).txt && $(BIN)/pip install -q --no-deps --no-build-isolation -e . && $(BIN)/pip check,\
  echo "No lock for $(HERE) or with a GPU: pip chooses." && $(BIN)/pip install -q -e '.$(2)')
DRUG := $(wildcard sample_data/drug_*.nii.gz)
VFA := $(wildcard sample_data/vfa_*.nii.gz)
COHORT := cohort_demo
SUBJECTS := 8
COHORT_RUN := OMP_NUM_THREADS=1 $(BIN)/nanopinn cohort $(COHORT)/bids $(COHORT)/out --engine fv

.PHONY: demo cohort-demo test test-gui lint lock audit clean

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || { echo "No venv: on Debian, apt install python3-venv, then make again."; exit 1; }

$(VENV)/.package: $(BIN)/python pyproject.toml locks/demo.txt
	$(call install,demo)
	@touch $@

$(VENV)/.test: $(VENV)/.package locks/test.txt
	$(call install,test,[test,dev,pipelines])
	@touch $@

demo: $(VENV)/.package
	@$(BIN)/nanopinn fit --dce sample_data/dce.nii.gz --cest sample_data/ph.nii.gz --mask sample_data/mask.nii.gz \
	  --vfa $(VFA) --drug $(DRUG) --out demo_result --overwrite; code=$$?; \
	if [ $$code -eq 5 ]; then echo "The fit finished, but its check failed: read the first line of demo_result/report.html."; fi; exit $$code

# phantom subjects, the series of one spoiled: 6 says that the others are done; then again, with nothing to do
cohort-demo: $(VENV)/.test
	@rm -rf $(COHORT) && $(BIN)/nanopinn phantom --out $(COHORT)/bids --bids $(SUBJECTS) --shape 12 12 8 --length-scale 0.8 -q
	@truncate -s 2000 $(COHORT)/bids/sub-03/perf/sub-03_dce.nii.gz
	@$(COHORT_RUN); code=$$?; [ $$code -eq 6 ] || { echo "The cohort ended with $$code, not with 6."; exit 1; }
	@echo "As expected: sub-03, whose series was cut short, is refused; the others are done. Again:"
	@$(COHORT_RUN); code=$$?; [ $$code -eq 6 ] && grep -q "Nothing to be done" $(COHORT)/out/work/cohort.log \
	  || { echo "The second run ended with $$code, or found work to do."; exit 1; }
	@echo "Nothing was left to do. Open $(COHORT)/out/group.html"

# WORKERS=2: files of tests shared between two processes of one thread each
WORKERS ?= 0
PARALLEL := $(if $(filter-out 0,$(WORKERS)),-n $(WORKERS) --dist loadfile)

test: $(VENV)/.test
	$(if $(PARALLEL),OMP_NUM_THREADS=1) $(BIN)/python -m pytest $(PARALLEL)

# napari in a real window, on a screen that nobody sees; a call of its own, because an abort of Qt ends the process
$(VENV)/.gui: $(VENV)/.test locks/gui.txt
	$(call install,gui,[gui])
	@touch $@

test-gui: $(VENV)/.gui
	xvfb-run -a -s "-screen 0 1400x900x24" $(BIN)/python -m pytest tests/napari

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy nanopinn

# anew what is installed, of the newest versions that pyproject.toml allows; the tests say whether they do
lock: $(BIN)/python
	$(BIN)/python locks/lock.py

# known vulnerabilities of what is locked, by PyPI's own list: needs the network, and fails where a package could not be looked up
audit: $(BIN)/python
	$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install -q pip-audit
	sed 's/+cpu//; s/ --hash.*//' locks/demo.txt locks/test.txt locks/gui.txt > $(VENV)/audit/locked.txt
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r $(VENV)/audit/locked.txt

clean:
	rm -rf $(VENV) demo_result $(COHORT)
