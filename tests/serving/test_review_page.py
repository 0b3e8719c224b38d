"""The review page in Chromium: clicks and keys decide utterances, and nothing that was typed is lost."""

import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import open_browser
from conftest import SAMPLING_RATE, speak
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from window import RULES, WIDTHS, Window, overflow

from finetune.feedback.records import Hypothesis, NewUtterance, Review
from finetune.feedback.store import Store
from finetune.serving.keys import add_key

HARM = "<img src=x onerror=window.harm=1>"
WORDS = (("ab", 0.1, 0.3, 0.9), ("cab", 0.4, 0.7, 0.8), ("dad", 0.8, 1.1, 0.7))


def make_wav(seconds: float) -> bytes:
    """Tones, and then silence up to a length."""
    sound = np.zeros(int(seconds * SAMPLING_RATE), dtype=np.float32)
    spoken = speak("ab cab dad", np.random.default_rng(0))[: len(sound)]
    sound[: len(spoken)] = spoken
    file = BytesIO()
    soundfile.write(file, sound, SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


class Desk:
    """A store with utterances, and a service around it."""

    def __init__(self, store: Store, address: str) -> None:
        self.store, self.address, self.count = store, address, 0

    def add(self, text: str = "ab cab dad", confidence: float = 0.5, **given: Any) -> int:
        """An utterance with a hypothesis; each has other audio."""
        self.count += 1
        hypothesis = Hypothesis(text=text, model="m", confidence=confidence, words=given.pop("words", WORDS))
        new = NewUtterance(
            audio=make_wav(2.5 + 0.01 * self.count),
            suffix=".wav",
            seconds=2.5,
            source="test",
            consent="yes",
            hypothesis=hypothesis,
            **given,
        )
        return self.store.add(new, "test").id

    def last(self, number: int) -> tuple[str, str | None, str | None]:
        """The action, text and reason of the last review of an utterance."""
        review = self.store.get(number).reviews[-1]
        return review.action, review.text, review.reason


@pytest.fixture
def desk(serve: Callable[..., Any], tmp_path: Path) -> Iterator[Desk]:
    store = Store.create(tmp_path / "store")
    with serve(feedback=tmp_path / "store") as address:
        yield Desk(store, address)
    store.close()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with open_browser("--autoplay-policy=no-user-gesture-required", "--mute-audio") as driver:
        yield driver


class ReviewWindow(Window):
    """The actions of a reviewer."""

    def begin(self, desk: Desk, name: str = "anna", width: str = "desktop", scheme: str = "light") -> None:
        """Open the page in a new tab, and give a name."""
        self.open(f"{desk.address}/review", width, scheme)
        self.wait("q('#name').open")
        self.press(name, Keys.ENTER)
        self.wait("!q('#name').open && q('#item').ariaBusy === 'false'")

    def shows(self, number: int) -> None:
        """Wait until an utterance is shown, and can be decided."""
        self.wait("!q('#item').hidden && q('#title').textContent === arguments[0]", f"Utterance {number}")
        self.wait("q('#item').ariaBusy === 'false' && q('#time').textContent.endsWith('0:02')")

    def says(self, text: str) -> None:
        """Wait for a message."""
        self.wait("q('#message').textContent.includes(arguments[0])", text)

    @property
    def focused(self) -> str:
        return str(self.run("return document.activeElement.id"))


@pytest.fixture
def window(driver: Any) -> ReviewWindow:
    return ReviewWindow(driver)


def test_clicks_decide_one_after_another(window: ReviewWindow, desk: Desk) -> None:
    numbers = [desk.add(confidence=confidence, speaker="s1", domain="phone") for confidence in (0.2, 0.4, 0.6, 0.8)]
    window.begin(desk)
    window.shows(numbers[0])
    assert window.texts("#reasons li") == ["The model is not sure: its confidence is 20 %."]
    assert window.find("#facts").text == "2.5 s, speaker s1, domain phone."
    window.find("#accept").click()
    window.says(f"Utterance {numbers[0]} is accepted.")
    window.shows(numbers[1])
    window.find("#edit").click()
    assert window.focused == "correction" and window.find("#correction").get_property("value") == "ab cab dad"
    window.press(Keys.END, " bad")
    window.find("#accept").click()
    window.shows(numbers[2])
    window.find("#skip").click()
    window.shows(numbers[3])
    window.find("#reject").click()
    window.press("two people", Keys.ENTER)
    window.says(f"Utterance {numbers[3]} is rejected. Nothing more waits for you.")
    assert not window.find("#item").is_displayed() and window.focused == "again"
    expected = [
        ("accept", "ab cab dad", None),
        ("edit", "ab cab dad bad", None),
        ("skip", None, None),
        ("reject", None, "two people"),
    ]
    assert [desk.last(number) for number in numbers] == expected
    assert {each.reviewer for number in numbers for each in desk.store.get(number).reviews} == {"anna"}
    window.wait("q('#counts').textContent.startsWith('Waiting: 1, ')")
    assert "Corrected: 2. Rejected: 1." in window.find("#counts").text
    assert window.complaints() == []


def test_keys_decide_one_after_another(window: ReviewWindow, desk: Desk) -> None:
    numbers = [desk.add(confidence=confidence) for confidence in (0.1, 0.2, 0.4, 0.6, 0.8)]
    window.begin(desk, "Jürgen 你")
    window.shows(numbers[0])
    window.press("?")
    window.wait("q('#keys').open")
    window.press("s", Keys.ESCAPE)  # A key of the dialog decides nothing.
    assert desk.store.get(numbers[0]).reviews == ()
    window.find(".word:nth-of-type(2)").click()  # It leaves the focus, so that Enter still accepts.
    window.press(Keys.ENTER)
    window.shows(numbers[1])
    window.press("e")
    window.press(Keys.HOME, "r s? ")  # Letters are text here.
    window.press(*[Keys.BACKSPACE] * 5, "bad ", Keys.ENTER)
    window.shows(numbers[2])
    window.press("s")
    window.shows(numbers[3])
    window.press("r")
    window.press(Keys.ENTER)  # A reason is required.
    assert window.run("return q('#why').open")
    window.press("noise", Keys.ENTER)
    window.shows(numbers[4])
    found = [desk.last(number) for number in numbers[:4]]
    assert [each[0] for each in found] == ["accept", "edit", "skip", "reject"]
    assert found[1][1] == "bad ab cab dad" and found[3][2] == "noise"
    assert desk.store.get(numbers[0]).reviews[0].reviewer == "Jürgen 你"
    window.press("?")
    window.find("#use-keys").click()
    window.press(Keys.ESCAPE)
    window.wait("!q('#keys').open")
    window.run("q('#title').focus()")
    window.press("s", "r", "e")
    assert not window.run("return q('#why').open || !q('#editor').hidden") and desk.store.get(numbers[4]).reviews == ()


def test_a_recording_is_heard_and_drawn(window: ReviewWindow, desk: Desk) -> None:
    number = desk.add()
    window.begin(desk)
    window.shows(number)
    painted = """
        const {data} = q("#wave").getContext("2d").getImageData(0, 0, q("#wave").width, q("#wave").height);
        return data.filter((value, i) => i % 4 === 3 && value).length / (data.length / 4);
    """
    assert 0.02 < window.run(painted) < 0.9
    assert window.texts(".word") == ["ab", "cab", "dad"]
    assert window.run("return q('#words').textContent") == "ab cab dad"
    window.find(".word:nth-of-type(2)").click()
    window.wait("q('#play').textContent === 'Pause' && q('[aria-current]')?.textContent === 'cab'")
    window.wait("q('[aria-current]').textContent === 'dad'")  # It goes on.
    window.press(Keys.SPACE)
    window.wait("q('#play').textContent === 'Play'")
    assert window.focused == "title"
    window.press(*[Keys.ARROW_LEFT] * 2)
    window.wait("!q('[aria-current]')")  # Before the first word.
    window.press(Keys.ARROW_RIGHT)
    window.wait("q('#time').textContent.startsWith('0:02')")
    window.tab_to(".word")
    window.press(Keys.ARROW_RIGHT)  # From word to word.
    assert window.driver.switch_to.active_element.text == "cab"
    window.press(Keys.ENTER)
    window.wait("q('#play').textContent === 'Pause'")
    assert desk.store.get(number).reviews == ()  # A button that has the focus gets the key.
    wave = window.find("#wave")
    ActionChains(window.driver).move_to_element_with_offset(wave, wave.size["width"] // 2 - 2, 0).click().perform()
    window.wait("q('#time').textContent.startsWith('0:02')")
    window.press("e")
    before = window.find("#play").text
    ActionChains(window.driver).key_down(Keys.CONTROL).send_keys(Keys.SPACE).key_up(Keys.CONTROL).perform()
    window.wait("q('#play').textContent !== arguments[0]", before)
    assert window.find("#correction").get_property("value") == "ab cab dad"


def test_a_correction_survives_a_reload_and_an_error(window: ReviewWindow, desk: Desk) -> None:
    first, second = desk.add(confidence=0.1), desk.add(confidence=0.9)
    window.begin(desk)
    window.shows(first)
    window.press("e")
    window.press(Keys.END, " xyz")
    window.driver.refresh()
    window.shows(first)
    assert window.find("#correction").get_property("value") == "ab cab dad xyz" and window.focused == "correction"
    window.press(Keys.ENTER)
    window.says("can't write these characters of the text: x y z")
    assert window.find("#correction").get_property("value") == "ab cab dad xyz"
    window.command("Network.enable")
    window.command("Network.setBlockedURLs", urls=["*/review"])
    try:
        window.press(*[Keys.BACKSPACE] * 3, "add", Keys.ENTER)
        window.says("can't be reached")
    finally:
        window.command("Network.setBlockedURLs", urls=[])
    assert window.find("#correction").get_property("value") == "ab cab dad add"
    window.press(Keys.ENTER)
    window.shows(second)
    assert desk.last(first) == ("edit", "ab cab dad add", None)
    kept = window.run("return [Object.keys(sessionStorage).sort(), localStorage.length, document.cookie]")
    assert kept == [["reviewer"], 0, ""] and window.find("#correction").get_property("value") == "ab cab dad"
    desk.store.erase([second], "test")  # While it is shown.
    window.press("e")
    window.press(Keys.END, " bad", Keys.ENTER)
    window.says(f"Utterance {second} was forgotten")
    assert window.find("#correction").get_property("value") == "ab cab dad bad"
    window.find("#skip").click()
    window.says("Nothing more waits for you.")


def test_another_reviewer_was_faster(window: ReviewWindow, desk: Desk) -> None:
    number, other = desk.add(confidence=0.1), desk.add(confidence=0.9)
    window.begin(desk)
    window.shows(number)
    desk.store.review(number, Review(reviewer="bob", action="edit", text="ab cab"))
    window.press("e")
    window.press(Keys.END, " add", Keys.ENTER)
    window.says("has different corrections: it waits in the review queue for a decision.")
    assert desk.store.get(number).status == "conflict"
    window.shows(other)  # It was fetched ahead.
    window.press("s")
    window.shows(number)
    assert "Reviewers gave different texts" in window.find("#facts").text
    texts = ["ab cab", "Key 1: given by bob", "ab cab dad add", "Key 2: given by anna"]
    assert window.texts("#choices span") == texts
    window.press("1")
    window.says(f"Utterance {number} is corrected. This replaces what anna said")
    assert (desk.store.get(number).status, desk.store.get(number).text) == ("corrected", "ab cab")
    window.wait("q('#agreement').textContent.includes('agree on 1 of 1 utterances (100 %)')")


def test_what_others_decided_meanwhile_is_not_shown(window: ReviewWindow, desk: Desk) -> None:
    numbers = [desk.add(confidence=confidence) for confidence in (0.1, 0.2, 0.3, 0.4)]
    window.begin(desk)
    window.shows(numbers[0])
    desk.store.review(numbers[1], Review(reviewer="bob", action="accept", text="ab"))
    desk.store.erase([numbers[2]], "test")
    window.press("s")
    window.shows(numbers[3])


def test_two_reviewers_are_announced(window: ReviewWindow, serve: Callable[..., Any], tmp_path: Path) -> None:
    keys = {name: add_key(tmp_path / "keys.yaml", name, ["feedback"]) for name in ("anna", "bob")}
    wrong = add_key(tmp_path / "keys.yaml", "reader", ["transcribe"])
    store = Store.create(tmp_path / "store", reviewers_wanted=2)
    with serve(feedback=tmp_path / "store", keys=tmp_path / "keys.yaml") as address:
        desk = Desk(store, address)
        number = desk.add()
        for answers, name in enumerate(keys):
            window.open(f"{address}/review")
            window.wait("q('#key').open")
            window.press(keys[name], Keys.ENTER)
            window.shows(number)
            asked = f"2 reviewers are asked for each utterance; {answers} answered this one so far."
            assert asked in window.find("#facts").text
            assert not window.find("#change-name").is_displayed() and not window.find("#choices").is_displayed()
            window.press(Keys.ENTER)
            window.says("Nothing more waits")
        assert [each.reviewer for each in store.get(number).reviews] == ["anna", "bob"]
        assert store.get(number).status == "corrected"
        window.open(f"{address}/review")
        window.wait("q('#key').open")
        window.press(wrong, Keys.ENTER)
        window.says("The key reader has not the scope feedback.")
    store.close()


def test_texts_are_shown_as_texts(window: ReviewWindow, desk: Desk) -> None:
    number = desk.add(HARM, words=((HARM, 0.1, 0.3, 0.5),), speaker=HARM, domain=HARM[:60], signals={HARM: 0.5})
    desk.store.review(number, Review(reviewer=HARM, action="edit", text=HARM))
    desk.store.review(number, Review(reviewer="bob", action="reject", reason=HARM))
    window.begin(desk)
    window.shows(number)
    window.press("e")
    assert window.find("#correction").get_property("value") == HARM
    shown = [HARM, f"Key 1: given by {HARM}", f"Rejected: {HARM}", "Key 2: given by bob"]
    assert window.texts("#choices span") == shown and window.texts(".word") == [HARM]
    assert HARM in window.find("#facts").text and any(HARM in each for each in window.texts("#reasons li"))
    assert window.run("return [window.harm, all('img, main script').length]") == [None, 0]
    window.press(Keys.ESCAPE, "2")
    window.says("Nothing more waits")
    assert desk.last(number) == ("reject", None, HARM) and desk.store.get(number).status == "rejected"
    assert window.complaints() == []


def test_a_service_without_a_store_says_so(window: ReviewWindow, address: str) -> None:
    window.open(f"{address}/review")
    window.says("This service keeps no feedback: it was started without --feedback STORE.")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_state_is_accessible_and_fits(window: ReviewWindow, desk: Desk, axe: str, width: str, scheme: str) -> None:
    long = 40 * "ab" + " cab"
    conflict = desk.add(long, words=((40 * "ab", 0.1, 0.3, 0.9), ("cab", 0.4, 0.7, 0.8)), speaker=60 * "s")
    for reviewer in ("bob", "eve"):
        desk.store.review(conflict, Review(reviewer=reviewer, action="edit", text=f"{long} {reviewer}"))
    window.open(f"{desk.address}/review", width, scheme)
    window.wait("q('#name').open")
    window.run(axe)
    found, states = [], []

    def check(state: str) -> None:
        states.append(state)
        result = window.run_async("return await axe.run({runOnly: given[0]})", RULES)
        assert len(result["passes"]) > 10
        found.extend((state, each["id"], [node["html"] for node in each["nodes"]]) for each in result["violations"])
        assert overflow(window) <= 0, state
        if os.environ.get("FINETUNE_SCREENSHOTS"):
            window.driver.save_screenshot(f"{os.environ['FINETUNE_SCREENSHOTS']}/review-{width}-{scheme}-{state}.png")

    check("name")
    window.press(Keys.ENTER)
    window.shows(conflict)
    window.find(".word").click()
    window.wait("q('[aria-current]')")
    check("conflict")
    window.press("e")
    window.find("#correction").send_keys(" " + 60 * "x")
    check("editing")
    window.press(Keys.ESCAPE, "r")
    check("reason")
    window.press(Keys.ESCAPE, "?")
    window.wait("q('#keys').open")
    check("keys")
    window.press(Keys.ESCAPE, "s")
    window.says("Nothing more waits")
    check("done")
    assert found == [] and len(states) == 6
