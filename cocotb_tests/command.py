"""What all commands share: errors of the user, parameters, and files that are whole or not there."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

from pymodel.spec.params import PRESETS, Architecture, IommuParams

__all__ = ["UserError", "check_folder", "choose_params", "command_line", "in_range", "write_whole"]


class UserError(ValueError):
    """Something on the command line cannot be used; one line names it, its value, and what was allowed."""


def choose_params(preset: str, settings: Iterable[str]) -> IommuParams:
    """Parameters of a preset with `NAME=VALUE` settings applied."""
    if preset not in PRESETS:
        raise UserError(f"--params must be one of {', '.join(PRESETS)}, not {preset!r}")
    types = {field.name: field for field in fields(IommuParams)}
    values: dict[str, object] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in types:
            raise UserError(f"--set must be NAME=VALUE with NAME one of {', '.join(types)}, not {setting!r}")
        values[name] = _value(name, text, types[name].default)
    try:
        return replace(PRESETS[preset], **values)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"--set: {error}") from None


def _value(name: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(int(part, 0) for part in text.split(","))
        if isinstance(default, Architecture):
            return Architecture(text.lower())
        return int(text, 0)
    except (ValueError, KeyError):
        wanted = (
            "true or false" if isinstance(default, bool) else "integers" if isinstance(default, tuple) else ""
        )
        if isinstance(default, Architecture):
            wanted = " or ".join(one.value for one in Architecture)
        raise UserError(f"--set: {name} must be {wanted or 'an integer'}, not {text!r}") from None


def in_range(option: str, value: int | None, low: int, high: int | None = None) -> None:
    """Raise `UserError` unless `value` lies in the range; None is always good."""
    if value is not None and (value < low or (high is not None and value > high)):
        wanted = f"at least {low}" if high is None else f"in {low}..{high}"
        raise UserError(f"{option} must be {wanted}, not {value}")


def check_folder(option: str, folder: Path) -> None:
    """Raise `UserError` unless files can be written into `folder`, which need not exist yet."""
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(
            f"{option}: {folder} must be a folder that can be written to: {error.strerror}"
        ) from None


def write_whole(path: Path, text: str) -> None:
    """Write a file that is complete or not there; `UserError` where that fails."""
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as target:
            draft = Path(target.name)
            target.write(text)
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
        draft.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def command_line(command: str, *arguments: object, **options: object) -> str:
    """The command that repeats something; options that are None, False or empty are left out."""
    words = ["twodim", command, *(str(argument) for argument in arguments)]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is True:
                words.append(flag)
            elif one is not None and one is not False:
                words += [flag, str(one)]
    return " ".join(words)
