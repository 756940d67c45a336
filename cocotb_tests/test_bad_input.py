"""Whatever goes wrong outside ends with one line on standard error, a status, and nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cocotb_tests.harness.simulators import SIMULATORS, available
from cocotb_tests.test_replay import HUGE, MULTI, altered, events_of

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = HUGE.with_name("nvme_huge.0.snapshot.json.gz")
CORPUS = HUGE.parent / "corpus" / "vtd-ss4.jsonl.gz"


def twodim(
    folder: Path, *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in an empty folder."""
    return subprocess.run(
        [sys.executable, "-m", "cocotb_tests.cli", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def refused(folder: Path, *arguments: object, environment: dict[str, str] | None = None) -> str:
    """The one line of a command that ends with status 2 and leaves nothing behind."""
    before = sorted(folder.rglob("*"))
    done = twodim(folder, *arguments, environment=environment)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before
    return done.stderr.removeprefix("twodim: ").rstrip("\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the command runs."""
    made = tmp_path / "here"
    made.mkdir()
    return made


def test_truncated_gzip_file(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(HUGE.read_bytes()[:70_000])
    text = refused(folder, "replay", path)
    assert text.startswith(f"{path}:")
    assert text.endswith("wanted a complete gzip file")


@pytest.mark.parametrize(
    ("line", "change", "text"),
    [
        (0, {"format": "vtd-linux-trace-9"}, ":1: format: got vtd-linux-trace-9; wanted 'vtd-linux-trace-1'"),
        (200, {"val": "none"}, ":201: val: got none; wanted a hex string of at most 64 bits"),
        (200, {"pa": "0x8000000000000"}, ""),
        (
            200,
            {"pa": "0xfff0000000000008"},
            ":201: pa: got 0xfff0000000000008; wanted a hex string below 2**52",
        ),
        (200, {"pa": "0x1001"}, ":201: pa: got 0x1001; wanted a hex string below 2**52, a multiple of 8"),
        (200, {"ev": "poke"}, ":201: ev: got poke; wanted one of header, phase, reg"),
        (200, {"t": 3}, ":201: t: got 3; wanted more than 199"),
    ],
)
def test_bad_line_of_a_recording(
    tmp_path: Path, folder: Path, line: int, change: dict[str, object], text: str
) -> None:
    events = events_of(HUGE)
    start = (
        line if line == 0 else next(n for n, event in enumerate(events) if n >= line and event["ev"] == "map")
    )
    path = altered(HUGE, tmp_path, lambda events: events[start].update(change))
    if not text:  # the last address below 2**52 is good; one DMA is replayed
        assert twodim(folder, "walk", path, "0x0", "--bdf", "8").returncode == 0
        return
    expected = text.replace(":201:", f":{start + 1}:").replace("199", str(start - 1))
    assert refused(folder, "replay", path).startswith(f"{path}{expected}")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--set", "iotlb_entries=7"], "--set: iotlb_entries must be a power of two, not 7"),
        (["--set", "haw=99"], "--set: haw must be in 36..52, not 99"),
        (["--set", "haw=x"], "--set: haw must be an integer, not 'x'"),
        (["--set", "width=1"], "--set must be NAME=VALUE with NAME one of iotlb_entries"),
        (["--set", "levels=3"], "--set: levels must include 4"),
        (["--params", "big"], "--params must be one of small, default, large, not 'big'"),
        (["--limit", "0"], "--limit must be at least 1, not 0"),
        (["--latency", "0"], "--latency must be in 1..10000, not 0"),
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--sim", "modelsim"], "Invalid value for '--sim': "),
        (["--limit", "many"], "Invalid value for '--limit': "),
        (["--colour"], "No such option"),
    ],
)
def test_parameters_out_of_range(folder: Path, arguments: list[str], text: str) -> None:
    assert text in refused(folder, "replay", HUGE, *arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["replay"], "Missing argument"),
        (["repaly"], "No such command 'repaly'"),
        (["replay", "none.jsonl.gz"], "none.jsonl.gz: got No such file or directory; wanted a file"),
        (["corpus", "none.jsonl.gz"], "none.jsonl.gz: got No such file or directory"),
        (["corpus", HUGE], "wanted 'vtd-ss', 'vtd-legacy' or 'vtd-iotlb'"),
        (["replay", CORPUS], ":1: format: got vtd-ss; wanted 'vtd-linux-trace-1'"),
        (["walk", SNAPSHOT, "0x0"], "--bdf must name one source"),
        (["random", "--cycles", "0"], "--cycles must be at least 1, not 0"),
        (["random", "--params", "none"], "--params must be one of"),
        (["verilog", "--preset", "none"], "--preset must be one of small, default, large, not 'none'"),
    ],
)
def test_bad_arguments(folder: Path, arguments: list[object], text: str) -> None:
    assert text in refused(folder, *arguments)


def test_output_folder_that_cannot_be_written(tmp_path: Path, folder: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    text = refused(folder, "replay", HUGE, "--limit", "5", "--out", blocked)
    assert text.startswith(f"--out: {blocked}/replay-nvme_huge must be a folder that can be written to")
    assert refused(folder, "replay", HUGE, "--limit", "5", "--json", blocked / "x.json").startswith(
        "--json: "
    )
    assert refused(folder, "corpus", CORPUS, "--json", blocked / "x.json").startswith("--json: ")
    assert "x.v" in refused(folder, "verilog", "-o", blocked / "x.v")


def test_missing_simulator(tmp_path: Path, folder: Path) -> None:
    empty = {"PATH": str(tmp_path)}
    text = refused(folder, "replay", HUGE, environment=empty)
    assert text == "verilator needs g++, make, perl on PATH (Debian: apt-get install g++ make perl)"
    text = refused(folder, "corpus", CORPUS, "--sim", "icarus", environment=empty)
    assert text == "icarus needs iverilog, vvp on PATH (Debian: apt-get install iverilog)"
    lean = "lean needs g++, make, perl on PATH (Debian: apt-get install g++ make perl)"
    assert refused(folder, "corpus", CORPUS, "--sim", "lean", environment=empty) == lean
    for program in ("iverilog", "vvp"):
        (tmp_path / program).touch(mode=0o755)
    assert refused(folder, "bench", "--sim-speed", "--sim", "icarus", environment=empty) == lean


def test_waves_of_lane_lean_are_refused(folder: Path) -> None:
    text = refused(folder, "replay", HUGE, "--sim", "lean", "--waves")
    assert text == "--waves needs --sim verilator or icarus: lane lean writes no dumps"


def test_help_names_every_command(folder: Path) -> None:
    done = twodim(folder, "--help")
    assert done.returncode == 0
    for name in ("replay", "corpus", "walk", "random", "verilog", "bench"):
        assert f"  {name} " in done.stdout
    assert twodim(folder).returncode == 2


def test_installed_command_is_the_same() -> None:
    program = Path(sys.executable).with_name("twodim")
    if not program.exists():
        pytest.skip("the distribution is not installed in this environment")
    done = subprocess.run([program, "replay", "none"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def processes_in(folder: Path) -> list[int]:
    """Processes that work in a folder or below it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                place = (entry / "cwd").resolve()
            except OSError:
                continue
            if place.is_relative_to(folder):
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc to look for processes")
@pytest.mark.parametrize(
    ("at", "lanes"), [("building", SIMULATORS), ("simulating", SIMULATORS), ("building", ("lean",))]
)
def test_interrupt_ends_the_simulator_and_leaves_nothing(
    tmp_path: Path, folder: Path, at: str, lanes: tuple[str, ...]
) -> None:
    simulator = available(lanes)[-1]  # Icarus builds faster
    builds = tmp_path / "builds"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TWODIM_BUILD_DIR": str(builds)}
    with subprocess.Popen(
        [sys.executable, "-m", "cocotb_tests.cli", "replay", str(MULTI), "--sim", simulator],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        assert child.stderr is not None
        first = child.stderr.readline()
        assert "the bench for" in first
        deadline = time.monotonic() + 300
        begun = {"building": ".building-*/build.log", "simulating": "run-*/simulation.log"}[at]
        while not list(builds.glob(begun)):
            if child.poll() is not None or time.monotonic() > deadline:
                break
            _pause()
        child.send_signal(signal.SIGINT)
        out, rest = child.communicate(timeout=120)
    assert child.returncode == 130, rest
    assert rest == "twodim: interrupted\n"
    assert out == ""
    assert not list(folder.iterdir())
    assert not list(builds.glob("run-*")) + list(builds.glob(".building-*"))
    assert processes_in(tmp_path) == []


def _pause() -> None:
    """Let a tenth of a second pass."""
    subprocess.run([sys.executable, "-c", ""], check=True)
