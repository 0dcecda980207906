#!/usr/bin/env python3
"""Writes src/dqt.map and docs/symbols-in-versions anew from include/dqt.h: run after adding to the header.

A symbol keeps the version it is listed with; new ones get the header's. Functions inside #ifdef DQT_EXPERIMENTAL go to a
node of their own. Nodes are one per minor version, the candidate 0.9 carrying that of 1.0.
"""
import re, pathlib
root = pathlib.Path(__file__).resolve().parent.parent
header = (root / "include/dqt.h").read_text()
code = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
version = ".".join(re.search(r"DQT_VERSION_%s (\d+)" % p, code).group(1) for p in ("MAJOR", "MINOR"))
node = "1.0" if version == "0.9" else version
stable, experimental = code, ""
m = re.search(r"#ifdef DQT_EXPERIMENTAL(.*?)#endif", code, re.S)
if m:
    experimental, stable = m.group(1), code[: m.start()] + code[m.end():]

def functions(text):
    return sorted(set(re.findall(r"DQT_API [^;(]*?\b(dqt_\w+)\(", text)))

def enumerators(text):
    out = []
    for body in re.findall(r"enum \{(.*?)\}", text, re.S):
        out += re.findall(r"\b(DQT_[A-Z0-9_]+)\b(?=\s*=)", body)
    return sorted(set(out))

def fields(text):
    out = []
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (dqt_\w+);", text, re.S):
        for line in body.split(";"):
            line = line.strip()
            for part in re.sub(r"^(const\s+)?\w+\s*(\*\s*const\s*\*|\*\s*)?", "", line).split(",") if line else []:
                field = re.search(r"(\w+)(\[\w+\])?\s*$", part.strip())
                if field:
                    out.append(f"{name}.{field.group(1)}")
    return sorted(set(out))

listed = {}
path = root / "docs/symbols-in-versions"
if path.exists():
    for line in path.read_text().splitlines():
        parts = line.split()
        if len(parts) >= 2 and not line.startswith("#"):
            listed[parts[0]] = parts[1]
rows = [("functions", functions(stable)), ("experimental functions", functions(experimental)),
        ("enumerators", enumerators(code)), ("fields", fields(code))]
text = "# Every name of dqt.h and the version that introduced it. Written by tools/symbols.py.\n"
for title, names in rows:
    text += f"\n# {title}\n" + "".join(f"{n} {listed.get(n, version)}\n" for n in names)
path.write_text(text)
by_version = {}
for n in functions(stable):
    v = listed.get(n, version)
    by_version.setdefault("1.0" if v in ("0.1", "0.9") else v, []).append(n)
out, previous = "/* What the shared library exports: the functions of dqt.h, one node per minor version. Written by tools/symbols.py. */\n", ""
for v in sorted(by_version, key=lambda x: [int(p) for p in x.split(".")]):
    out += f"DQT_{v} {{\nglobal:\n" + "".join(f"    {n};\n" for n in by_version[v])
    out += ("" if previous else "local:\n    *;\n") + f"}}{previous};\n\n"
    previous = f" DQT_{v}"
if functions(experimental):
    out += "DQT_EXPERIMENTAL {\nglobal:\n" + "".join(f"    {n};\n" for n in functions(experimental)) + "};\n"
(root / "src/dqt.map").write_text(out)
