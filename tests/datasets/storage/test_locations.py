"""Places on an object store: names, whole objects or none, copies on this machine, one run at a time, plain words."""

import errno
import gc
import glob
import http.server
import io
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import ArtifactError, exclusive
from steadydancer.datasets.storage import (
    StorageError,
    cache,
    join,
    lease,
    local_copy,
    local_folder,
    location,
    publish,
    relative,
    requests,
    total_bytes,
)
from steadydancer.datasets.storage import locations as storage
from steadydancer.datasets.storage.atomic import atomic_write, write_json
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.storage.s3 import Entry, ObjectPath, listing, upload_file
from steadydancer.datasets.storage.tree import matches_glob

SECRETS = ("AKIATESTKEY", "test-secret")


def write(place: str, text: str) -> ObjectPath:
    path = ObjectPath.parse(place)
    with atomic_write(path) as aside:
        aside.write_text(text)
    return path


def names(folder: str) -> list[str]:
    return [one.path.key for one in listing(ObjectPath.parse(folder))]


def test_a_local_path_is_a_path_and_an_address_answers_to_the_same_names() -> None:
    assert location("a/b.mp4") == Path("a/b.mp4") and location(Path("/x")) == Path("/x")
    path = location("s3://bucket/clips/a b.舞.mp4/")
    assert isinstance(path, ObjectPath) and location(path) is path
    twin = Path("/clips/a b.舞.mp4")
    assert (path.name, path.stem, path.suffix) == (twin.name, twin.stem, twin.suffix)
    assert str(path.with_suffix(".txt")) == "s3://bucket/clips/a b.舞.txt"
    assert str(path.parent / "x" / "y.txt") == "s3://bucket/clips/x/y.txt"
    assert str(location("s3://bucket")) == "s3://bucket" and str(location("s3://bucket") / "a") == "s3://bucket/a"
    assert pickle.loads(pickle.dumps(path)) == path
    with pytest.raises(TypeError):
        Path(path)  # type: ignore[arg-type]  # whoever opens files must fetch first


def test_a_table_names_files_relative_to_itself_absolute_or_by_address() -> None:
    folder = ObjectPath.parse("s3://bucket/lists")
    assert str(join(folder, "../clips/a.mp4")) == "s3://bucket/clips/a.mp4"
    assert join(folder, "/data/a.mp4") == Path("/data/a.mp4")
    assert str(join(Path("lists"), "s3://other/a.mp4")) == "s3://other/a.mp4"
    assert join(Path("lists"), "a.mp4") == Path("lists/a.mp4")
    with pytest.raises(SteadyDancerError, match="is outside the bucket"):
        join(folder, "../../other/a.mp4")


@pytest.mark.parametrize(
    ("place", "folder", "name"),
    [
        ("/runs/a/clips", "/runs/b", "../a/clips"),
        ("/runs/a/clips", "/runs/a", "clips"),
        ("s3://bucket/a/clips", "s3://bucket/a", "clips"),
        ("s3://bucket/a/clips", "s3://bucket/b", "s3://bucket/a/clips"),
        ("/runs/a/clips", "s3://bucket/b", "/runs/a/clips"),
    ],
)
def test_a_relative_name_is_found_again_by_join(place: str, folder: str, name: str) -> None:
    assert relative(location(place), location(folder)) == name
    found = join(location(folder), name)
    assert str(found) == place or os.path.normpath(found) == place


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("gs://bucket/clips", "gs://….*s3://"),
        ("s3://", "s3://BUCKET/KEY"),
        ("s3://AKIATESTKEY:test-secret@bucket/x", "must not contain credentials"),
        ("s3://bucket/x?secret_key=test-secret", "must not contain credentials"),
        ("s3://bucket?endpoint_override=http://AKIATESTKEY:test-secret@host", "must not contain credentials"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused_without_repeating_a_secret(place: str, words: str) -> None:
    with pytest.raises(SteadyDancerError, match=words) as reported:
        location(place)
    assert not any(secret in str(reported.value) for secret in SECRETS)


def test_objects_are_written_read_listed_and_removed(bucket: str) -> None:
    first = write(f"{bucket}/in/a b/舞 x#%+.txt", "hello")
    second = write(f"{bucket}/in/c.txt", "1")
    assert (first.read_text(), first.is_file(), first.is_dir()) == ("hello", True, False)
    assert first.parent.is_dir() and first.parent.exists() and not first.parent.is_file()
    assert [one.path for one in listing(ObjectPath.parse(f"{bucket}/in"))] == [first, second]
    assert total_bytes(location(f"{bucket}/in")) == 6
    with first.open() as file:
        assert file.read_at(3, 1) == b"ell"
    second.unlink()
    second.unlink(missing_ok=True)
    assert not second.exists() and listing(ObjectPath.parse(f"{bucket}/none")) == []
    for wrong in (second.read_bytes, second.open, second.unlink):
        with pytest.raises(FileNotFoundError, match=f"'{second}'"):
            wrong()


def test_globs_mean_what_they_mean_in_a_folder(bucket: str, tmp_path: Path) -> None:
    files = ["a.mp4", "b.txt", "sub/c.mp4", "sub/deep/d.mp4", ".hidden/e.mp4", "sub/.f.mp4"]
    for name in files:
        write(f"{bucket}/{name}", name)
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    for pattern in ("*.mp4", "**/*.mp4", "sub/*", "s?b/[cd].mp4", "sub/**", "*/deep/*.mp4", "none/*"):
        local = glob.glob(str(tmp_path / "in" / pattern), recursive=True)  # noqa: PTH207 - the twin
        wanted = sorted(Path(name).relative_to(tmp_path / "in").as_posix() for name in local if Path(name).is_file())
        listed = [one.path.key for one in listing(ObjectPath.parse(bucket))]
        assert [key for key in listed if matches_glob(key.split("/"), pattern.split("/"))] == wanted, pattern


def test_a_digest_is_of_the_content_wherever_it_lies(bucket: str, tmp_path: Path) -> None:
    for name in ("b/x.bin", "a.bin", "b.bin", ".lock"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
        write(f"{bucket}/in/{name}", name)
    assert content_digest(location(f"{bucket}/in")) == content_digest(tmp_path / "in")
    assert content_digest(location(f"{bucket}/in/a.bin")) == content_digest(tmp_path / "in" / "a.bin")
    with pytest.raises(FileNotFoundError):
        content_digest(location(f"{bucket}/none"))


def test_a_write_that_fails_leaves_what_was_there(bucket: str) -> None:
    path = write(f"{bucket}/run.json", "first")
    with pytest.raises(RuntimeError), atomic_write(path) as aside:
        aside.write_bytes(b"x" * 20_000_000)  # more than one part of an upload
        raise RuntimeError
    assert path.read_text() == "first" and names(bucket) == ["run.json"]
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"value": float("nan")})
    assert path.read_text() == "first"


def test_a_killed_upload_leaves_no_object(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(60_000_000))
    code = f"""
        from pathlib import Path
        from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
        upload_file(Path({str(tmp_path / "big")!r}), ObjectPath.parse("{bucket}/small"))
        print("ready", flush=True)
        while True:
            upload_file(Path({str(tmp_path / "big")!r}), ObjectPath.parse("{bucket}/big"))
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.3)
        child.send_signal(signal.SIGKILL)
    sizes = {one.path.key: one.size for one in listing(ObjectPath.parse(bucket))}
    assert set(sizes.values()) == {60_000_000} and "small" in sizes


def test_a_small_object_is_one_request(bucket: str, recorder: "Recorder") -> None:
    path = ObjectPath.parse("s3://bucket/part.parquet")
    with pytest.raises(StorageError), atomic_write(path) as aside:
        aside.write_bytes(b"x" * 1_000_000)
    assert {line.split("?")[0] for line in recorder.lines} == {"PUT /bucket/part.parquet"}


def test_a_copy_comes_with_what_lies_beside_it_and_is_fetched_once(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write(f"{bucket}/clips/a.mp4", "video")
    write(f"{bucket}/clips/a.txt", "caption")
    write(f"{bucket}/clips/a.pose.safetensors", "pose")
    write(f"{bucket}/clips/b.txt", "another's")
    with local_copy(str(clip)) as path:
        assert path.name == "a.mp4" and path.read_text() == "video"
        assert sorted(file.name for file in path.parent.iterdir()) == ["a.mp4", "a.pose.safetensors", "a.txt"]
        with monkeypatch.context() as patched:
            patched.setattr(
                "steadydancer.datasets.storage.locations.download_file", lambda *_: pytest.fail("fetched twice")
            )
            with local_copy(clip) as again:
                assert again == path
    write(f"{bucket}/clips/a.mp4", "another video")
    with local_copy(clip) as path:
        assert path.read_text() == "another video"
    with local_copy(f"{bucket}/clips/none.mp4") as path:
        assert path.name == "none.mp4" and not path.exists()


def test_an_object_that_is_replaced_while_it_is_fetched_is_no_copy(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write(f"{bucket}/clips/a.mp4", "video")
    with monkeypatch.context() as patched:
        patched.setattr(
            "steadydancer.datasets.storage.locations.download_file",
            lambda _, target: target.write_text("another video"),
        )
        with pytest.raises(StorageError, match="the object changed while it was read"), local_copy(clip):
            pass
    with local_copy(clip) as path:
        assert path.read_text() == "video"


def test_a_folder_is_published_whole_before_the_file_that_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.bin", "run.json", "sub/z.bin", ".lock", "sub/.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    reported: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "steadydancer.datasets.storage.locations.upload_file",
        lambda file, target: reported.append((file.read_text(), str(target))),
    )
    publish(tmp_path, ObjectPath.parse("s3://bucket/out"), "run.json")
    assert total_bytes(tmp_path) == len("a.bin") + len("run.json") + len("sub/z.bin")  # what is hidden is not finished
    assert reported == [(name, f"s3://bucket/out/{name}") for name in ("a.bin", "sub/z.bin", "run.json")]


def test_a_copy_is_named_after_place_size_and_time_of_all_that_belongs_to_it() -> None:
    """An object of the same size that was written later is another one; stores tell times in whole seconds."""
    clip = ObjectPath.parse("s3://bucket/a.mp4")
    found = [[Entry(clip, 5, 1)], [Entry(clip, 5, 2)], [Entry(clip, 6, 1)], [Entry(clip.with_name("b.mp4"), 5, 1)],
             [Entry(clip, 5, 1), Entry(clip.with_name("a.txt"), 1, 1)]]  # fmt: skip
    assert (
        len({storage.entries_key(one) for one in found} | {storage.entries_key(found[0], ["a.mp4"], [])})
        == len(found) + 1
    )


def test_a_local_file_is_no_copy(tmp_path: Path) -> None:
    with local_copy(tmp_path / "a.mp4") as path:
        assert path == tmp_path / "a.mp4"
    assert local_folder(tmp_path, ["*"]) is tmp_path


def test_copies_are_bounded_and_those_in_use_stay(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYDANCER_SCRATCH_GB", "0.0025")  # two and a half files of a megabyte
    monkeypatch.setattr(cache, "_SHARE_BETWEEN_SCANS", 0.0)
    files = [write(f"{bucket}/{i}.mp4", str(i) * 1_000_000) for i in range(6)]
    with local_copy(files[0]) as used:
        for file in files[1:]:
            with local_copy(file) as path:
                assert path.read_text() == file.stem * 1_000_000
        assert used.read_text() == "0" * 1_000_000
        kept = sorted(file.name for file in (cache.scratch_dir() / "entries").rglob("*.mp4"))
        assert kept == ["0.mp4", "5.mp4"]
    monkeypatch.setenv("STEADYDANCER_SCRATCH_GB", "much")
    with pytest.raises(SteadyDancerError, match="'much' is not a number of gigabytes"), local_copy(files[3]):
        pass


def test_a_fetch_that_was_killed_is_swept_up(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write(f"{bucket}/a.mp4", "video")
    torn = cache.scratch_dir() / "entries" / ".torn"
    torn.mkdir(parents=True)
    (torn / "half").write_text("vid")
    monkeypatch.setattr(cache, "_added_bytes", None)
    with local_copy(clip):
        assert not torn.exists()


def test_a_folder_is_fetched_by_parts(bucket: str) -> None:
    for name in ("vae/config.json", "vae/x.safetensors", "transformer/config.json", "top.pth", "vae/x.bin"):
        write(f"{bucket}/wan/{name}", name)
    folder = location(f"{bucket}/wan")
    here = local_folder(folder, ["vae/*.json", "vae/*.safetensors", "*.pth"])
    assert (here / "vae" / "x.safetensors").read_text() == "vae/x.safetensors" and (here / "top.pth").is_file()
    assert not (here / "transformer").exists() and not (here / "vae" / "x.bin").exists()
    assert local_folder(folder, ["vae/*.json", "vae/*.safetensors", "*.pth"]) == here
    write(f"{bucket}/wan/vae/config.json", "changed")
    assert (local_folder(folder, ["vae/*.json"]) / "vae" / "config.json").read_text() == "changed"


def test_two_runs_on_one_folder(bucket: str) -> None:
    out = location(f"{bucket}/out")
    with exclusive(out):
        with pytest.raises(ArtifactError, match=rf"{out} is in use by another run \(process {os.getpid()} on "):
            with exclusive(out):
                pass
        with exclusive(location(f"{bucket}/other")):
            pass
    with exclusive(out):
        pass
    assert names(bucket) == []


def claim_of_a_killed_process(out: str, tmp_path: Path) -> None:
    code = f"""
        import os
        from steadydancer.datasets.artifact import exclusive
        from steadydancer.datasets.storage import location
        with exclusive(location("{out}")):
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)


def test_the_claim_of_a_process_that_is_known_to_be_dead_holds_nobody_up(bucket: str, tmp_path: Path) -> None:
    claim_of_a_killed_process(f"{bucket}/out", tmp_path)
    assert len(names(bucket)) == 1
    with exclusive(location(f"{bucket}/out")):
        assert len(names(bucket)) == 1  # only ours
    assert names(bucket) == []


def test_a_claim_from_elsewhere_holds_until_it_is_no_longer_renewed(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_of_a_killed_process(f"{bucket}/out", tmp_path)
    monkeypatch.setattr(lease, "_process_space", lambda: "another machine")
    with pytest.raises(ArtifactError, match=r"claim expires 90 s .* delete s3://.*/out/\.lock/\."):
        with exclusive(location(f"{bucket}/out")):
            pass
    monkeypatch.setattr(lease, "EXPIRY_S", 1.0)
    time.sleep(2.1)  # the store's clock counts whole seconds
    with exclusive(location(f"{bucket}/out")):
        pass


def test_a_claim_is_renewed_while_its_run_lives(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWAL_S", 0.1)
    with exclusive(location(f"{bucket}/out")):
        (first,) = listing(ObjectPath.parse(bucket))
        for _ in range(600):  # the store's clock counts whole seconds
            time.sleep(0.1)
            (second,) = listing(ObjectPath.parse(bucket))
            if second.modified_ns > first.modified_ns:
                break
    assert second.path == first.path and second.modified_ns > first.modified_ns


class Recorder:
    """A store that answers every request with one status, and what was asked of it."""

    def __init__(self, status: int, code: str) -> None:
        lines = self.lines = []  # type: ignore[var-annotated]
        body = f"<Error><Code>{code}</Code><Message>you are AKIATESTKEY, test-secret</Message></Error>".encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                lines.append(f"{self.command} {self.path}")
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(body)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://user:test-secret@127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def recorder(request: pytest.FixtureRequest, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    recorder = Recorder(*getattr(request, "param", (400, "InvalidRequest")))
    monkeypatch.setenv("AWS_ENDPOINT_URL", recorder.endpoint.replace("user:test-secret@", ""))
    requests.filesystem.cache_clear()
    requests.upload_filesystem.cache_clear()
    yield recorder
    requests.filesystem.cache_clear()
    requests.upload_filesystem.cache_clear()
    recorder.server.shutdown()
    recorder.server.server_close()


@pytest.mark.parametrize(
    ("recorder", "words"),
    [
        ((403, "InvalidAccessKeyId"), "denies access .*check AWS_ACCESS_KEY_ID"),
        pytest.param(
            (503, "SlowDown"),
            "overloaded or failing .*run the same command later",
            marks=pytest.mark.acceptance,  # pyarrow asks for six seconds before it gives up
        ),
        ((404, "NoSuchBucket"), "bucket bucket does not exist at http://127.0.0.1:"),
    ],
    indirect=["recorder"],
)
def test_what_a_store_refuses_is_one_sentence_without_secrets(
    recorder: Recorder, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PAUSES_S", ())
    (tmp_path / "file").write_text("x")
    path = ObjectPath.parse("s3://bucket/out/x")
    for ask in (lambda: listing(path), lambda: upload_file(tmp_path / "file", path)):
        with pytest.raises(StorageError, match=words) as reported:
            ask()
        assert str(reported.value).startswith("s3://bucket/out/x: ") and "\n" not in str(reported.value)
        assert not any(secret in str(reported.value) for secret in SECRETS)
        assert reported.value.__suppress_context__
        assert isinstance(pickle.loads(pickle.dumps(reported.value)), StorageError)
    assert len(recorder.lines) < 100  # bounded


@pytest.mark.parametrize("recorder", [(503, "SlowDown")], indirect=True)
def test_a_busy_store_is_asked_again(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PAUSES_S", (0.0,))
    answers = iter(["busy", "done"])

    def ask() -> str:
        if (answer := next(answers)) == "busy":
            raise OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.")
        return answer

    assert requests.call_with_retries(ObjectPath.parse("s3://bucket/x"), ask) == "done"


@pytest.mark.acceptance
def test_an_endpoint_where_nobody_listens(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:test-secret@127.0.0.1:9")
    requests.filesystem.cache_clear()
    requests.upload_filesystem.cache_clear()
    with pytest.raises(
        StorageError, match=r"http://127\.0\.0\.1:9 cannot be reached: check AWS_ENDPOINT_URL"
    ) as reported:
        listing(ObjectPath.parse("s3://bucket/x"))
    assert "test-secret" not in str(reported.value)
    requests.filesystem.cache_clear()
    requests.upload_filesystem.cache_clear()


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "user:test-secret@store:9000", "http://", "ftp://store"])
def test_an_endpoint_without_a_scheme_is_told_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    requests.filesystem.cache_clear()
    with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL does not begin with http:// or https://") as reported:
        listing(ObjectPath.parse("s3://bucket/x"))
    assert "test-secret" not in str(reported.value)
    requests.filesystem.cache_clear()


def test_an_upload_that_fails_half_way_is_never_completed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ObjectPath.parse(f"{bucket}/big")

    class Torn(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 20_000_000:
                raise OSError(errno.EIO, "the disk fails", "big")
            return super().read(size)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="the disk fails"):
        with atomic_write(path) as aside:
            aside.write_bytes(b"x" * 30_000_000)
            patched.setattr(Path, "open", lambda *_: Torn(b"x" * 30_000_000))
    gc.collect()  # the garbage collector would complete it
    assert not path.exists()
