"""The page in a real browser: Debian's Chromium, driven by Playwright; skipped where there is none.

Every test ends with the same check: nothing on the console, and no request to any other host.
"""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from play_kit import TOKEN, Client, drawing, serving

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this computer: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
WAIT = 60_000


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("saved")) as port:
        yield port


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        arguments = ["--use-fake-device-for-media-stream", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        found = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


class Opened:
    """A page with what was said on its console and asked of other hosts."""

    def __init__(self, browser, port: int, **options):
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        self.page, self.port, self.said, self.elsewhere = self.context.new_page(), port, [], []
        self.page.set_default_timeout(WAIT)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", self._look)
        self.load()

    def _look(self, request) -> None:
        own = f"http://127.0.0.1:{self.port}/"
        if not request.url.startswith((own, f"blob:{own}")):
            self.elsewhere.append(request.url)

    def load(self) -> None:
        self.page.goto(f"http://127.0.0.1:{self.port}/{TOKEN}/")
        self.page.wait_for_selector("body[data-ready]")

    def stroke(self, place: str, *points: tuple[float, float]) -> None:
        """Draw with the pointer; points are shares of the board's side."""
        board = self.page.locator(f"{place} canvas")
        board.scroll_into_view_if_needed()
        box = board.bounding_box()
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*at[0])
        self.page.mouse.down()
        for point in at[1:]:
            self.page.mouse.move(*point, steps=4)
        self.page.mouse.up()

    def cross(self, place: str, shift: float = 0.0) -> None:
        self.stroke(place, (0.2 + shift, 0.2), (0.8 + shift, 0.8))
        self.stroke(place, (0.8 + shift, 0.2), (0.2 + shift, 0.8))

    def angle(self, place: str, shift: float = 0.0) -> None:
        self.stroke(place, (0.3 + shift, 0.15), (0.3 + shift, 0.8), (0.8 + shift, 0.8))

    def board(self, k: int) -> str:
        return f".board:nth-child({k + 1})"

    def teach(self, k: int, draw, shift: float = 0.0) -> None:
        board, before = self.page.locator(self.board(k)), self.thumbs(k)
        draw(f"{self.board(k)} .pad", shift)
        board.get_by_role("button", name="Add example").click()
        self.until(lambda: self.thumbs(k) == before + 1)

    def thumbs(self, k: int) -> int:
        return self.page.locator(f"{self.board(k)} .thumb").count()

    def until(self, holds) -> None:
        end = time.monotonic() + WAIT / 1000
        while not holds():
            assert time.monotonic() < end, "waited in vain"
            self.page.wait_for_timeout(30)

    def settled(self) -> None:
        """Wait until no change and no question is on its way."""
        self.page.wait_for_selector("[aria-busy]", state="detached")

    def answer(self) -> str:
        return self.page.locator(".answer .best .name").text_content()

    def sums(self) -> tuple[str, str]:
        """The sum of the contributions and the difference of the logits, as shown at one moment."""
        read = "node => ['#total', '#difference'].map(id => node.querySelector(id).textContent)"
        total, difference = self.page.locator("#sum").evaluate(read)
        return total, difference

    def gallery(self, name: str) -> None:
        self.page.click(f"[data-entry={name}]")
        self.page.wait_for_selector("#total")
        self.settled()

    def is_quiet(self, *expected: str) -> None:
        """Nothing was said but what is expected, and nothing asked elsewhere."""
        assert not [text for text in self.said if not any(part in text for part in expected)]
        assert not self.elsewhere


@pytest.fixture
def opened(browser, port):
    found = Opened(browser, port)
    yield found
    found.context.close()


def numbers(text: str) -> float:
    return float(text.replace("−", "-"))


def test_draw_a_task_and_get_the_right_answer(opened):
    """Two classes drawn with the pointer, a third added; the answer follows, and the sum is the logit difference."""
    page = opened.page
    for k, draw in enumerate((opened.cross, opened.angle)):
        opened.teach(k, draw)
        opened.teach(k, draw, 0.05)
    opened.angle("#query-pad", -0.04)
    page.wait_for_selector("#total")
    opened.until(lambda: opened.answer() == "B")
    assert len(set(opened.sums())) == 1
    assert page.locator("#lines path.pull").count() >= 2
    page.get_by_label("New class").fill("bar")
    page.get_by_role("button", name="Add class").click()
    opened.until(lambda: page.locator(".board canvas").count() == 3)
    opened.teach(2, lambda place, shift: opened.stroke(place, (0.5, 0.1), (0.5, 0.9)))
    opened.until(lambda: page.locator(".answer .row").count() == 3)
    page.locator("#query-pad").get_by_role("button", name="Clear").click()
    opened.until(lambda: page.locator(".answer .row").count() == 0)
    opened.stroke("#query-pad", (0.52, 0.12), (0.5, 0.88))
    opened.until(lambda: page.locator(".answer .row").count() == 3 and opened.answer() == "bar")
    page.locator("#query-pad").get_by_role("button", name="Undo").click()
    opened.until(lambda: page.locator(".answer .row").count() == 0)
    opened.is_quiet()


def test_a_line_that_is_pointed_at_says_what_the_table_says(opened):
    """Image, coefficient, similarity, contribution; the table's contributions sum to what is shown."""
    page = opened.page
    opened.gallery("letters")
    page.locator(".thumb.pull").first.hover()
    page.wait_for_selector(".tip:not([hidden])")
    tip = page.locator(".tip").inner_text()
    assert re.search(r"pulls towards ມ.*coefficient .*× similarity .*= contribution \+", tip, re.DOTALL)
    assert page.locator("#lines path.on").count() == 1
    page.locator("#table-card summary").click()
    rows = page.locator("#table tbody tr")
    assert rows.count() == 15
    values = [numbers(rows.nth(k).locator("td").last.inner_text()) for k in range(15)]
    assert sum(values) == pytest.approx(numbers(opened.sums()[0]), abs=0.1)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(100)
    path = page.locator("#lines path.pull").first.evaluate(MIDDLE)
    page.mouse.move(*path)
    opened.until(lambda: page.locator("#lines path.on").count() == 1)
    page.keyboard.press("Escape")
    assert page.locator(".tip").is_hidden()
    opened.is_quiet()


def test_a_random_head_shows_its_interference_and_a_zeroed_one_has_none(opened):
    """Lesson two: the grey arrow, other seeds, other orders; back at zero nothing is left to chance."""
    page = opened.page
    opened.gallery("digits")
    assert page.locator("#lines path.start").count() == 0
    page.get_by_label("Random", exact=True).check()
    page.wait_for_selector("#start-node:not([hidden])")
    opened.until(lambda: page.locator("#lines path.start").count() == 1)
    assert "comes from none of your images" in page.locator("#start-node").inner_text()
    assert len(set(opened.sums())) == 1
    before = opened.sums()
    page.get_by_role("button", name="Another").click()
    opened.until(lambda: opened.sums() != before)
    page.get_by_role("button", name="Does the start matter?").click()
    page.wait_for_selector("#starts li")
    shown = {text.split(" %")[0] for text in page.locator("#starts li").all_inner_texts()}
    assert len(shown) > 3
    page.get_by_label("Zero", exact=True).check()
    opened.until(lambda: "zeroed head has no seed" in page.locator("#starts").inner_text())
    opened.until(lambda: page.locator("#lines path.start").count() == 0)
    assert len({text.split(" %")[0] for text in page.locator("#starts li").all_inner_texts()}) == 1
    opened.is_quiet()


def test_a_setting_that_makes_the_sum_approximate_says_by_how_much(opened):
    page = opened.page
    opened.gallery("letters")
    assert page.locator(".badge").inner_text() == "exact"
    page.locator("#settings-card summary").click()
    page.locator("select[name=scope]").select_option("all")
    opened.until(lambda: page.locator("select[name=scope]").input_value() == "all")
    page.locator("input[name=steps]").fill("3")
    page.locator("input[name=steps]").press("Enter")
    opened.until(lambda: page.locator(".badge").inner_text() == "approximate")
    assert "came through the encoder" in page.locator("#why-body").inner_text()
    assert len(set(opened.sums())) == 1
    page.locator("input[name=steps]").fill("99")
    page.locator("input[name=steps]").press("Enter")
    page.wait_for_selector("#settings-problem:not([hidden])")
    assert "from 1 to 10" in page.locator("#settings-problem").inner_text()
    opened.is_quiet("400")


def test_save_load_and_take_home(opened, tmp_path):
    page = opened.page
    opened.gallery("letters")
    before = opened.sums()
    page.locator("#keep-card summary").click()
    page.get_by_role("button", name="Save on this computer").click()
    opened.until(lambda: "classifier-1" in page.locator("#kept").inner_text())
    with page.expect_download() as waiting:
        page.get_by_text("Download as a zip").click()
    waiting.value.save_as(tmp_path / "classifier.zip")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Picture of the explanation").click()
    assert Path(waiting.value.path()).read_bytes().startswith(b"\x89PNG")
    page.get_by_role("button", name="Remove the class ມ").click()
    opened.until(lambda: page.locator(".board").count() == 4)
    page.set_input_files("#load", tmp_path / "classifier.zip")
    opened.until(lambda: page.locator(".board").count() == 5 and opened.sums() == before)
    page.get_by_role("button", name="Undo last change").click()
    opened.until(lambda: page.locator(".board").count() == 4)
    opened.is_quiet("404")  # of an image whose board was replaced while it was asked for


def test_broken_files_are_named_where_they_were_dropped(opened, tmp_path):
    """On a board and on the query; what was there stays."""
    page = opened.page
    opened.gallery("letters")
    before = opened.sums()
    (tmp_path / "broken one.png").write_bytes(b"no image at all")
    page.locator(".board input[type=file]").first.set_input_files(tmp_path / "broken one.png")
    problem = page.locator(".board .problem").first
    problem.wait_for(state="visible")
    assert "broken one.png" in problem.inner_text()
    assert "not an image" in problem.inner_text()
    page.locator("#query-pad input[type=file]").set_input_files(tmp_path / "broken one.png")
    page.wait_for_selector("#ask-problem:not([hidden])")
    assert "broken one.png" in page.locator("#ask-problem").inner_text()
    assert opened.sums() == before
    (tmp_path / "good.png").write_bytes(drawing("ring"))
    page.locator(".board input[type=file]").first.set_input_files(tmp_path / "good.png")
    opened.until(lambda: opened.thumbs(0) == 4)
    page.locator(".board").first.evaluate(TRANSFER, ["drop", "dropped.png", list(drawing("cross"))])
    opened.until(lambda: opened.thumbs(0) == 5)
    now = opened.sums()
    page.locator("body").evaluate(TRANSFER, ["paste", "pasted.png", list(drawing("cross", 3))])
    opened.until(lambda: opened.sums() != now)
    opened.is_quiet("400")


def test_the_camera_gives_examples_and_questions_and_is_let_go(opened):
    """Of a camera that Chromium plays; forbidden, the dialog says so, and closing it leaves everything as it was."""
    page = opened.page
    page.locator(".board").first.get_by_role("button", name="Camera").click()
    page.wait_for_selector("#camera .problem:not([hidden])")
    assert "allow it for this page" in page.locator("#camera .problem").inner_text()
    assert page.locator("#camera [data-do=shoot]").is_disabled()
    page.keyboard.press("Escape")
    assert opened.thumbs(0) == 0
    opened.context.grant_permissions(["camera"])
    for k in (0, 1):
        page.locator(".board").nth(k).get_by_role("button", name="Camera").click()
        page.locator("#camera [data-do=shoot]:enabled").click()
        opened.until(lambda k=k: opened.thumbs(k) == 1)
        page.wait_for_timeout(300)
    page.locator("#query-pad").get_by_role("button", name="Camera").click()
    page.locator("#camera [data-do=shoot]:enabled").click()
    page.wait_for_selector("#total")
    assert page.locator("#camera video").evaluate("video => video.srcObject") is None
    opened.is_quiet()


def test_reload_in_the_middle_keeps_everything(opened):
    page = opened.page
    opened.teach(0, opened.cross)
    opened.teach(1, opened.angle)
    opened.cross("#query-pad")
    page.wait_for_selector("#total")
    opened.until(lambda: opened.answer() == "A")
    opened.load()
    page.wait_for_selector("#total")
    assert (opened.thumbs(0), opened.thumbs(1)) == (1, 1)
    assert opened.answer() == "A"
    opened.is_quiet()


def test_two_tabs_are_two_pages(opened, browser, port):
    """What is taught on one does not touch the other; one watches while the other teaches."""
    other = Opened(browser, port)
    other.gallery("letters")
    other.page.click("#tab-watch")
    other.until(lambda: other.page.locator("#update").inner_text().startswith("update 0"))
    other.page.get_by_role("button", name="Play").click()
    opened.gallery("look-alikes")
    other.until(lambda: int(other.page.locator("#update").inner_text().split()[1]) >= 3)
    other.page.get_by_role("button", name="Pause").click()
    assert other.page.locator("#accuracy polyline").count() == 2
    assert other.page.locator("#watch-zeroed [data-share=interference]").inner_text() == "0 %"
    assert other.page.locator("#watch-random .map span").count() == 36
    other.page.get_by_role("button", name="Step").click()
    other.page.get_by_role("button", name="Reset").click()
    other.until(lambda: other.page.locator("#update").inner_text() == "update 0")
    other.page.click("#tab-teach")
    assert other.answer() == "ມ"
    assert opened.answer() == "Q"
    for each in (opened, other):
        each.is_quiet()
    other.context.close()


def test_the_server_goes_and_comes_back(browser, tmp_path):
    """The page says so, keeps what was taught, and teaches it to the new server."""
    with serving(tmp_path) as port:
        found = Opened(browser, port)
        kept: list[str] = []
        found.page.on("requestfinished", lambda request: kept.append(request.url))
        found.gallery("letters")
        before = found.sums()
        found.until(lambda: sum("/examples/" in url for url in kept) == 15)
    found.page.get_by_role("button", name="Add class").click()
    found.page.wait_for_selector("#lost:not([hidden])")
    assert "kept in this page" in found.page.locator("#lost").inner_text()
    with serving(tmp_path, port):
        found.page.wait_for_selector("#lost", state="hidden")
        found.until(lambda: found.page.locator(".thumb").count() == 15 and found.sums() == before)
        assert Client(port).request("GET", "")[0] == 200
        found.is_quiet("ERR_CONNECTION_REFUSED", "404", "ERR_")
        found.context.close()


def test_classes_of_the_first_names_come_back_with_their_own_images(browser, tmp_path):
    """Guards: drawings on A and B, which a new page has too, taught in turn, with settings of their own."""
    with serving(tmp_path) as port:
        found = Opened(browser, port)
        kept: list[str] = []
        found.page.on("requestfinished", lambda request: kept.append(request.url))
        for shift in (0.0, 0.05):
            found.teach(0, found.cross, shift)
            found.teach(1, found.angle, shift)
        found.cross("#query-pad")
        found.page.wait_for_selector("#total")
        found.page.locator("#settings-card summary").click()
        found.page.locator("input[name=steps]").fill("3")
        found.page.locator("input[name=steps]").press("Enter")
        found.settled()
        before = found.sums()
        found.until(lambda: sum("/examples/" in url for url in kept) == 8)  # each sent, and fetched to be kept
    found.page.get_by_role("button", name="Add class").click()
    found.page.wait_for_selector("#lost:not([hidden])")
    with serving(tmp_path, port):
        found.page.wait_for_selector("#lost", state="hidden")
        found.until(lambda: [found.thumbs(0), found.thumbs(1)] == [2, 2] and found.sums() == before)
        assert found.page.locator(".board header input").evaluate_all("nodes => nodes.map((node) => node.value)") == [
            "A",
            "B",
        ]
        assert found.page.input_value("[name=steps]") == "3"
        assert found.page.locator("#notice").inner_text().startswith("The server is back, and so is what you taught.")
        found.is_quiet("ERR_CONNECTION_REFUSED", "404", "ERR_")
        found.context.close()


def test_a_duplicated_tab_is_another_page(opened):
    """Browsers give a duplicate the storage of its tab, and with it the number of its session."""
    opened.teach(0, opened.cross)
    with opened.context.expect_page() as found:
        opened.page.evaluate("window.open(location.href)")
    other = found.value
    other.wait_for_selector("body[data-ready]")
    assert other.locator(".thumb").count() == 0
    opened.teach(1, opened.angle)
    opened.load()
    opened.until(lambda: opened.page.locator(".thumb").count() == 2)
    opened.is_quiet()


def test_everything_works_with_the_keyboard_alone(opened):
    """A class is drawn with arrow keys and space, asked about, and its examples are read aloud and removed."""
    page = opened.page

    def draw(moves: str) -> None:
        page.keyboard.press("Space")
        for key in moves:
            page.keyboard.press({"d": "ArrowDown", "r": "ArrowRight", "u": "ArrowUp", "l": "ArrowLeft"}[key])
        page.keyboard.press("Space")

    for k, moves in enumerate(("ddddddddd", "rrrrrrrrr")):
        page.locator(f"{opened.board(k)} canvas").focus()
        draw(moves)
        page.keyboard.press("Enter")
        opened.until(lambda k=k: opened.thumbs(k) == 1)
    page.locator("#query-pad canvas").focus()
    draw("dddddddd")
    page.wait_for_selector("#total")
    opened.until(lambda: opened.answer() == "A")
    page.locator(".thumb").first.focus()
    label = page.locator(".thumb").first.get_attribute("aria-label")
    assert re.fullmatch(r"Example 1 of A: pulls towards A, contribution \+[\d.]+", label)
    page.keyboard.press("Delete")
    opened.until(lambda: opened.thumbs(0) == 0)
    page.locator("#tab-teach").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#watch").is_visible()
    opened.is_quiet()


CONTRAST = (Path(__file__).parent / "legible.js").read_text(encoding="utf-8")
TRANSFER = """(node, [type, name, data]) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(data)], name, { type: "image/png" }));
  const about = { bubbles: true, cancelable: true };
  if (type === "drop") node.dispatchEvent(new DragEvent("drop", { dataTransfer: files, ...about }));
  else node.dispatchEvent(new ClipboardEvent("paste", { clipboardData: files, ...about }));
}"""
MIDDLE = """(path) => {
  const at = path.getPointAtLength(path.getTotalLength() / 2);
  const box = document.querySelector("#stage").getBoundingClientRect();
  return [at.x + box.left, at.y + box.top];
}"""


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (768, "light"), (768, "dark"), (1440, "dark")])
def test_text_is_legible_named_and_fits(browser, port, width, scheme):
    """Contrast AA (4.5), no text under 14 px, a name for every control, nothing wider than the screen."""
    opened = Opened(browser, port, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = opened.page
    if width == 768:
        opened.gallery("letters")
        page.get_by_label("Random", exact=True).check()
        page.wait_for_selector("#start-node:not([hidden])")
    for each in page.locator("details").all():
        each.evaluate("node => { node.open = true }")
    assert page.evaluate(CONTRAST) == []
    page.click("#tab-watch")
    opened.until(lambda: page.locator("#watch-random .map span").count() == 36)
    assert page.evaluate(CONTRAST) == []
    opened.is_quiet()
    opened.context.close()
