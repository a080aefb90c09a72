"""Certificates: nothing personal unless asked, the same file every time, and any change is found."""

import json
import shutil
import subprocess
import sys

import pytest
from certificate_content import FIXED
from click.testing import CliRunner

from deletion_plugins import toy_plugins
from salmu_core.benchmark import Terms
from salmu_core.builtin.toy import Toy
from salmu_core.cli.main import cli
from salmu_core.errors import BadCheckpoint, BadRecord, SalmuError
from salmu_core.files.writing import write_json
from salmu_core.models.loading import load_model
from salmu_core.runner.run import Settings, run
from salmu_deletion.certificate.content import certificate_content, row_hash
from salmu_deletion.certificate.lettering import Lettering
from salmu_deletion.certificate.page import render_page, write_pdf
from salmu_deletion.certificate.sealed import canonical, seal
from salmu_deletion.certificate.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run and its references, made once."""
    place = tmp_path_factory.mktemp("made")
    plugins, settings = toy_plugins(), Settings(cpu=True, cache=place / "cache")
    run("ascent", benchmark="toy", out=place / "runs" / "run", settings=settings, plugins=plugins)
    for start in ("clean", "compromised"):
        run("none", benchmark="toy", start=start, out=place / "runs" / start, settings=settings, plugins=plugins)
    return place / "runs"


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the run beside copies of its references."""
    return shutil.copytree(made, tmp_path / "runs") / "run"


@pytest.fixture
def key(tmp_path):
    return _make_key(tmp_path, "key")


def _make_key(folder, name, password=None):
    crypto = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization as s

    private = crypto.Ed25519PrivateKey.generate()
    hidden = s.NoEncryption() if password is None else s.BestAvailableEncryption(password)
    path = folder / f"{name}.pem"
    path.write_bytes(private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, hidden))
    public = private.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.public.pem").write_bytes(public)
    return path


def test_it_says_what_was_asked_and_measured_and_names_nobody_unless_told(folder):
    content = certificate_content(folder, plugins=toy_plugins())
    split = Toy().split("forget")
    asked = content["requested"]
    assert (asked["identities"], asked["rows"], asked["fields"]) == (6, 36, {"city": 12, "name": 12, "phone_number": 12})
    assert row_hash(split, 0) in asked["row_hashes"]
    assert content["measured"]["metrics"][0]["before"] is not None
    assert content["measured"]["metrics"][0]["never_learned"] is not None
    assert "No audits were run" in content["measured"]["audits"]["words"]
    written = json.dumps(content)
    for personal in ("Person 1", "00000001", "lives in", str(folder)):
        assert personal not in written
    named = certificate_content(folder, names=True, plugins=toy_plugins())
    assert {person["name"] for person in named["requested"]["people"]} == {f"Person {i}" for i in range(6)}


def test_the_same_run_gives_the_same_files(folder, tmp_path):
    pytest.importorskip("fpdf")
    made = []
    for name in ("a.pdf", "b.pdf"):
        sealed = seal(certificate_content(folder, plugins=toy_plugins()))
        write_pdf(sealed, tmp_path / name)
        made.append((json.dumps(sealed), render_page(sealed), (tmp_path / name).read_bytes()))
    assert made[0] == made[1]
    assert made[0][2].startswith(b"%PDF")


def test_canonical_json_is_that_of_rfc_8785():
    # The example of the RFC, section 3.2.2, without its control characters.
    assert canonical({"numbers": [333333333.33333329, 1e30, 4.5, 2e-3, 1e-27], "literals": [None, True, False]}) == (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}'
    )


def test_changed_content_weights_or_keys_are_found(tmp_path, key):
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", FIPS 180-2
    content = {**FIXED, "model": {**FIXED["model"], "after_file_sha256": digest}}
    path = tmp_path / "certificate.json"
    sealed = seal(content, key)
    write_json(path, sealed)

    def outcomes(**more):
        return {check.what: check.outcome for check in verify(path, **more)}

    assert outcomes() == {"content": "good", "signature": "good", "weights": "good"}
    assert outcomes(public_key=tmp_path / "key.public.pem")["signature"] == "good"
    _make_key(tmp_path, "other")
    assert outcomes(public_key=tmp_path / "other.public.pem")["signature"] == "bad"
    (tmp_path / "model.safetensors").write_bytes(b"abd")
    assert outcomes()["weights"] == "bad"
    assert outcomes(model=tmp_path / "nowhere")["weights"] == "bad"
    # A change that is hashed again is still not signed.
    changed = {**content, "limits": []}
    write_json(path, {**sealed, "content": changed})
    assert outcomes()["content"] == "bad"
    assert outcomes()["signature"] == "bad"
    write_json(path, {**seal(changed), "signature": sealed["signature"]})
    assert outcomes() == {"content": "good", "signature": "bad", "weights": "bad"}
    write_json(path, seal(content))
    assert outcomes()["signature"] == "not checked"
    assert outcomes(public_key=tmp_path / "key.public.pem")["signature"] == "bad"


def test_an_encrypted_key_asks_for_its_password(tmp_path):
    key = _make_key(tmp_path, "locked", b"open sesame")
    assert "signature" in seal(FIXED, key, lambda: "open sesame")
    with pytest.raises(SalmuError, match="does not open"):
        seal(FIXED, key, lambda: "wrong")
    (tmp_path / "nokey.pem").write_text("no key")
    with pytest.raises(SalmuError, match="no private key"):
        seal(FIXED, tmp_path / "nokey.pem")


def test_pages_escape_and_paper_bears_every_script(tmp_path):
    page = render_page(seal(FIXED))
    assert "<b>1</b>" not in page
    assert "&lt;b&gt;1&lt;/b&gt;" in page
    assert "Ægir Þór 李" in page
    pytest.importorskip("fpdf")
    write_pdf(seal(FIXED), tmp_path / "c.pdf")
    assert (tmp_path / "c.pdf").stat().st_size > 1000


def test_terms_of_what_the_model_was_made_from_stand_on_every_form(folder, monkeypatch, tmp_path):
    terms = Terms("model a/b", "https://example.org/a/b", "For research only.", gated=True)
    assert "example.org" not in render_page(seal(certificate_content(folder, plugins=toy_plugins())))
    monkeypatch.setattr(Toy, "terms", lambda self: (terms,))
    sealed = seal(certificate_content(folder, plugins=toy_plugins()))
    [said] = sealed["content"]["terms"]
    assert (said["what"], said["page"], said["gated"]) == ("model a/b", terms.page, True)
    page = render_page(sealed)
    assert 'href="https://example.org/a/b"' in page
    assert "For research only." in page
    fpdf = pytest.importorskip("fpdf")
    lines, write = [], fpdf.FPDF.multi_cell
    monkeypatch.setattr(
        fpdf.FPDF, "multi_cell", lambda self, *given, **more: (lines.extend(given[2:3]), write(self, *given, **more))[1]
    )
    write_pdf(sealed, tmp_path / "c.pdf")
    assert "model a/b: For research only. https://example.org/a/b" in lines


def _font(path, letters):
    """A font that has these letters, each as a box."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 700), (500, 700), (500, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (600, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupOS2()
    font.setupPost()
    font.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    font.save(path)
    return path


def test_paper_shows_names_in_every_script_that_the_machine_has_a_font_for(tmp_path, monkeypatch):
    fpdf = pytest.importorskip("fpdf")
    fonts = [_font(tmp_path / "a.ttf", " ЖакŁś"), _font(tmp_path / "b.ttf", "李"), tmp_path / "damaged.ttf"]
    fonts[2].write_bytes(b"no font")
    monkeypatch.setattr("salmu_deletion.certificate.lettering._font_files", lambda: iter(fonts))
    lettering = Lettering(pdf := fpdf.FPDF(), {"names": ["Жак", "李", "Ægir – Þór", "ᚠ"]})
    assert lettering.lacking == {"ᚠ"}
    for text, shown, family in (
        ("Жак 李", "Жак 李", "letters0"),
        ("Ægir – Þór", "Ægir - Þór", "helvetica"),
        ("李 ᚠ", "李 [U+16A0]", "letters0"),
        ("ᚠ", "[U+16A0]", "helvetica"),
    ):
        assert (lettering.choose(text, "B", 10), pdf.font_family) == (shown, family)
    for name in ("c.pdf", "d.pdf"):
        write_pdf(seal(FIXED), tmp_path / name)
    assert (tmp_path / "c.pdf").read_bytes() == (tmp_path / "d.pdf").read_bytes()
    assert b"FontFile2" in (tmp_path / "c.pdf").read_bytes()


@pytest.mark.parametrize("shapes", [True, False], ids=["uharfbuzz", "without"])
def test_paper_shows_letters_that_join_or_run_to_the_left_as_they_are_read_or_by_their_numbers(
    tmp_path, monkeypatch, shapes
):
    fpdf = pytest.importorskip("fpdf")
    if shapes:
        pytest.importorskip("uharfbuzz")
    else:
        monkeypatch.setattr("salmu_deletion.certificate.lettering.find_spec", lambda name: None)
    fonts = [_font(tmp_path / "a.ttf", " Жאבمकx:")]
    monkeypatch.setattr("salmu_deletion.certificate.lettering._font_files", lambda: iter(fonts))
    lettering = Lettering(pdf := fpdf.FPDF(), {"names": ["Ж", "אב", "م", "क"]})
    assert lettering.lacking == (set() if shapes else set("אבمक"))
    pdf.add_page()
    for name, numbered in (("אב", "[U+05D0][U+05D1]"), ("م\u200cم", "[U+0645][U+200C][U+0645]"), ("क", "[U+0915]")):
        shown = lettering.choose(f"Ж {name}: x", "", 10)
        assert shown == f"Ж {name if shapes else numbered}: x"
        assert lettering.bracketed is not shapes
        assert (pdf.text_shaping or {}).get("use_shaping_engine", False) is shapes
        pdf.multi_cell(0, 5, shown, new_x="LMARGIN", new_y="NEXT")
    if shapes:  # the sentence runs to the right whatever the name does
        assert pdf.text_shaping["paragraph_direction"].value == "LTR"
    lettering.choose("plain", "", 10)
    assert not pdf.text_shaping


@pytest.mark.parametrize("sign", ["\u202e", "\u2066", "\u200b", "\x07", "\x7f", "\ue000"])
def test_paper_numbers_signs_that_show_nothing_or_turn_what_follows(sign):
    fpdf = pytest.importorskip("fpdf")
    lettering = Lettering(fpdf.FPDF(), {"names": [f"a{sign}b"]})
    assert lettering.choose("a\u00a0b\nc", "", 10) == "a\u00a0b\nc"
    assert not lettering.bracketed
    assert lettering.choose(f"a{sign}b", "", 10) == f"a[U+{ord(sign):04X}]b"
    assert lettering.bracketed


def test_weights_or_runs_that_cannot_be_certified_are_refused(folder):
    with pytest.raises(BadRecord, match="no deletion"):
        certificate_content(folder.parent / "clean", plugins=toy_plugins())
    model = load_model(folder)
    model.clip.logit_scale.data += 1  # not part of a tower: the digests of towers do not see it, the file's does
    model.clip.visual.proj.data += 1e-3
    model.save(folder)
    with pytest.raises(BadCheckpoint, match="not those that its record"):
        certificate_content(folder, plugins=toy_plugins())


def test_audits_count_only_where_they_are_of_this_model(folder):
    fingerprint = load_model(folder).fingerprint()
    result = {"audit": "few-shot", "summary": "s", "package": "p 1", "options": {}, "reason": None}
    found = {"audits": [{**result, "value": 0.5, "clean": 0.1, "compromised": 1.1, "recovered": 0.4}]}
    write_json(folder / "audits.json", {**found, "model_fingerprint": fingerprint})
    assert certificate_content(folder, plugins=toy_plugins())["measured"]["audits"]["results"][0]["recovered"] == 0.4
    write_json(folder / "audits.json", {**found, "model_fingerprint": {"image": "x"}})
    assert not certificate_content(folder, plugins=toy_plugins())["measured"]["audits"]["run"]


def test_the_command_writes_verifies_and_overwrites_nothing(folder, monkeypatch, capsys):
    monkeypatch.setattr("salmu_core.plugins.loading.load_plugins", toy_plugins)
    done = CliRunner().invoke(cli, ["certificate", str(folder)], standalone_mode=False)
    assert done.return_value == 0, done.output
    assert "Not signed" in done.output
    assert f"Written: {folder / 'certificate.html'}" in done.output  # in one piece, to be copied
    again = CliRunner().invoke(cli, ["certificate", str(folder)], standalone_mode=False)
    assert "there already" in str(again.exception)
    checked = CliRunner().invoke(cli, ["certificate", "--verify", str(folder / "certificate.json")], standalone_mode=False)
    assert checked.return_value == 0, checked.output
    (folder / "model.safetensors").write_bytes(b"x")
    checked = CliRunner().invoke(
        cli, ["certificate", "--verify", str(folder / "certificate.json"), "--json"], standalone_mode=False
    )
    assert checked.return_value == 1
    assert json.loads(checked.stdout)["good"] is False


def test_verifying_imports_no_torch():
    code = "import sys, salmu_deletion.certificate.verify; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
