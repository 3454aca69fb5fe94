"""The page of rollouts: self-contained, right about what happened, and alive in a browser."""

import json
import queue
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import av
import numpy as np
import pytest
from PIL import Image
from tandem.policy.act.runtime import Runtime
from tandem.scripts import watch

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
# Seeks the first film to 60% and notes what the page shows then.
PROBE = """<script>
const video = document.querySelector("video");
const tell = seen => fetch("/seen?" + encodeURIComponent(JSON.stringify(seen)));
const note = () => {
  tell({
    seconds: video.duration, width: video.videoWidth, thought: document.querySelector(".thought").textContent,
    needle: parseFloat(document.querySelector(".timeline i").style.left),
    now: document.querySelectorAll("article")[0].querySelectorAll(".timeline .now").length,
  });
};
video.addEventListener("error", () => tell({error: video.error.message}));
const seek = () => {
  video.addEventListener("seeked", () => setTimeout(note, 50));
  video.currentTime = 0.6 * video.duration;
};
if (video.readyState >= 1) seek(); else video.addEventListener("loadedmetadata", seek);
</script></body>"""


@pytest.fixture(scope="module")
def report(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch") / "page"
    args = watch.Args(str(trained), tasks=("press_button",), episodes=1, runtime=Runtime(), output=folder)
    return watch.run(args)


def test_the_page_holds_everything_and_the_film_is_h264(report):
    page = report.read_text()
    assert not re.search(r'(src|href)="(?!data:)', page), "the page refers to another file"
    assert "{{" not in page and "press" in page and "tandem watch --checkpoint" in page and "seed 1000000" in page
    with av.open(str(report.parent / "press_button_1000000.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        frames = sum(1 for _ in film.decode(stream))
    assert f'data-steps="{frames}"' in page


def test_an_existing_page_is_not_overwritten(report, trained):
    with pytest.raises(ValueError, match="exists"):
        watch.run(watch.Args(str(trained), tasks=("press_button",), episodes=1, output=report.parent))


def test_the_same_seeds_are_shown_before_and_after(trained, tmp_path):
    args = watch.Args(str(trained), tasks=("reach",), episodes=1, before=str(trained), output=tmp_path / "page")
    args = replace(args, animation=tmp_path / "both.webp")
    page = watch.run(args).read_text()
    assert page.count("<article") == 2 and page.index(">before<") < page.index(">after<")
    assert re.search(r"(\d) of these 1 episodes succeeded before, \1 of these 1 episodes succeeded after", page)
    films = sorted(path.name for path in (tmp_path / "page").glob("*.mp4"))
    assert films == ["reach_1000000_after.mp4", "reach_1000000_before.mp4"]
    same = [(tmp_path / "page" / name).read_bytes() for name in films]
    assert same[0] == same[1]  # the same policy does the same
    with Image.open(tmp_path / "both.webp") as both:
        assert both.size == (200, 400) and both.n_frames > 5
        both.seek(both.n_frames - 1)
        last = np.asarray(both.convert("RGB")).astype(int)
    assert np.abs(last[:200] - last[200:]).mean() < 2  # one above the other
    red, green = np.median(last[100, :3], axis=0)[:2]
    assert (red < green) == ("badge yes" in page) and abs(red - green) > 50
    with pytest.raises(ValueError, match="one checkpoint before another"):
        watch.run(watch.Args(agent="expert", before=str(trained)))
    with pytest.raises(ValueError, match=r"no \.webp"):
        watch.run(replace(args, animation=tmp_path / "both.gif", output=None))


class Listener(BaseHTTPRequestHandler):
    """Serves `server.page` and keeps what the page tells in `server.told`."""

    def do_GET(self):
        if self.path.startswith("/seen?"):
            self.server.told.put(json.loads(unquote(self.path.removeprefix("/seen?"))))
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, *_):
        pass


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed; `apt-get install chromium` to run this test")
def test_words_and_timeline_follow_the_film_in_a_browser(report, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        server.page, server.told = report.read_text().replace("</body>", PROBE).encode(), queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0"]
        address = f"http://127.0.0.1:{server.server_port}/"
        browser = subprocess.Popen([*command, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            seen = server.told.get(timeout=60)
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
    assert "error" not in seen, seen
    assert seen["width"] == 768 and seen["seconds"] > 0
    assert 50 < seen["needle"] < 70 and seen["now"] == 1 and seen["thought"]


def test_the_command_repeats_what_was_changed():
    assert watch._changed(Runtime()) == ""
    assert watch._changed(Runtime(mode="flat", execute=2)) == " --runtime.mode flat --runtime.execute 2"


def test_without_a_checkpoint_the_policy_of_the_clone_is_watched(tmp_path, capsys):
    from tandem.scripts import watch

    flags = watch.Args(tasks=("reach",), episodes=1, workers=1, output=tmp_path / "films")
    assert watch.main(flags) == 0
    assert "models/demo, a small policy" in capsys.readouterr().out and (tmp_path / "films" / "report.html").exists()
