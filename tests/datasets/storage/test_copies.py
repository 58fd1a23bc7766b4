import os
from pathlib import Path

import pytest

from steadydancer.datasets.storage import copies
from steadydancer.datasets.storage.copies import link_or_copy


@pytest.mark.parametrize("has_links", [True, False])
def test_a_second_place_is_a_link_or_a_copy_and_never_writes_through_an_earlier_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    source, other, target = (tmp_path / name for name in ("source", "other", "target"))
    source.write_bytes(b"new")
    other.write_bytes(b"old")
    os.link(other, target)  # what a killed process left

    def no_links(*_: object) -> None:
        raise OSError("another file system")

    if not has_links:
        monkeypatch.setattr(copies.os, "link", no_links)
    link_or_copy(str(source), target)
    assert (target.read_bytes(), other.read_bytes()) == (b"new", b"old")
    assert target.samefile(source) == has_links
