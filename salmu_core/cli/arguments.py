"""Options that several commands share, and how their values are completed and parsed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from salmu_core.errors import BadOptions

if TYPE_CHECKING:
    from salmu_core.runner.run import Settings

F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A number within bounds that is one: `nan` is in every range to click, and then no comparison holds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or the usual error of a wrong value."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def complete_names(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Shell completion of registered names of a kind."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from salmu_core.cli.catalogue import read_catalogue

        entries = read_catalogue().of(kind)
        return [
            CompletionItem(name, help=entry["summary"]) for name, entry in entries.items() if name.startswith(incomplete)
        ]

    return complete


def parse_settings(pairs: Sequence[str], flag: str = "--set") -> dict[str, str]:
    """`name=value` words as a mapping.

    Raises:
        BadOptions: a word without '=' or a name given twice.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise BadOptions(f"{flag} takes NAME=VALUE, got '{pair}'.")
        if name in settings:
            raise BadOptions(f"{flag} names '{name}' twice.")
        settings[name] = value
    return settings


def parse_values(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """`name=value` words with values that are read as JSON where they are JSON: numbers, true, lists; else as text."""

    def read(text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text

    return {name: read(value) for name, value in parse_settings(pairs, flag).items()}


def parse_numbers(text: str, flag: str, kind: type[int] | type[float]) -> list[Any]:
    """Numbers separated by commas, without repetition.

    Raises:
        BadOptions: a part is not such a number, or the list is empty.
    """
    try:
        numbers = list(dict.fromkeys(kind(part) for part in text.split(",") if part.strip()))
    except ValueError:
        raise BadOptions(f"{flag} takes numbers separated by commas, got '{text}'.") from None
    if not numbers or min(numbers) < 0 or (kind is float and min(numbers) <= 0):
        raise BadOptions(f"{flag} takes at least one number, none of them negative, got '{text}'.")
    return numbers


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The benchmark's data on this machine (same as --bench-set data_dir=DIR).",
)


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "md", "latex"]),
    default="table",
    show_default=True,
    help="What is printed; all files are written whatever it is.",
)

preset_option = click.option(
    "--preset",
    default="benchmark",
    show_default=True,
    metavar="benchmark|none|PATH",
    help="Options that are not set: those the benchmark ships, the method's defaults, or those `salmu tune` wrote to PATH.",
)


def _benchmark_settings(default: str) -> Callable[[F], F]:
    """`--benchmark`, and the settings of the benchmark: `--bench-seed`, `--bench-set`, `--data-dir`.

    Args:
        default: which benchmark it is where none is named.
    """

    def decorated(command: F) -> F:
        for decorate in (
            data_dir_option,
            click.option(
                "--bench-set",
                "bench_set",
                multiple=True,
                metavar="NAME=VALUE",
                help="An option of the benchmark; repeatable.",
            ),
            click.option(
                "--bench-seed", type=click.IntRange(min=0), help="The benchmark's seed (same as --bench-set seed=N)."
            ),
            click.option(
                "--benchmark",
                "-b",
                shell_complete=complete_names("benchmark"),
                help=f"A registered benchmark. Default: {default}.",
            ),
        ):
            command = decorate(command)
        return command

    return decorated


benchmark_choice = _benchmark_settings("the standard one that is installed")
#: For commands that take a finished model.
model_benchmark_choice = _benchmark_settings(
    "that of the run which MODEL is, as its record says, else the standard one; naming one overrides the record"
)


def benchmark_options(bench_set: Sequence[str], bench_seed: int | None, data_dir: Path | None = None) -> dict[str, Any]:
    """The benchmark's options from the flags above."""
    options: dict[str, Any] = dict(parse_settings(bench_set, "--bench-set"))
    for name, flag, value in (
        ("seed", "--bench-seed", bench_seed),
        ("data_dir", "--data-dir", None if data_dir is None else str(data_dir)),
    ):
        if value is not None:
            if name in options:
                raise BadOptions(f"The benchmark's {name} is given twice: {flag} and --bench-set {name}=.")
            options[name] = value
    return options


precision_choice = click.option(
    "--precision",
    type=click.Choice(["no", "bf16", "fp16"]),
    default="no",
    show_default=True,
    help="Autocast of the encoders; weights, losses and similarities stay fp32.",
)


protocol_choice = click.option(
    "--protocol",
    type=click.Choice(["seeded", "official"]),
    default="seeded",
    show_default=True,
    help="Conventions of the evaluation: salmu's own, by which equal models get equal numbers, or the official evaluator's.",
)


def isolation_settings(command: F) -> F:
    """Flags that say which runs get a process of their own."""
    for decorate in (
        click.option(
            "--time-limit",
            type=FiniteRange(min=0, min_open=True),
            metavar="SECONDS",
            help="End a run that takes longer, in a process of its own; it becomes a failed row.",
        ),
        click.option(
            "--isolate/--no-isolate",
            default=None,
            help="Give every run, or no run, a process of its own. Default: runs of third-party packages; of `salmu run`: none.",
        ),
    ):
        command = decorate(command)
    return command


def isolation(flag: bool | None, default: Literal["third-party", "none"]) -> Literal["third-party", "all", "none"]:
    """What `--isolate` asks for."""
    return default if flag is None else "all" if flag else "none"


def run_settings(command: F) -> F:
    """Flags that say how runs are carried out."""
    for decorate in (
        click.option("--cpu", is_flag=True, help="Stay on the CPU even where there is an accelerator."),
        click.option(
            "--checkpoint-seconds",
            type=FiniteRange(min=0),
            default=30.0,
            show_default=True,
            help="Least time between checkpoints; a killed run goes on from the last one.",
        ),
        click.option("--log-with", metavar="TRACKER", help="A tracker of Accelerate: tensorboard, wandb, trackio, ..."),
        precision_choice,
        click.option(
            "--micro-batch",
            type=click.IntRange(min=1),
            metavar="ROWS",
            help="Encode that many rows at a time while training; losses still see whole batches.",
        ),
        click.option(
            "--checkpoint-activations",
            is_flag=True,
            help="Less memory for a third more time: layers are computed again in the backward pass.",
        ),
        click.option("--compile", "compile_encoders", is_flag=True, help="Compile the encoders with torch.compile."),
        click.option("--no-cache", is_flag=True, help="Do not keep decoded images in the cache."),
        click.option("--metric-set", multiple=True, metavar="METRIC.NAME=VALUE", help="An option of a metric; repeatable."),
    ):
        command = decorate(command)
    return command


def execution_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `Execution` from the flags of `run_settings`."""
    same = ("cpu", "checkpoint_seconds", "log_with", "micro_batch", "checkpoint_activations")
    return {
        **{name: flags[name] for name in same},
        "compile": flags["compile_encoders"],
        "keep_pixels": not flags["no_cache"],
    }


def make_settings(
    flags: Mapping[str, Any], *, overwrite: bool = False, isolate: Literal["third-party", "none"] = "third-party"
) -> Settings:
    """`Settings` from the flags of `run_settings` (the precision aside, which is part of a run's identity).

    Args:
        isolate: what holds where the command takes `isolation_settings` too, and none of them is given.
    """
    from salmu_core.runner.run import Settings

    return Settings(
        **execution_of(flags),
        overwrite=overwrite,
        metric_options=metric_options(flags["metric_set"]),
        isolate=isolation(flags.get("isolate"), isolate),
        time_limit=flags.get("time_limit"),
    )


def metric_options(pairs: Sequence[str]) -> dict[str, dict[str, str]]:
    """`METRIC.NAME=VALUE` words, by metric."""
    options: dict[str, dict[str, str]] = {}
    for name, value in parse_settings(pairs, "--metric-set").items():
        metric, dot, option = name.partition(".")
        if not dot:
            raise BadOptions(f"--metric-set takes METRIC.NAME=VALUE, got '{name}={value}'.")
        options.setdefault(metric, {})[option] = value
    return options
