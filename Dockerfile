# A BIDS App; how to build and run it: docs/install.md.
# BASE has Python 3.11 and pip. torch brings its own CUDA libraries, so that both variants stand on the same base.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# Empty: torch from the default index, whose Linux builds run on GPUs and CPUs. Set it to PyTorch's index of CPU builds
# for an image that is several gigabytes smaller.
ARG TORCH_INDEX=""

# The lock also holds for what builds the package.
ENV PIP_CONSTRAINT=/opt/sepclr_med/constraints.txt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/sepclr_med
COPY constraints.txt ./
# The versions are in PIP_CONSTRAINT.
# hadolint ignore=DL3013
RUN if [ -n "${TORCH_INDEX}" ]; then python -m pip install --index-url "${TORCH_INDEX}" torch; fi
COPY pyproject.toml setup.py README.md LICENSE ./
COPY sepclr_med sepclr_med
COPY data_manifests data_manifests
# hadolint ignore=DL3013
RUN python -m pip install '.[explain]'
COPY pipelines pipelines

# For whatever user it is run as: matplotlib wants a folder to write to.
ENV MPLCONFIGDIR=/tmp/matplotlib PYTHONNOUSERSITE=1
RUN useradd --create-home --uid 1000 sepclr
USER 1000:1000
WORKDIR /home/sepclr
ENTRYPOINT ["sepclr-med", "bids-app"]
