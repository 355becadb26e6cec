# Everything a person types. `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: help build packages engines python tools demo quick test bench soak guards lint docs clean-run

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: packages ## the release binary, target/release/holdfast, and its debugging information beside it
	cargo build --release --locked -p holdfast
	@scripts/strip.sh target/release/holdfast

packages: ## the Debian packages that are missing (asks for nothing when all are there)
	@scripts/packages.sh

engines: packages ## PostgreSQL 17, pgBackRest, MySQL 9.7, Valkey 9.1, MongoDB 6.0 and the tests' S3 server, into a cache folder; the system is left alone
	@if [ -z "$$HOLDFAST_ENGINES" ]; then scripts/engines.sh tests; fi

python: packages ## the tests' Python environment, into the cache folder
	@scripts/python.sh

tools: packages ## cargo-nextest, cargo-deny and cargo-shear, into the cache folder
	@scripts/tools.sh

demo: packages build ## a database backed up, broken and restored before your eyes
	@scripts/engines.sh
	scripts/demo.sh

quick: tools python ## before each commit: formatting, lints, and every test that needs no engine
	@scripts/lint.sh --quick
	@scripts/test.sh --quick

test: packages engines python tools ## every test; ends with "N passed, N failed, N skipped"
	@scripts/test.sh

bench: packages engines ## speed and memory against the bare tools, into docs/benchmarks.md (BENCH_SIZE=small: minutes)
	@BENCH_SIZE=$(BENCH_SIZE) BENCH_ONLY=$(BENCH_ONLY) scripts/bench.sh

soak: engines ## the whole kill matrix, then exactness, kill and S3 suites with new seeds for SOAK_MINUTES (60); the result goes to docs/soak.md
	@scripts/soak.sh

guards: engines ## takes out one guard after the other: tests must fail each time
	@scripts/guards.sh

lint: tools ## formatting, lints, the walls between the crates, scripts, documentation, the dependency tree
	@scripts/lint.sh

docs: packages ## the crates' documentation, with every warning an error
	@scripts/docs.sh

clean-run: ## what CI does: .ci/run in a fresh clone of what is committed
	@scripts/clean-run.sh
