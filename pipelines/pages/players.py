"""Videos that play in step on a static page: one clock for all of them, with play, pause, step and scrub.

The script is part of the page and uses no library. Only rows near the window are loaded, because browsers limit the
number of open videos. All loaded videos wait for the last one: after a seek, when a row comes into the window, and when
one falls behind.
"""

from __future__ import annotations

import base64
import hashlib

FPS = 16

STYLE = """
#clock { position: sticky; top: 0; z-index: 1; display: flex; gap: .6rem; align-items: center; padding: .5rem 0;
background: var(--back) } #clock input { flex: 1; max-width: 30rem } #clock button { font: inherit; min-width: 3rem }
#clock output { font-variant-numeric: tabular-nums; min-width: 9rem }
.step video, .step img { width: 192px; height: auto; min-height: 96px; image-rendering: pixelated; border-radius: 0 }
.smooth video, .smooth img { image-rendering: auto }
"""

CONTROLS = """<div id="clock"><button data-act="back" title="one frame back (←)">◀︎</button>
<button data-act="toggle" title="play or pause (space)">play</button>
<button data-act="forward" title="one frame on (→)">▶︎</button>
<input type="range" min="0" max="0" value="0" step="1" aria-label="frame"><output></output></div>
<noscript>The videos play in step by a script in this page, which this browser does not run.</noscript>
"""

SCRIPT = """
(() => {
  const FPS = 16, bar = document.getElementById("clock");
  const slider = bar.querySelector("input"), label = bar.querySelector("output");
  const toggle = bar.querySelector('[data-act="toggle"]');
  const shown = new Set();  // videos of the rows near the window
  let frame = 0, playing = false, running = false;

  const frames = () => Math.max(1, ...[...shown].map((v) => Math.round((v.duration || 0) * FPS)));
  const isLast = (v) => v.ended || v.currentTime > v.duration - 1.5 / FPS;
  const hasPicture = (v) => v.readyState >= 2 && !v.seeking;
  const isLate = (v) => !hasPicture(v) || (v.readyState < 3 && !isLast(v));

  function draw(waits) {
    slider.max = frames() - 1;
    slider.value = frame;
    label.textContent = `frame ${frame + 1} of ${frames()}${waits ? ", waiting" : ""}`;
    toggle.textContent = playing ? "pause" : "play";
  }
  // Stop all videos at one frame; those that play go on from there when all of them have its picture.
  function align(to) {
    frame = Math.min(Math.max(to, 0), frames() - 1);
    running = false;
    for (const v of shown) {
      v.pause();
      if (v.readyState >= 1) v.currentTime = Math.min((frame + 0.5) / FPS, Math.max(v.duration - 0.5 / FPS, 0));
    }
    draw(playing);
  }
  function tick() {
    requestAnimationFrame(tick);
    const videos = [...shown];
    if (!playing || !videos.length) return;
    if (!running) {
      if (!videos.every(hasPicture)) return draw(true);
      running = true;
      for (const v of videos) if (!isLast(v)) v.play().catch(() => {});
      return;
    }
    const moving = videos.filter((v) => !isLast(v));
    if (!moving.length) return align(0);
    const times = moving.map((v) => v.currentTime), slowest = Math.min(...times);
    const now = Math.floor(slowest * FPS);
    if (moving.some(isLate) || Math.max(...times) - slowest > 1.5 / FPS) return align(now);
    frame = now;
    draw(false);
  }
  function act(name) {
    if (name === "toggle") { playing = !playing; align(playing && frame >= frames() - 1 ? 0 : frame); }
    else { playing = false; align(frame + (name === "forward" ? 1 : -1)); }
  }
  function show(v) {
    if (shown.has(v)) return;
    v.src = v.dataset.src;
    shown.add(v);
    align(frame);
  }
  function hide(v) {
    if (!shown.delete(v)) return;
    v.pause();
    v.removeAttribute("src");
    v.load();
  }
  const near = new IntersectionObserver((entries) => {
    for (const e of entries) for (const v of e.target.querySelectorAll("video")) (e.isIntersecting ? show : hide)(v);
  }, { rootMargin: "150px" });
  for (const row of document.querySelectorAll(".step")) {
    near.observe(row);
    for (const v of row.querySelectorAll("video")) {
      v.addEventListener("loadedmetadata", () => align(frame));
      v.addEventListener("error", () => { if (v.getAttribute("src")) shown.delete(v); });
    }
  }
  bar.addEventListener("click", (e) => { const name = e.target.dataset.act; if (name) act(name); });
  slider.addEventListener("input", () => { playing = false; align(Number(slider.value)); });
  document.addEventListener("keydown", (e) => {
    const name = { " ": "toggle", ArrowLeft: "back", ArrowRight: "forward" }[e.key];
    if (name && e.target !== slider && e.target.tagName !== "BUTTON") { e.preventDefault(); act(name); }
  });
  draw(false);
  requestAnimationFrame(tick);
})();
"""


def script_hash() -> str:
    """Return the source of a content security policy that allows `SCRIPT` and no other script."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"'sha256-{digest}'"
