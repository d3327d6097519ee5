"""Ways to spoil a valid file: bytes, cells of tables, JSON, YAML, NIfTI headers, safetensors headers, folders."""

import gzip
import json
import struct

import numpy as np
import yaml

CELLS = [
    *("", " ", "n/a", "-9", "999", "1e308", "1e999", "nan", "inf", "-0", "0x10", "1_000", "1,5", "1.2.3", "89+", "²"),
    *("\u0663", "\uff11\uff12", "=1+1", '"', '""', "'", "\x00", "\x0b", "\x1b[2J", "\u2028", "\ufeff", "\u202e", "💩"),
    *("../../etc/passwd", "/dev/zero", "~root/x", "~", "C:\\x", "//a", ".", "..", "a" * 10_000, "9" * 400, "[red]"),
    *("{{7*7}}", "True", "2020-01-01", "sub-01", "sub_01", "SUB-1", "train", "test", "control", "patient", "\ud83d"),
]  # fmt: skip
NODES = [
    *(None, True, False, 0, -1, 1, 2**31, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "n/a", "a" * 2000, "\x00", "💩", "../..", "/dev/zero", "epoch", [], {}, [[]], {"": None}, [None], ["a", 1]),
    *({"a": {"b": [1, {"c": 2}]}}, {"name": "Lambdad"}, {"name": "Orientationd", "axcodes": 3}, list(range(300))),
]  # fmt: skip
YAML_WORDS = [
    *("&a ", "*a", "!!python/object/apply:os.system [id]", "!!int ''", "!!bool x", "!!timestamp x", "2001-99-99"),
    *("!!float ''", "<<: *a", "? [a]", "{[a]: b}", "0b_", "1" * 5000, "[" * 2000, "- " * 2000, "!!set {a}"),
    *("---", "...", "%YAML 9", "\t", "|", ">", "\x00", "a: &a [*a]", "{1: 2}", "null: 1", "2020-01-01", "!x y"),
]  # fmt: skip
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
WORDS = [
    b"\x00",
    b"\n",
    b"\r",
    b'"',
    b"\t",
    b",",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"\x1b[31m",
]
# Characters and cells of a spoiled table: five changes of a long one would otherwise take gigabytes.
LARGEST_TABLE = 1 << 24


def mutate_bytes(rng, content, others=()):
    """Flip, cut, copy, insert, splice: one to four such changes."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, until = np.sort(rng.integers(0, len(content) + 1, 2))
        kind = rng.integers(0, 10)
        if kind == 0 and content:
            content[rng.integers(0, len(content))] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and content:
            content[rng.integers(0, len(content))] = int(rng.choice([0, 1, 127, 128, 255]))
        elif kind == 2:
            del content[at:until]
        elif kind == 3:
            content[at:at] = content[at:until]
        elif kind == 4:
            content[at:at] = WORDS[rng.integers(0, len(WORDS))]
        elif kind == 5:
            del content[at:]
        elif kind == 6 and others:
            other = others[rng.integers(0, len(others))]
            content[at:] = other[rng.integers(0, len(other) + 1) :]
        elif kind == 7:
            content[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif kind == 8 and len(content) > 8:
            where = int(rng.integers(0, len(content) - 8))
            form, values = [("<i", [0, -1, 2**31 - 1, -(2**31)]), ("<f", [np.nan, np.inf, 1e38, -1.0, 1e-38])][
                rng.integers(0, 2)
            ]
            content[where : where + 4] = struct.pack(form, values[rng.integers(0, len(values))])
        elif kind == 9:
            content[at:at] = bytes(content[at:until][:64]) * int(rng.integers(1, 2000))
    return bytes(content)


def mutate_table(rng, content, others=()):
    """Spoil cells, rows, columns, line ends and the encoding of a delimited text."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content, others)
    text = content.decode("utf-8", errors="replace")
    separator = "\t" if "\t" in text else ("," if "," in text else ";")
    rows = [line.split(separator) for line in text.split("\n")]
    for _ in range(rng.integers(1, 6)):
        row = int(rng.integers(0, len(rows)))
        cell = int(rng.integers(0, max(1, len(rows[row]))))
        kind = rng.integers(0, 11)
        if kind < 4:
            rows[row][cell : cell + 1] = [CELLS[rng.integers(0, len(CELLS))]]
        elif kind == 4:
            rows.insert(int(rng.integers(0, len(rows) + 1)), list(rows[row]))
        elif kind == 5:
            del rows[row]
            rows = rows or [[""]]
        elif kind == 6:
            other = int(rng.integers(0, len(rows)))
            rows[row], rows[other] = rows[other], rows[row]
        elif kind == 7:
            place, new = int(rng.integers(0, len(rows[0]) + 1)), CELLS[rng.integers(0, len(CELLS))]
            if len(rows) * (1 + len(new)) <= LARGEST_TABLE:
                rows = [[*cells[:place], new, *cells[place:]] for cells in rows]
        elif kind == 8:
            rows = [cells[:cell] + cells[cell + 1 :] for cells in rows]
        elif kind == 9:
            rows[row] = rows[row] * min(int(rng.integers(2, 400)), _copies_that_fit(rows[row : row + 1]))
        elif kind == 10 and len(rows) < 400:
            copies = min(int(rng.integers(1, 20)), _copies_that_fit(rows))
            rows = rows + [list(cells) for cells in rows[1:]] * copies
    text = ["\n", "\r\n", "\r", "\n\n"][rng.choice(4, p=[0.7, 0.15, 0.1, 0.05])].join(map(separator.join, rows))
    encoding = ["utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-32"][rng.choice(5, p=[0.8, 0.05, 0.06, 0.06, 0.03])]
    return text.encode(encoding, errors="surrogatepass" if encoding.startswith("utf") else "replace")


def _copies_that_fit(rows):
    return max(1, LARGEST_TABLE // (1 + sum(len(cells) + sum(map(len, cells)) for cells in rows)))


def _spoil_node(rng, value, depth=0):
    """Replace, drop, nest or add somewhere in a nested value."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if inner and rng.random() < (0.9 if depth < 3 else 0.6):
        key = inner[rng.integers(0, len(inner))]
        kind = rng.integers(0, 12)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            value[[str(key) + "x", str(key).upper(), "", "💩", "__class__"][rng.integers(0, 5)]] = value.pop(key)
        elif kind == 2 and isinstance(value, list):
            value.extend([value[key]] * int(rng.integers(1, 50)))
        else:
            value[key] = _spoil_node(rng, value[key], depth + 1)
        return value
    new = NODES[rng.integers(0, len(NODES))]
    if rng.random() < 0.05:
        for _ in range(int(rng.choice([5, 50]))):
            new = [new] if rng.random() < 0.5 else {"a": new}
    return json.loads(json.dumps(new))


def mutate_json(rng, content, others=()):
    """Spoil values of JSON, or its bytes; now and then nest it thousands deep."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, content, others)
    if rng.random() < 0.02:
        n = int(rng.choice([500, 5000, 100_000]))
        return b'{"a":' * n if rng.random() < 0.3 else b"[" * n + b"]" * n
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return mutate_bytes(rng, content, others)
    for _ in range(rng.integers(1, 4)):
        value = _spoil_node(rng, value)
    return json.dumps(value, ensure_ascii=bool(rng.random() < 0.7), indent=2).encode("utf-8", errors="surrogatepass")


def mutate_json_lines(rng, content, others=()):
    """Spoil one or several lines of JSON each."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, content, others)
    lines = content.splitlines()
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(lines)))
        kind = rng.integers(0, 5)
        if kind < 3:
            lines[at] = mutate_json(rng, lines[at] if lines[at][:1] == b"{" else b"{}").replace(b"\n", b" ")
        elif kind == 3:
            lines.insert(int(rng.integers(0, len(lines) + 1)), lines[at])
        elif len(lines) > 1:
            del lines[at]
    return b"\n".join(lines) + b"\n" * int(rng.random() < 0.8)


def mutate_yaml(rng, content, others=()):
    """Spoil values of YAML, its bytes, or put in words that YAML has a meaning for."""
    draw = rng.random()
    if draw < 0.25:
        return mutate_bytes(rng, content, others)
    if draw < 0.27:
        return BOMB.encode() + content
    if draw < 0.5:
        lines = content.decode().split("\n")
        for _ in range(rng.integers(1, 4)):
            at, word = int(rng.integers(0, len(lines))), YAML_WORDS[rng.integers(0, len(YAML_WORDS))]
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {word}" if rng.random() < 0.7 else word
        return "\n".join(lines).encode("utf-8", errors="surrogatepass")
    value = yaml.safe_load(content)
    for _ in range(rng.integers(1, 4)):
        value = _spoil_node(rng, value)
    return yaml.safe_dump(value, allow_unicode=bool(rng.random() < 0.5)).encode("utf-8", errors="surrogatepass")


NIFTI_1 = {
    "sizeof_hdr": (0, "i"), "dim_0": (40, "h"), "dim_1": (42, "h"), "dim_2": (44, "h"), "dim_3": (46, "h"),
    "dim_4": (48, "h"),
    "datatype": (70, "h"), "bitpix": (72, "h"), "pixdim_0": (76, "f"), "pixdim_1": (80, "f"), "pixdim_2": (84, "f"),
    "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"),
    "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern_b": (256, "f"), "qoffset_x": (268, "f"),
    "srow_x0": (280, "f"), "srow_x3": (292, "f"), "srow_y1": (300, "f"), "srow_z2": (320, "f"), "magic": (344, "i"),
    "extension": (348, "i"), "esize": (352, "i"),
}  # fmt: skip
HEADER_VALUES = {
    "h": [0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2304, 32767, -32768],
    "f": [0, 1, -1, np.nan, np.inf, -np.inf, 1e-30, 1e30, 352, 353, 1e9, 4e9, -352, 0.001, 1000, 3e38],
    "i": [0, 1, -1, 348, 540, 2**31 - 1, -(2**31), 1536, 16, 0x0031692B, 0x0031696E],
    "B": [0, 1, 2, 3, 10, 255],
}  # fmt: skip


def _unpack(content):
    try:
        return gzip.decompress(content), True
    except (OSError, EOFError):
        return content, False


def mutate_nifti(rng, content, others=()):
    """Spoil fields of a NIfTI-1 header, or the bytes of the file or of what it unpacks to; or make it a bomb."""
    raw, packed = _unpack(content)
    draw = rng.random()
    if draw < 0.2 or len(raw) < 360:
        return mutate_bytes(rng, content, others)
    if draw < 0.3:
        raw = mutate_bytes(rng, raw, [_unpack(other)[0] for other in others])
    else:
        spoiled = bytearray(raw)
        for _ in range(rng.integers(1, 4)):
            name = list(NIFTI_1)[rng.integers(0, len(NIFTI_1))]
            offset, kind = NIFTI_1[name]
            value = HEADER_VALUES[kind][rng.integers(0, len(HEADER_VALUES[kind]))]
            struct.pack_into(("<" if rng.random() < 0.95 else ">") + kind, spoiled, offset, value)
        raw = bytes(spoiled)
        if rng.random() < 0.05:
            # All voxels there are, as many as a header can honestly name in a small file.
            shape = [(32767, 1, 1), (1024, 256, 256), (512, 512, 512), (3, 32767, 512)][rng.integers(0, 4)]
            raw = raw[:40] + struct.pack("<4h", 3, *shape) + raw[48:]
            if packed and rng.random() < 0.5:
                return gzip.compress(raw, 1) + _zeros(int(rng.choice([1, 64, 512])))
    if not packed or rng.random() < 0.05:
        return raw
    content = gzip.compress(raw, 1)
    return content[: rng.integers(0, len(content))] if rng.random() < 0.05 else content


_BOMBS = {}


def _zeros(n_mb):
    """Return a gzip member of so many megabytes of zeros."""
    if n_mb not in _BOMBS:
        _BOMBS[n_mb] = gzip.compress(bytes(n_mb << 20), 1)
    return _BOMBS[n_mb]


def mutate_safetensors(rng, content, others=()):
    """Spoil the JSON header (and keep its length true), the length, or the bytes."""
    draw = rng.random()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = content[8 : 8 + length], content[8 + length :]
    if draw < 0.3:
        return mutate_bytes(rng, content, others)
    if draw < 0.4:
        value = [0, 1, 2**63, 2**64 - 1, 10**8, 10**9, length - 1, length + 1, len(content)][rng.integers(0, 9)]
        return struct.pack("<Q", value) + header + data
    known = json.loads(header)
    if draw < 0.75:
        state = json.loads(known["__metadata__"]["state"])
        for _ in range(rng.integers(1, 3)):
            state = _spoil_node(rng, state)
        known["__metadata__"]["state"] = json.dumps(state) if draw < 0.73 else "[" * 10_000
        if rng.random() < 0.5:
            known["__metadata__"].pop("crc32", None)
    else:
        known = _spoil_node(rng, known)
        if draw > 0.85 and isinstance(known, dict):
            # Tensors under each other's names, and none of one name.
            names = [name for name in known if name != "__metadata__"] or ["none"]
            known.setdefault(names[0], {})
            one, other = (names[rng.integers(0, len(names))] for _ in range(2))
            known[one], known[other] = known[other], known[one]
            if rng.random() < 0.3:
                del known[one]
            known.get("__metadata__", {}).pop("crc32", None) if isinstance(known.get("__metadata__"), dict) else None
    header = json.dumps(known).encode()
    return struct.pack("<Q", len(header)) + header + data
