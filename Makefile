# make demo: the main job, on real input.      make test: all tests.      make bench: speed beside docker and podman; make bench-runtime: the OCI runtime beside runc and crun.
# make test-vm: tests of runtime and engine in a virtual machine with Debian's kernel, cgroup v2 and systemd.
# Each installs the Debian packages that it needs and that are missing, and says so. Root is needed for containers.

TARGET := target/x86_64-unknown-linux-gnu
BINARIES := sampan sampand sampan-runtime containerd-shim-sampan-v2
PACKAGES := -p sampan-cli -p sampan-daemon -p sampan-runtime -p sampan-shim
PREFIX ?= /usr/local
# docker-py, what its tests need, and what its source distribution is built with.
DOCKER_PY := docker[websockets]==7.1.0 pytest==7.4.4 pytest-timeout==2.4.0 paramiko==3.5.1 setuptools wheel setuptools_scm hatchling hatch-vcs

.PHONY: build release demo test test-chaos test-vm test-vm-engine lint conformance-oci conformance-build conformance-docker fuzz bench bench-engine bench-image install clean

build: packages-build
	cargo build $(PACKAGES)

release: packages-build
	cargo build --release $(PACKAGES)

demo: release
	@scripts/install-packages debootstrap curl busybox-static
	@scripts/demo $(TARGET)/release

test: packages-build
	@scripts/install-packages curl busybox-static runc crun containerd docker.io docker-compose podman buildah nftables iptables iproute2 containernetworking-plugins procps skopeo util-linux docker-registry xz-utils bzip2 git zstd
	cargo build $(PACKAGES)
	cargo test --workspace --no-fail-fast

# Daemon and shims killed at random moments under load, CHAOS_ROUNDS=300 times.
test-chaos: packages-build
	@scripts/install-packages busybox-static util-linux nftables
	cargo build $(PACKAGES)
	CHAOS_ROUNDS=$(or $(CHAOS_ROUNDS),300) cargo test -p sampan-tests --test it -- chaos:: --nocapture

test-vm: packages-build
	@scripts/install-packages qemu-system-x86 debootstrap e2fsprogs
	@scripts/vm/run

# More of the engine's tests there: up to an hour.
test-vm-engine: packages-build
	@scripts/install-packages qemu-system-x86 debootstrap e2fsprogs
	@scripts/vm/run --engine

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --log-level error check licenses bans sources

# The OCI runtime specification, asked of ours, runc and crun: docs/conformance-oci.md.
conformance-oci: packages-build
	@scripts/install-packages runc crun busybox-static iproute2 util-linux
	cargo build -p sampan-runtime
	OCI_MATRIX=$(CURDIR)/docs/conformance-oci.md cargo test -p sampan-oci-tests --test oci

# The corpus of Dockerfiles, built by ours, docker (both builders) and buildah: docs/conformance-build.md.
conformance-build: packages-build
	@scripts/install-packages docker.io buildah busybox-static git bzip2 xz-utils zstd
	cargo build $(PACKAGES)
	BUILD_MATRIX=$(CURDIR)/docs/conformance-build.md cargo test -p sampan-build-tests --test build

# Docker's API through docker-py, raw HTTP, the docker client and docker-compose, and docker-py's own integration tests, against
# ours and dockerd: docs/conformance-docker.md.
conformance-docker: packages-build
	@scripts/install-packages docker.io docker-compose docker-registry busybox-static iproute2 iptables python3-venv
	@scripts/python-venv target/conformance-venv $(DOCKER_PY)
	@scripts/docker-py-tests target/conformance-venv/bin/python 6.1.3 target/docker-py
	cargo build $(PACKAGES)
	target/conformance-venv/bin/python conformance/docker/run --sampan $(TARGET)/debug --page docs/conformance-docker.md --record conformance/docker/dockerd.json
	target/conformance-venv/bin/python conformance/docker/dockerpy.py target/docker-py --sampan $(TARGET)/debug --page docs/conformance-docker.md

# FUZZ_SECONDS=600 make fuzz: longer for each target.
fuzz:
	@scripts/install-packages gcc g++ libc6-dev
	@scripts/fuzz $(or $(FUZZ_SECONDS),60)

bench: release
	@scripts/install-packages docker.io runc crun podman busybox-static
	@benches/run $(TARGET)/release

# Images and builds beside docker, podman, buildah, skopeo and ctr. Needs a quiet machine; ROUNDS=9 for more.
bench-image: release
	@scripts/install-packages docker.io docker-registry containerd podman buildah skopeo runc curl busybox-static gzip
	cargo build -q --release -p sampan-registry --example limit
	@python3 benches/images.py $(TARGET)/release $(TARGET)/release/examples/limit $(or $(ROUNDS),5)

# The engine beside docker and podman. ROUNDS=9 for more; ONLY=run,exec for a part.
bench-engine: release
	@scripts/install-packages docker.io podman crun busybox-static iproute2 iptables
	@python3 benches/engine.py $(TARGET)/release $(or $(ROUNDS),7) $(ONLY)

bench-runtime: packages-build
	@scripts/install-packages runc crun busybox-static strace time util-linux
	cargo bench -q -p sampan-runtime --bench compare

install: release
	install -D -t $(DESTDIR)$(PREFIX)/bin $(addprefix $(TARGET)/release/,$(BINARIES))
	$(TARGET)/release/sampan man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	$(TARGET)/release/sampan completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/sampan
	$(TARGET)/release/sampan completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_sampan
	$(TARGET)/release/sampan completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/sampan.fish
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system dist/sampand.service dist/sampand.socket

clean:
	cargo clean

.PHONY: packages-build
packages-build:
	@scripts/install-packages gcc libc6-dev make
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.90 or newer (https://rustup.rs)" >&2; exit 1; }
