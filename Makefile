# Targets for people; .ci/run calls the same ones. `make help` lists them.

# Tools that are not part of go.mod, with the version CI uses.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 10s

.PHONY: all build help test race lint cross bench compare fuzz docs pgo clean

all: lint test build

# docker/Dockerfile has this line too; a test in internal/archtest compares
# them. The version comes from git by way of the build info (`proxy version`).
build: ## build bin/proxy for this machine
	CGO_ENABLED=0 go build -buildvcs=auto -trimpath -ldflags="-s -w" -o bin/proxy ./cmd/proxy

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

test: ## all tests
	go test ./...

race: ## all tests under the race detector
	go test -race ./...

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...

cross: ## build dist/ for the machines people have at home
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -buildvcs=auto -trimpath -ldflags="-s -w" -o dist/proxy-linux-amd64 ./cmd/proxy
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go build -buildvcs=auto -trimpath -ldflags="-s -w" -o dist/proxy-linux-arm64 ./cmd/proxy
	CGO_ENABLED=0 GOOS=linux GOARCH=arm GOARM=7 go build -buildvcs=auto -trimpath -ldflags="-s -w" -o dist/proxy-linux-armv7 ./cmd/proxy

bench: ## the benchmarks, with allocations
	go test -run='^$$' -bench=. -benchmem ./...

compare: ## postern beside the peers that are installed, see bench/README.md
	go run ./bench -quick

fuzz: ## every fuzz target for FUZZTIME, as many beside each other as there are cores
	@FUZZTIME=$(FUZZTIME) .ci/fuzz

docs: ## write the generated pages anew
	go generate ./...

clean: ## remove what was built
	rm -rf bin dist

# The profile that `go build` optimises by (cmd/proxy/default.pgo): the loads
# that are most of a front door's work, measured on this machine.
pgo: ## make cmd/proxy/default.pgo anew
	dir=$$(mktemp -d) && \
	for load in h1-c32 h2 connect chunked; do \
		go run ./bench -quick -peers postern -only $$load -profile $$dir/$$load.pprof -out $$dir || exit 1; \
	done && \
	go tool pprof -proto $$dir/*.pprof > cmd/proxy/default.pgo && rm -r $$dir
