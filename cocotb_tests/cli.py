"""The command `twodim`: one thin function for each subcommand, which imports its module when it is called.

Exit status: 0 done, 1 something disagrees, 2 bad input or a missing tool (one line on standard error), 130
interrupted.
"""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cocotb_tests.command import UserError, check_folder, in_range
from cocotb_tests.harness.installation import SimulatorMissing
from cocotb_tests.inputs.errors import InputError

__all__ = ["app", "main", "run"]

app = typer.Typer(
    help="An IOMMU in RTL, in lock-step with a golden model: may it walk a table while software edits it?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[
    2
]  # ClickException of the click that typer carries


class Simulator(StrEnum):
    """Lanes of option --sim; `lean` is the design that Verilator compiles, without VPI and cocotb."""

    verilator = "verilator"
    icarus = "icarus"
    lean = "lean"


class WaveFormat(StrEnum):
    """Formats of wave dumps."""

    fst = "fst"
    vcd = "vcd"


Sim = Annotated[Simulator, typer.Option("--sim", help="What runs the RTL; lean is the fastest, without waves.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Params = Annotated[str, typer.Option("--params", help="Parameter set: small, default or large.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one parameter.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the report as JSON to this file.")]


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Recording (vtd-linux-trace-1), gzip'd or plain.")],
    sim: Sim = Simulator.verilator,
    waves: Annotated[bool, typer.Option("--waves", help="Write a wave dump to waves/.")] = False,
    wave_format: Annotated[WaveFormat | None, typer.Option(help="Its format; FST where possible.")] = None,
    limit: Annotated[int | None, typer.Option(help="Stop after so many DMAs.")] = None,
    latency: Annotated[int, typer.Option(help="Memory read latency in cycles.")] = 20,
    jitter: Annotated[int, typer.Option(help="Up to so many cycles more, out of order.")] = 0,
    seed: Seed = 0,
    params: Params = "default",
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out"),
    json: Json = None,
) -> int:
    """Replay DMA and invalidations of a real machine on the RTL; every answer must equal the recorded one."""
    from cocotb_tests.harness.installation import wave_format as best
    from cocotb_tests.replay.run import replay as run_replay

    for option, value, low, high in (
        ("--limit", limit, 1, None),
        ("--latency", latency, 1, 10_000),
        ("--jitter", jitter, 0, 10_000),
        ("--seed", seed, 0, None),
    ):
        in_range(option, value, low, high)
    form: Any = ""
    if waves or wave_format:
        if sim is Simulator.lean:
            raise UserError("--waves needs --sim verilator or icarus: lane lean writes no dumps")
        form = wave_format.value if wave_format else best(sim.value)
    return run_replay(
        file,
        simulator=sim.value,
        waves=form,
        limit=limit,
        latency=latency,
        jitter=jitter,
        seed=seed,
        preset=params,
        settings=settings or (),
        out=out,
        json_out=json,
    )


@app.command()
def corpus(
    files: Annotated[list[Path], typer.Argument(help="Corpora (vtd-ss, vtd-legacy, vtd-iotlb).")],
    rtl: Annotated[
        bool, typer.Option("--rtl/--no-rtl", help="Also ask the RTL, not the golden model alone.")
    ] = True,
    sim: Sim = Simulator.verilator,
    limit: Annotated[int | None, typer.Option(help="First so many images of each file.")] = None,
    seed: Seed = 0,
    json: Json = None,
) -> int:
    """Hold golden model and RTL against recorded verdicts on random table images."""
    in_range("--limit", limit, 1)
    in_range("--seed", seed, 0)
    from cocotb_tests.corpus import run

    return run.run(files, rtl=rtl, simulator=sim.value, limit=limit, seed=seed, json_out=json)


@app.command()
def walk(
    file: Annotated[Path, typer.Argument(help="Snapshot, recording or corpus.")],
    iova: Annotated[str, typer.Argument(help="I/O virtual address, like 0xfffff000.")],
    bdf: Annotated[
        str | None, typer.Option(help="Source: 0x20, or 00:04.0. Needed where there are several.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="A DMA write; a read otherwise.")] = False,
    at: Annotated[int | None, typer.Option(help="Recording: state after so many lines.")] = None,
    image: Annotated[int | None, typer.Option(help="Corpus: id of the image.")] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> int:
    """Walk a table offline and explain every level."""
    in_range("--at", at, 1)
    in_range("--image", image, 0)
    from cocotb_tests.walk import command

    return command.run(file, iova, bdf=bdf, write=write, at=at, image=image, as_json=json)


@app.command()
def random(
    cycles: Annotated[int, typer.Option(help="Cycles until the run drains.")] = 20_000,
    seed: Annotated[int | None, typer.Option("--seed", help="Repeats a run; a fresh one by default.")] = None,
    sim: Sim = Simulator.verilator,
    params: Annotated[
        str | None, typer.Option("--params", help="Parameter set; from the seed by default.")
    ] = None,
) -> int:
    """Random tables, requests, edits and invalidations, in lock-step; a seed repeats a run."""
    in_range("--cycles", cycles, 1)
    in_range("--seed", seed, 0)
    from cocotb_tests.random_run import PARAMETER_SETS, random_run

    if params is not None and params not in PARAMETER_SETS:
        raise UserError(f"--params must be one of {', '.join(PARAMETER_SETS)}, not {params!r}")
    from cocotb_tests.progress import Progress

    with Progress("random", cycles, key="cycle") as progress:
        result = random_run(sim.value, seed=seed, params=params, cycles=cycles, progress=progress.update)
    statistics = result.summary["statistics"]
    print(
        f"passed: {result.summary['cycles']:,} cycles compared, {statistics['translations']:,} translations, "
        f"{statistics['invalidations']:,} invalidations, {statistics['faults_answered']:,} faults, "
        f"{statistics['resets']:,} resets"
    )
    return 0


@app.command()
def verilog(
    preset: Annotated[str, typer.Option(help="Parameter set: small, default or large.")] = "default",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File; build/ by default.")] = None,
    axi: Annotated[bool, typer.Option("--axi", help="With AXI4 and AXI4-Lite faces.")] = False,
) -> None:
    """Write the IOMMU as Verilog, with a manifest."""
    from pymodel.spec.params import PRESETS

    if preset not in PRESETS:
        raise UserError(f"--preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    from hdl.emit import verilog_command

    print(verilog_command(preset, output, axi))


@app.command()
def bench(
    sim_speed: Annotated[
        bool, typer.Option("--sim-speed", help="Measure the simulation lanes instead.")
    ] = False,
    kvm: Annotated[
        bool, typer.Option("--kvm", help="Measure the model of KVM's TDP MMU instead: faults and bulk population.")
    ] = False,
    large: Annotated[
        bool, typer.Option("--large", help="With --kvm: up to 4 GiB of 4K and 64 GiB of 2M pages.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes and latencies.")] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="With the judges, or the RTL alone.")
    ] = True,
    sim: Sim = Simulator.verilator,
    json: Json = None,
) -> int:
    """Measure the RTL against the bounds of the design."""
    if json is not None:
        check_folder("--json", json.parent)
    for option, other in (("--large", "--quick"), ("--kvm", "--sim-speed")):
        if {"--large": large, "--kvm": kvm}[option] and {"--quick": quick, "--sim-speed": sim_speed}[other]:
            raise UserError(f"{option} must be given without {other}")
    if large and not kvm:
        raise UserError("--large must be given with --kvm")
    if kvm:
        from cocotb_tests.bench.kvm import bench_kvm

        return bench_kvm(quick=quick, large=large, json_out=json)
    from cocotb_tests.bench import run
    from cocotb_tests.harness.installation import require

    require(sim.value)
    return run.run(sim_speed=sim_speed, json_out=json, quick=quick, check=check, simulator=sim.value)


@app.command("kvm-replay")
def kvm_replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings of a real TDP MMU.")],
) -> int:
    """Hold the model of KVM's TDP MMU against recordings of the real one, transition by transition."""
    from cocotb_tests.kvm_replay import command

    return command.main(files)


litmus = typer.Typer(help="Litmus tests of update sequences.", no_args_is_help=True)
app.add_typer(litmus, name="litmus")


@litmus.command("list")
def litmus_list() -> int:
    """The catalogue: id, seed, what is forbidden."""
    from cocotb_tests.litmus_command import list_litmus

    return list_litmus()


@litmus.command("explore")
def litmus_explore(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Some, or all; all by default.")] = None,
    twin: Annotated[bool, typer.Option("--twin", help="The broken twin instead.")] = False,
    json: Json = None,
) -> int:
    """Try every interleaving; print the outcomes, and for a forbidden one its schedule."""
    if json is not None:
        check_folder("--json", json.parent)
    from cocotb_tests.litmus_command import explore_litmus

    return explore_litmus(ids or (), twin, json)


def _complain(text: str) -> int:
    print("twodim: " + " ".join(text.split()), file=sys.stderr)
    return 2


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        status = app(args=arguments, prog_name="twodim", standalone_mode=False)
    except KeyboardInterrupt:
        status = 130
    except _USAGE_ERROR as error:
        text = error.format_message()  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":
            print(text, file=sys.stderr)
            return 2
        return _complain(f"{text} (see twodim --help)")
    except (UserError, InputError, SimulatorMissing) as error:
        return _complain(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        from cocotb_tests.harness.compilers import BuildFailed
        from cocotb_tests.harness.cosim import CosimFailed

        if not isinstance(error, BuildFailed | CosimFailed):
            raise
        print(f"twodim: {error}", file=sys.stderr)
        return 1
    if status == 130:
        print("twodim: interrupted", file=sys.stderr)
    return int(status or 0)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
