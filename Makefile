# Every target that tests or measures real processes needs root and Linux.

BIN      := bin
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX   ?= /usr/local
BUILD_FLAGS := -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

# Programs that the tests, and more programs that the other targets, run. What
# they are is pinned by tools/*/go.mod.
TEST_TOOLS  := containerd ctr containerd-shim-runc-v2 crictl runc registry buildctl buildx gotestsum rootlesskit \
	$(addprefix containerd-1.7/,containerd ctr containerd-shim-runc-v2)
CONFORMANCE_TOOLS := buildkitd buildctl containerd containerd-shim-runc-v2 ctr runc registry
BENCH_TOOLS := containerd containerd-shim-runc-v2 ctr runc buildkitd buildctl registry
CLUSTER_TOOLS := etcd kube-apiserver
DEMO_TOOLS  := containerd containerd-shim-runc-v2 ctr registry runc
MORE_TOOLS  := buildkitd golangci-lint benchstat
ALL_TOOLS   := $(sort $(TEST_TOOLS) $(CONFORMANCE_TOOLS) $(BENCH_TOOLS) $(DEMO_TOOLS) $(MORE_TOOLS))

BUILD_DEBS := ca-certificates gcc git libc6-dev libseccomp-dev pkg-config
TEST_DEBS  := $(BUILD_DEBS) busybox-static containernetworking-plugins curl e2fsprogs fuse-overlayfs fuse3 \
	dbus-daemon iproute2 iptables libcap2-bin openssh-client procps util-linux qemu-user-static uidmap
VM_DEBS    := $(TEST_DEBS) crun dbus kmod qemu-system-x86 qemu-utils runsc systemd xz-utils
CONFORMANCE_DEBS := $(TEST_DEBS) bzip2 dnsmasq-base gpg gpg-agent \
	golang-github-containernetworking-plugin-dnsname make openssl patch xz-utils

export PATH := $(CURDIR)/$(BIN):$(CURDIR)/$(BIN)/tools:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##### Programs

.PHONY: build
build: ## Build bin/kilnd, bin/kiln-init and bin/kiln, static
	CGO_ENABLED=0 go build $(BUILD_FLAGS) -o $(BIN)/ ./cmd/...

.PHONY: install
install: build ## Install them below PREFIX (/usr/local)
	install -D -t $(DESTDIR)$(PREFIX)/bin $(BIN)/kilnd $(BIN)/kiln-init $(BIN)/kiln

.PHONY: tools
tools: build-debs $(ALL_TOOLS:%=$(BIN)/tools/%) ## Build every pinned program that tests, lint and bench use

$(BIN)/tools/%: $(wildcard tools/*/go.mod) tools/build | build-debs
	nice tools/build $* $(BIN)/tools

.PHONY: build-debs test-debs vm-debs conformance-debs
build-debs:
	@tools/apt.sh $(BUILD_DEBS)
test-debs:
	@tools/apt.sh $(TEST_DEBS)
vm-debs:
	@tools/apt.sh $(VM_DEBS)
conformance-debs:
	@tools/apt.sh $(CONFORMANCE_DEBS)

##### Checks

# A test that fails is run once more, alone: some kill real daemons at random
# moments beside everything else. What needed that is named in the output.
.PHONY: test
test: test-debs conformance-debs build $(TEST_TOOLS:%=$(BIN)/tools/%) $(CONFORMANCE_TOOLS:%=$(BIN)/tools/%) ## Run all tests, with real daemons; installs what they need
	go build -o $(BIN)/conformance ./integration/conformance
	$(BIN)/conformance -part 1/10
	gotestsum --format pkgname --rerun-fails=1 --packages ./... -- -timeout 20m

.PHONY: test-race
test-race: test-debs $(TEST_TOOLS:%=$(BIN)/tools/%) ## Run the packages' own tests under the race detector
	gotestsum --format pkgname -- -race -timeout 20m $$(go list ./... | grep -v /integration)

.PHONY: lint
lint: $(BIN)/tools/golangci-lint ## Run golangci-lint and the import law
	golangci-lint run ./...
	go test .

.PHONY: fuzz-short
fuzz-short: ## Run each fuzz target for 20 seconds
	tools/fuzz 20s

.PHONY: model
model: ## Compare a million random builds with a naive evaluation (MODEL="-model.seed N")
	nice go test ./builder/schedule -run TestModel -timeout 2h -model.builds 1000000 $(MODEL)

.PHONY: mutation
mutation: ## Show that the scheduler's tests find faults
	nice go test -tags mutation ./builder/schedule -run TestMutants -timeout 2h -v

.PHONY: chaos
chaos: test-debs build $(TEST_TOOLS:%=$(BIN)/tools/%) ## Kill and damage daemons for long (CHAOS="-kills N")
	nice go test -v -count 1 -timeout 3h -run 'Crash|Damage|Restarts' ./integration/chaos -args -kills 300 -thorough $(CHAOS)

.PHONY: soak
soak: test-debs build $(TEST_TOOLS:%=$(BIN)/tools/%) ## Build 1,000 times in one daemon and print its memory (SOAK="-builds N")
	nice go test -v -count 1 -timeout 3h -run Soak ./integration/chaos -args -builds 1000 $(SOAK)

.PHONY: cycles
cycles: test-debs build $(TEST_TOOLS:%=$(BIN)/tools/%) ## Build and run on the snapshotter for long (CYCLES="-cycles N")
	nice go test -v -count 1 -timeout 3h -run Cycles ./integration/snapshotter -args -cycles 200 $(CYCLES)

.PHONY: test-vm
test-vm: vm-debs build $(TEST_TOOLS:%=$(BIN)/tools/%) ## Run tests in a virtual machine with cgroup v2 (VM="-suite REGEXP")
	nice go run ./integration/vm $(VM)

.PHONY: cluster
cluster: test-debs build $(TEST_TOOLS:%=$(BIN)/tools/%) $(CLUSTER_TOOLS:%=$(BIN)/tools/%) ## Pull with the credentials in a real Kubernetes API server
	go test -v -count 1 -tags cluster -run Cluster ./integration/snapshotter

.PHONY: nydus
nydus: test-debs build $(TEST_TOOLS:%=$(BIN)/tools/%) $(BIN)/tools/containerd-nydus-grpc ## Build on nydus's snapshotter
	go test -v -count 1 -tags nydus -run Nydus ./integration/snapshotter

.PHONY: conformance
conformance: conformance-debs build $(CONFORMANCE_TOOLS:%=$(BIN)/tools/%) ## Run BuildKit's own suites (CONFORMANCE="-worker oci -run REGEXP")
	go build -o $(BIN)/conformance ./integration/conformance
	nice $(BIN)/conformance $(CONFORMANCE)

##### Measurements and shows

.PHONY: bench
bench: test-debs build $(BENCH_TOOLS:%=$(BIN)/tools/%) ## Measure kilnd against buildkitd (BENCH="-case REGEXP -runs N")
	go run ./integration/bench $(BENCH)

.PHONY: demo
demo: test-debs build $(DEMO_TOOLS:%=$(BIN)/tools/%) ## Build and run a small web service from nothing
	contrib/demo/run

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(BIN)
