# Everything a fresh machine needs is Python >= 3.11 and make. See CONTRIBUTING.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process for each core; a file's tests stay together, since README's code builds upon itself.
PYTEST := $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile
QUESTION := Sam has 3 apples and Tom has 5 oranges. How many

.PHONY: demo test check format bench model clean

demo: $(VENV)/.demo  ## which words of the apples question made the embedded model say what it said, both scenarios
	@echo "Scenario 1: the answer is in the prompt."
	@echo
	@$(BIN)/attribution explain "$(QUESTION) apples does Sam have?" --why 3
	@echo
	@echo "Scenario 2: the prompt does not say it."
	@echo
	@$(BIN)/attribution explain "$(QUESTION) oranges does Sam have?" --why 3

test: lint  ## every check
	$(PYTEST)

check: lint  ## the quick part
	$(PYTEST) -m "not slow"

.PHONY: lint
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.dev  ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## gradients and ablation against Captum, Inseq and context-cite
	@status=0; for each in gradient ablation; do $(BIN)/python -m benchmarks.$$each || status=$$?; done; exit $$status

model: $(VENV)/.dev  ## train the embedded model anew, into training/out
	$(BIN)/python -m training.train training/out
	$(BIN)/python -m training.evaluate training/out

clean:
	rm -rf $(VENV)

# One stamp per set of dependencies: a later one includes the earlier. pip comes first: dependency groups need 25.1, and
# constraints on what builds a package 25.3.
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, $(PYTHON) is older. Type: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.3"
	@touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --build-constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group quantized \
		--no-deps --upgrade --target $(VENV)/quantized
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	@touch $@
