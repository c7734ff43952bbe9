# Stands in for public images where no registry is reached: the same programs from Debian's packages, called as those
# images call them.
FROM debian:bookworm-slim AS postgres
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-15 && rm -rf /var/lib/apt/lists/* \
    && ln -s /usr/lib/postgresql/15/bin/* /usr/local/bin/ && mkdir -p /var/lib/postgresql/data
COPY postgres-entry /usr/local/bin/
ENTRYPOINT ["postgres-entry"]

FROM debian:bookworm-slim AS nats
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
COPY nats-server /usr/local/bin/

FROM debian:bookworm-slim AS haproxy
RUN apt-get update && apt-get install -y --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/*

FROM debian:bookworm-slim AS mosquitto
RUN apt-get update && apt-get install -y --no-install-recommends mosquitto && rm -rf /var/lib/apt/lists/*

FROM debian:bookworm-slim AS prometheus
RUN apt-get update && apt-get install -y --no-install-recommends prometheus && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /prometheus && chown 65534:65534 /prometheus
