"""The `schedlab` command: each subcommand is a thin call of one public function.

Results go to standard output (`--json` for machines), logs and progress to standard error. Exit
codes: 0 done, 1 failed, 2 bad input, 3 partial, 4 over budget, 130 interrupted (the command to go
on with is printed). Functions are imported inside their command, so that `schedlab validate` and
`--help` answer without loading torch.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shlex
import signal
import sys
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer
from pydantic_core import to_jsonable_python
from typer.core import TyperGroup

from schedlab import __version__
from schedlab.allocator import keep_freed_memory
from schedlab.errors import SchedlabError, SchedlabWarning

if TYPE_CHECKING:
    from schedlab.classifiers.describe import ClassifierDescription

INTERRUPTED = 130
# Wrong paths are bad input; a full disk or a failing one is not.
_PATH_ERRORS = frozenset(
    (errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR)
    + (errno.EPERM, errno.EROFS)
)

RunFolder = Annotated[Path, typer.Argument(help="Run folder.", show_default=False)]
JobFile = Annotated[Path, typer.Argument(help="Job file (TOML).", show_default=False)]
OutFolder = Annotated[
    Path | None,
    typer.Option("--run", "-o", help="Run folder; the job's output.folder by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


class _Commands(TyperGroup):
    """Turns what a user can cause into one line on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; see the module's exit codes."""
        try:
            return super().invoke(ctx)
        except SchedlabError as error:
            _complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # whoever read the output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except OSError as error:  # a path that cannot be written, a full disk
            place = f"{error.filename}: " if error.filename else ""
            _complain(f"{place}{error.strerror or error}")
            raise typer.Exit(2 if error.errno in _PATH_ERRORS else 1) from None
        except KeyboardInterrupt:
            go_on = ctx.obj.go_on() if ctx.obj else None
            _complain(f"interrupted; to go on: {go_on}" if go_on else "interrupted")
            raise typer.Exit(INTERRUPTED) from None


@dataclass
class _Session:
    """What handling an interruption needs to know of the running command.

    Args:
        words: the command, if giving it again goes on.
        run: its run folder, if it has one.
    """

    words: tuple[object, ...] = ()
    run: Path | None = None

    def go_on(self) -> str | None:
        """The command that goes on, None where there is nothing to go on with."""
        begun = self.run is not None and (self.run / "job.toml").is_file()
        words = ("resume", self.run) if begun else self.words
        return shlex.join(["schedlab", *map(str, words)]) if words else None


app = typer.Typer(
    cls=_Commands,
    help="Which denoising steps of a diffusion language model need the large model?",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Entry point of the console script."""
    # A batch system's SIGTERM is an interruption like Ctrl-C: finished work is kept.
    signal.signal(signal.SIGTERM, _interrupt)
    keep_freed_memory()
    app(prog_name="schedlab")
    raise AssertionError("typer exits by itself")


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control and direction characters become U+FFFD.

    Model samples and messages that quote a file are somebody else's text.
    """
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in "\n\t"
        else character
        for character in text
    )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line without a place in the source: what schedlab itself warns of; no library's."""
    if issubclass(category, SchedlabWarning):
        _complain(f"warning: {message}")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings only.")] = False,
) -> None:
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("schedlab").setLevel(level)
    warnings.showwarning = _show_warning
    ctx.obj = _Session()


# --------------------------------------------------------------------------------------------
# The main job


@app.command()
def demo(
    ctx: typer.Context,
    run: Annotated[Path, typer.Option("--run", "-o", help="Run folder.")] = Path("runs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test: shows that it works, not more.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time for analysis and search; sets how many sequences are used."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Everything with the bundled models: a report, a plan, samples."""
    from schedlab.pipeline import run_demo
    from schedlab.pipeline.demo import MINUTES

    flags = ["--quick"] if quick else []
    _remember(ctx, ("demo", "--run", run, "--seed", seed, *flags), run)
    paths = run_demo(run, minutes=minutes or MINUTES, quick=quick, seed=seed)
    lines = [printable(paths.samples.read_text(encoding="utf-8"))]
    if quick:
        lines.append("This was the quick demo: short sequences, few steps, few schedules.\n")
    opened = [("report", paths.html), ("", paths.pdf), ("plan", paths.plan)]
    opened += [("samples", paths.samples)]
    lines.append(_table([(name, str(path)) for name, path in opened if path is not None]))
    lines.append(f"more text: schedlab sample {shlex.quote(str(paths.plan))} -n 8")
    _show(paths, "\n".join(lines), as_json=as_json)


@app.command()
def analyze(
    ctx: typer.Context, job: JobFile, run: OutFolder = None, as_json: AsJson = False
) -> None:
    """Measure how much each denoising step matters."""
    from schedlab.job import load_job
    from schedlab.pipeline import run_analyze

    loaded = load_job(job)
    folder = run or Path(loaded.output.folder)
    _remember(ctx, ("analyze", job, "--run", folder), folder)
    _show_run(run_analyze(loaded, folder), as_json=as_json)


@app.command()
def search(
    ctx: typer.Context, job: JobFile, run: OutFolder = None, as_json: AsJson = False
) -> None:
    """Search schedules by sampling; analyzes first if the job needs it."""
    from schedlab.job import load_job
    from schedlab.pipeline import run_search

    loaded = load_job(job)
    folder = run or Path(loaded.output.folder)
    _remember(ctx, ("search", job, "--run", folder), folder)
    _show_run(run_search(loaded, folder), as_json=as_json)


@app.command()
def estimate(job: JobFile, as_json: AsJson = False) -> None:
    """Predict what a search will take, from a little of everything; runs nothing else."""
    from schedlab.job import load_job
    from schedlab.pipeline import estimate_job

    found = estimate_job(load_job(job))
    rows = [
        ("schedules", f"{found.plans:,}, {found.sequences:,} sequences each"),
        *(
            (f"forwards of {role}", f"{number:,.0f} of one sequence")
            for role, number in sorted(found.forwards.items())
        ),
        ("FLOPs", f"{found.flops:.3g}"),
        ("starting", f"{found.start_seconds:,.0f} s"),
        ("analysis", f"{found.analysis_seconds:,.0f} s"),
        ("search", f"{found.search_seconds:,.0f} s"),
        ("in all", f"{found.seconds / 60:,.1f} min on this machine as loaded now"),
    ]
    for name, size in (("memory", found.memory_bytes), ("GPU memory", found.gpu_memory_bytes)):
        if size is not None:
            rows.append((name, f"{size / 1e9:,.2f} GB at most at a time, all processes"))
    _show(found, _table(rows), as_json=as_json)


@app.command()
def resume(ctx: typer.Context, run: RunFolder, as_json: AsJson = False) -> None:
    """Go on with whatever is missing in a run folder."""
    from schedlab.pipeline import resume as resume_run

    _remember(ctx, (), run)
    _show_run(resume_run(run), as_json=as_json)


@app.command()
def status(run: RunFolder, as_json: AsJson = False) -> None:
    """Say how far a run is."""
    from schedlab.pipeline import status as run_status

    found = run_status(run)
    _show(found, str(found), as_json=as_json)


@app.command()
def train(
    ctx: typer.Context,
    job: JobFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder to write or go on with.")],
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a denoiser, a scorer or a classifier, or derive a light denoiser; goes on where it
    stopped."""
    from schedlab.training import read_train_job
    from schedlab.training import train as run_training

    _remember(ctx, ("train", job, "--out", out))
    held_out = run_training(read_train_job(job), out, device=device)
    if os.environ.get("RANK", "0") != "0":  # torchrun starts this command several times
        return
    _show(
        {"model": out, "held_out": held_out},
        f"{out}: held-out loss {held_out} nats",
        as_json=as_json,
    )


# --------------------------------------------------------------------------------------------
# Results


@app.command()
def report(run: RunFolder, as_json: AsJson = False) -> None:
    """Write report.html and report.pdf of a run folder."""
    from schedlab.report import build_report

    paths = build_report(run)
    if paths.problem:
        logging.getLogger(__name__).warning("no PDF: %s", printable(paths.problem))
    _show(paths, "\n".join(str(path) for path in (paths.html, paths.pdf) if path), as_json=as_json)


@app.command()
def export(
    run: RunFolder,
    pick: Annotated[str, typer.Option(help="knee, best, or budget=SHARE saved.")] = "knee",
    out: Annotated[Path | None, typer.Option(help="Plan file; RUN/plan.json by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a picked schedule as a plan file."""
    from schedlab.deploy import export as export_plan

    plan_file = export_plan(run, pick)
    target = out or run / "plan.json"
    plan_file.write(target)
    plan = plan_file.plan
    usual = plan.policy.name == "ancestral"
    text = f"{target}: {plan.model_schedule}" + ("" if usual else f", {plan.policy}")
    _show({"path": target, "plan_file": plan_file}, text, as_json=as_json)


@app.command()
def measure(
    plan: Annotated[Path, typer.Argument(help="Plan file.", show_default=False)],
    task: Annotated[
        str, typer.Option(help="sudoku, a .jsonl file, or a job file with a [task] table.")
    ] = "sudoku",
    num: Annotated[int, typer.Option("--num", "-n", help="Number of items.")] = 256,
    first: Annotated[int, typer.Option(help="Number of the first item.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
    judge: Annotated[
        str | None,
        typer.Option(help="Classifier that says whether guided texts are what was asked for."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a plan on a task, or the control of a guided plan by a judge: accuracy and cost, on
    items and seeds of your choice."""
    from tempfile import TemporaryDirectory

    from schedlab.deploy.measure import (
        measure_against_autoregressive,
        measure_control,
        measure_plan,
    )
    from schedlab.deploy.runtime import load_plan
    from schedlab.job import load_job
    from schedlab.plan.task_config import TaskConfig

    player = load_plan(plan, device=device)
    if judge is not None:
        with TemporaryDirectory() as store:
            found = measure_control(player, judge, num, store=store, first=first, seed=seed)
        shown = {
            name: found.estimates[name]
            for name in ("control_judge", "control_p_judge", "gen_ppl", "entropy", "distinct_3",
                         "forwards", "flops_total", "seconds")
            if name in found.estimates
        }  # fmt: skip
        shown["seconds_over_autoregressive"] = measure_against_autoregressive(player)
        rows = [(name.replace("_", " "), str(value)) for name, value in shown.items()]
        _show(shown, _table(rows), as_json=as_json)
        return

    config = TaskConfig(source=task)
    if task.endswith(".toml"):
        config = load_job(task).task or config
    with TemporaryDirectory() as store:
        found = measure_plan(player, config, num, store=store, first=first, seed=seed)
    names = ("accuracy", "forwards", "block_forwards", "flops_total", "seconds")
    shown = {name: found.estimates[name] for name in names}
    rows = [(name.replace("_", " "), str(value)) for name, value in shown.items()]
    _show(shown, _table(rows), as_json=as_json)


@app.command()
def sample(
    plan: Annotated[Path, typer.Argument(help="Plan file.", show_default=False)],
    num: Annotated[int, typer.Option("--num", "-n", help="Number of texts.")] = 1,
    prompt: Annotated[str, typer.Option(help="Beginning of every text.")] = "",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal texts.")] = 0,
    label: Annotated[
        list[str] | None,
        typer.Option(help="CLASSIFIER=LABEL to steer towards, of a plan with guidance."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Generate text with a plan file."""
    from schedlab.deploy.runtime import run_plan

    labels = dict(one.partition("=")[::2] for one in label or [])
    texts = run_plan(plan, num, prompt=prompt, seed=seed, device=device, labels=labels)
    blocks = [f"--- sample {j}\n{printable(text)}" for j, text in enumerate(texts)]
    _show({"seed": seed, "prompt": prompt, "texts": texts}, "\n".join(blocks), as_json=as_json)


# --------------------------------------------------------------------------------------------
# Looking at things


@app.command()
def validate(
    file: Annotated[Path | None, typer.Argument(help="Plan file, or job file (.toml).")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a plan file or a job file; runs nothing."""
    if schema:
        from schedlab.plan import plan_schema

        typer.echo(json.dumps(plan_schema(), indent=2))
        return
    if file is None:
        raise typer.BadParameter("name a file, or ask for --schema", param_hint="FILE")
    if file.suffix == ".toml":
        from schedlab.job import load_job
        from schedlab.search.proposals import check_size

        job = load_job(file)
        check_size(job)
        _show({"valid": True, "job": job}, f"{file}: a valid job", as_json=as_json)
        return
    from schedlab.plan import PlanFile

    plan = PlanFile.read(file).plan
    _show(
        {"valid": True, "digest": plan.digest, "plan": plan},
        f"{file}: a valid plan, {plan.model_schedule}, digest {plan.digest[:12]}",
        as_json=as_json,
    )


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Model folder or file, or bundled:NAME.")],
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float64.")] = "float32",
    as_json: AsJson = False,
) -> None:
    """Say what a model is: family, sizes, process, mask token, cost, card; or a classifier."""
    from schedlab.classifiers.describe import describe as describe_classifier
    from schedlab.classifiers.describe import is_classifier
    from schedlab.denoisers.describe import describe

    if is_classifier(model):
        classifier = describe_classifier(model, precision=precision)
        _show(classifier, _table(_classifier_rows(classifier)), as_json=as_json)
        return
    found = describe(model, precision=precision)
    spec = found.spec
    sizes = (
        f"{spec.num_blocks} blocks, width {spec.hidden_size}, {found.config['num_heads']} heads"
    )
    mask = "no mask token" if spec.mask_id is None else f"mask token {spec.mask_id}"
    time = "not read" if spec.time_input == "none" else f"read, one per {spec.time_input}"
    rows = [
        ("model", f"{found.location} ({found.kind}, family {found.family})"),
        ("sizes", sizes),
        ("weights", f"{found.num_parameters:,} in {found.num_bytes / 1e6:.1f} MB"),
        ("length", f"at most {spec.max_length} tokens"),
        ("process", f"{spec.process}; predicts the {spec.prediction.replace('_', '-')}"),
        ("noise level", time),
        ("vocabulary", f"{spec.vocab_size} tokens, {mask}"),
        *(("note", line) for line in found.unusual),
        ("cost", f"{found.block_flops:,} FLOPs in the blocks at that length"),
        ("", f"{found.head_flops:,} FLOPs in the head per position read"),
        ("fingerprint", f"{found.fingerprint} ({found.precision})"),
        *((f"card.{key}", _brief(value)) for key, value in found.card.items() if key != "job"),
    ]
    _show(found, _table(rows), as_json=as_json)


def _classifier_rows(found: ClassifierDescription) -> list[tuple[str, str]]:
    config = found.config
    time = "read" if config["time_input"] else "not read"
    return [
        ("model", f"{found.location} (classifier, {config['encoder']})"),
        ("labels", ", ".join(found.labels)),
        ("sizes", f"width {config['hidden_size']}, {config['num_blocks']} blocks"),
        ("weights", f"{found.num_parameters:,} in {found.num_bytes / 1e6:.1f} MB"),
        ("length", f"at most {config['max_length']} tokens"),
        ("noise level", time),
        ("vocabulary", f"{config['vocab_size']} tokens"),
        ("cost", f"{found.encoder_flops:,} FLOPs of a forward behind the embedding"),
        ("fingerprint", f"{found.fingerprint} ({found.precision})"),
        *((f"card.{key}", _brief(value)) for key, value in found.card.items() if key != "job"),
    ]


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Lightning checkpoint.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Model folder to write.", show_default=False)],
    raw: Annotated[bool, typer.Option("--raw", help="The raw weights, not the average.")] = False,
    heads: Annotated[int | None, typer.Option(help="Where the file does not tell.")] = None,
    length: Annotated[int | None, typer.Option(help="Where the file does not tell.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a training checkpoint of MDLM or DUO (a pickle) into a model folder.

    Only tensors and plain values of the pickle are read; convert files of people you trust.
    """
    from schedlab.denoisers.convert import convert as convert_checkpoint

    network = convert_checkpoint(
        checkpoint, folder, weights="raw" if raw else "ema", num_heads=heads, max_length=length
    )
    _show(
        {"folder": folder, "config": network.config},
        f"wrote {folder}\nnext: schedlab inspect {folder}",
        as_json=as_json,
    )


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, speed, models, disk."""
    from schedlab.doctor import diagnose

    checks = diagnose()
    rows = [(f"[{check.state}] {check.name}", check.detail) for check in checks]
    _show(checks, _table(rows), as_json=as_json)
    if any(check.state == "failed" for check in checks):
        raise typer.Exit(1)


# --------------------------------------------------------------------------------------------
# Helpers


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _remember(ctx: typer.Context, words: tuple[object, ...], run: Path | None = None) -> None:
    """Note what an interruption would ask for; the object is the group's, so it is changed."""
    session: _Session = ctx.obj
    session.words, session.run = words, run


def _complain(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    typer.echo(f"schedlab: {printable(' '.join(message.split()))}", err=True)


def _show(result: object, text: str, *, as_json: bool) -> None:
    """The result on standard output."""
    if as_json:
        text = json.dumps(to_jsonable_python(result), indent=2, allow_nan=False)
    typer.echo(text)


def _show_run(folder: Path, *, as_json: bool) -> None:
    """The state of a run folder, and what can be done with it."""
    from schedlab.pipeline import status as run_status

    found = run_status(folder)
    text = f"{found}\nnext: schedlab report {shlex.quote(str(folder))}"
    _show(found, text, as_json=as_json)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {printable(detail)}" for name, detail in rows)


def _brief(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(to_jsonable_python(value))
