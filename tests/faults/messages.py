"""What the package tells users when something is wrong, read from its source, and what of it is advice."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from snnrepro import errors

PACKAGE = Path(errors.__file__).parent
TESTS = Path(__file__).resolve().parent.parent
ERRORS = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.UserError)}
# Words that tell people what to do, where a part of a sentence begins with them; and other ways to say it.
ADVICE = re.compile(
    r"(^|[;:,] |\b(?:or|and|instead|without \w+,) )(add|change|choose|check|close|copy|delete|fill|free|give|install"
    r"|leave|lower|make|name|pip|put|raise|recalibrate|reinstall|remove|rename|repeat|restore|set|sort|split|start|stop"
    r"|tie|train|try|unpack|unset|update|use|wait|write)\b"
    r"|must be one of|must occur|same command|there are|lists them|write KEY| works$| loads "
    r"|: [\w.]+=(\{\}|\w+)$| needs \S+=\w"
)


def templates(sources: Path = PACKAGE) -> dict[str, str]:
    """Returns the text of every error and every printed line of the package, ``{}`` for values: text to place."""
    return dict(_templates(sources))


def _templates(sources: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(sources.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                text = _text(node.args[0])
                is_error = node.func.id in ERRORS
                if is_error or (node.func.id == "print" and re.match(r"warning|no |\{\} of \{\} runs", text)):
                    yield text, f"{path.relative_to(sources)}:{node.lineno}"


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return "{}"


def followed() -> list[str]:
    """Returns the texts that tests name as the advice they follow: ``pytest.mark.advice("part of the message")``."""
    return [
        str(argument.value)
        for path in sorted(TESTS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and "advice" in (getattr(node.func, "attr", ""), getattr(node.func, "id", ""))
        for argument in node.args
        if isinstance(argument, ast.Constant)
    ]


def settings_in(message: str) -> list[str]:
    """Returns the KEY=VALUE words of a message's advice, which is its last part, as alternatives to each other."""
    part = re.split(r"; |: | needs ", message)[-1]
    return re.findall(r"[\w./]+=[^\s,;()']+", part)


def changed(words: list[str], setting: str) -> list[str]:
    """Returns a command line with ``setting`` in place of what it says about the same key."""
    key = setting.partition("=")[0]
    return [word for word in words if word.lstrip("+~").partition("=")[0] != key] + [setting]
