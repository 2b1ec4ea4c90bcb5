# The commands that a newcomer needs are `make demo`, `make demo-down` and `make check`; see README.md.

VERSION := $(shell cat VERSION)
GO_FILES := $(shell git ls-files --cached --others --exclude-standard '*.go' 2>/dev/null) go.mod go.sum VERSION
TESTBED := bin/testbed -repo .

.PHONY: build setup demo demo-down check check-lint check-go check-faults check-filesystems check-race check-nix check-cluster check-vm bench bench-full soak fuzz clean

build: bin/fleet-helper

bin/fleet-helper: $(GO_FILES) $(wildcard push/script/*)
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $@ ./cmd/fleet-helper

bin/bench: $(GO_FILES)
	CGO_ENABLED=0 go build -o $@ ./checks/bench

bin/testbed: $(GO_FILES)
	CGO_ENABLED=0 go build -o $@ ./checks/testbed

# Debian packages that the checks and the demo use.
setup:
	@checks/setup

demo: setup build bin/testbed
	@$(TESTBED) -lab demo demo

demo-down: bin/testbed
	@$(TESTBED) -lab demo down

check: setup build check-lint check-go check-faults check-filesystems check-nix check-cluster

check-lint:
	@checks/lint

check-go:
	FLEET_REQUIRE_ALL=1 go test ./...

# Ends the guard and its workers, or the power, at every step of every kind of transaction.
check-faults:
	go test -tags faults -count=1 -timeout 30m -run EveryStep ./push/agent

# The direct import, with all stores on file systems whose files can share contents.
check-filesystems:
	FLEET_REQUIRE_ALL=1 FLEET_DIRECT_FILESYSTEM=btrfs go test -short -count=1 ./closure/direct
	FLEET_REQUIRE_ALL=1 FLEET_DIRECT_FILESYSTEM=xfs go test -short -count=1 ./closure/direct

check-race:
	FLEET_REQUIRE_ALL=1 CGO_ENABLED=1 go test -race ./...

check-nix: build
	checks/offline/tests/run
	checks/nix/run
	checks/nix/commands
	checks/nix/vendor-hash

check-cluster: build
	go test -tags cluster -count=1 -timeout 10m -run OnAHost ./push/agent ./secretsgen/install ./checks/testbed/lab
	checks/cluster/run

# Boots virtual machines with real boot loaders, and breaks what only a boot can show; see checks/vm/README.md.
check-vm:
	@checks/setup vm
	go test -tags vm -count=1 -timeout 40m -parallel 2 ./checks/vm -update-reliability=$(if $(UPDATE),true,false)

# Measures what depends on the machine, so it is not part of check; see checks/cluster/README.md, and docs/benchmarks.md for the pushes, of which
# it measures what a goal names. They need the machine for themselves, for about an hour. BENCH adds flags: BENCH=-update keeps the results.
bench: setup build bin/bench
	bin/bench $(BENCH)
	go test -tags cluster,bench -count=1 -timeout 10m -v -run SixteenHosts ./checks/cluster
	go test -run '^$$' -benchtime 3x -bench 'Status1000|CheckOf10000SealedFiles|Install200Secrets' ./secretsgen ./secretsgen/check ./secretsgen/install
	go test -run '^$$' -benchtime 1x -bench Sync200 ./secretsgen

# All pushes over all links, in about twelve hours.
bench-full: setup build bin/bench
	bin/bench -cells '*:*' $(BENCH)

# Random faults in N deployments to hosts of the testbed, and the table of how they ended; UPDATE=1 keeps it in docs/reliability.md.
N ?= 60
soak: setup build
	go test -tags cluster,soak -count=1 -timeout 12h -v -run '^TestSoak$$' ./checks/cluster -soak.n=$(N) -update-reliability=$(if $(UPDATE),true,false)

# Every fuzz test for FUZZTIME (10s).
fuzz:
	checks/fuzz

clean:
	rm -rf bin
