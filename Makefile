PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLD_SDKS := $(VENV)/old-sdks
# The versions to install. If these names are empty, pip installs the newest allowed versions.
TESTED := constraints/tested.txt
OLD_SDKS_TESTED := constraints/old_sdks.txt

OLDEST := .venv-oldest
NEWEST := .venv-newest

.DEFAULT_GOAL := help

.PHONY: help demo test test-fast coverage test-trial test-oldest test-newest constraints lint \
	format diagrams bench bench-keys bench-before bench-peers bench-lifecycle bench-scheduling \
	bench-estimates bench-affinity bench-agent e2e-clients fuzz soak templates proxies dist clean

# Upgrade pip first: the pip of a new venv may not know --group and --build-constraint.
held = $(if $(1),--constraint $(1))
define create
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --upgrade $(call held,$(2)) pip
endef
install = -m pip install --quiet $(call held,$(1)) $(if $(1),--build-constraint $(1))

help: ## List what make can do here
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/installed: pyproject.toml $(TESTED)
	$(call create,$(VENV),$(TESTED))
	$(BIN)/python $(call install,$(TESTED)) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python $(call install,$(TESTED)) --editable . --group dev --group engine
	touch $@

$(OLD_SDKS)/installed: tests/live/sdk/old_sdks.txt $(OLD_SDKS_TESTED) $(VENV)/installed-dev
	rm -rf $(OLD_SDKS)
	$(BIN)/python $(call install,$(OLD_SDKS_TESTED)) --target $(OLD_SDKS) \
		--requirement tests/live/sdk/old_sdks.txt
	touch $@

# Packages without a lower bound here, such as the engine, get the tested version.
$(OLDEST)/constraints.txt: constraints/oldest.txt constraints/tested.txt
	mkdir -p $(OLDEST)
	awk -F '==' '{ name = tolower($$1); gsub(/_/, "-", name) } /==/ && !seen[name]++' $^ > $@

$(OLDEST)/installed: pyproject.toml $(OLDEST)/constraints.txt
	$(call create,$(OLDEST),$(OLDEST)/constraints.txt)
	$(OLDEST)/bin/python $(call install,$(OLDEST)/constraints.txt) --editable . \
		--group test --group engine
	touch $@

demo: $(VENV)/installed ## Run the daemon before three simulated nodes and print what to try
	$(BIN)/twistd --nodaemon --pidfile= cortex --demo

# Three workers even on two cores: the live tests wait more than they compute.
test: $(VENV)/installed-dev $(OLD_SDKS)/installed ## Run every test
	$(BIN)/python -m pytest -n 3 --dist loadfile
	PYTHONPATH=$(OLD_SDKS) $(BIN)/python -m pytest -n 3 --dist loadfile \
		tests/live/sdk/old_majors.py $(filter-out %/test_newest_majors.py,$(wildcard tests/live/sdk/test_*.py))

test-fast: $(VENV)/installed-dev ## Run the tests that need neither a live reactor nor the engine
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/live --ignore=tests/engine

# Coverage has a run of its own, because tracing doubles the CPU time of the tests. The run leaves
# out property tests, because the branches that they take differ between runs, and the tests of the
# benches, which take minutes when traced. Of the live tests it has those of modules that run in
# processes of their own, which are traced too.
LIVE_COVERED := $(addprefix tests/live/,units reloading host test_demo.py test_ctl.py test_stop.py \
	test_command_line.py $(addprefix agent/,test_kernel.py test_supervising.py test_enrolment.py \
	test_strangers.py test_killed_engine.py test_power_commands.py))

coverage: $(VENV)/installed-dev ## Measure how many branches the tests take, those of live tests in part
	$(BIN)/python -m pytest -n 2 --dist loadfile $(LIVE_COVERED) \
		$(filter-out tests/live/ tests/engine/ tests/bench/,$(wildcard tests/*/)) \
		$(wildcard tests/test_*.py) --ignore-glob='*/test_properties.py' -m 'not hypothesis' \
		--cov --cov-report=term:skip-covered

test-trial: $(VENV)/installed-dev ## Run the tests that do not need pytest, under trial
	$(BIN)/python -m twisted.trial -j 2 --temp-directory=_trial_temp tests

test-oldest: $(OLDEST)/installed ## Run every test with the lower bounds of pyproject.toml
	$(OLDEST)/bin/python -m pytest -n 3 --dist loadfile

test-newest: ## Run every test with the newest versions, in a new venv
	rm -rf $(NEWEST)
	$(MAKE) VENV=$(NEWEST) TESTED= OLD_SDKS_TESTED= test

constraints: ## Make the versions of the last test-newest the tested ones
	$(NEWEST)/bin/python -m pip freeze --all --exclude-editable --exclude setuptools \
		> constraints/tested.txt
	$(NEWEST)/bin/python -m pip freeze --path $(NEWEST)/old-sdks > constraints/old_sdks.txt

lint: $(VENV)/installed-dev ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev ## Rewrite the sources in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

diagrams: $(VENV)/installed ## Write docs/states.md from the tables of the states
	$(BIN)/python docs/diagrams.py

bench: $(VENV)/installed-dev ## Measure the gateway beside nginx, where nginx is installed
	$(BIN)/python -m bench
	$(BIN)/python -m bench.translation --check

bench-keys: $(VENV)/installed-dev ## Measure what 1,000 keys on file cost, beside none
	$(BIN)/python -m bench --keys 1000 --check

bench-before: $(VENV)/installed-dev ## As bench, beside an earlier cortexd: BEFORE=path/to/its/twistd
	$(BIN)/python -m bench --before $(BEFORE)

bench-peers: $(VENV)/installed-dev ## As bench, with vllm-router from its own venv
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet vllm-router
	$(BIN)/python -m bench --vllm-router .venv-peers/bin/vllm-router

# Recorded traces are files of their own: TRACES="one.csv another.csv". docs/scheduling.md has more.
csv_files = $(foreach file,$(TRACES),--csv $(file))

bench-lifecycle: $(VENV)/installed-dev ## Run the scheduler on made traces and TRACES, beside its peers
	$(BIN)/python -m bench.lifecycle --summary --markdown $(csv_files)

bench-estimates: $(VENV)/installed-dev ## Measure how near told waits come to real ones
	$(BIN)/python -m bench.estimates --check

bench-affinity: $(VENV)/installed-dev ## Measure what agents read again before two copies of a model
	$(BIN)/python -m bench.affinity

bench-scheduling: $(VENV)/installed-dev ## Hold the scheduler to its bars on made traces and TRACES
	$(BIN)/python -m bench.lifecycle --check $(csv_files)

bench-agent: $(VENV)/installed-dev ## Measure what an idle agent costs beside its engine
	$(BIN)/python -m bench.agents --agent

# pytest reads e2e/proxies only here: the proxies are installed when they are missing, into .proxies.
proxies: $(VENV)/installed-dev ## Run nginx and Caddy, as contrib/proxies has them, before the daemon
	$(BIN)/python -m pytest e2e/proxies

e2e-clients: $(VENV)/installed-dev ## Run the newest versions of real clients before a simulated node
	$(BIN)/python -m e2e

fuzz: $(VENV)/installed-dev ## A million bodies, of which none may break anything
	$(BIN)/python -m bench.fuzz

soak: $(VENV)/installed-dev ## Five minutes of everything at once; what must never happen is counted
	$(BIN)/python -m bench.soak

chaos: $(VENV)/installed-dev ## Ten minutes of every trouble at once, with reloads and restarts
	$(BIN)/python -m bench.chaos

reliability: $(VENV)/installed-dev ## Play the scenes that try to stop the daemon
	$(BIN)/python -m bench.reliability

templates: $(VENV)/installed-dev ## Render conversations by our chat templates, or TEMPLATES=folder too
	$(BIN)/python -m tests.templates

dist: $(VENV)/installed-dev ## Build the sdist and the wheel into dist/
	$(BIN)/python -m build

clean: ## Remove what make built
	rm -rf $(VENV) $(OLDEST) $(NEWEST) .venv-peers .clients .proxies .coverage build dist _trial_temp* .pytest_cache .mypy_cache .ruff_cache .hypothesis
