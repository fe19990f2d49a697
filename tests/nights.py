"""Nights of a pipelines.yaml that has one pipeline, and what they left."""

from pathlib import Path

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.flows.outcome import Night
from pairloom.storage.releases import Release, release_log


def night(file: Path, *overrides: str) -> Night:
    """One more."""
    return nightly(load_pipeline(file, overrides=overrides))


def folder(file: Path) -> Path:
    """Where the pipeline is stored."""
    return load_pipeline(file).folder


def current(file: Path) -> Release:
    """The release that is served."""
    release = release_log(folder(file)).current()
    assert release is not None
    return release
