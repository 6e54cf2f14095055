# The official image with token_balance in it: docker build --build-arg PG=17 -t token_balance .
# The files alone, for CloudNativePG to mount beside PostgreSQL 18: docker build --target extension -t token_balance:0.3.0-pg18 .
# No test builds it: where this project is tested there is no container runtime. What it runs
# is `make package`, and pg_test/once_per_run/package.sh tests that.
ARG PG=18

FROM rust:1-bookworm AS rust

FROM postgres:${PG}-bookworm AS build
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates git
COPY . /src
# Installs what it needs. The image's own server is found where Debian puts it.
RUN cd /src && scripts/package.sh "$PG_MAJOR" && rm -f target/package/pg*/*-dbgsym* && \
    mkdir /extension && tar -xzf target/package/pg*/token_balance-*.tar.gz -C /extension --strip-components=1

FROM scratch AS extension
COPY --from=build /extension/lib /lib
COPY --from=build /extension/share /share
COPY --from=build /extension/LICENSE /licenses/token_balance/LICENSE

FROM postgres:${PG}-bookworm
RUN --mount=type=bind,from=build,source=/src/target/package,target=/package \
    apt-get update && apt-get install -y --no-install-recommends "/package/pg$PG_MAJOR"/postgresql-*.deb && \
    rm -rf /var/lib/apt/lists/*
