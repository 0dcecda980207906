#!/usr/bin/env python3
"""docs/api from include/dqt.h: one page per section of the header, every function, struct, enum and type with its comment.

tools/api_docs.py [--header FILE] [--out FOLDER] [--check]

--check writes nothing: it fails if the pages are not those that would be written, or if a function has no comment.
A comment belongs to the declarations that follow it without a blank line."""
import argparse
import os
import re
import sys

SECTION = re.compile(r"^/\* -{2,} (.+?) -{2,} \*/$")
NAME = re.compile(r"\b(?:dqt|DQT)_\w+(?:\(\)|\*)?")
FUNCTION = re.compile(r"^DQT_API\s[^(]*?\b(dqt_\w+)\(")


class Group:
    """A comment (list of lines or None) and the declarations it is of (list of line lists)."""

    def __init__(self, comment):
        self.comment = comment
        self.declarations = []


def comment_text(lines):
    text = "\n".join(lines).strip()
    text = re.sub(r"^/\*+ ?", "", text)
    text = re.sub(r"\s*\*/$", "", text)
    return [re.sub(r"^ \* ?", "", line).rstrip() for line in text.split("\n")]


def parse(header):
    """The introduction's lines and [(section, [Group])]."""
    lines = header.split("\n")
    introduction, sections, group, i = None, [], None, 0
    while i < len(lines):
        line = lines[i]
        start = i
        section = SECTION.match(line)
        if line.startswith('} /* extern "C" */'):  # only DQT_INIT follows, which the introduction explains
            break
        if section:
            sections.append((section.group(1), []))
            group = None
        elif not line.strip():
            group = None
        elif line.startswith("/*"):
            while "*/" not in lines[i]:
                i += 1
            comment = comment_text(lines[start:i + 1])
            if introduction is None:
                introduction = comment
            elif sections:
                group = Group(comment)
                sections[-1][1].append(group)
        elif sections and line.startswith("#define"):
            if group is None:
                group = Group(None)
                sections[-1][1].append(group)
            group.declarations.append([line])
        elif sections and re.match(r"(DQT_API|typedef|enum)\b", line):
            depth = 0
            while True:  # to the semicolon outside braces, comments apart
                code = re.sub(r"/\*.*?(\*/|$)", "", lines[i])
                depth += code.count("{") - code.count("}")
                if depth == 0 and ";" in code:
                    break
                i += 1
            if group is None:
                group = Group(None)
                sections[-1][1].append(group)
            group.declarations.append(lines[start:i + 1])
        elif sections and not re.match(r"#|}|extern", line):
            sys.exit("dqt.h:%d: neither comment nor declaration: %s" % (i + 1, line))
        i += 1
    return introduction, sections


def names_of(declaration):
    """What a declaration declares: a function, a type, enumerators or a macro; the first is its title."""
    text = "\n".join(declaration)
    code = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    function = FUNCTION.match(code)
    if function:
        return [function.group(1)]
    if code.startswith("#define"):
        return [code.split()[1]]
    enumerators = re.findall(r"\b(DQT_\w+)\s*=", code)
    if enumerators:
        return enumerators
    callback = re.search(r"\(\*(dqt_\w+)\)", code)
    return [callback.group(1) if callback else re.findall(r"\b(dqt_\w+)\s*;", code)[-1]]


def title(declaration):
    names = names_of(declaration)
    if not declaration[0].startswith("enum"):
        return names[0]
    prefix = os.path.commonprefix(names)
    prefix = prefix[:prefix.rfind("_") + 1] if len(names) > 1 else names[0]
    return prefix + "*" if prefix != "DQT_" else "Status values"


def page_of(section):
    return section.lower() + ".md"


def escaped(text):
    return re.sub(r"([*\[\]\\]|(?<!\w)_|_(?!\w))", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")


class Writer:
    def __init__(self, sections):
        self.where = {}  # name -> page
        for section, groups in sections:
            for group in groups:
                for declaration in group.declarations:
                    for name in names_of(declaration):
                        self.where[name] = page_of(section)

    def inline(self, text, page):
        """A comment's text as Markdown: names become code, and links where they are known."""
        parts = re.split(r"(`[^`]*`)", text)
        for i, part in enumerate(parts):
            if part.startswith("`"):
                continue
            out, end = [], 0
            for match in NAME.finditer(part):
                word = match.group(0)
                out.append(escaped(part[end:match.start()]))
                name = word.rstrip("()*")
                target = self.where.get(name)
                if target and not word.endswith("*"):
                    out.append("[`%s`](%s#%s)" % (word, "" if target == page else target, name))
                else:
                    out.append("`%s`" % word)
                end = match.end()
            out.append(escaped(part[end:]))
            parts[i] = "".join(out)
        return "".join(parts)

    def prose(self, lines, page):
        """Paragraphs; where later lines of one are indented, each line that is not begins an item."""
        out, paragraph = [], []
        for line in lines + [""]:
            if line.strip():
                paragraph.append(line)
                continue
            if paragraph:
                items = any(l.startswith("  ") for l in paragraph) or any(l.lstrip().startswith("- ") for l in paragraph)
                for l in paragraph:
                    text = l.strip()
                    bullet = text.startswith("- ")
                    text = self.inline(text[2:] if bullet else text, page)
                    begins = items and (bullet or not l.startswith("  ") and not l.startswith(" - ")) and \
                        (bullet or re.match(r"[a-z, ]+: ", l))
                    out.append(("- " if begins else "  " if items and out and out[-1][:2] in ("- ", "  ") else "") + text)
                out.append("")
            paragraph = []
        return out

    def page(self, section, groups):
        page = page_of(section)
        out = ["# %s" % section, "", "Part of the [reference of dqt.h](README.md).", ""]
        for group in groups:
            if not group.declarations:
                out += self.prose(group.comment, page)
                continue
            titles = [title(d) for d in group.declarations]
            for declaration in group.declarations:
                out += ['<a id="%s"></a>' % name for name in names_of(declaration)]
            heading = ", ".join(titles) if len(titles) <= 3 else "%s and %d more" % (titles[0], len(titles) - 1)
            out += ["", "## " + escaped(heading), ""]
            if group.comment:
                out += self.prose(group.comment, page)
            elif all(t.endswith("_init") for t in titles):
                out += self.prose(["Fills defaults, as dqt_context_options_init does for its options."], page)
            code = "\n".join("\n".join(d) for d in group.declarations).replace("DQT_API ", "")
            out += ["```c", code, "```", ""]
        return "\n".join(out).rstrip() + "\n"

    def index(self, introduction, sections):
        out = ["# Reference", "", "Made from [dqt.h](../../include/dqt.h) by `make api-docs`; change the header, not these pages.", ""]
        out += self.prose([l for l in introduction if not l.startswith("SPDX")], "README.md")
        out += ["## Sections", ""]
        for section, groups in sections:
            functions = sum(1 for g in groups for d in g.declarations if FUNCTION.match(d[0] if len(d) == 1 else " ".join(d)))
            out.append("- [%s](%s): %d functions" % (section, page_of(section), functions))
        out += ["", "## Functions", ""]
        functions = sorted(n for n in self.where if n.startswith("dqt_") and n in self.functions(sections))
        out += ["- [`%s`](%s#%s)" % (n, self.where[n], n) for n in functions]
        types = sorted(n for n in self.where if n.startswith("dqt_") and n not in functions)
        out += ["", "## Types", ""]
        out += ["- [`%s`](%s#%s)" % (n, self.where[n], n) for n in types]
        return "\n".join(out).rstrip() + "\n"

    @staticmethod
    def functions(sections):
        return {names_of(d)[0] for _, gs in sections for g in gs for d in g.declarations if d[0].startswith("DQT_API")}


def uncommented(sections):
    """Functions without a comment of their own or their group's. The *_init functions share the first one's."""
    out = []
    for _, groups in sections:
        for group in groups:
            for declaration in group.declarations:
                name = names_of(declaration)[0]
                if declaration[0].startswith("DQT_API") and not group.comment and not name.endswith("_init"):
                    out.append(name)
    return out


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--header", default=os.path.join(root, "include", "dqt.h"))
    arguments.add_argument("--out", default=os.path.join(root, "docs", "api"))
    arguments.add_argument("--check", action="store_true")
    given = arguments.parse_args()
    with open(given.header, encoding="utf-8") as file:
        introduction, sections = parse(file.read())
    writer = Writer(sections)
    pages = {page_of(s): writer.page(s, gs) for s, gs in sections}
    pages["README.md"] = writer.index(introduction, sections)
    problems = ["%s has no comment in dqt.h" % name for name in uncommented(sections)]
    there = set(os.listdir(given.out)) if os.path.isdir(given.out) else set()
    if given.check:
        for name, text in sorted(pages.items()):
            path = os.path.join(given.out, name)
            if name not in there or open(path, encoding="utf-8").read() != text:
                problems.append("docs/api/%s is not what tools/api_docs.py makes: run `make api-docs`" % name)
        problems += ["docs/api/%s belongs to no section" % name for name in sorted(there - set(pages))]
    else:
        os.makedirs(given.out, exist_ok=True)
        for name in there - set(pages):
            os.remove(os.path.join(given.out, name))
        for name, text in pages.items():
            with open(os.path.join(given.out, name), "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
