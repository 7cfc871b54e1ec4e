# syntax=docker/dockerfile:1
#
#   docker build -t warmline .
#   docker run -p 8080:8080 -e WARMLINE_UPSTREAM=app:80 warmline
#
# Toolchain and base are pinned by their tags, and both can be replaced. An image for the first stage that has the program at
# /warmline already needs no toolchain (config/compose/bases makes one: --build-arg RUST=warmline-program:local).
ARG RUST=rust:1.95.0-slim-bookworm
ARG BASE=debian:bookworm-slim

FROM ${RUST} AS build
# So that it can be found, as it has no name.
LABEL org.opencontainers.image.title="Warmline, built"
WORKDIR /src
# The dependencies first: they stay as they are while the sources change.
COPY Cargo.toml Cargo.lock ./
RUN test -x /warmline || { \
        mkdir -p src benches \
        && for bench in pool headers log tls; do echo 'fn main() {}' > benches/$bench.rs; done \
        && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
        && cargo build --release --locked \
        && rm -r src; \
    }
COPY src src
# Cargo goes by times: what was copied is to be newer than what was built from nothing.
RUN test -x /warmline || { \
        touch src/main.rs src/lib.rs \
        && cargo build --release --locked \
        && strip -o /warmline target/release/warmline; \
    }

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Warmline" \
      org.opencontainers.image.description="A reverse proxy that keeps its lines to the backends warm, and proves what that is worth" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
COPY --from=build /warmline /usr/local/bin/warmline
COPY config/image.toml /etc/warmline/warmline.toml
# No name is needed, and no home: just not root.
USER 10001:10001
WORKDIR /etc/warmline
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=2s CMD ["warmline", "healthcheck", "-c", "/etc/warmline/warmline.toml"]
ENTRYPOINT ["warmline"]
CMD ["run", "-c", "/etc/warmline/warmline.toml"]
