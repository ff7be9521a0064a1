"""The webhook: what it is sent, that nobody waits for it, and that its address stays secret."""

import json
import time

import pytest
from support.receiver import TOKEN, Receiver

from rwp_dist.base.errors import ConfigError
from rwp_dist.process import webhook as module
from rwp_dist.process.webhook import VARIABLE, Alert, Webhook, document, post_alone

ALERT = Alert("diverged", "The run diverges", "The loss is nan.", "ERROR")
DOCUMENT = document(ALERT, "m-rwp-s0", 7)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES_S", (0.01, 0.01))


def test_a_document_has_a_text_for_chats_and_the_rest_for_programs() -> None:
    with Receiver() as site:
        hook = Webhook(site.url, print)
        hook.post(DOCUMENT)
        hook.close()
    (found,) = site.posted
    assert found.keys() == {"run", "kind", "title", "text", "level", "step", "host", "time"}
    assert found["text"] == "m-rwp-s0: The run diverges. The loss is nan."
    assert (found["run"], found["kind"], found["step"]) == ("m-rwp-s0", "diverged", 7)


@pytest.mark.parametrize("first", [500, 503, 429])
def test_a_fault_that_passes_loses_nothing(first: int) -> None:
    said: list[str] = []
    with Receiver([first, first, 200]) as site:
        hook = Webhook(site.url, said.append)
        hook.post(DOCUMENT)
        hook.post(DOCUMENT | {"kind": "finished"})
        hook.close()
    assert site.kinds == ["diverged", "finished"] and said == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [(500, "HTTP status 500"), (302, "HTTP status 302"), (404, "HTTP status 404")],
)
def test_a_server_that_refuses_is_tried_three_times_and_said_without_its_address(
    answer: int, why: str
) -> None:
    said: list[str] = []
    with Receiver([answer]) as site:
        hook = Webhook(site.url, said.append)
        hook.post(DOCUMENT)
        hook.close()
    assert site.asked == 3
    assert said == [f"The webhook (RWP_WEBHOOK) has not taken an alert: {why}."]


def test_nobody_at_the_address_is_said() -> None:
    with Receiver() as site:
        url = site.url
    said: list[str] = []
    hook = Webhook(url, said.append)
    hook.post(DOCUMENT)
    hook.close()
    assert said == ["The webhook (RWP_WEBHOOK) has not taken an alert: Connection refused."]


def test_nobody_waits_for_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.3)
    said: list[str] = []
    with Receiver([0]) as site:
        hook = Webhook(site.url, said.append)
        begin = time.perf_counter()
        for _ in range(100):
            hook.post(DOCUMENT)
        assert time.perf_counter() - begin < module.TIMEOUT_S
        hook.close()
        assert 0.3 <= time.perf_counter() - begin < module.TIMEOUT_S
        assert said == ["The webhook has not answered yet; an alert may be lost."]


def test_a_server_that_never_answers_is_left_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    said: list[str] = []
    with Receiver([0, 200]) as site:
        hook = Webhook(site.url, said.append)
        hook.post(DOCUMENT)
        hook.close()
    assert site.kinds == ["diverged"] and said == []


@pytest.mark.parametrize(
    "url",
    ["hooks.example.com/", "file:///etc/", "http:///", "https://h:port/", "http://h/a b/"],
)
def test_what_is_no_address_is_refused_without_being_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as refused:
        Webhook(url + TOKEN, print)
    assert refused.value.key == VARIABLE and TOKEN not in str(refused.value)
    said: list[str] = []
    monkeypatch.setenv(VARIABLE, url + TOKEN)
    post_alone(ALERT, "m-rwp-s0", None, said.append)
    assert said == [str(refused.value)]


def test_without_the_variable_nothing_is_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", " "):
        monkeypatch.delenv(VARIABLE, raising=False)
        if value is not None:
            monkeypatch.setenv(VARIABLE, value)
        assert Webhook.from_environment(print) is None


def test_a_process_without_a_tracker_posts_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as site:
        monkeypatch.setenv(VARIABLE, site.url)
        post_alone(ALERT, "m-rwp-s0", None, print)
        assert site.kinds == ["diverged"]
    assert json.dumps(site.posted[0]["step"]) == "null"
