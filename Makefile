# make quickstart | test | faults | check | docs | docs-check | reproduce | clean; each makes .venv first if it is missing
PYTHON ?= python3
# of `make reproduce`; RUN=nazarick on a GPU; PRECISION=32-true where the processor has no bfloat16 instructions
RUN ?= longer
PRECISION ?= $(if $(filter nazarick,$(RUN)),32-true,bf16-mixed)
DATA ?= data
REFERENCE ?= reference_accuracies_300.json
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install quickstart reproduce test faults lint types docs docs-check check clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 10) <= v <= (3, 12) and f"Python {v[0]}.{v[1]}: NNI 3.0 runs on 3.10 to 3.12; make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

quickstart: install
	$(BIN)/nni-consistency quickstart

# the figures of the README's table "Measured", from data on: hours on a CPU; run again, training goes on where it was
# (`make -n reproduce` prints the commands; what is special about runs/longer: docs/decisions/0010-short-recipe.md)
reproduce: install
	@test -f $(REFERENCE) || { echo "$(REFERENCE): no such file; give REFERENCE=FILE, archs with reference accuracies in released form"; exit 2; }
	$(MAKE) runs/$(RUN)/supernet.safetensors
	$(BIN)/python benchmarks/consistency.py --checkpoint runs/$(RUN)/supernet.safetensors --data-root $(DATA) --download \
	  --reference $(REFERENCE) --out runs/$(RUN)/consistency

RESUME = $(if $(wildcard $(@D)/checkpoints/last.ckpt),--resume)
TRAIN = $(BIN)/nni-consistency train --precision $(PRECISION) --data cifar100 --data-root $(DATA) --download --out $(@D) $(RESUME)

runs/longer/supernet.safetensors: runs/short/supernet.safetensors | install
	$(TRAIN) --recipe short --weights $< --set lr=0.2 --set distill_from=0 --seed 1

runs/%/supernet.safetensors: | install
	$(TRAIN) --recipe $*

test: install
	$(BIN)/python -m pytest

# every long verb killed 20 times in one run, on a full disk, twice at once: some 20 minutes on two cores
faults: install
	$(BIN)/python -m pytest -m slow -n 0 -s tests/test_faults.py

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

# the site, into site/: open site/index.html; a broken link ends it with an error
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# every number in README and docs against the committed result files
docs-check: install
	$(BIN)/python -m pytest -n 0 -p no:cacheprovider tests/docs_check.py

check: lint types docs docs-check test

clean:
	rm -rf $(VENV) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
