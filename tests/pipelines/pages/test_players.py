"""Videos in step: the page allows its own script only, and the script keeps one clock."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from steadydancer.pipelines.pages import players
from steadydancer.pipelines.pages.layout import Section, write_page

ROW = [("reference", "media/a #1.png"), ("render", "media/b #1.mp4"), ("truth", "media/c.mp4"), ("control", None)]


@pytest.fixture
def page(tmp_path: Path) -> str:
    write_page(tmp_path / "page.html", "Pairs", [Section("Text", "words"), Section("Pairs", players=[ROW, ROW])])
    return (tmp_path / "page.html").read_text()


def test_the_policy_allows_the_script_of_the_page_and_no_other(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert f"script-src 'sha256-{digest}'" in policy.replace("&#39;", "'")
    assert not re.search(r"unsafe-inline'[^;]*script|https?://|\bimport\b|\bfetch\b|src=\"http", script)


def test_all_rows_share_one_bar_and_load_their_videos_later(page: str) -> None:
    assert page.count('id="clock"') == 1 and page.count('class="pair step"') == 2
    assert re.findall(r'<video data-src="([^"]+)"', page) == ["media/b%20%231.mp4", "media/c.mp4"] * 2
    assert "<video src" not in page and page.count('<div class="gone">missing</div>') == 2
    assert "image-rendering: pixelated" in page and page.count('src="media/a%20%231.png"') == 2


def test_a_page_without_players_has_no_script(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "Plain", [Section("Media", media=[ROW])])
    html = (tmp_path / "page.html").read_text()
    assert "<script" not in html and "script-src" not in html and 'id="clock"' not in html


def test_two_clocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a page has one clock"):
        write_page(tmp_path / "page.html", "Two", [Section("A", players=[ROW]), Section("B", players=[ROW])])


# Videos of 33 frames that play at their own speed; a late one stalls until it is told that its data has come.
BROWSER = """
let now = 0, ticks = [];
globalThis.requestAnimationFrame = (f) => ticks.push(f);
class Element {
  constructor() { this.listeners = {}; this.dataset = {}; this.tagName = "DIV"; }
  addEventListener(name, f) { (this.listeners[name] ??= []).push(f); }
  fire(name, event) { for (const f of this.listeners[name] ?? []) f(event ?? { target: this }); }
}
class Video extends Element {
  constructor(speed, frames) {
    super();
    Object.assign(this, { speed, duration: NaN, frames, time: 0, readyState: 0, seeking: false, paused: true });
    this.dataset.src = "x.mp4"; this.attributes = {};
  }
  set src(value) { this.attributes.src = value; }
  getAttribute(name) { return this.attributes[name] ?? null; }
  removeAttribute(name) { delete this.attributes[name]; }
  load() { this.readyState = 0; }
  arrive() { this.duration = this.frames / 16; this.readyState = 4; this.fire("loadedmetadata"); }
  get currentTime() { return this.time; }
  set currentTime(value) { this.time = value; this.seeking = true; this.lands = now + 2; }
  get ended() { return this.time >= this.duration; }
  pause() { this.paused = true; }
  play() { this.paused = false; return Promise.resolve(); }
  pass(s) {
    if (this.seeking && now >= this.lands) this.seeking = false;
    if (this.paused || this.seeking || this.readyState < 3) return;
    this.time = Math.min(this.time + s * this.speed, this.duration);
  }
}
const videos = [new Video(1, 33), new Video(1.15, 33), new Video(0.9, 33)];
const row = new Element(); row.querySelectorAll = () => videos;
const slider = new Element(), label = new Element(), toggle = new Element();
toggle.dataset.act = "toggle"; slider.tagName = "INPUT";
const bar = new Element();
bar.querySelector = (q) => ({ input: slider, output: label }[q] ?? toggle);
globalThis.document = new Element();
document.getElementById = () => bar;
document.querySelectorAll = () => [row];
globalThis.IntersectionObserver = class {
  constructor(f) { this.f = f; }
  observe(target) { this.f([{ target, isIntersecting: true }]); }
};
const run = (steps) => { for (let k = 0; k < steps; k++) {
  now++; for (const v of videos) v.pass(1 / 60);
  const due = ticks; ticks = []; for (const f of due) f();
  spread.push(Math.max(...videos.map((v) => v.time)) - Math.min(...videos.map((v) => v.time)));
} };
let spread = [];
const click = (act) => bar.fire("click", { target: { dataset: { act } } });
const frames = () => videos.map((v) => Math.floor(v.time * 16));
"""

SCENE = """
const out = {};
videos[0].arrive(); videos[1].arrive();
click("toggle"); run(30);
out.waiting = [frames(), label.textContent, videos.every((v) => v.paused)];
videos[2].arrive(); run(40);
out.together = Math.max(...spread.slice(-35));
out.moved = frames()[0];
videos[1].readyState = 1; run(5);
out.stalled = videos.every((v) => v.paused);
const before = frames(); run(30); out.held = [before, frames()];
videos[1].readyState = 4; run(20); out.resumed = frames()[0] > before[0];
run(400); out.loops = frames()[0] < 33 && label.textContent.includes("of 33");
click("toggle"); run(5);
slider.value = 7; slider.fire("input"); run(5); out.scrubbed = frames();
click("forward"); run(5); out.forward = frames();
click("back"); click("back"); run(5); out.back = frames();
slider.value = 32; slider.fire("input"); run(5); click("forward"); run(5); out.end = frames();
const f = frames(); run(60); out.still = JSON.stringify(f) === JSON.stringify(frames());
document.fire("keydown", { key: "ArrowLeft", target: row, preventDefault() {} }); run(5); out.key = frames();
console.log(JSON.stringify(out));
"""


@pytest.fixture(scope="module")
def played() -> dict[str, Any]:
    """What the script does with three videos of other speeds, in a browser made of a few lines."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js runs the script, and is not installed")
    done = subprocess.run([node, "-e", BROWSER + players.SCRIPT + SCENE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_late_player_is_waited_for(played: dict[str, Any]) -> None:
    frames, label, paused = played["waiting"]
    assert frames == [0, 0, 0] and "waiting" in label and paused
    assert played["stalled"] and played["held"][0] == played["held"][1] and played["resumed"]


def test_players_of_other_speeds_stay_within_two_frames(played: dict[str, Any]) -> None:
    assert 0 < played["together"] < 2 / 16 and played["moved"] > 5 and played["loops"]


def test_step_scrub_and_keys_move_all_to_the_same_frame(played: dict[str, Any]) -> None:
    assert played["scrubbed"] == [7] * 3 and played["forward"] == [8] * 3 and played["back"] == [6] * 3
    assert played["end"] == [32] * 3 and played["key"] == [31] * 3 and played["still"]
