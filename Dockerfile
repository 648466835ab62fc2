# criticflow in a container, with the locked versions of requirements/; docs/install.md explains it.
#   docker build --tag criticflow .                               CPU
#   docker build --tag criticflow:gpu --build-arg DEVICE=gpu .    NVIDIA GPUs; their driver is the host's
FROM debian:bookworm-slim

ARG DEVICE=cpu

# Python 3.11 with its headers and a compiler, with which vLLM and triton compile kernels; libnuma for
# vLLM on the CPU.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates gcc g++ git libc6-dev libnuma1 make procps python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 1000 criticflow
USER criticflow
WORKDIR /home/criticflow/criticflow
COPY --chown=criticflow:criticflow . .
RUN make setup DEVICE=${DEVICE}

ENV PATH=/home/criticflow/criticflow/.venv/bin:${PATH} \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

CMD ["snakemake", "--cores", "all"]
