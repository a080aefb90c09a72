"""Places and streams as they come: one line for each, never a traceback."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from records import record
from salmu_core.cli import progress, render, streams
from salmu_core.cli.main import main
from salmu_core.errors import BadData, BadOptions, OutputError
from salmu_core.files.first_bytes import refuse_other_content
from salmu_core.files.names import visible
from salmu_core.files.writing import check_writable, default_cache, elsewhere, write_json
from salmu_core.runner.progress import Progress as Event


class _Refuses(io.RawIOBase):
    """A disk without room, or a pipe that nobody reads."""

    def __init__(self, number):
        self.number = number

    def writable(self):
        return True

    def write(self, data):
        raise OSError(self.number, os.strerror(self.number))


def test_an_ascii_terminal_gets_plainer_signs_and_json_escapes(monkeypatch):
    ascii_output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(ascii_output, encoding="ascii", write_through=True))
    streams.prepare_streams()
    print("0.1 – 0.2 · Müller 张 ≥ 1")
    assert ascii_output.getvalue() == b"0.1 - 0.2 - Muller ? >= 1\n"
    ascii_output.truncate(0)
    ascii_output.seek(0)
    render.print_json({"name": "Müller 张 –"})
    assert json.loads(ascii_output.getvalue()) == {"name": "Müller 张 –"}


STEERING = "a\x1b[31m\x9b2J\u202eb\r\x07\u2066"


def test_names_cannot_steer_a_terminal(capsys):
    """Colours of ours still can: they are no part of the text."""
    console = render._Shown(file=sys.stdout, force_terminal=True, color_system="standard", width=80)
    console.print(render.make_table(("Identity", "Facts"), [(STEERING, "1\nAnn: 2")]))
    console.print(f"[red]{STEERING}[/red]", highlight=False)
    console.print(render.Text(STEERING))
    shown = capsys.readouterr().out
    assert "a\u241b[31m\ufffd2J\ufffdb\u240d\u2407\ufffd" in shown
    assert "1\u240aAnn: 2" in shown
    assert "\x1b[31ma\u241b[31m\ufffd2J\ufffdb\ufffd\x1b[0m" in shown  # rich itself leaves out the bell and the return
    assert not set("\x9b\u202e\x07\u2066") & set(shown)
    assert set(re.findall("\x1b(.*?m)", shown)) == {"[1m", "[0m", "[31m"}


def test_json_and_names_in_sentences_hold_no_signs_that_steer(capsys):
    render.print_json({"name": STEERING + "\n"})
    text = capsys.readouterr().out
    assert json.loads(text) == {"name": STEERING + "\n"}
    assert "\u202e" not in text
    assert "\x9b" not in text
    assert visible("a\nfact: b", one_line=True) == "a\u240afact: b"
    assert visible("שלום 张 é\u200e\n") == "שלום 张 é\u200e\n"


def test_a_cell_is_broken_after_hyphens_before_it_is_broken_in_a_word(capsys):
    console = render._Shown(file=sys.stdout, width=40)
    console.print(render.make_table(("Run", "Why"), [("r" * 20, "selective-synaptic-dampening of 张"), ("s", "张" * 30)]))
    lines = [line[20:].strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:3] == ["selective-", "synaptic-dampening"]
    assert "".join(lines).count("张") == 31


def test_a_log_of_a_comparison_has_the_time_left_at_least_every_half_minute(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    display = progress.ProgressDisplay(runs=4, console=render._Shown(file=sys.stdout, width=80))
    display.skip(1)
    for seconds in (25, 25):  # what the pool of workers tells while nothing ends
        now[0] += seconds
        display.run_progress(event=Event("", "waiting"))
    now[0] += 10
    display.run_finished(record=record("good", {}))
    display.run_progress(event=Event("", "waiting"))  # a line was just printed
    now[0] += 25
    display.run_progress(event=Event("", "waiting"))
    assert capsys.readouterr().out.splitlines() == [
        "[1/4] going on",
        "[1/4] going on",
        "[2/4] good seed 0 done in 3.0 s, about 2.0 min left",
        "[2/4] going on, about 2.8 min left",
    ]


def test_the_plan_of_a_comparison_fits_80_columns(monkeypatch, capsys):
    plan = SimpleNamespace(
        title="direct-similarity-minimisation seed 0", done=False, most_steps=100, memory_bytes=123.4e6,
        samples={"forget": 2304, "retain": 2304}, disk_bytes=14.3e6, kept_bytes=2e6,
    )  # fmt: skip
    monkeypatch.setattr(render, "out", render._Shown(file=sys.stdout, width=80))
    render.show_plans([plan, SimpleNamespace(**vars(plan) | {"done": True})])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "direct-similarity-minimisation seed 0  100    forget 2304, retain 2304  123.4 MB"
    assert lines[2].split()[-3:] == ["done", "123.4", "MB"]
    assert lines[3:] == ["2 runs, 1 to do. Memory is an estimate. Disk: 14.3 MB for a run, 2.0 MB kept."]


def test_long_names_do_not_push_the_other_columns_out(capsys):
    console = render._Shown(file=sys.stdout, width=80)
    console.print(render.make_table(("Identity", "Name", "Facts"), [("x" * 300, "Ann", "job 2"), ("y", "Ben", "city 1")]))
    shown = capsys.readouterr().out
    assert "job 2" in shown
    assert "Ben" in shown
    assert shown.count("x") == 300


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "The output cannot be written: No space left on device"), (errno.EPIPE, "")]
)
def test_a_full_output_is_one_line_and_a_reader_who_went_is_none(number, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(_Refuses(number)), encoding="utf-8"))
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert said in err if said else not err
    monkeypatch.undo()


def test_names_that_are_not_utf8_are_refused_before_anything_runs(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", "caf\udce9"])
    assert ended.value.code == 1
    assert r"caf\xe9" in capsys.readouterr().err
    with pytest.raises(BadOptions, match="not UTF-8"):
        streams.check_arguments(["good", "caf\udce9"])


def test_a_record_with_such_a_name_is_refused_by_its_name(tmp_path):
    with pytest.raises(OutputError, match=r"caf\\xe9' is not UTF-8"):
        write_json(tmp_path / "record.json", {"model": "caf\udce9/model"})
    assert not list(tmp_path.iterdir())


def test_an_overlong_output_is_one_line(tmp_path, capsys):
    with pytest.raises(OutputError, match="File name too long"):
        check_writable(tmp_path / ("x" * 300))
    known = streams.system_error(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300))
    assert known is not None
    assert "(300 characters)" in str(known)
    assert streams.system_error(OSError("a bug")) is None


def test_who_chose_a_place_is_who_can_change_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SALMU_CACHE", "~/c")
    assert default_cache() == tmp_path / "c"
    assert "SALMU_CACHE" in elsewhere(tmp_path / "c" / "pixels")
    assert "--out" in elsewhere(tmp_path / "d", option="--out")
    (tmp_path / "c").write_text("a file in its place")
    with pytest.raises(OutputError, match=r"cache directory.*\n.*SALMU_CACHE"):
        check_writable(default_cache() / "mini")


def test_a_git_lfs_pointer_is_told_from_its_first_bytes(tmp_path):
    pointer = tmp_path / "data.parquet"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(BadData, match=r"Git LFS pointer.*\n.*git lfs pull"):
        refuse_other_content(pointer)
    pointer.write_text("version,image\n")
    refuse_other_content(pointer)


def test_a_closed_output_and_a_folder_that_is_gone_are_no_tracebacks(monkeypatch, tmp_path, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(BadOptions, match="does not exist any more"):
        streams.check_arguments([])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0


def test_a_warning_is_a_sentence_and_those_of_others_name_their_line(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        streams.prepare_streams()
        warnings.warn_explicit("It is so.", UserWarning, "/x/salmu_core/models/weights.py", 3)
        warnings.warn_explicit("It is not.", UserWarning, "/x/torch/nn.py", 3)
    ours, others = capsys.readouterr().err.splitlines()
    assert ours == "warning: It is so."
    assert others == "/x/torch/nn.py:3: UserWarning: It is not."


NOISY_COMMAND = """
import atexit, ctypes, os, sys, threading
from salmu_core.cli import main, render

def noise(where):
    print("noise of", where)
    print("noise past sys.stdout of", where, file=sys.__stdout__, flush=True)
    os.write(1, f"noise past Python's streams of {where}\\n".encode())
    os.system(f"echo noise of a child of {where}")
    ctypes.CDLL(None).puts(f"noise in C of {where}".encode())
    ctypes.CDLL(None).fflush(None)

def command(**settings):
    for part in ("first", "last"):
        thread = threading.Thread(target=noise, args=["a thread"])
        thread.start()
        thread.join()
        if part == "first":
            render.print_json(["results"])
    atexit.register(noise, "the end")

main.cli.main = command
sys.argv = ["salmu", "list-methods", "--json"]
main.main()
"""


def test_nothing_joins_the_json_whichever_way_it_is_printed():
    """In a process of its own, which ends."""
    done = subprocess.run([sys.executable, "-c", NOISY_COMMAND], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["results"]
    assert done.stderr.count("noise") == 15
