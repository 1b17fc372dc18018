"""Write docs/errors.md: every message that the code can refuse something with, taken from the code itself.

    python docs/errors.py            # write it
    python docs/errors.py --check    # exit with 1 if it is not up to date

A message says what is wrong and, mostly after its last colon or semicolon, what to do. CAPITALS stand for what a
message fills in.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
TARGET = REPOSITORY / "docs" / "errors.md"
RAISED = {"DatasetError": 0, "UsageError": 0, "BadParameter": 0, "Problem": 1, "Listed": 4}  # name -> argument
HEAD = """# Every error
Written by `python docs/errors.py` from the messages in the code. Commands print them in one line on stderr and exit
with 2; what `--on-error skip` left out is listed and the exit code is 1. CAPITALS stand for what a message fills in.
Some begin with the file they are about, which is put in front where it is known.
"""


def messages(module: ast.Module) -> Iterator[str]:
    """Texts that errors and problems of a module are made with, and those of variables called problem or reason."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            position = RAISED.get(ast.unparse(node.func).rsplit(".", 1)[-1])
            given = [word.value for word in node.keywords if word.arg == "problem"]
            if position is not None and len(node.args) > position:
                given.append(node.args[position])
            yield from (text for argument in given for text in texts(argument))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("problem", "reason"):
            yield from texts(node.value)


def texts(node: ast.expr) -> Iterator[str]:
    """A string as it is written, with CAPITALS for what it fills in; both sides of a condition."""
    if isinstance(node, ast.IfExp):
        yield from (*texts(node.body), *texts(node.orelse))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else placeholder(part) for part in node.values)


def placeholder(node: ast.AST | None) -> str:
    """The name that says most: ``sample.mask`` becomes MASK, ``", ".join(names)`` NAMES."""
    match node:
        case ast.Call(args=[first, *_]):
            return placeholder(first)
        case ast.Constant(value=value):
            return str(value).upper()
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name.strip("_").upper()
    inner = next(ast.iter_child_nodes(node), None) if node else None
    return placeholder(inner) if inner else "..."


def says_something(message: str) -> bool:
    """More than placeholders: at least two words in small letters."""
    return sum(word.islower() for word in message.split()) >= 2


def filled(message: str, module: ast.Module) -> str:
    """Constants of the module in place of their names."""
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            name = ast.unparse(node.targets[0]).strip("_")
            message = re.sub(rf"\b{name}\b", str(node.value.value), message)
    return message


def document() -> str:
    """Each message once: under its module, or in front with the names of the modules that share it."""
    modules = {
        path.relative_to(REPOSITORY).as_posix(): ast.parse(path.read_text("utf-8"))
        for room in ("converters", "finetune")
        for path in sorted((REPOSITORY / room).rglob("*.py"))
    }
    users: dict[str, list[str]] = {}
    for name, module in modules.items():
        for message in sorted({" ".join(filled(m, module).split()) for m in messages(module) if says_something(m)}):
            users.setdefault(message.replace("<", "&lt;"), []).append(name)
    shared = [f"- {message} [{', '.join(names)}]\n" for message, names in users.items() if names[1:]]
    parts = [HEAD, f"## In several modules\n\n{''.join(sorted(shared))}"] if shared else [HEAD]
    for name, module in modules.items():
        own = [f"- {message}\n" for message, names in users.items() if names == [name]]
        if own:
            about = (ast.get_docstring(module) or "").split("\n\n")[0].replace("\n", " ")
            parts.append(f"## {name}\n{about}\n\n{''.join(own)}")
    return "\n".join(parts)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        current = TARGET.read_text("utf-8") if TARGET.exists() else ""
        sys.exit("docs/errors.md is not up to date: run `python docs/errors.py`" if current != document() else 0)
    TARGET.write_text(document(), "utf-8")
