# Two images: `serve`, without torch, and `train`. Each RUN step is one of the Makefile's commands, which the tests run
# without a container engine.
#
#   docker build --target train -t everlook-train .
#   docker run --rm -v everlook:/data everlook-train export --data /data
#   docker build --target serve -t everlook .
#   docker run -p 127.0.0.1:50051:50051 -p 127.0.0.1:9464:9464 -v everlook:/data everlook
#
# `export` makes the first model, once: the server cannot start without, and has no torch to make one. Without 127.0.0.1
# other machines reach the server; give it a certificate before (docs/operations.md). deploy/compose.yaml does all of it,
# with a trainer.

FROM python:3.11-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .

FROM base AS serve-venv
RUN make venv-serve PREFIX=/opt/everlook

FROM base AS train-venv
# Where there is no GPU, PyTorch's index of CPU builds. pip reads it from the environment, and ignores an empty one.
ARG PIP_EXTRA_INDEX_URL
RUN make venv-train PREFIX=/opt/everlook

FROM python:3.11-slim AS train
COPY --from=train-venv /opt/everlook /opt/everlook
ENV PATH=/opt/everlook/bin:$PATH
RUN install -d -o 10001 -g 10001 /data
USER 10001:10001
VOLUME /data
WORKDIR /data
ENTRYPOINT ["python", "-m", "trainer"]

FROM python:3.11-slim AS serve
COPY --from=serve-venv /opt/everlook /opt/everlook
ENV PATH=/opt/everlook/bin:$PATH EVERLOOK_DATA=/data EVERLOOK_HOST=0.0.0.0
RUN install -d -o 10001 -g 10001 /data
USER 10001:10001
VOLUME /data
WORKDIR /data
EXPOSE 50051 9464
# A server with TLS needs one with "--ca" and the file.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s CMD ["everlook", "status"]
ENTRYPOINT ["python", "-m", "server"]
