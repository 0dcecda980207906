#!/usr/bin/env python3
"""Mutation testing: which faults of one line would the C tests notice?

    python3 tools/mutants.py [--seed N] [--count N] [--only 3,17] [--share K/N] [--list]

Draws lines of src/ at random, each line of code as likely as any other, and changes one thing in each: a comparison, an
operator, a constant, a status, a condition, or a whole statement. Every mutant is built in a scratch copy of the tree
(build/mutants/tree) with assertions on and runs the C tests, the nearest and the fastest first, until one fails. Seed and tree decide
the draws alone.

Drawn again, because they say nothing about the tests: what does not compile, and what compiles to the same machine code
("trivial compiler equivalence", Papadakis et al. 2015). Counted apart: files of an instruction set or a system
that this machine lacks. Assertions are not mutated: a weaker one changes nothing in a program that keeps them.
tools/mutants.equivalent lists mutants that no test can notice, each with its reason.

Results go to build/mutants/results.jsonl as they come, so that a run may be interrupted; a later run goes on with it,
and runs survivors again where tests have changed. With --share, several copies of the tree (of the same sources) take every
Nth draw each; their results.jsonl, put together, are what a run without it goes on with. The summary is build/mutants/report.md. Exit status 1: more than 5 of
100 survived.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build", "mutants")
TREE = os.path.join(WORK, "tree")
EQUIVALENT = os.path.join(ROOT, "tools", "mutants.equivalent")
CORES = os.cpu_count() or 1
MAKE_OPTIONS = ["CHECKED=1", "CFLAGS=-O2", "OPENMP=1"]

# ---- Drawing --------------------------------------------------------------------------------------------------------

TOKEN = re.compile(
    r"0[xX][0-9a-fA-F.]*(?:[pP][-+]?\d+)?[uUlLfF]*|\d+\.?\d*(?:[eE][-+]?\d+)?[uUlLfF]*|[A-Za-z_]\w*"
    r"|<<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|[^\s\w]"
)

# Operators with a blank on both sides are binary (clang-format sees to that).
BINARY = {
    "<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"], "==": ["!="], "!=": ["=="],
    "&&": ["||"], "||": ["&&"], "+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "%": ["/"], "<<": [">>"],
    ">>": ["<<"], "&": ["|"], "|": ["&"], "^": ["|"], "+=": ["-="], "-=": ["+="], "*=": ["/="], "/=": ["*="],
    "|=": ["&="], "&=": ["|="], "<<=": [">>="], ">>=": ["<<="],
}
WORDS = {
    "true": ["false"], "false": ["true"], "size_min": ["size_max"], "size_max": ["size_min"], "fmin": ["fmax"],
    "fmax": ["fmin"], "fminf": ["fmaxf"], "fmaxf": ["fminf"], "continue": ["break"],
    "DQT_OK": ["DQT_E_ARGUMENT"], "DQT_E_ARGUMENT": ["DQT_E_SHAPE", "DQT_OK"], "DQT_E_SHAPE": ["DQT_E_ARGUMENT", "DQT_OK"],
    "DQT_E_MEMORY": ["DQT_E_STATE", "DQT_OK"], "DQT_E_UNSUPPORTED": ["DQT_E_ARGUMENT", "DQT_OK"],
    "DQT_E_FORMAT": ["DQT_E_IO", "DQT_OK"], "DQT_E_IO": ["DQT_E_FORMAT", "DQT_OK"],
    "DQT_E_NUMERIC": ["DQT_E_ARGUMENT", "DQT_OK"], "DQT_E_STATE": ["DQT_E_ARGUMENT", "DQT_OK"],
}
# Vector intrinsics: the operation in the name.
VECTOR = {"add": "sub", "adds": "subs", "sub": "add", "mul": "add", "min": "max", "max": "min", "and": "or", "or": "and",
          "slli": "srli", "srli": "slli", "fmadd": "fnmadd", "unpacklo": "unpackhi", "unpackhi": "unpacklo"}
INTRINSIC = re.compile(r"(_mm(?:256|512)?(?:_mask|_maskz)?_)([a-z]+)(_\w+)$")
STATEMENT = re.compile(r"^(?:[A-Za-z_*(][^;{}]*(?:=|\(|\+\+|--)[^;{}]*|break|continue);$")
NO_STATEMENT = re.compile(r"^(?:return|goto|case|default|if|for|while|do|else|typedef|static|const|struct|enum|extern)\b")
DECLARATION = re.compile(r"^(?:const |struct |unsigned |volatile )*[A-Za-z_]\w*(?: \w+)? \**\w+(?:\[[^]]*\])*(?: =.*|,.*)?;$")
KEYWORDS = {"return", "case", "goto", "sizeof", "else"}
ASSERTION = re.compile(r"\b(?:DQT_ASSERT|_Static_assert)\s*\(")
CONDITION = re.compile(r"\b(if|while) \(")


def blank_out(text):
    """The text with comments, strings, characters, directives and assertions as blanks: same length, same lines."""
    out = list(text)

    def erase(a, b):
        for i in range(a, b):
            if out[i] != "\n":
                out[i] = " "

    for m in re.finditer(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', text, re.S):
        erase(*m.span())
    code = "".join(out)
    for m in re.finditer(r"^[ \t]*#.*$", code, re.M):
        erase(*m.span())
    for m in ASSERTION.finditer(code):
        erase(m.start(), closing(code, m.end() - 1) + 1)
    return "".join(out)


def closing(code, start):
    """The position of the parenthesis that closes the one at `start`; the end of the text if none does."""
    depth = 0
    for i in range(start, len(code)):
        depth += (code[i] == "(") - (code[i] == ")")
        if depth == 0:
            return i
    return len(code) - 1


def changed_number(token):
    """Constants one up and one down; floats are doubled and, as 0, become 1."""
    m = re.fullmatch(r"(0[xX][0-9a-fA-F]+|\d+)([uUlL]*)", token)
    if m:
        value = int(m.group(1), 0) if not re.fullmatch(r"0\d+", m.group(1)) else int(m.group(1), 8)
        text = hex if m.group(1)[:2] in ("0x", "0X") else str
        return [text(value + 1) + m.group(2)] + ([text(value - 1) + m.group(2)] if value else [])
    if re.fullmatch(r"\d+\.\d*(?:[eE][-+]?\d+)?[fF]?", token):
        number = token.rstrip("fF")
        return ["1.0" + token[len(number):]] if float(number) == 0 else ["(2 * %s)" % token]
    return []


def line_mutants(line, code):
    """All (operator, column, old, new) of one line; `code` is the line blanked out."""
    found = []
    stripped = code.strip()
    if not stripped:
        return found
    tokens = list(TOKEN.finditer(code))
    for i, m in enumerate(tokens):
        t, a, b = m.group(), m.start(), m.end()
        spaced = code[a - 1:a] == " " and (code[b:b + 1] in (" ", "")) and i > 0
        before = tokens[i - 1].group() if i else ""
        if t in BINARY and spaced and before not in KEYWORDS:
            found += [("operator", a, t, new) for new in BINARY[t]]
        elif t in ("++", "--"):
            found.append(("step", a, t, "--" if t == "++" else "++"))
        elif t == "!":
            found.append(("negation", a, t, ""))
        elif t in WORDS:
            kind = "status" if t.startswith("DQT_") else "word"
            found += [(kind, a, t, new) for new in WORDS[t]]
        elif t[0].isdigit():
            roomier = before == "[" and DECLARATION.match(stripped) and "=" not in stripped  # a longer array: no fault
            found += [("constant", a, t, new) for new in changed_number(t)[1 if roomier else 0:]]
        else:
            v = INTRINSIC.match(t)
            if v and v.group(2) in VECTOR:
                found.append(("intrinsic", a, t, v.group(1) + VECTOR[v.group(2)] + v.group(3)))
    for m in CONDITION.finditer(code):
        end = closing(code, m.end() - 1)
        if code[end] == ")" and end > m.end():
            found.append(("condition", m.end(), line[m.end():end], "!(%s)" % line[m.end():end]))
    if code[0] == " " and STATEMENT.match(stripped) and not NO_STATEMENT.match(stripped) and not DECLARATION.match(stripped):
        if stripped.count("(") == stripped.count(")"):
            at = len(code) - len(code.lstrip())
            found.append(("statement", at, line.strip(), ";"))
    return found


def sources():
    found = []
    for folder, _, names in os.walk(os.path.join(ROOT, "src")):
        found += [os.path.relpath(os.path.join(folder, n), ROOT) for n in names if n.endswith((".c", ".h"))]
    return sorted(found)


def code_lines():
    """All lines of code of src/: (file, number, line, blanked line)."""
    lines = []
    for name in sources():
        with open(os.path.join(ROOT, name), encoding="utf-8") as f:
            text = f.read()
        for number, (line, code) in enumerate(zip(text.split("\n"), blank_out(text).split("\n")), 1):
            if re.search(r"\w", code):
                lines.append((name, number, line, code))
    return lines


def draws(seed):
    """An endless stream of different mutants: dictionaries with file, line, operator, before and after."""
    lines = code_lines()
    chance = random.Random(seed)
    seen = set()
    misses = 0
    while misses < 100000:
        name, number, line, code = chance.choice(lines)
        options = line_mutants(line, code)
        if not options:
            misses += 1
            continue
        kind, column, old, new = chance.choice(options)
        after = line[:column] + new + line[column + len(old):]
        if (name, number, after) in seen:
            misses += 1
            continue
        misses = 0
        seen.add((name, number, after))
        yield {"file": name, "line": number, "operator": kind, "before": line, "after": after}


# ---- Instruction sets of files -----------------------------------------------------------------------------------------

# What /proc/cpuinfo must offer for the code of a file whose name ends so.
FEATURES = {"avx2": "avx2", "fma": "fma", "avx512": "avx512bw", "vnni": "avx512_vnni", "avxvnni": "avx_vnni",
            "bf16": "avx512_bf16", "amx": "amx_int8", "neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm"}


def cpu_features():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            m = re.search(r"^(?:flags|Features)\s*:(.*)$", f.read(), re.M)
            return set(m.group(1).split()) if m else set()
    except OSError:
        return set()


def lacks(name, features):
    """The instruction set that this CPU lacks for a file, or None."""
    for word in reversed(re.split(r"[_.]", os.path.basename(name))):
        if word == "windows" and os.name != "nt":
            return word
        if word in FEATURES:
            return word if FEATURES[word] not in features else None
    return None


# ---- Building --------------------------------------------------------------------------------------------------------


def run_quietly(command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def copy_tree():
    """The files that git knows or would, into the scratch tree; only what differs is written."""
    listed = run_quietly(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"]).stdout.split("\n")
    wanted = {n for n in listed if n and os.path.isfile(os.path.join(ROOT, n)) and not n.startswith("docs/")}
    for name in sorted(wanted):
        source, target = os.path.join(ROOT, name), os.path.join(TREE, name)
        with open(source, "rb") as f:
            data = f.read()
        if os.path.exists(target):
            with open(target, "rb") as f:
                if f.read() == data:
                    continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as f:
            f.write(data)
        shutil.copymode(source, target)
    os.makedirs(os.path.join(TREE, "build"), exist_ok=True)  # where tests write
    for folder in ("src", "tests", "include"):
        for at, _, names in os.walk(os.path.join(TREE, folder)):
            for n in names:
                if os.path.relpath(os.path.join(at, n), TREE) not in wanted:
                    os.remove(os.path.join(at, n))


class Build:
    """Objects and test programs in the scratch tree, by the commands that `make -n` prints."""

    def __init__(self):
        self.out = os.path.join(WORK, "objects")
        os.makedirs(self.out, exist_ok=True)
        self.tests = sorted(n[:-2] for n in os.listdir(os.path.join(TREE, "tests")) if re.fullmatch(r"test_\w+\.c", n))
        plan = run_quietly(["make", "-n", "-B", "-C", TREE] + MAKE_OPTIONS + ["check-c"], env=clean_environment())
        self.compile = {}  # file.c: command without output
        self.links = {}  # test: (words before the source, words after it)
        for line in plan.stdout.split("\n"):
            try:
                words = shlex.split(line)
            except ValueError:
                continue
            files = [w for w in words if re.fullmatch(r"(src|tests)/.*\.c", w)]
            if len(files) != 1 or "-o" not in words:
                continue
            name, at = files[0], words.index("-o")
            rest = words[:at] + words[at + 2:]
            if "-c" in rest:
                self.compile[name] = rest
            elif name.startswith("tests/"):
                archives = [w for w in rest if w.endswith(".a")]
                libraries = [w for w in rest if w.startswith("-l")]
                flags = [w for w in rest if w not in archives + libraries + [name]]
                self.compile[name] = flags + ["-c", name]
                self.links[name[len("tests/"):-2]] = (flags, libraries)
        missing = [t for t in self.tests if t not in self.links]
        if missing or not any(n.startswith("src/") for n in self.compile):
            sys.exit("`make -n` does not tell how to build %s:\n%s" % (missing or "src", plan.stdout[-2000:]))
        self.bytes = {}

    def object_of(self, name):
        return os.path.join(self.out, name.replace("/", "+") + ".o")

    def depends(self, name):
        """The files that an object was made from, by its dependency file; None if there is none."""
        try:
            with open(self.object_of(name)[:-1] + "d", encoding="utf-8") as f:
                words = f.read().replace("\\\n", " ").split()
        except OSError:
            return None
        return {w for w in words if not w.endswith(":")}

    def make_object(self, name):
        command = [w for w in self.compile[name] if w not in ("-MMD", "-MP")]
        target = self.object_of(name)
        done = run_quietly(command + ["-w", "-MMD", "-MF", target[:-1] + "d", "-o", target], cwd=TREE)
        return done.returncode == 0, done.stdout

    def update(self, name):
        """Makes an object that is older than its sources or was made by another command."""
        target, stamp = self.object_of(name), self.object_of(name) + ".command"
        text = json.dumps(self.compile[name])
        needed = self.depends(name)
        if needed is not None and os.path.exists(target) and os.path.exists(stamp):
            with open(stamp, encoding="utf-8") as f:
                same_command = f.read() == text
            at = os.path.getmtime(target)
            paths = [os.path.join(TREE, d) for d in needed]
            if same_command and all(os.path.exists(p) and os.path.getmtime(p) < at for p in paths):
                return
        good, output = self.make_object(name)
        if not good:
            raise RuntimeError("the tree itself does not compile: %s\n%s" % (name, output))
        with open(stamp, "w", encoding="utf-8") as f:
            f.write(text)

    def up_to_date(self):
        """Makes all objects, and the library."""
        with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
            list(pool.map(self.update, sorted(self.compile)))
        for name in self.compile:
            self.bytes[name] = self.read_object(name)
        self.library()

    def read_object(self, name):
        with open(self.object_of(name), "rb") as f:
            return f.read()

    def library(self):
        archive = os.path.join(self.out, "libdqt.a")
        if os.path.exists(archive):
            os.remove(archive)
        subprocess.run(["ar", "rcs", archive] + [self.object_of(n) for n in sorted(self.compile) if n.startswith("src/")],
                       check=True)

    def rebuild(self, changed):
        """Objects made from `changed` anew. Returns "compiles", "same" (machine code) or "broken", and what was made."""
        made = [n for n in sorted(self.compile) if changed in (self.depends(n) or ())]
        made.sort(key=lambda n: n.startswith("tests/"))
        for i, name in enumerate(made):
            if not self.make_object(name)[0]:
                return "broken", made[:i + 1]
        if all(self.read_object(n) == self.bytes[n] for n in made):
            return "same", made
        self.library()
        return "compiles", made

    def restore(self, names):
        for name in names:
            with open(self.object_of(name), "wb") as f:
                f.write(self.bytes[name])

    def link(self, test):
        program = os.path.join(self.out, test)
        flags, libraries = self.links[test]
        done = run_quietly(flags + ["-o", program, self.object_of("tests/%s.c" % test),
                                    os.path.join(self.out, "libdqt.a")] + libraries, cwd=TREE)
        return program if done.returncode == 0 else None


def clean_environment():
    keep = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DQT_ISA")}
    keep["OMP_WAIT_POLICY"] = "passive"
    return keep


def limits():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))


def run_test(program, seconds):
    """("passed", "failed" or "timeout", seconds)."""
    start = time.monotonic()
    child = subprocess.Popen([program], cwd=TREE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env=clean_environment(), preexec_fn=limits, start_new_session=True)
    try:
        code = child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return "timeout", time.monotonic() - start
    return ("passed" if code == 0 else "failed"), time.monotonic() - start


# ---- Running ---------------------------------------------------------------------------------------------------------


def digest(folders):
    h = hashlib.sha256()
    for folder in folders:
        for at, below, names in os.walk(os.path.join(TREE, folder)):
            below.sort()
            for n in sorted(names):
                with open(os.path.join(at, n), "rb") as f:
                    h.update(os.path.relpath(os.path.join(at, n), TREE).encode() + b"\0" + f.read() + b"\0")
    return h.hexdigest()[:16]


def equivalents():
    """{(file, line before, line after): reason}, the lines without blanks around them."""
    found = {}
    try:
        with open(EQUIVALENT, encoding="utf-8") as f:
            blocks = re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n", "", f.read()))
    except OSError:
        return found
    for block in blocks:
        lines = [line.strip() for line in block.strip().split("\n")]
        if len(lines) >= 4 and lines[1].startswith("- ") and lines[2].startswith("+ "):
            found[(lines[0], lines[1][2:], lines[2][2:])] = " ".join(lines[3:])
    return found


def key_of(m):
    return "%s:%d: %s" % (m["file"], m["line"], m["after"])


class Runner:
    def __init__(self, seed, timeout):
        copy_tree()
        self.build = Build()
        print("building %d objects" % len(self.build.compile), flush=True)
        self.build.up_to_date()
        self.source_digest, self.test_digest = digest(["src", "include"]), digest(["tests"])
        self.timeout, self.seed = timeout, seed
        self.features = cpu_features()
        self.equivalents = equivalents()
        self.results = {}
        self.file = os.path.join(WORK, "results.jsonl")
        if os.path.exists(self.file):
            with open(self.file, encoding="utf-8") as f:
                for line in f:
                    r = json.loads(line)
                    if r["source"] == self.source_digest:
                        self.results[r["key"]] = r
        self.times = {}
        self.base_times()

    def base_times(self):
        """Every test must pass on the unchanged tree; how long each takes gives the order and the time limit."""
        path = os.path.join(WORK, "times.json")
        stamp = self.source_digest + self.test_digest
        try:
            with open(path, encoding="utf-8") as f:
                kept = json.load(f)
        except (OSError, ValueError):
            kept = {}
        if kept.get("stamp") == stamp:
            self.times = kept["times"]
            return
        with concurrent.futures.ThreadPoolExecutor(max(1, CORES // 2)) as pool:
            programs = list(pool.map(self.build.link, self.build.tests))
            outcomes = list(pool.map(lambda p: run_test(p, 900) if p else ("is not linked", 0), programs))
        for test, (outcome, seconds) in zip(self.build.tests, outcomes):
            print("%-28s %6.1f s  %s" % (test, seconds, outcome), flush=True)
            if outcome != "passed":
                sys.exit("%s fails on the tree itself" % test)
            self.times[test] = seconds
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"stamp": stamp, "times": self.times}, f)

    def keep(self, m, **more):
        r = dict(m, key=key_of(m), source=self.source_digest, tests=self.test_digest, **more)
        self.results[r["key"]] = r
        with open(self.file, "a", encoding="utf-8") as f:
            f.write(json.dumps(r) + "\n")
        return r

    def known(self, m):
        """An earlier result that still holds: survivors are run again where the tests have changed."""
        r = self.results.get(key_of(m))
        if not r or (r["outcome"] == "survived" and r["tests"] != self.test_digest):
            return None
        return r

    def examine(self, m):
        missing = lacks(m["file"], self.features)
        if missing:
            return self.keep(m, outcome="apart", by=missing, seconds=0)
        path = os.path.join(TREE, m["file"])
        with open(path, encoding="utf-8") as f:
            original = f.read()
        lines = original.split("\n")
        lines[m["line"] - 1] = m["after"]
        start = time.monotonic()
        made = []
        try:
            with open(path, "w", encoding="utf-8") as f:
                f.write("\n".join(lines))
            how, made = self.build.rebuild(m["file"])
            if how == "compiles":
                outcome, by = self.judge(m)
            else:
                outcome, by = how, ""
        finally:
            with open(path, "w", encoding="utf-8") as f:
                f.write(original)
            self.build.restore(made)
            self.build.library()
        return self.keep(m, outcome=outcome, by=by, seconds=round(time.monotonic() - start, 1))

    def order(self, m):
        """Tests that name the mutant's function or share words with its file first, for they will find it, if any does;
        then the others. The fastest first in both."""
        with open(os.path.join(TREE, m["file"]), encoding="utf-8") as f:
            above = f.read().split("\n")[:m["line"]]
        function = next((g.group(1) for line in reversed(above)
                         for g in [re.match(r"[A-Za-z_][\w *]*?\b(\w+)\(", line)] if g), "?")
        words = {w.rstrip("s") for w in re.split(r"[/_.]", m["file"][len("src/"):])} - {"c", "h", "api", "core", "avx2"}
        words |= {"updater"} if m["file"].startswith("src/optim/") or "update" in words else set()

        def near(test):
            with open(os.path.join(TREE, "tests", test + ".c"), encoding="utf-8") as f:
                named = re.search(r"\b%s\b" % re.escape(function), f.read()) is not None
            return named or any(w.rstrip("s") in words for w in test.split("_")[1:])

        return sorted(self.times, key=lambda t: (not (near(t) and self.times[t] < 20), self.times[t]))

    def judge(self, m):
        for test in self.order(m):
            program = self.build.link(test)
            if not program:
                return "killed", test + " (is not linked)"
            outcome, _ = run_test(program, max(self.timeout, 10 * self.times[test]))
            if outcome != "passed":
                return "killed", test + (" (time)" if outcome == "timeout" else "")
        return "survived", ""

    def reason(self, m):
        return self.equivalents.get((m["file"], m["before"].strip(), m["after"].strip()))


def describe(m):
    return "%s:%d  %s  ->  %s" % (m["file"], m["line"], m["before"].strip(), m["after"].strip())


def report(runner, counted, apart, redrawn):
    alive = [r for r in counted if r["outcome"] == "survived" and not runner.reason(r)]
    equal = [r for r in counted if r["outcome"] == "survived" and runner.reason(r)]
    dead = [r for r in counted if r["outcome"] == "killed"]
    real = len(alive) + len(dead)
    out = ["# Mutants of src/, seed %d" % runner.seed, "",
           "%d mutants: %d killed, %d survived, %d equivalent by tools/mutants.equivalent. Of those that are not "
           "equivalent %.1f %% die." % (len(counted), len(dead), len(alive), len(equal), 100 * len(dead) / max(real, 1)),
           "", "Drawn again: %d that do not compile, %d with the same machine code. Apart, for this machine lacks their "
           "instruction set or system: %d." % (redrawn["broken"], redrawn["same"], len(apart)), ""]
    out += ["## Survivors", ""] + (["None.", ""] if not alive else [])
    for r in alive:
        out += ["%d. `%s:%d` (%s)" % (r["number"], r["file"], r["line"], r["operator"]), "", "   ```diff",
                "   - " + r["before"].strip(), "   + " + r["after"].strip(), "   ```", ""]
    out += ["## Equivalent", ""] + (["None.", ""] if not equal else [])
    for r in equal:
        out += ["- %d. `%s`: %s" % (r["number"], describe(r), runner.reason(r))]
    out += ["", "## By folder", "", "| folder | mutants | killed | survived | equivalent |", "|---|---|---|---|---|"]
    folders = sorted({os.path.dirname(r["file"]) for r in counted})
    for folder in folders:
        n = [sum(os.path.dirname(r["file"]) == folder for r in group) for group in (counted, dead, alive, equal)]
        out.append("| %s | %d | %d | %d | %d |" % tuple([folder] + n))
    out += ["", "## By test, the first that failed", "", "| test | killed |", "|---|---|"]
    for test, n in collections.Counter(r["by"] for r in dead).most_common():
        out.append("| %s | %d |" % (test, n))
    out += ["", "## All", ""] + ["- %d. %s %s: `%s`" % (r["number"], r["outcome"], r["by"], describe(r)) for r in counted]
    with open(os.path.join(WORK, "report.md"), "w", encoding="utf-8") as f:
        f.write("\n".join(out) + "\n")
    return len(alive), real, len(equal)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--count", type=int, default=100, help="mutants that compile, those apart not counted")
    options.add_argument("--only", default="", help="run these numbers again, as 3,17")
    options.add_argument("--share", default="", help="K/N: of the first 1.5 * count draws only those whose number is K modulo N")
    options.add_argument("--list", action="store_true", help="print the first draws and run nothing")
    options.add_argument("--timeout", type=float, default=30, help="seconds a test has at least")
    o = options.parse_args()
    if o.list:
        for _, m in zip(range(o.count), draws(o.seed)):
            print("%-10s %s" % (m["operator"], describe(m)))
        return 0
    os.makedirs(WORK, exist_ok=True)
    only = {int(n) for n in o.only.split(",") if n}
    runner = Runner(o.seed, o.timeout)
    if o.share:
        part, parts = (int(n) for n in o.share.split("/"))
        for number, m in zip(range(o.count * 3 // 2), draws(o.seed)):
            if number % parts == part % parts and not runner.known(m):
                r = runner.examine(m)
                print("%-8s %6.1f s  %s  %s" % (r["outcome"], r["seconds"], r["by"], describe(r)), flush=True)
        return 0
    counted, apart, redrawn = [], [], collections.Counter()
    for m in draws(o.seed):
        if len(counted) == o.count:
            break
        number = len(counted) + 1
        r = runner.known(m) if number not in only else None
        fresh = r is None
        if fresh:
            r = runner.examine(m)
        if r["outcome"] == "apart":
            apart.append(r)
        elif r["outcome"] in ("broken", "same"):
            redrawn[r["outcome"]] += 1
        else:
            counted.append(dict(r, number=number))
            if fresh:
                print("%3d %-8s %6.1f s  %s  %s" % (number, r["outcome"], r["seconds"], r["by"], describe(r)), flush=True)
                report(runner, counted, apart, redrawn)
    alive, real, equal = report(runner, counted, apart, redrawn)
    print("%d of %d survived, %d equivalent, %d apart: build/mutants/report.md" % (alive, real, equal, len(apart)))
    return 1 if alive * 100 > 5 * real else 0


if __name__ == "__main__":
    sys.exit(main())
