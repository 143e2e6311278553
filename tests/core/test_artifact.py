import errno
import fcntl
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from neolm.core import artifact
from neolm.core import manifest as manifest_module
from neolm.core.artifact import Clock, Stage
from neolm.core.errors import InputError, NeoLMError, StorageError
from neolm.core.files import differences_among, digest_path, storage_errors, write_json
from neolm.core.manifest import Input, chain, input_from, read_manifest, require, started_settings, verify
from neolm.core.output import claim_output, refuse_foreign
from neolm.core.resumable import ResumableStage
from neolm.show import show


def stage(directory: Path, **changes: Any) -> Stage:
    values: dict[str, Any] = {
        "name": "corpus",
        "room": "core",
        "directory": directory,
        "inputs": {"raw": Input("raw.txt", "abc")},
        "config": {"size": 3, "parts": {"a": 1}},
    }
    return Stage(**(values | changes))


def make(directory: Path) -> dict[str, int]:
    (directory / "out.txt").write_text("hello")
    return {"documents": 1}


def test_a_dangling_link_in_place_of_a_temporary_directory_is_removed(tmp_path: Path) -> None:
    for name in (".corpus.partial", ".corpus.old"):
        (tmp_path / name).symlink_to(tmp_path / "nothing")
    assert stage(tmp_path / "corpus").build(make).counts == {"documents": 1}
    assert stage(tmp_path / "corpus", config={}).build(make).counts == {"documents": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_every_file_is_on_disk_before_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    sync, replace = os.fsync, Path.replace

    def recording(descriptor: int) -> None:
        sync(descriptor)
        flushed.append(os.fstat(descriptor).st_ino)

    def checking(path: Path, target: Path) -> Path:
        if target.name == "manifest.json":
            names = {"out.txt", "config.json", "inner", "deep.bin"}
            places = [target.parent, *(p for p in target.parent.rglob("*") if not p.name.startswith("."))]
            assert {p.name for p in places} >= names
            assert {p.stat().st_ino for p in places} <= set(flushed)
        return replace(path, target)

    def make_nested(directory: Path) -> dict[str, int]:
        (directory / "inner").mkdir()
        (directory / "inner" / "deep.bin").write_bytes(b"x")
        return make(directory)

    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(Path, "replace", checking)
    stage(tmp_path / "corpus").build(make_nested)


def test_a_built_stage_is_current_and_its_manifest_complete(tmp_path: Path) -> None:
    built = stage(tmp_path / "corpus").build(make)
    assert stage(tmp_path / "corpus").current() == built
    recorded = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    expected = {"schema_version", "stage", "inputs", "outputs", "sizes", "config", "counts", "code", "environment"}
    assert set(recorded) == expected | {"started", "duration_seconds", "energy"}
    assert set(recorded["outputs"]) == {"out.txt", "config.json"}
    assert set(recorded["energy"]) == {"kwh", "method"}
    assert recorded["energy"]["method"].startswith(("estimate: ", "measured by "))
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]  # nothing half-made is left


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {"size": 4, "parts": {"a": 1}}},
        {"config": {"size": 3, "parts": {"a": 2}}},
        {"inputs": {"raw": Input("raw.txt", "abd")}},
        {"inputs": {}},
        {"room": "models"},
    ],
)
def test_another_input_setting_or_code_makes_it_stale(tmp_path: Path, changes: dict[str, Any]) -> None:
    stage(tmp_path / "corpus").build(make)
    assert stage(tmp_path / "corpus", **changes).current() is None


def test_a_moved_input_with_the_same_content_is_the_same(tmp_path: Path) -> None:
    stage(tmp_path / "corpus").build(make)
    assert stage(tmp_path / "corpus", inputs={"raw": Input("elsewhere.txt", "abc")}).current() is not None


def test_raw_files_are_read_again_only_when_names_sizes_or_times_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("text")

    def built() -> Stage:
        return stage(tmp_path / "run" / "corpus", inputs={"raw": input_from(raw, tmp_path / "run")})

    built().ensure(make, lambda counts: f"{counts['documents']} document")
    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "digest_path", lambda path: pytest.fail("the raw text was read"))
        assert built().current() is not None
    os.utime(raw, (1, 1))
    assert built().current() is not None  # another time, the same content
    raw.write_text("more text")
    assert built().current() is None
    raw.unlink()
    assert built().current() is not None
    monkeypatch.setattr(artifact, "code_digest", lambda room: "new code")
    assert built().current() is not None  # it could not be built again
    said = f"corpus: {raw} is no longer there; {tmp_path / 'run' / 'corpus'}, which was built from it, is used\n"
    assert capsys.readouterr().err == "corpus: 1 document\n" + 2 * said
    assert stage(tmp_path / "run" / "corpus", inputs=built().inputs, config={}).current() is None
    assert capsys.readouterr().err == ""


def test_a_record_that_lacks_a_new_setting_was_made_with_its_default(tmp_path: Path) -> None:
    stage(tmp_path / "corpus").build(make)
    new = {"size": 3, "parts": {"a": 1, "b": (2, 3)}, "more": {"c": None, "d": 0}}
    for defaults, changed in (
        (new, []),
        ({"parts": {"b": (2, 3)}, "more": new["more"]}, []),
        ({**new, "size": 5}, []),  # which the record has
        ({**new, "parts": {"a": 1, "b": (2, 4)}}, ["parts.b: [2, 4], now [2, 3]"]),
        ({"parts": new["parts"]}, ["more: None, now {'c': None, 'd': 0}"]),
    ):
        later = stage(tmp_path / "corpus", config=new, defaults=defaults)
        manifest = read_manifest(tmp_path / "corpus")
        assert manifest is not None
        assert later.changes(manifest.config, manifest.inputs) == changed
        assert (later.current() is None) == bool(changed)


def test_ensure_builds_once_and_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        stage(tmp_path / "corpus").ensure(make, lambda counts: f"{counts['documents']} document")
    assert capsys.readouterr().err == "corpus: 1 document\ncorpus: up to date\n"


def test_a_missing_or_shortened_output_makes_it_stale(tmp_path: Path) -> None:
    stage(tmp_path / "corpus").build(make)
    (tmp_path / "corpus" / "out.txt").write_text("hell")
    assert stage(tmp_path / "corpus").current() is None


def test_a_failed_build_leaves_the_old_artefact(tmp_path: Path) -> None:
    old = stage(tmp_path / "corpus").build(make)

    def fail(directory: Path) -> dict[str, int]:
        (directory / "half.txt").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        stage(tmp_path / "corpus", config={"size": 9}).build(fail)
    assert read_manifest(tmp_path / "corpus") == old
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]


def test_energy_of_several_sessions_is_stated_as_given(tmp_path: Path) -> None:
    energy = {"kwh": 1.5, "method": "measured by RAPL (package-0), without GPUs"}
    assert stage(tmp_path).seal(tmp_path, {}, Clock(), energy=energy).energy == energy
    assert json.loads((tmp_path / "manifest.json").read_text())["energy"] == energy


def test_what_other_software_goes_on_writing_is_no_output(tmp_path: Path) -> None:
    for name in ("wandb/run/debug.log", "tensorboard/events", "kept/wandb/note.txt", "wandb-run"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    sealed = stage(tmp_path).seal(tmp_path, {}, Clock())
    assert set(sealed.outputs) == {"config.json", "kept/wandb/note.txt", "wandb-run"}
    (tmp_path / "wandb" / "run" / "debug.log").write_text("one line more")
    assert stage(tmp_path).current() is not None
    assert verify(tmp_path) == []


def test_differences_among_many_settings() -> None:
    many: list[dict[str, Any]] = [
        {"a": 1, "b": {"c": 2, "d": [3]}, "e": None},
        {"a": 1, "b": {"c": 5, "d": [3]}},
        {"b": 7},
    ]
    assert list(differences_among(many[:2])) == [("b.c", (2, 5))]
    assert list(differences_among(many)) == [("a", (1, 1, None)), ("b", (many[0]["b"], many[1]["b"], 7))]
    assert list(differences_among(many[::2])) == [("a", (1, None)), ("b", (many[0]["b"], 7))]
    assert list(differences_among(many[:1])) == list(differences_among([])) == []


def test_a_directory_without_manifest_does_not_exist(tmp_path: Path) -> None:
    stage(tmp_path / "corpus").build(make)
    (tmp_path / "corpus" / "manifest.json").write_text('{"stage": ')  # torn
    assert stage(tmp_path / "corpus").current() is None
    with pytest.raises(NeoLMError, match="no finished corpus"):
        require(tmp_path / "corpus", "corpus", "corpus build")


def test_what_a_training_came_from_is_not_remade_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = stage(tmp_path / "corpus").build(make)
    write_json(tmp_path / "pretrain.json", {})
    (tmp_path / "pretrain").mkdir()
    write_json(tmp_path / "pretrain" / "config.json", {"inputs": {"shards": {"path": "corpus", "digest": "abc"}}})
    with pytest.raises(InputError, match=r"would change \(size: 3, now 4\).*was started from it"):
        stage(tmp_path / "corpus", config={"size": 4, "parts": {"a": 1}}).current()
    monkeypatch.setattr(artifact, "code_digest", lambda room: "new code")
    assert stage(tmp_path / "corpus").current() == built  # new code alone keeps it


def test_a_resumable_stage_continues_only_with_the_same_settings_and_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def resume(config: dict[str, Any], inputs: dict[str, Input]) -> None:
        directory = tmp_path / "pretrain"
        found = ResumableStage("pretrain", "core", directory, inputs, config, frozenset({"run.device"}))

        def make() -> tuple[dict[str, Any], dict[str, Any]]:
            assert found.start(precision="float32") == {"precision": "float32"}
            return {"steps": 1}, {"kwh": 0.0, "method": "none"}

        found.resume(make)

    config, inputs = {"run": {"steps": 3, "device": "cpu"}}, {"base": Input("base", "abc")}
    resume(config, inputs)
    capsys.readouterr()
    for finished in (True, False):
        for other, others, message in (
            ({"run": {"steps": 4, "device": "cpu"}}, inputs, r"run\.steps: 3, now 4\)"),
            (config, {"base": Input("base", "abd")}, "base changed"),
            (config, {}, "base changed"),
            (config, inputs | {"more": Input("more", "x")}, "more changed"),
        ):
            with pytest.raises(InputError, match=f"holds a run with other settings .{message}"):
                resume(other, others)
        resume({"run": {"steps": 3, "device": "cuda"}}, {"base": Input("moved", "abc")})
        assert ("up to date" in capsys.readouterr().err) == finished
        (tmp_path / "pretrain" / "manifest.json").unlink()


def test_raw_files_are_not_read_again_in_each_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tmp_path / "base"
    raw.mkdir()
    (raw / "weights").write_text("1")

    def session() -> None:
        inputs = {"base": input_from(raw, tmp_path / "run")}
        ResumableStage("pretrain", "core", tmp_path / "run" / "pretrain", inputs, {"steps": 3}).start()

    session()
    first = started_settings(tmp_path / "run" / "pretrain")["inputs"]["base"]
    assert first["digest"] == digest_path(raw)
    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "digest_path", lambda path: pytest.fail("the raw files were read"))
        session()
        raw.rename(tmp_path / "elsewhere")
        session()
    assert started_settings(tmp_path / "run" / "pretrain")["inputs"]["base"] == first
    (tmp_path / "elsewhere").rename(raw)
    os.utime(raw / "weights", (1, 1))
    session()
    later = started_settings(tmp_path / "run" / "pretrain")["inputs"]["base"]
    assert (later["digest"], later["stamp"] == first["stamp"]) == (first["digest"], False)


def test_verify_names_what_was_altered(tmp_path: Path) -> None:
    stage(tmp_path / "corpus").build(make)
    assert verify(tmp_path / "corpus") == []
    (tmp_path / "corpus" / "out.txt").write_text("jello")
    assert verify(tmp_path / "corpus") == ["out.txt"]
    with pytest.raises(InputError, match=r"differ from their manifest: corpus/out\.txt"):
        show(tmp_path / "corpus", check=True)


def test_the_chain_leads_back_to_the_first_stage(tmp_path: Path) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("text")
    stage(tmp_path / "corpus", inputs={"raw": input_from(raw, tmp_path)}).build(make)
    later = stage(tmp_path / "shards", name="shards", inputs={"corpus": input_from(tmp_path / "corpus", tmp_path)})
    later.build(make)
    assert [manifest.stage for _, manifest in chain(tmp_path / "shards")] == ["shards", "corpus"]
    shown = show(tmp_path)
    assert shown.index("shards") < shown.index("raw.txt")


def test_the_digest_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    first = digest_path(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    second = digest_path(tmp_path / "a")
    (tmp_path / "a" / "y").write_text("2")
    assert len({first, second, digest_path(tmp_path / "a")}) == 3


def claim(output: Path) -> None:
    with claim_output(output, ["corpus"]):
        pass


def test_an_output_with_foreign_files_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"already contains other files \(thesis\.tex\)"):
        claim(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        claim(tmp_path / "thesis.tex")
    with pytest.raises(InputError, match="cannot be written"):
        claim(tmp_path / "thesis.tex" / "run")
    with pytest.raises(InputError, match="already contains other files"):
        refuse_foreign(tmp_path)
    with pytest.raises(InputError, match=r"thesis\.tex: is a file"):
        refuse_foreign(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def _hold(output: Path, ready: Any, done: Any) -> None:
    with claim_output(output, []):
        ready.set()
        done.wait(60)


def test_two_runs_do_not_share_a_directory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "run", ready, done))
    holder.start()
    try:
        assert ready.wait(60)
        said = f"in use by another run \\(process {holder.pid}\\)"
        with pytest.raises(InputError, match=said), claim_output(tmp_path / "run", []):
            pass
    finally:
        done.set()
        holder.join(60)
    with claim_output(tmp_path / "run", []):
        assert (tmp_path / "run" / ".lock").read_text() == str(os.getpid())
        (tmp_path / "run" / "corpus").mkdir()
    assert (tmp_path / "run" / "corpus").is_dir()


@pytest.mark.parametrize("again", [False, True])
def test_a_lock_file_that_was_removed_before_it_was_locked_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    lock, flock = tmp_path / ".lock", fcntl.flock

    def remove_and_lock(file: Any, operation: int) -> None:
        lock.rename(tmp_path / ".removed")  # as another run does that has built nothing
        if again:
            lock.touch()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with pytest.raises(InputError, match="in use by another run"), claim_output(tmp_path, []):
        pass


def test_a_run_that_builds_nothing_leaves_no_directories(tmp_path: Path) -> None:
    claim(tmp_path / "runs" / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    claim(tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.ENOSPC, StorageError, "disk is full"),
        (errno.EDQUOT, StorageError, "disk is full"),
        (errno.EACCES, InputError, "cannot be written"),
        (errno.EROFS, InputError, "cannot be written"),
    ],
)
def test_what_a_disk_says_is_one_clear_line(tmp_path: Path, number: int, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text), storage_errors(tmp_path / "not" / "yet"):
        raise OSError(number, os.strerror(number))
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path):
        raise FileNotFoundError


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc, where nobody can make a directory")
def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    stage = Stage("export", "models", Path("/proc/neolm-nothing"), {}, {})
    with pytest.raises(InputError, match="a directory cannot be created there"):
        stage.build(lambda directory: {})


def test_manifests_that_name_each_other_end(tmp_path: Path) -> None:
    for name, other in (("corpus", "tokenizer"), ("tokenizer", "corpus")):
        stage(tmp_path / name, inputs={"raw": Input(other, "abc"), "self": Input(name, "abc")}).build(make)
    assert [place.name for place, _ in chain(tmp_path / "corpus")] == ["corpus", "tokenizer"]
