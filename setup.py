"""Puts data_manifests into the wheel, as sepclr_med/data_manifests; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["sepclr_med*"]), "sepclr_med.data_manifests"],
    package_dir={"sepclr_med.data_manifests": "data_manifests"},
)
