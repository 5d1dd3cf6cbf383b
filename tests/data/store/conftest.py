"""Fixtures of the store's tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def spared_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: what fsync adds shows at a power failure only."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(autouse=True)
def zarr_codecs() -> None:
    """Register our codecs where the package was installed before it had their entry points."""
    from zarr.registry import get_codec_class, register_codec

    from aid_robot.data.store.zarr_codecs import Jpeg, Png

    for codec in (Jpeg, Png):
        try:
            get_codec_class(codec.codec_name)
        except KeyError:
            register_codec(codec.codec_name, codec)
