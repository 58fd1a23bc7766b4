"""Text out of bytes: what can be told from them is read, the rest is refused by name, nothing is replaced."""

from pathlib import Path

import pyarrow as pa
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.datasets.text import (
    TextError,
    decode_text,
    open_text,
    read_text,
    spreadsheet_text,
    strip_column,
    strip_text,
    without_controls,
)

FRENCH = "Une danseuse à l’écharpe rouge tourne.\r\nElle saute.\n"
CHINESE = "红裙女孩在跳舞。\n"
EMOJI = "She dances 💃 and smiles.\n"
UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


@pytest.mark.parametrize("text", [FRENCH, CHINESE, EMOJI])
@pytest.mark.parametrize("encoding", UNICODE)
def test_what_has_a_mark_or_is_utf8_is_read(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding), "x") == text


@pytest.mark.parametrize("mark,encoding", [(b"\xfe\xff", "utf-16-be"), (b"\x00\x00\xfe\xff", "utf-32-be")])
def test_marks_of_the_other_byte_order(mark: bytes, encoding: str) -> None:
    assert decode_text(mark + CHINESE.encode(encoding), "x") == CHINESE


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_latin_text_shows_its_encoding_without_a_mark(encoding: str) -> None:
    assert decode_text(FRENCH.encode(encoding), "x") == FRENCH
    assert decode_text("a".encode(encoding), "x") == "a"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (FRENCH.encode("cp1252"), r"byte 13 \(0xe0\) is not UTF-8.*save the file as UTF-8"),
        ("red \x96 and blue".encode("latin-1"), r"byte 4 \(0x96\)"),
        (CHINESE.encode("gbk"), r"byte 0 \(0xba\)"),
        ("日本語".encode("shift-jis"), r"byte 0 \(0x93\)"),
        ("Танец".encode("cp1251"), r"byte 0 \(0xd2\)"),
        ("一个舞者".encode("utf-16-le"), r"byte 5 \(0x82\)"),  # no mark, no Latin letter: many things could be meant
        (b"\xef\xbb\xbfcaf\xe9", r"byte 6 \(0xe9\)"),  # counted from the file's beginning
        (FRENCH.encode()[:14], r"byte 13 \(0xc3\)"),  # cut off
        ("abc".encode("utf-16")[:-1], "byte 6 is not valid UTF-16-LE, which the start of the file indicates"),
        (b"ab\x00cd", "byte 2 is zero, so the file is not text"),
        ("踊る女の子".encode("iso2022_jp"), "its control characters show that it is not UTF-8"),
        ("Девушка".encode("utf-16-le"), "its control characters show that it is not UTF-8"),  # sound UTF-8
    ],
)
def test_what_cannot_be_told_is_refused_with_its_first_byte(data: bytes, words: str) -> None:
    with pytest.raises(TextError, match=rf"notes/a\.txt cannot be read: {words}"):
        decode_text(data, "notes/a.txt")


def test_a_stray_control_character_stays() -> None:
    for text in ("She\x02 dances.", "one\r\n\ttwo\x0b\x0c", "\x1b[1mShe dances.\x1b[0m"):
        assert decode_text(text.encode(), "x") == text


def test_zeros_at_the_end_are_no_text() -> None:
    assert decode_text(b"abc\x00\x00", "x") == "abc"
    assert decode_text(b"", "x") == decode_text(b"\xef\xbb\xbf", "x") == decode_text(b"\xff\xfe", "x") == ""


def test_a_file_is_read_with_plain_line_ends_here_and_on_a_store(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(FRENCH.encode("utf-16"))
    upload_file(tmp_path / "a.txt", there := ObjectPath.parse(f"{bucket}/a.txt"))
    for place in (tmp_path / "a.txt", str(tmp_path / "a.txt"), there):
        assert read_text(place) == FRENCH.replace("\r\n", "\n")
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "gone.txt")


@pytest.mark.parametrize("encoding", UNICODE)
def test_a_table_is_read_line_by_line_with_its_own_line_ends(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes((FRENCH * 1000).encode(encoding))
    with open_text(tmp_path / "a.csv") as text:
        assert list(text) == FRENCH.splitlines(keepends=True) * 1000


def test_a_bad_byte_far_down_a_table_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    good = FRENCH.encode() * 1000
    (tmp_path / "a.csv").write_bytes(good + b"caf\xe9\n")
    with pytest.raises(SteadyDancerError, match=rf"a\.csv cannot be read: byte {len(good) + 3} \(0xe9\)"):
        with open_text(tmp_path / "a.csv") as text:
            list(text)


def test_a_table_with_zeros_in_it_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path\na\x00b.mp4\n")
    with pytest.raises(TextError, match="byte 6 is zero"), open_text(tmp_path / "a.csv"):
        pass


SAID = [
    ("  She dances. ", "She dances."),
    ("\ufeffShe\u200bdances\ufeff\n", "She\u200bdances"),
    *((blank, None) for blank in ("", " \n", "\ufeff", "\ufeff\n", "\u3000\xa0", " \u200b \u2060 ")),
]


@pytest.mark.parametrize(("text", "wanted"), SAID)
def test_what_is_blank_or_invisible_says_nothing(text: str, wanted: str | None) -> None:
    assert strip_text(text) == wanted
    assert strip_column(pa.chunked_array([[text, None]])).to_pylist() == [wanted or "", None]
    assert strip_text(None) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred\x1b[0m b", "ared b"),
        ("\x1b]0;a title\x07name", "name"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2Jdance\x08\x00\x9b31m.mp4", "dance31m.mp4"),
        ("two\tcolumns\nand lines, 舞 💃", "two\tcolumns\nand lines, 舞 💃"),
    ],
)
def test_what_a_terminal_obeys_is_left_out(text: str, shown: str) -> None:
    assert without_controls(text) == shown


def test_a_spreadsheet_shows_formulas_and_does_not_compute_them() -> None:
    formulas = ["=HYPERLINK(1)", "@SUM(A1)", "+1", "-1", "\t=1"]
    assert [spreadsheet_text(text) for text in formulas] == [f"'{text}" for text in formulas]
    assert [spreadsheet_text(text) for text in ("ours", "", "a=b", "1.5")] == ["ours", "", "a=b", "1.5"]
