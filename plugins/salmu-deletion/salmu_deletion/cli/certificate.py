"""`salmu certificate`."""

from __future__ import annotations

from pathlib import Path

import click

from salmu_core.errors import BadOptions, OutputError

_EXAMPLES = """\b
Examples:
  salmu certificate results/mini/runs/RUN
  salmu certificate runs/request-17 --out certificates/17 --key key.pem --pdf
  salmu certificate --verify certificate.json --model runs/request-17
  openssl genpkey -algorithm ed25519 -out key.pem
  openssl pkey -in key.pem -pubout -out public.pem
"""
_MARKS = {"good": "green", "bad": "red", "not checked": "yellow"}


@click.command("certificate", epilog=_EXAMPLES)
@click.argument("run", metavar="[RUN]", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write. Default: RUN.")
@click.option(
    "--names", is_flag=True, help="Write identities, names and fields in clear, instead of hashes and counts only."
)
@click.option(
    "--references",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the Clean and Compromised records are. Default: RUN/references, else beside RUN.",
)
@click.option("--key", type=click.Path(path_type=Path), metavar="PEM", help="Sign with this Ed25519 private key.")
@click.option("--pdf", is_flag=True, help="Write a PDF too (pip install 'salmu-deletion[certificate]').")
@click.option("--overwrite", is_flag=True, help="Replace a certificate that is there.")
@click.option("--verify", "verified", type=click.Path(path_type=Path), metavar="FILE", help="Check a certificate.json.")
@click.option(
    "--model", type=click.Path(path_type=Path), metavar="PATH", help="With --verify: the weights, or their folder."
)
@click.option(
    "--earlier",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="With --verify: certificates of the requests before, or a folder of their runs; repeatable. Default: the folders beside"
    " FILE's own.",
)
@click.option("--public-key", type=click.Path(path_type=Path), metavar="PEM", help="With --verify: who must have signed.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def certificate_command(
    run: Path | None,
    out: Path | None,
    names: bool,
    references: Path | None,
    key: Path | None,
    pdf: bool,
    overwrite: bool,
    verified: Path | None,
    model: Path | None,
    earlier: tuple[Path, ...],
    public_key: Path | None,
    as_json: bool,
) -> int:
    """Write what was requested, measured and with what, and what that does not show, for RUN; or --verify such a file.

    certificate.json holds everything, with a hash over its content; certificate.html says it for people. The same run gives the
    same files. A certificate is a technical report and makes no legal claim.

    --verify ends with 0 when hash, signature (where there is one) and weights are good, and so are the certificates of earlier
    requests that are at hand. Certify requests in their order: each certificate names the one before by its hash.
    """
    if verified is not None:
        if run is not None:
            raise BadOptions("Give a RUN or --verify FILE, not both.")
        return _verify(verified, model, public_key, earlier, as_json)
    if run is None:
        raise BadOptions("Say which run the certificate is about.", "Give a run directory, or --verify FILE.")
    if model is not None or public_key is not None or earlier:
        raise BadOptions("--model, --public-key and --earlier belong to --verify.")
    from rich.text import Text

    from salmu_core.cli import render
    from salmu_core.files.writing import atomic_path, check_writable, write_json, write_text
    from salmu_deletion.certificate.content import certificate_content
    from salmu_deletion.certificate.page import render_page, write_pdf
    from salmu_deletion.certificate.sealed import seal

    folder = out or (run.parent if run.is_file() else run)
    files = {kind: folder / f"certificate.{kind}" for kind in ("json", "html", *(["pdf"] if pdf else []))}
    there = [path for path in files.values() if path.exists()]
    if there and not overwrite:
        raise OutputError(f"'{there[0]}' is there already.", "Choose another --out, or --overwrite to replace it.")
    content = certificate_content(run, names=names, references=references)
    sealed = seal(content, key, lambda: str(click.prompt(f"Password of {key}", hide_input=True, err=True)))
    check_writable(folder)
    if pdf:  # first: it may be that its package is missing
        with atomic_path(files["pdf"]) as temporary:
            write_pdf(sealed, temporary)
    write_json(files["json"], sealed)
    write_text(files["html"], render_page(sealed))
    if as_json:
        render.print_json(sealed)
        return 0
    predecessor = content["predecessor"]
    if predecessor is not None and predecessor["certificate_sha256"] is None:
        render.err.print(
            f"The request before (run {predecessor['record']}) has no certificate yet, so this one cannot name it by its hash."
            " Certify that run first, then this one again with --overwrite.",
            style="yellow",
            markup=False,
            highlight=False,
        )
    measured = content["measured"]
    render.out.print(Text(measured["verdict"], style="bold").append(f": {measured['reason']}", style="not bold"))
    for item in measured["answers"]:
        render.out.print(Text(item["question"], style="bold").append(f" {item['answer']}", style="not bold"))
    render.out.print(measured["audits"]["words"], markup=False, highlight=False)
    if any(item["before"] is None or item["never_learned"] is None for item in measured["metrics"]):
        start = "salmu run none --start clean --out RUN/references/clean"
        render.out.print(
            f"Reference rows are missing, so nothing is judged. `salmu compare` leaves them beside its runs; or make them with"
            f" `{start}` and the same with compromised, with the run's own --benchmark and --bench-set.",
            style="yellow",
            markup=False,
            highlight=False,
        )
    render.out.print(f"\nSHA-256 {sealed['sha256']}", highlight=False)
    render.out.print("Signed." if key else "Not signed.", highlight=False)
    for path in files.values():
        render.out.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _verify(path: Path, model: Path | None, public_key: Path | None, earlier: tuple[Path, ...], as_json: bool) -> int:
    from rich.text import Text

    from salmu_core.cli import render
    from salmu_deletion.certificate.verify import verify

    checks = verify(path, model, public_key, earlier)
    good = all(check.outcome != "bad" for check in checks)
    if as_json:
        render.print_json({"good": good, "checks": [vars(check) for check in checks]})
    else:
        for check in checks:
            render.out.print(
                Text(f"{check.what}: ").append(check.outcome, style=_MARKS[check.outcome]).append(f", {check.words}"),
                soft_wrap=True,
            )
    return 0 if good else 1
