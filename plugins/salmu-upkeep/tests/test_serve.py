"""`salmu serve`: shows a growing folder to this machine, and nothing else to nobody else."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from chromium import Chromium, find_chromium
from records import COMPROMISED, record, references
from salmu_core.errors import BadOptions, SalmuError
from salmu_core.records.store import RECORD_FILE, write_record
from salmu_upkeep.report_server import ReportServer


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "results"
    place.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (place / "secret.txt").write_text("secret")
    return place


@pytest.fixture
def server(folder):
    with ReportServer(folder, port=0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def _ask(server, path="/", method="GET", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers=headers or {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def _fill(folder, *more):
    for number, item in enumerate([*references(), *more]):
        write_record(folder / "runs" / str(number), item)


def test_an_empty_folder_waits_and_a_filled_one_shows_its_report(server, folder):
    answer, body = _ask(server)
    assert (answer.status, "There is no record" in body) == (200, True)
    before = json.loads(_ask(server, "/version")[1])["version"]
    assert f'data-version="{before}"' in body
    assert before == json.loads(_ask(server, "/version")[1])["version"]
    _fill(folder, record("good", COMPROMISED))
    after = json.loads(_ask(server, "/version")[1])["version"]
    assert after != before
    body = _ask(server)[1]
    assert f'data-version="{after}"' in body
    assert ">good</a>" in body
    assert [row["title"] for row in json.loads(_ask(server, "/leaderboard.json")[1])["rows"]] == [
        "Clean",
        "Compromised",
        "good",
    ]


def test_runs_that_are_not_finished_are_named(server, folder):
    (folder / "runs" / "slow").mkdir(parents=True)
    (folder / "runs" / "slow" / "spec.json").write_text(json.dumps({"title": "slow <b>"}))
    assert "Not finished: slow &lt;b&gt;." in _ask(server)[1]


def test_what_cannot_be_compared_or_read_is_said(server, folder):
    _fill(folder, record("other", COMPROMISED, benchmark_version="9"))
    assert "different benchmarks" in _ask(server)[1]
    assert _ask(server, "/leaderboard.json")[0].status == 404
    (folder / "runs" / "2" / RECORD_FILE).write_text("{")
    body = _ask(server)[1]
    assert "cannot be read" in body
    assert ">Clean</a>" in body


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "//secret.txt",
        "/..%2fsecret.txt",
        "/runs/0/record.json",
        "/etc/passwd",
        "/?../secret.txt",
    ],
)
def test_no_path_leads_to_a_file(server, folder, path):
    _fill(folder)
    answer, body = _ask(server, path)
    assert "secret" not in body.replace("secret.txt", "") or answer.status == 404
    assert answer.status == (200 if path.startswith("/?") else 404)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost.evil.example:{port}",
        "",
        "127.0.0.1:{port}, evil.example",
    ],
)
def test_another_host_name_is_turned_away(server, host):
    for path in ("/", "/version"):
        answer, body = _ask(server, path, headers={"Host": host.format(port=server.server_port)})
        assert answer.status == 421
        assert "version" not in body


def test_requests_without_a_host_or_with_two_are_turned_away(server):
    for hosts in ("", f"Host: 127.0.0.1:{server.server_port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as link:
            link.sendall(f"GET / HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
            assert b" 421 " in link.recv(1000)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]"])
def test_names_of_this_machine_are_answered(server, name):
    assert _ask(server, headers={"Host": f"{name}:{server.server_port}"})[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(server, method):
    answer, _ = _ask(server, method=method)
    assert (answer.status, answer.getheader("Allow")) == (405, "GET, HEAD")


def test_serving_writes_nothing(server, folder):
    _fill(folder, record("good", COMPROMISED))
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    _ask(server)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


def test_answers_forbid_framing_other_scripts_and_reading_by_other_pages(server):
    answer, _ = _ask(server)
    assert "frame-ancestors 'none'" in answer.getheader("Content-Security-Policy")
    assert "'unsafe-inline'" not in re.search(r"script-src ([^;]*)", answer.getheader("Content-Security-Policy")).group(1)
    assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert answer.getheader("Access-Control-Allow-Origin") is None
    assert "Python" not in answer.getheader("Server")
    assert _ask(server, method="HEAD")[1] == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org", ""])
def test_only_this_machine_is_listened_on(folder, host):
    with pytest.raises(BadOptions, match="only listens on this machine"):
        ReportServer(folder, port=0, host=host)


def test_it_listens_on_the_loopback_address_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_said(server, folder):
    with pytest.raises(SalmuError, match=f"Port {server.server_port} of 127.0.0.1 cannot be used"):
        ReportServer(folder, port=server.server_port)


def test_the_command_says_where_and_ends_cleanly_at_ctrl_c_without_torch(folder):
    code = (
        "import signal, sys; from salmu_core.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "try:\n    main(['serve', sys.argv[1], '--port', '0'])\n"
        "finally:\n    heavy = {'torch', 'salmu_core.plugins.loading'} & set(sys.modules); print('heavy', heavy, flush=True)"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    line = process.stdout.readline()
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/ ", line).group(1))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "heavy set()" in out
    assert "Traceback" not in err


#: The rows are there before the page's scripts, which give headings their clicks and the reader's choice back.
ROWS = "document.readyState === 'complete' && document.querySelectorAll('#board tbody tr').length === {}"


@pytest.mark.skipif(
    find_chromium() is None, reason="there is no Chromium here: install chromium or google-chrome, and these tests run"
)
def test_an_open_page_shows_a_run_that_ends(server, folder):
    with Chromium() as browser:
        browser.open(server.url)
        assert "There is no record" in browser.run("document.body.textContent")
        _fill(folder, record("good", COMPROMISED))
        browser.wait_for(ROWS.format(3))
        browser.run("document.querySelectorAll('#board thead button')[0].click()")
        write_record(folder / "runs" / "9", record("later", COMPROMISED))
        browser.wait_for(ROWS.format(4))
        # What the reader had chosen is as it was.
        assert browser.run("document.querySelector('#board th[aria-sort]').textContent") == "method"
        assert browser.complaints() == []
        assert {request.removeprefix(server.url) for request in browser.requests()} <= {"", "version", "favicon.ico"}
