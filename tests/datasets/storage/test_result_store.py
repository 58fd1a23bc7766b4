"""Results are kept by what determines them, whole or not at all, and computed once."""

import json
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.storage import location
from steadydancer.datasets.storage.result_store import Result, ResultStore

ARRAYS = {
    "a": np.arange(6, dtype=np.float64).reshape(2, 3),
    "b": np.array([1.5, -2.0], np.float16),
    "c": np.array([True, False]),
}
VALUE = {"words": "é", "numbers": [1, 2.5, None]}


def assert_same(result: Result | None, arrays: dict[str, np.ndarray] = ARRAYS, value: Any = VALUE) -> None:
    assert result is not None and result.value == value and result.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert result.arrays[name].dtype == array.dtype, name
        np.testing.assert_array_equal(result.arrays[name], array)


@pytest.mark.parametrize("arrays", [ARRAYS, {}], ids=["arrays", "plain data"])
def test_a_result_is_read_as_it_was_written(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    store, key = ResultStore(tmp_path), ResultStore.key("text", prompt="a", digest="d")
    assert store.get(key) is None and not store.has(key)
    store.put(key, arrays, VALUE)
    assert store.has(key)
    assert_same(ResultStore(tmp_path).get(key), arrays)
    (file,) = (tmp_path / "text").iterdir()
    assert file.suffix == (".safetensors" if arrays else ".json")
    first = file.read_bytes()
    store.put(key, arrays, VALUE)
    assert file.read_bytes() == first


@pytest.mark.parametrize("arrays", [ARRAYS, {}], ids=["arrays", "plain data"])
def test_results_are_found_by_the_files_that_they_were_made_from(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    store = ResultStore(tmp_path)
    store.put("pose/1", arrays, VALUE, ["b", "a", "a"])
    store.put("pose/2", arrays, VALUE, ["b"])
    store.put("text/3", arrays, VALUE, ())
    assert_same(store.get("pose/1"), arrays)
    (found,) = [store.get("pose/1")]
    assert found is not None and found.made_from == ["a", "b"]

    def names(*files: str) -> list[str]:
        return sorted(place.stem for place in store.made_from(files))

    assert (names("a"), names("b"), names("a", "b"), names("c")) == (["1"], ["1", "2"], ["1", "2"], [])
    store.put("older/4", arrays, VALUE)
    (tmp_path / "older/5.safetensors").write_bytes(b"\x05")
    assert names("c") == ["4", "5"]  # nobody knows what they were made from
    keys = {store.put_by_content("motion", ARRAYS, VALUE, files) for files in (None, (), ["a"], ["b"])}
    assert len(keys) == 4 and store.put_by_content("motion", ARRAYS, VALUE, ["a"]) in keys


def test_views_are_written_as_their_values(tmp_path: Path) -> None:
    store, whole = ResultStore(tmp_path), np.arange(6.0).reshape(2, 3)
    store.put("k/1", {"turned": whole.T, "part": whole[:, 1]})
    assert_same(store.get("k/1"), {"turned": whole.T, "part": whole[:, 1]}, None)


def test_keys_differ_by_kind_and_by_everything_that_is_named() -> None:
    keys = {
        ResultStore.key("text", prompt="a"), ResultStore.key("image", prompt="a"), ResultStore.key("text", prompt="b"),
        ResultStore.key("text", prompt="a", dtype="float32"),
    }  # fmt: skip
    assert len(keys) == 4
    assert ResultStore.key("text", x=1, y=[2]) == ResultStore.key("text", y=(2,), x=1)


@pytest.mark.parametrize("arrays", [ARRAYS, {}], ids=["arrays", "plain data"])
@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "pickle", "other value"])
def test_a_damaged_result_is_computed_again(
    tmp_path: Path, arrays: dict[str, np.ndarray], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, key = ResultStore(tmp_path), "kind/0123"
    store.put(key, arrays, VALUE)
    (file,) = (tmp_path / "kind").iterdir()
    data = file.read_bytes()
    if damage == "cut":
        file.write_bytes(data[:-3])
    elif damage == "bit":
        file.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "pickle":
        file.write_bytes(pickle.dumps({"digest": "d", "value": 1}))
    else:
        file.write_bytes(data.replace(b"numbers", b"members"))
    assert store.get(key) is None
    assert "is damaged" in caplog.text and "computed again" in caplog.text
    assert_same(store.get_or_compute(key, lambda: Result(arrays, VALUE)), arrays)
    assert_same(store.get(key), arrays)


def test_a_result_is_computed_once_however_many_ask_for_it(tmp_path: Path) -> None:
    computed: list[int] = []

    def compute() -> Result:
        computed.append(1)
        time.sleep(0.3)
        return Result(ARRAYS, VALUE)

    found: list[Result] = []
    askers = [
        threading.Thread(target=lambda: found.append(ResultStore(tmp_path).get_or_compute("k/1", compute)))
        for _ in range(4)
    ]
    for one in askers:
        one.start()
    for one in askers:
        one.join()
    assert len(computed) == 1 and len(found) == 4
    for one in found:
        assert_same(one)
    assert ResultStore(tmp_path).counts() == {"k": 1}
    assert not [file for file in tmp_path.rglob(".*") if file.is_file()]  # no lock stays


def test_a_computation_that_fails_keeps_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)

    def fail() -> Result:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        store.get_or_compute("k/1", fail)
    assert not store.has("k/1") and store.counts() == {}
    assert_same(store.get_or_compute("k/1", lambda: Result(ARRAYS, VALUE)))


def test_a_process_that_is_killed_leaves_no_result_and_no_lock(tmp_path: Path) -> None:
    code = f"""
        import os
        from steadydancer.datasets.storage.result_store import ResultStore
        ResultStore({str(tmp_path)!r}).get_or_compute("k/1", lambda: os.kill(os.getpid(), 9))
    """
    words = [sys.executable, "-P", "-c", "\n".join(line.strip() for line in code.splitlines())]
    assert subprocess.run(words, capture_output=True).returncode == -9
    assert_same(ResultStore(tmp_path).get_or_compute("k/1", lambda: Result(ARRAYS, VALUE)))


def test_old_leftovers_are_removed_and_recent_ones_stay(tmp_path: Path) -> None:
    import os

    store = ResultStore(tmp_path)
    store.put("k/1", {}, VALUE)
    for name, age_s in ((".old.1.tmp.safetensors", 2 * 86400), (".new.2.tmp.safetensors", 60)):
        (tmp_path / "k" / name).write_text("")
        os.utime(tmp_path / "k" / name, (time.time() - age_s,) * 2)
    assert store.counts() == {"k": 1}
    store.remove_leftovers()
    assert sorted(file.name for file in (tmp_path / "k").iterdir()) == [".new.2.tmp.safetensors", "1.json"]


def test_results_are_kept_on_a_store(bucket: str) -> None:
    store = ResultStore(location(f"{bucket}/work"))
    assert store.counts() == {}
    store.get_or_compute("k/1", lambda: Result(ARRAYS, VALUE))
    store.put("j/2", {}, VALUE)
    assert_same(ResultStore(f"{bucket}/work").get("k/1"))
    assert_same(store.get("j/2"), {})
    assert store.counts() == {"j": 1, "k": 1}
    assert json.loads((store.folder / "j/2.json").read_text()).keys() == {"value", "digest"}
