# The image: the program alone, static. `make image` builds it with docker, podman or buildah, for the platform that it
# runs on; another one is built natively on such a machine, or slowly in emulation (docker buildx build --platform …).
FROM docker.io/library/rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# Of the other members only what they depend on: Cargo.lock is for the whole workspace.
COPY bench/Cargo.toml bench/
COPY fuzz/Cargo.toml fuzz/
COPY models/Cargo.toml models/
COPY src src
# `kubectl tcplb explain` prints these pages.
COPY docs/*.md docs/
# Caches outlive a build: what has not changed is not fetched or compiled again, dependencies above all.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target=$(rustc --version --verbose | sed -n 's/^host: //p') && \
    export RUSTFLAGS='-C target-feature=+crt-static' && \
    cargo build --release --locked --bin tcplb --target "$target" && \
    cp "target/$target/release/tcplb" /tcplb && \
    /tcplb --version

FROM scratch
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="tcplb" \
      org.opencontainers.image.description="A TCP load balancer for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /tcplb /tcplb
# An unprivileged user. It is a number because Kubernetes checks `runAsNonRoot` only for numbers.
USER 65532:65532
ENTRYPOINT ["/tcplb"]
