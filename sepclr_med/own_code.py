"""Code of your own in a run: transforms, views and encoders that are Python objects.

A run folder keeps their fingerprint and, where there is one, the name they can be imported by; never the code itself.
Nothing is imported because a file says so: only what this process was given (:func:`sepclr_med.use`), or what lies in a
package that the environment variable ``SEPCLR_MED_TRUSTED`` names.
"""

from __future__ import annotations

import enum
import inspect
import io
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import PurePath
from typing import Any

import joblib
import numpy as np

from sepclr_med.errors import ConfigError, Problem, RunError
from sepclr_med.settings import OwnCode

TRUSTED = "SEPCLR_MED_TRUSTED"
# Packages whose classes are known by name, as are Python's own; of all others the source counts too.
INSTALLED = ("monai", "torch", "numpy", "nibabel", "scipy")
# The state of random numbers is set before each view.
NOT_COUNTED = {"R", "_R"}

_given: dict[str, Any] = {}


def register(part: Any, what: str) -> OwnCode:
    """Keep an object for this process, and return what a configuration says of it.

    Parameters
    ----------
    part : object or str
        A text is the name of one: ``package.module:name``.
    what : str
        What it is for, for messages.

    Raises
    ------
    ConfigError
        When it cannot be imported, or holds something that cannot be told from another.
    """
    name = part if isinstance(part, str) else _import_name(part)
    found = _import(part, what) if isinstance(part, str) else part
    code = OwnCode(python=name, sha256=fingerprint(found, what))
    _given[code.sha256] = found
    if name:
        # Processes that this one starts (plan, cross-fits, several devices) import it.
        package = name.split(":")[0].split(".")[0]
        os.environ[TRUSTED] = ",".join(dict.fromkeys([*trusted(), package]))
    return code


@contextmanager
def trusting_if_used() -> Iterator[None]:
    """Trust the packages of what is registered inside only when nothing is refused."""
    before = os.environ.get(TRUSTED)
    try:
        yield
    except BaseException:
        os.environ.pop(TRUSTED, None)
        if before is not None:
            os.environ[TRUSTED] = before
        raise


def find_own(code: OwnCode, what: str) -> Any:
    """Return the object that a configuration speaks of.

    Raises
    ------
    RunError
        When this process was not given it and may not import it, or what is imported is another by now.
    """
    if code.sha256 in _given:
        return _given[code.sha256]
    if code.python is None:
        raise RunError(
            f"{what}: made with a Python object that has no name to import it by, so only Python can build it again: "
            "give the same object to sepclr_med.use(...) first, or put a function that returns it into a module"
        )
    package = code.python.split(":")[0].split(".")[0]
    if package not in trusted():
        raise RunError(
            f"{what}: made with {code.python}, which is code. If you trust it, allow its package to be imported: "
            f"{TRUSTED}={package} before the command"
        )
    found = _import(code.python, what)
    if fingerprint(found, what) != code.sha256:
        raise RunError(f"{what}: {code.python} is not what it was when this was made; restore it, or use a new name")
    _given[code.sha256] = found
    return found


def trusted() -> list[str]:
    """Return the packages whose code may be imported because a configuration names it."""
    return [name for name in os.environ.get(TRUSTED, "").split(",") if name]


def fingerprint(part: Any, what: str = "code") -> str:
    """Return a hash of what an object holds: classes, settings, arrays, and the source of functions and own classes.

    What a function calls is not looked into.

    Raises
    ------
    ConfigError
        For what cannot be told from another, such as an open file.

    Examples
    --------
    >>> from monai.transforms import Orientationd
    >>> one, same, other = (Orientationd("image", axcodes=axes) for axes in ("RAS", "RAS", "LPS"))
    >>> fingerprint(one) == fingerprint(same), fingerprint(one) == fingerprint(other)
    (True, False)
    """
    return str(joblib.hash(_plain(part, what, ())))


def _plain(value: Any, what: str, above: tuple[int, ...]) -> Any:
    """Return values that joblib hashes alike in every process; ``above`` are the objects that this one is part of."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return _plain_tensor(value.detach().cpu())
    if isinstance(value, enum.Enum | np.dtype | slice | range | PurePath) or type(value).__module__ == "torch":
        return repr(value)
    if id(value) in above:
        return f"level {above.index(id(value))}"
    inside = partial(_plain, what=what, above=(*above, id(value)))
    if isinstance(value, Mapping):
        return sorted((str(key), inside(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [inside(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    return _plain_object(value, what, inside)


def _plain_object(value: Any, what: str, inside: Callable[[Any], Any]) -> Any:
    if isinstance(value, type):
        return [[f"{each.__module__}.{each.__qualname__}", _source(each)] for each in value.__mro__]
    if isinstance(value, types.MethodType):
        return [inside(value.__func__), inside(value.__self__)]
    if isinstance(value, types.FunctionType):
        cells = [inside(cell.cell_contents) for cell in value.__closure__ or ()]
        defaults = [inside(value.__defaults__), inside(value.__kwdefaults__)]
        return [value.__module__, value.__qualname__, _source(value), *defaults, cells]
    if isinstance(value, types.BuiltinFunctionType | np.ufunc):
        return f"{getattr(value, '__module__', '')}.{value.__name__}"
    if isinstance(value, partial):
        return [inside(value.func), inside(value.args), inside(value.keywords)]
    if hasattr(value, "__dict__") and not isinstance(value, io.IOBase):
        state = {name: item for name, item in vars(value).items() if name not in NOT_COUNTED}
        return [inside(type(value)), inside(state)]
    fix = "give a function of a module that returns the whole, and change its name when it changes"
    raise ConfigError(
        f"{what}: cannot be used", [Problem("cannot be told from another", got=repr(value)[:80], fix=fix)]
    )


def _plain_tensor(tensor: Any) -> Any:
    try:
        return np.asarray(tensor)
    except TypeError:
        # A kind of number that NumPy lacks, such as bfloat16.
        return [str(tensor.dtype), np.asarray(tensor.float())]


def _source(part: Any) -> str:
    if str(part.__module__).split(".")[0] in {*INSTALLED, *sys.stdlib_module_names}:
        return ""
    code = getattr(part, "__code__", None)
    try:
        source = inspect.getsource(part)
    except (OSError, TypeError):
        return "" if code is None else _describe_code(code)
    # The source of a lambda is its line, which may hold several.
    return source + _describe_code(code) if code is not None and "<lambda>" in part.__qualname__ else source


def _describe_code(code: types.CodeType) -> str:
    """Return what compiled code does, the same in every process: no address of what is nested in it."""
    constants = [_describe_code(c) if isinstance(c, types.CodeType) else _ordered(c) for c in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, constants))


def _ordered(constant: Any) -> str:
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def _import_name(part: Any) -> str | None:
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    if not isinstance(name, str) or module in (None, "__main__") or "<" in name:
        return None
    found = sys.modules.get(module)
    for word in name.split("."):
        found = getattr(found, word, None)
    return f"{module}:{name}" if found is part else None


def _import(name: str, what: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = import_module(module)
        for word in attribute.split("."):
            found = getattr(found, word)
            if isinstance(found, types.ModuleType):
                # What a trusted module has imported is not trusted with it.
                raise AttributeError(f"{word} is a module of its own")
    except (ImportError, AttributeError, ValueError) as error:
        said = Problem(str(error), got=name, allowed="package.module:name", fix="check the name and PYTHONPATH")
        raise ConfigError(f"{what}: cannot be imported", [said]) from None
    return found
