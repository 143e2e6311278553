"""Chat templates of others: the environment of transformers, and limits of time, memory and length."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from neolm.core.errors import InputError
from neolm.tokenizer import renderer as renderer_module
from neolm.tokenizer.renderer import MAX_TEMPLATE_BYTES, Renderer, TemplateLimitError

PLACE = Path("somewhere")
SAID = [{"role": "user", "content": "hi é\ud83d <b>"}, {"role": "assistant", "content": " there "}]
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
        "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
        "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.role }}{% endgeneration %}{% endfor %}",
        "{% macro f(x) %}[{{ x }}]{% endmacro %}{% generation %}{{ f(1) }}{% endgeneration %}",
        "{{ strftime_now('%Y-%m') }}",
        "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages | tojson(ensure_ascii=True) }}",
        "{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=True) }}",
        "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ add_generation_prompt }}",
        "{{ eos_token }}{{ bos_token is defined }}{{ cls_token }}",
        "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "  {% if true %}\n  x\n  {% endif %}\n{# note #}\n{{ dict(a=1).a }}{{ dict.fromkeys('ab', 1) }}",
        "{% set ns = namespace(found=false) %}{% set ns.found = true %}{{ ns.found }}{{ namespace({'a': 1}).a }}",
        "{{ namespace(self=1).self }}",
        "{{ messages[0]['content'] | e }}{{ messages | map(attribute='role') | join('-') }}",
        "{{ messages[5] }}{{ nothing }}",
    ],
)
def test_templates_render_as_in_transformers(source: str) -> None:
    names = {"eos_token": "<e>"}
    [expected], _ = render_jinja_template([SAID], chat_template=source, add_generation_prompt=True, **names)
    assert Renderer(source, PLACE).render(SAID, names) == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (LOOP, "takes longer than 0.5 seconds"),
        ("{{ 'a' * 10**10 * messages | length }}", "takes too much memory"),
        (
            "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "memory|lon",
        ),
        ("{{ 'a' | center(10**10) }}", "takes too much memory"),
        ("{{ range(99999) | list * 99999 }}", "takes too much memory"),
        ("{{ range(9999) | join('a' * 99999) }}", "takes too much memory|longer"),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "writes more than 4,194,304 characters"),
        ("{{ '%9999999999d' % 1 }}", "takes too much memory"),
    ],
)
def test_a_template_is_stopped_at_its_limits(source: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer_module, "MAX_RENDER_SECONDS", 0.5)
    template = Renderer(source, PLACE)
    for _ in range(2):  # a new worker does the same
        with pytest.raises(
            TemplateLimitError, match=f"^messages: the chat template of the model was stopped.*({reason})"
        ):
            template.render(SAID, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ raise_exception('no') }}",
        "{% set ns = namespace(_a=1) %}",
        "{{ messages | tojson(indent='') | int / 0 }}",
    ],
)
def test_a_template_that_fails_is_one_error(source: str) -> None:
    template = Renderer(source, PLACE)
    for _ in range(2):
        with pytest.raises(InputError, match=r"^messages: the chat template of the model does not accept them"):
            template.render(SAID, {})


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{",
        "{% unknown %}",
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{% if 1 %}" * 3000,
        "a" * (MAX_TEMPLATE_BYTES + 1),
    ],
)
def test_what_is_not_a_template_is_refused(source: str) -> None:
    with pytest.raises(InputError, match=r"^somewhere: the chat template "):
        Renderer(source, PLACE)


@pytest.fixture
def workers() -> Callable[[], list[int]]:
    """The processes that this process has started since the beginning of the test."""
    earlier = set(_children())
    return lambda: [number for number in _children() if number not in earlier]


def test_a_killed_worker_is_replaced(workers: Callable[[], list[int]]) -> None:
    template = Renderer("{{ messages | length }}", PLACE)
    [worker] = workers()
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    assert template.render(SAID, {}) == "2"
    template.close()
    assert not workers()
    assert template.render(SAID, {}) == "2"
    assert len(workers()) == 1
    del template
    gc.collect()
    assert not workers()


def test_close_stops_a_rendering_that_is_under_way(workers: Callable[[], list[int]]) -> None:
    template, started, caught = Renderer(LOOP, PLACE), time.monotonic(), []

    def render() -> None:
        with pytest.raises(TemplateLimitError, match="its process ended") as error:
            template.render(SAID, {})
        caught.append(error)

    thread = threading.Thread(target=render)
    thread.start()
    while thread.is_alive() and not template._lock.locked():
        time.sleep(0.01)
    time.sleep(0.2)
    template.close()
    thread.join()
    assert caught
    assert time.monotonic() - started < renderer_module.MAX_RENDER_SECONDS
    assert not workers()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the niceness from the system")
def test_a_worker_gives_way_to_other_processes(workers: Callable[[], list[int]]) -> None:
    template = Renderer("x", PLACE)
    [worker] = workers()
    assert os.getpriority(os.PRIO_PROCESS, worker) == os.getpriority(os.PRIO_PROCESS, 0) + 10
    template.close()


def test_a_slow_template_does_not_delay_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer_module, "MAX_RENDER_SECONDS", 3.0)
    slow, quick = Renderer(LOOP, PLACE), Renderer("{{ messages | length }}", PLACE)
    thread = threading.Thread(target=pytest.raises, args=(TemplateLimitError, slow.render, SAID, {}))
    thread.start()
    for _ in range(20):
        assert quick.render(SAID, {}) == "2"
    assert thread.is_alive()  # the slow one still runs
    thread.join()


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_ends_with_the_process_that_started_it(busy: bool) -> None:
    render = "threading.Thread(target=template.render, args=([], {}), daemon=True).start()" if busy else "pass"
    code = f"""
import os, signal, threading
from pathlib import Path
from neolm.tokenizer import renderer
renderer.MAX_RENDER_SECONDS = 1.0
template = renderer.Renderer({LOOP!r}, Path('x'))
{render}
print(template._worker.process.pid, flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        worker = int(owner.stdout.readline())
        owner.kill()
    deadline = time.monotonic() + 30
    while _alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def _children() -> list[int]:
    """Processes of this one that are alive."""
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return [int(number) for number in path.read_text().split() if _alive(int(number))]
