"""The event log: schema, file, digest, last lines."""

import hashlib
from pathlib import Path

import pytest

from cocotb_tests.harness.eventlog import SCHEMA, EventLog, format_event


def test_line_has_cycle_name_and_operands() -> None:
    event = (12, "accept", 3, 0x300, 1, 5, 0x4000, 0)
    assert format_event(event) == "12 accept tag=3 sid=0x300 pasid_valid=1 pasid=0x5 iova=0x4000 write=0"


@pytest.mark.parametrize("event", [(1, "nothing"), (1, "ack"), (1, "ack", 1, 2)])
def test_wrong_event_is_refused(event: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="does not fit the schema"):
        format_event(event)


@pytest.mark.parametrize("name", SCHEMA)
def test_every_event_of_the_schema_formats(name: str) -> None:
    line = format_event((0, name, *range(1, len(SCHEMA[name]) + 1)))
    assert line.startswith(f"0 {name} ")
    assert line.count("=") == len(SCHEMA[name])


def test_file_digest_and_tail_agree(tmp_path: Path) -> None:
    path = tmp_path / "events"
    log = EventLog(path, last=3)
    for cycle in range(5000):
        log.emit((cycle, "ack", cycle & 1))
    assert path.read_text().count("\n") >= 4000  # written while running, not only at the end
    digest = log.sha256
    log.close()
    log.close()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert log.count == 5000
    assert log.tail() == [f"{cycle} ack id={cycle & 1}" for cycle in range(4997, 5000)]


def test_log_without_file_has_the_same_digest(tmp_path: Path) -> None:
    logs = [EventLog(tmp_path / "events"), EventLog()]
    for log in logs:
        log.emit((1, "ack", 2))
    assert logs[0].sha256 == logs[1].sha256
    logs[0].close()
