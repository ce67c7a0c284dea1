# Everything a person does with this project. `make` alone says what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
# Where torch's CPU build comes from on a machine without an NVIDIA device: a seventh of the size.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' services/qwarden/__init__.py)
# Where Python keeps no compiled files, a command or a service starts in 1.7 s of CPU in place of 0.7.
unexport PYTHONDONTWRITEBYTECODE
CODE := services triton_models tests bench

.PHONY: help setup demo test check lint fast fast-one fast-other bench bench-gen bench-stream bench-policy bench-review bench-equality bench-near-ties bench-long bench-pipeline bench-autoscaling storm coverage mutants images

help: ## What there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## Check the machine, make .venv, install (the others call it); TORCH=cpu|cuda chooses the build
	@TORCH="$(TORCH)" TORCH_CPU_INDEX="$(TORCH_CPU_INDEX)" bash deploy/setup.sh

demo: setup ## Start everything, publish sample events, show the verdicts; ONCE=1 ends by itself
	@.venv/bin/qwarden demo $(if $(ONCE),--once)

check: setup ## Two minutes: lint, types, imports, what needs no part and no torch; few random examples
	@$(MAKE) --no-print-directory -j 3 lint fast EXAMPLES=check

lint:
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check --quiet $(CODE)
	$(PY) -m mypy services triton_models/engine triton_models/stand_in tests bench
	.venv/bin/lint-imports

# Two runs side by side, each of its own folders and as long as the other: the workers of one run would
# each collect all of them, 15 s of CPU.
EXAMPLES := suite
FAST := $(PY) -m pytest -q -p no:cacheprovider --hypothesis-profile=$(EXAMPLES) \
  -m "not parts and not long and not storm" --ignore-glob "*/engine"
fast: fast-one fast-other
fast-one:
	$(FAST) tests/unit tests/contract tests/review
fast-other:
	$(FAST) tests/chart tests/property tests/review_api tests/docs

# Three workers on two cores, since a test with real parts waits for a quarter of its time. By the
# alphabet, since the longest modules are not those of the most tests, and unit stands last.
BY_MODULE := -n 3 --dist loadscope --no-loadscope-reorder
# Afterwards, since they say how late an answer may be under a fault; and Redis's by themselves, since
# theirs are 20 ms.
TIMED := $(addprefix tests/chaos/test_,faults_content.py faults_kafka.py toxic_network.py)
ALONE := tests/chaos/test_faults_redis.py

test: setup ## Everything: also real Kafka, Valkey, Triton, PostgreSQL and Chromium
	@$(MAKE) --no-print-directory -j 3 lint fast
	$(PY) -m pytest -q $(BY_MODULE) tests -m "(parts or long) and not storm" $(patsubst %,--ignore=%,$(TIMED) $(ALONE))
	$(PY) -m pytest -q -n 2 --dist loadscope $(TIMED) -m "parts and not storm"
	$(PY) -m pytest -q $(ALONE) -m "parts and not storm"

storm: setup ## The long fault suite, by its seed, an hour; ARGS="--help" says which parts
	PYTHONPATH=tests $(PY) -m storm $(ARGS)
	$(PY) -m pytest tests -m storm -s
	$(PY) -m pytest -q -n 2 tests/property --hypothesis-profile=hunt --timeout 3600

coverage: setup ## The branches of the pure modules that fast tests take: the table; fails under 100 %
	$(PY) -m coverage run --include="$$(PYTHONPATH=tests $(PY) -m pure)" \
	  -m pytest -q -p no:xdist tests/unit tests/property tests/contract tests/review \
	  -m "not parts and not storm"
	$(PY) -m coverage report

mutants: setup ## Small changes of pure modules that no test notices; ARGS="qwarden.policy.cells" chooses
	PYTHONPATH=tests nice -n 19 $(PY) -m mutants $(ARGS)

bench: setup bench-gen bench-stream bench-pipeline bench-policy bench-review ## The benchmarks; results in bench/results

bench-pipeline: setup ## The moderator beside the hand-written loop
	$(PY) bench/pipeline.py $(ARGS)

bench-gen: setup ## The engine beside transformers and vLLM; ARGS="--quick" and others choose parts
	@TORCH_CPU_INDEX="$(TORCH_CPU_INDEX)" $(PY) bench/gen.py $(ARGS)

bench-stream: setup ## A token's cost in the Stream engine as a session runs; ARGS="--quick" to see it run
	$(PY) bench/stream.py $(ARGS)

bench-policy: setup ## What languages, evasion and diffs of policies cost
	$(PY) bench/language.py
	$(PY) bench/normaliser.py
	$(PY) bench/policy_diff.py

bench-review: setup ## Claims and pages beside 100,000 open items; a start with a million overrides
	$(PY) bench/review.py $(ARGS)
	$(PY) bench/overrides.py

bench-autoscaling: setup ## A simulated day under the rules that scale, with a real Prometheus
	$(PY) bench/autoscaling.py $(ARGS)

bench-equality: setup ## The engine's answers beside transformers'; ARGS="--help" says which parts
	$(PY) bench/equality.py $(ARGS)

bench-near-ties: setup ## Answers alone and in random batches
	$(PY) bench/near_ties.py $(ARGS)

bench-long: setup ## Short rows beside long ones
	$(PY) bench/long_rows.py $(ARGS)

images: ## Build and push the images: make images REGISTRY=registry.example/team
	@test -n "$(REGISTRY)" || { echo "Name a registry: make images REGISTRY=registry.example/team"; exit 2; }
	docker build -f deploy/docker/services.Dockerfile -t $(REGISTRY)/qwarden:$(VERSION) .
	docker build -f deploy/docker/triton.Dockerfile -t $(REGISTRY)/qwarden-triton:$(VERSION) .
	docker push $(REGISTRY)/qwarden:$(VERSION)
	docker push $(REGISTRY)/qwarden-triton:$(VERSION)
	@echo "Digests, for image.servicesDigest and image.tritonDigest of the chart:"
	@docker image inspect --format '{{join .RepoDigests "\n"}}' $(REGISTRY)/qwarden:$(VERSION) $(REGISTRY)/qwarden-triton:$(VERSION)
