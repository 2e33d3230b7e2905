"""Where work is silent, something says that it goes on."""

import time

import pytest

from nnunet_mamba.nnunet.heartbeat import Heartbeat


def test_silence_is_broken_again_and_again_with_the_work_and_its_time():
    said: list[tuple[float, str]] = []
    start = time.monotonic()
    with Heartbeat(lambda text: said.append((time.monotonic() - start, text)), every_s=0.05) as heartbeat:
        heartbeat.doing = "planning"
        time.sleep(0.5)
    texts = [text for _, text in said]
    assert len(texts) >= 3 and set(texts) <= {"      ... planning: 0:00", "      ... planning: 0:01"}
    n = len(said)
    time.sleep(0.15)
    assert len(said) == n  # closed


def test_what_is_said_passes_on_and_needs_no_addition():
    said: list[str] = []
    with Heartbeat(said.append, every_s=0.4) as heartbeat:
        for number in range(10):
            heartbeat(str(number))
            time.sleep(0.05)
    assert said == [str(number) for number in range(10)]


def test_an_error_ends_it_too():
    said: list[str] = []
    with pytest.raises(KeyError), Heartbeat(said.append, every_s=0.05):
        time.sleep(0.2)
        raise KeyError
    n = len(said)
    assert n >= 1
    time.sleep(0.15)
    assert len(said) == n


def test_where_nobody_listens_it_falls_silent(recwarn):
    def broken(text: str) -> None:
        raise BrokenPipeError

    with Heartbeat(broken, every_s=0.02) as heartbeat:
        time.sleep(0.1)
        assert not heartbeat._thread.is_alive()
    assert not list(recwarn)  # pytest tells of errors in threads
