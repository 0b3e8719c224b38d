"""The web page in Chromium: a microphone that plays a file, files, keys, keyboard, accessibility and small screens."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import open_browser
from conftest import SAMPLING_RATE, speak
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from window import RULES, WIDTHS, Window, overflow

from finetune.serving.keys import add_key

KEY_RATE = 30.0  # requests a minute; five at once, and the next after two seconds
SPEECH = "dad bad add " + 4 * "dab cab bad "
TALK = [["ab", "cab", "bad"], ["dad", "add"]]


def write_speech(file: Path, *texts: str) -> Path:
    """A WAV file of tones with a pause before, between and after the texts."""
    rng = np.random.default_rng(0)
    pause = 0.002 * rng.standard_normal((len(texts) + 1, int(1.3 * SAMPLING_RATE)))
    pieces = [piece for text, quiet in zip(texts, pause, strict=False) for piece in (quiet, speak(text, rng))]
    soundfile.write(file, np.concatenate([*pieces, pause[-1]]), SAMPLING_RATE, subtype="PCM_16")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, and where downloads go."""
    folder = tmp_path_factory.mktemp("page")
    write_speech(folder / "microphone.wav", "ab cab", SPEECH.strip())
    write_speech(folder / "talk.wav", *map(" ".join, TALK))
    (folder / "damaged.wav").write_bytes(b"RIFF, but no sound")
    return folder


@pytest.fixture(scope="module")
def address(serve: Callable[..., Any], tone_folder: Path) -> Iterator[str]:
    """A service without keys, with two models."""
    with serve(models=[f"first={tone_folder}", f"second={tone_folder}"]) as where:
        yield where


@pytest.fixture(scope="module")
def locked(serve: Callable[..., Any], folder: Path) -> Iterator[tuple[str, str]]:
    """A service with keys, and a key."""
    key = add_key(folder / "keys.yaml", "page", ["transcribe", "live"], KEY_RATE)
    with serve(keys=folder / "keys.yaml") as where:
        yield where, key


@pytest.fixture(scope="module")
def driver(folder: Path) -> Iterator[Any]:
    with open_browser(
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}",
    ) as driver:
        downloads = {"behavior": "allow", "downloadPath": str(folder)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
        yield driver


@pytest.fixture
def window(driver: Any) -> Window:
    return Window(driver)


def test_live_text_appears_while_it_is_spoken_and_ends_as_lines(window: Window, address: str) -> None:
    window.open(address)
    window.run("""
        window.shown = [];
        const look = () => shown.push([".stable", ".unstable"].map((each) => q(each)?.textContent));
        new MutationObserver(look).observe(q("#transcripts"), {subtree: true, childList: true, characterData: true});
    """)
    window.find("#record").click()
    window.wait("q('.status')?.textContent === 'Recording'")
    assert window.find("#record").text == "Stop"
    animation = "return getComputedStyle(q('.status'), '::before').animationName"
    assert window.run(animation) == "pulse"
    window.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    assert window.run(animation) == "none"
    assert window.find(".lines").aria_role == "log"
    window.wait("q('.line')")
    assert window.texts(".line .text") == ["ab cab"]
    window.wait("q('.stable').textContent.startsWith('dad bad')")
    window.find("#record").click()  # In the middle of the second sentence.
    window.wait("q('.status').textContent === 'Recorded'")
    first, second = window.texts(".line .text")
    assert first == "ab cab" and second.startswith("dad bad") and len(second) < len(SPEECH)
    assert window.texts(".partial") == [""] and window.find("#record").text == "Record"
    partials = [(stable, rest) for stable, rest in window.run("return shown") if stable and rest]
    assert any(f"{stable}{rest}".startswith(second[:6]) for stable, rest in partials)
    style = "return getComputedStyle(q(arguments[0]))[arguments[1]]"
    for name in ("fontStyle", "textDecorationStyle"):  # They differ in more than a color.
        assert window.run(style, ".stable", name) != window.run(style, ".unstable", name)
    window.find(".line:last-child .word").click()
    window.wait("q('audio').currentTime > 2.8")  # The first sentence has 0.7 s, between pauses of 1.3 s.
    assert window.run("return q('audio').currentTime") < 4.5
    assert window.complaints() == []


def test_a_lost_connection_ends_a_recording_and_keeps_its_text(window: Window, serve: Callable[..., Any]) -> None:
    with serve(grace_seconds=0) as address:
        window.open(address)
        window.find("#record").click()
        window.wait("q('.stable')?.textContent.startsWith('dad')")
    window.wait("q('.status').textContent !== 'Recording'")
    assert window.texts(".status")[0].startswith("The service has ended the connection")
    assert window.texts(".line .text")[1].startswith("dad") and window.find("#record").text == "Record"
    assert window.find("audio").is_displayed() and window.find(".tools").is_displayed()


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_the_microphone_is_resampled_without_aliases(window: Window, address: str, rate: int) -> None:
    """A tone of 1 kHz stays, and one of 9 kHz, which 16 kHz can't have, goes."""
    window.open(address)
    powers = {}
    for hertz in (1000, 9000) if rate > 18000 else (1000,):
        samples = window.run_async(
            """
            const [rate, hertz] = given, context = new OfflineAudioContext(1, 2 * rate, rate), samples = [];
            await context.audioWorklet.addModule("page/worklet.js");
            const node = new AudioWorkletNode(context, "microphone");
            const source = new OscillatorNode(context, {frequency: hertz});
            node.port.onmessage = ({data}) => samples.push(...data);
            source.connect(node).connect(context.destination);
            source.start();
            await context.startRendering();
            await new Promise((resolve) => setTimeout(resolve, 200));
            return samples;
            """,
            rate,
            hertz,
        )
        assert len(samples) in (30400, 32000)  # 2 s; up to a block is left.
        part = np.array(samples[8000:24000]) / 32767
        powers[hertz] = np.mean(part**2)
        if hertz == 1000:
            wave = np.exp(-2j * np.pi * hertz * np.arange(16000) / 16000)
            assert 2 * abs(np.mean(part * wave)) ** 2 == pytest.approx(0.5, rel=0.01)
    assert powers[1000] == pytest.approx(0.5, rel=0.01)
    assert powers.get(9000, 0.0) < 1e-5


def test_a_dropped_file_has_words_that_can_be_heard(window: Window, address: str, folder: Path) -> None:
    window.open(address)
    assert window.texts("#models option") == ["first", "second"] and window.find("#models").is_displayed()
    data = {"items": [], "files": [str(folder / "talk.wav"), str(folder / "damaged.wav")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        window.command("Input.dispatchDragEvent", type=kind, x=640, y=500, data=data)
        if kind == "dragOver":
            window.wait("document.body.classList.contains('dropping')")
    window.wait("!document.body.classList.contains('dropping') && q('article')")
    window.wait("all('.status').every((each) => /words in|transcribed:/.test(each.textContent))")
    damaged, talk = window.driver.find_elements(By.TAG_NAME, "article")
    assert "can't be transcribed" in damaged.text and not damaged.find_element(By.TAG_NAME, "audio").is_displayed()
    assert "5 words in 6 s" in talk.text
    lines = talk.find_elements(By.CLASS_NAME, "line")
    assert [[word.text for word in line.find_elements(By.CLASS_NAME, "word")] for line in lines] == TALK
    window.wait("q('article:last-child audio').duration > 5")
    word = talk.find_elements(By.CLASS_NAME, "word")[3]
    word.click()
    window.wait("arguments[0].getAttribute('aria-current')", word)
    assert 3.0 < window.run("return q('article:last-child audio').currentTime") < 4.2
    window.wait("q('[aria-current]').textContent === 'add'")  # It goes on.
    talk.find_element(By.CLASS_NAME, "remove").click()
    assert len(window.driver.find_elements(By.TAG_NAME, "article")) == 1
    assert window.run("return document.activeElement.id") == "record"


def test_edited_text_is_in_all_downloads(window: Window, address: str, folder: Path) -> None:
    window.open(address)
    window.give_file(folder / "talk.wav")
    window.find(".edit").click()
    field = window.driver.switch_to.active_element
    assert field.get_attribute("value") == " ".join(TALK[0]) and field.accessible_name == "Text at 0:01"
    field.clear()
    field.send_keys("ab <b> & bad")
    window.find(".edit").click()
    assert window.texts(".line .text") == ["ab <b> & bad", "dad add"]
    contents = {}
    for form in ("txt", "srt", "vtt", "json"):
        file = folder / f"talk.{form}"
        file.unlink(missing_ok=True)
        window.find(f"[data-form={form}]").click()
        deadline = time.monotonic() + 20
        while not (file.exists() and file.stat().st_size):  # Chromium reserves the name with an empty file.
            assert time.monotonic() < deadline, form
            time.sleep(0.05)
        contents[form] = file.read_text(encoding="utf-8")
    assert contents["txt"] == "ab <b> & bad\ndad add\n"
    number, times, text = contents["srt"].split("\n\n")[0].splitlines()
    assert (number, text) == ("1", "ab <b> & bad") and times.startswith("00:00:01,") and len(times) == 29
    assert contents["vtt"].startswith("WEBVTT\n\n00:00:01.") and "ab &lt;b&gt; &amp; bad" in contents["vtt"]
    described = json.loads(contents["json"])
    assert described["text"] == "ab <b> & bad dad add"
    words = described["words"]
    assert [word["word"] for word in words] == ["ab", "<b>", "&", "bad", "dad", "add"]
    assert [word.get("estimated", False) for word in words] == [False, True, True, False, False, False]
    assert all(word["start"] <= word["end"] for word in words)
    assert all(left["end"] <= right["start"] for left, right in pairwise(words))


def test_a_key_is_asked_for_once_and_kept_in_the_tab(window: Window, locked: tuple[str, str], folder: Path) -> None:
    address, key = locked
    window.open(address)
    window.wait("q('#key').open")
    assert window.driver.switch_to.active_element.accessible_name == "Key"
    window.press("wrong", Keys.ENTER)
    window.wait("q('#key').open && q('#key-reason').textContent.includes('not accept')")
    window.press("not a key", Keys.ENTER)  # The form refuses characters that no key has.
    assert window.run("return q('#key').open && !q('#key input').validity.valid")
    window.find("#key input").clear()
    window.find("#key input").send_keys(key, Keys.ENTER)
    window.wait("!q('#key').open && sessionStorage.getItem('key')")
    assert window.run("return [sessionStorage.getItem('key'), localStorage.length, document.cookie]") == [key, 0, ""]
    window.driver.refresh()
    window.give_file(folder / "talk.wav")
    window.find("#record").click()
    window.wait("q('.status').textContent === 'Recording' && q('.line')")
    window.find("#record").click()
    assert not window.run("return q('#key').open")
    assert window.find("#change-key").is_displayed() and not window.find("#models").is_displayed()


def test_without_a_key_the_page_says_what_is_missing(window: Window, locked: tuple[str, str], folder: Path) -> None:
    window.open(locked[0])
    window.wait("q('#key').open")
    window.press(Keys.ESCAPE)
    window.wait("q('#message').textContent === 'This service needs an API key.'")
    for action in (window.find("#record").click, lambda: window.find("#files").send_keys(str(folder / "talk.wav"))):
        action()
        window.wait("q('#key').open")
        window.find("#cancel-key").click()
        window.wait("!q('#key').open")
    window.wait("q('.status')?.textContent === 'This service needs an API key.'")
    assert window.run("return q('#message').role") in ("status", None)


@pytest.mark.long
def test_a_busy_service_is_asked_again(window: Window, locked: tuple[str, str], folder: Path) -> None:
    address, key = locked
    window.open(address)
    window.wait("q('#key').open")
    window.press(key, Keys.ENTER)
    window.wait("!q('#key').open")
    window.run("""
        window.shown = new Set();
        new MutationObserver(() => all(".status").forEach((each) => shown.add(each.textContent)))
            .observe(q("#transcripts"), {subtree: true, childList: true});
    """)
    for number in range(7):
        shutil.copy(folder / "talk.wav", folder / f"talk {number}.wav")
    window.find("#files").send_keys("\n".join(str(folder / f"talk {number}.wav") for number in range(7)))
    window.wait("all('.status').filter((each) => each.textContent === '5 words in 6 s').length === 7")
    shown = window.run("return [...shown]")
    assert any("too many requests" in text and "The next try is in" in text for text in shown), shown
    assert {"Uploading", "Transcribing", "Waiting for other files"} <= set(shown)


def test_everything_can_be_done_with_the_keyboard(window: Window, address: str, folder: Path) -> None:
    window.open(address)
    window.wait("all('#models option').length === 2")
    window.tab_to("#models select")
    window.press("s")  # second
    window.tab_to("#record")
    assert window.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    window.press(Keys.ENTER)
    window.wait("q('.status')?.textContent === 'Recording'")
    window.wait("q('.line')")
    window.press(Keys.SPACE)  # The button keeps the focus.
    window.wait("q('.status').textContent === 'Recorded'")
    assert "model=second" in window.network("Network.webSocketCreated")[0]["url"]
    window.press(Keys.TAB)
    files = window.driver.switch_to.active_element
    assert files.get_attribute("id") == "files" and "Choose files" in files.accessible_name
    assert window.run("return getComputedStyle(q('label.primary')).outlineStyle") == "solid"
    window.give_file(folder / "talk.wav")
    window.tab_to("article:first-child .word")
    heard = []
    for name in ("RIGHT", "DOWN", "RIGHT", "RIGHT", "UP", "END", "HOME"):
        window.press(getattr(Keys, name))
        heard.append(window.driver.switch_to.active_element.text)
    assert heard == ["cab", "dad", "add", "add", "ab", "add", "ab"]
    window.press(Keys.END, Keys.ENTER)
    window.wait("q('audio').currentTime > 3")
    window.press(Keys.TAB)
    assert window.driver.switch_to.active_element.text == "Edit"
    window.press(Keys.SPACE)
    window.press(Keys.END, " dab")
    window.tab_to("article:first-child .edit")
    assert window.driver.switch_to.active_element.get_attribute("aria-pressed") == "true"
    window.press(Keys.SPACE)
    assert window.texts("article:first-child .text")[0] == "ab cab bad dab"
    window.tab_to("[data-form=txt]")
    window.tab_to("article:last-child .remove")
    window.press(Keys.ENTER)
    assert len(window.texts("article")) == 1


def test_a_refused_microphone_is_told(address: str) -> None:
    with open_browser("--use-fake-device-for-media-stream") as driver:
        window = Window(driver)
        window.open(address)
        window.command("Browser.setPermission", permission={"name": "microphone"}, setting="denied", origin=address)
        window.find("#record").click()
        window.wait("q('#message').textContent.startsWith('The microphone was refused.')")
        assert window.find("#message").aria_role == "status" and window.find("#record").text == "Record"
        assert window.texts("article") == []


def test_a_lost_service_is_told(window: Window, address: str, folder: Path) -> None:
    window.open(address)
    window.command("Network.enable")
    window.command("Network.setBlockedURLs", urls=["*/v1/*"])
    try:
        window.find("#files").send_keys(str(folder / "talk.wav"))
        window.wait("q('.status')?.textContent.includes(\"can't be reached\")")
    finally:
        window.command("Network.setBlockedURLs", urls=[])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_state_is_accessible_and_fits(
    window: Window, address: str, folder: Path, axe: str, width: str, scheme: str
) -> None:
    window.open(address, width, scheme)
    window.run(axe)
    found, states = [], 0

    def check(state: str) -> None:
        nonlocal states
        states += 1
        result = window.run_async("return await axe.run({runOnly: given[0]})", RULES)
        assert len(result["passes"]) > 10
        found.extend((state, each["id"], [node["html"] for node in each["nodes"]]) for each in result["violations"])
        assert overflow(window) <= 0, state
        if os.environ.get("FINETUNE_SCREENSHOTS"):
            window.driver.save_screenshot(f"{os.environ['FINETUNE_SCREENSHOTS']}/{width}-{scheme}-{state}.png")

    assert window.run("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    check("empty")
    window.find("#record").click()
    window.wait("q('.unstable')?.textContent")
    check("recording")
    window.wait("q('.line')")
    window.find("#record").click()
    window.wait("q('.status').textContent === 'Recorded'")
    long = folder / f"{'a-long-name-' * 8}.wav"
    shutil.copy(folder / "talk.wav", long)
    window.give_file(long)
    window.find(".word").click()
    check("words")
    window.find(".edit").click()
    window.find("textarea").send_keys(" " + 60 * "x")
    check("editing")
    window.find(".edit").click()
    check("edited")
    window.run("q('#change-key').hidden = false; q('#change-key').click()")
    check("key")
    assert found == [] and states == 6


def test_nothing_leaves_the_service_and_no_policy_is_violated(window: Window, address: str, folder: Path) -> None:
    window.open(address)
    window.find("#record").click()
    window.wait("q('.line')")
    window.find("#record").click()
    window.wait("q('.status').textContent === 'Recorded'")
    window.give_file(folder / "talk.wav")
    window.find(".word").click()
    window.wait("!q('audio').paused")
    names = window.run("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert f"{address}/v1/audio/transcriptions" in names
    assert [name for name in names if not name.startswith((f"{address}/", f"blob:{address}/", "data:"))] == []
    sent = {each["request"]["url"] for each in window.network("Network.requestWillBeSent")}
    assert f"{address}/page/live.js" in sent
    assert [url for url in sent if not url.startswith((f"{address}/", f"blob:{address}/", "data:"))] == []
    assert window.complaints() == []
    # The policy is at work: an inline script does not run, and the browser says so.
    window.run("const s = document.createElement('script'); s.textContent = 'window.harm = 1'; document.body.append(s)")
    assert window.run("return window.harm") is None
    assert "Content Security Policy" in window.complaints()[0]
