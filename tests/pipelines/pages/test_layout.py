"""What a page shows is found by a browser, whatever the names are, and no name becomes markup."""

import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

import pytest

from steadydancer.datasets.storage import format_location
from steadydancer.datasets.storage.s3 import ObjectPath
from steadydancer.pipelines.pages.layout import Section, path_from_page, url, write_page

HOSTILE = [
    "plain.png", "me #1.png", "what?.png", "100% done.png", "%41.png", "a&amp;b.png", "<b>.png", "say \"hi\" 'x'.png",
    "c:d.png", "data:x.png", "..png", "caf\u00e9 \u2603.png", "back\\slash.png", "a+b;c=d,e@f!.png", "semi;colon.mp4",
]  # fmt: skip


class Media(HTMLParser):
    """The sources of pictures and videos, as (tag, address), and every tag."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if (source := dict(attrs).get("src")) is not None:
            self.found.append((tag, source))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def written_media(page: Path, files: list[str | None]) -> Media:
    write_page(page, "A <title>", [Section("Media", media=[[(f"{file} & more", file) for file in files]])])
    return Media(page)


def followed(page: Path, address: str) -> bytes:
    """The path of the file that a browser opens."""
    parts = urlsplit(urljoin(page.absolute().as_uri(), address))
    assert parts.scheme == "file" and not parts.query and not parts.fragment
    return unquote_to_bytes(parts.path)


def test_every_name_leads_to_its_file(tmp_path: Path) -> None:
    """The page and the pictures lie in folders of hostile names, too; one name is no UTF-8."""
    folder = tmp_path / "50%25 #off?"
    folder.mkdir()
    names = [*HOSTILE, os.fsdecode(b"caf\xe9.png")]
    files = [folder / name for name in names]
    for file in files:
        file.write_bytes(b"x")
    for page in (folder / "p#.html", tmp_path / "page.html", tmp_path / "below" / "page?.html"):
        page.parent.mkdir(exist_ok=True)
        media = written_media(page, [path_from_page(str(file), page) for file in files])
        assert [followed(page, address) for _, address in media.found] == [os.fsencode(file) for file in files]
        assert all(address.isascii() and not address.startswith("file:") for _, address in media.found)
        assert [tag for tag, _ in media.found] == ["img"] * 14 + ["video", "img"]
        assert not {"b", "script"} & set(media.tags)
        assert all(
            any(f"{path_from_page(str(file), page)} & more" == text for text in media.texts) for file in files[:-1]
        )


def test_a_name_that_tables_hold_as_an_address_leads_to_its_file(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9 #.png")
    file.write_bytes(b"x")
    assert format_location(file).startswith("file:///")
    page = tmp_path / "p.html"
    media = written_media(page, [path_from_page(format_location(file), page)])
    assert [followed(page, address) for _, address in media.found] == [os.fsencode(file)]


def test_what_lies_on_a_store_is_named_from_there(tmp_path: Path) -> None:
    """A page on a store and its pictures go by relative addresses, so that any server of the bucket shows them."""
    page = ObjectPath.parse("s3://bucket/runs #1/report.html")
    for key in ("runs #1/renders/a?b 100%.mp4", "images/x&y.png", "runs #1/c:d.png"):
        place = path_from_page(f"s3://bucket/{key}", page)
        assert place is not None
        address = urljoin("https://host/bucket/runs%20%231/report.html", url(place))
        assert unquote(urlsplit(address).path) == f"/bucket/{key}"
        assert not urlsplit(address).query and not urlsplit(address).fragment
    assert path_from_page("s3://other/a#b.png", page) == "s3://other/a#b.png" and url("s3://other/a#b.png") == (
        "s3://other/a%23b.png"
    )
    assert path_from_page("s3://bucket/a.png", tmp_path / "p.html") == "s3://bucket/a.png"
    here = path_from_page("/pictures/a #1.png", page)
    assert here == "/pictures/a #1.png" and url(here) == "file:///pictures/a%20%231.png"
    assert path_from_page(None, page) is None


@pytest.mark.parametrize(
    ("name", "tag"),
    [("a.mp4", "video"), ("a.MP4", "video"), ("a.mov", "video"), ("a.webm", "video"), ("a.gif", "img"),
     ("a.PNG", "img"), ("mp4", "img"), (None, None)],
)  # fmt: skip
def test_videos_are_shown_as_videos(tmp_path: Path, name: str | None, tag: str | None) -> None:
    media = written_media(tmp_path / "page.html", [name])
    assert [found for found, _ in media.found] == ([tag] if tag else [])
    assert ("missing" in media.texts) == (name is None)


def test_a_picture_in_itself_stays_as_it_is(tmp_path: Path) -> None:
    picture = "data:image/jpeg;base64,/9j/4AA+b/c=="
    assert written_media(tmp_path / "page.html", [picture]).found == [("img", picture)]
