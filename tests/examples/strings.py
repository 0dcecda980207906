"""200 strings that are hard to tokenise: for make_golden.py and compare_tokens.py."""
import random

BY_HAND = [
    "", " ", "  ", "\n", "\t", "a", " a", "a ", "  a", "a  ", "a  b", "\n\n", "\n \n", " \n", "\n a", "a\n\n\nb", "\r\n", "a\r\n b",
    "a \n \n  b", "\t\tif (x)\n\t\t\treturn;\n", "\u00a0", "a\u00a0b", "\u3000\u3000x", "x\u2003y\u2028z\u2029", "\u0085a", "\u200ba\u200b",
    "Hello, world!", "I'm you're he'll we've they'd it's don't", "I'M YOU'RE HE'LL WE'VE THEY'D IT'S DON'T", "'S 'x ''s 'ſ", "'", "''",
    "x's'y'll", "can't've", "'re're", "'Ll 'lL 've' 'V'e", "x'ſab'ſab", "0", "12", "123", "1234", "12345678901234567890", "3.14159", "1,000,000.00",
    " 5", "  5", "a5b", "5a", "v1.2.3-rc4", "0x1F", "1e-5", "٣٤٥", "१२३", "½ ¾", "x²y³", "ⅣⅤ", "①②", "〇一二三", "𝟘𝟙𝟚", "a½b",
    "ñandú", "n\u0303andu\u0301", "e\u0301\u0327", "e\u0327\u0301", "Å\u00c5A\u030a\u212b", "\u1e9b\u0323", "\u0344", "각\u1100\u1161\u11a8", "\u1100\u1161",
    "한국어 텍스트", "日本語のテキスト。", "中文，标点！", "\u0958\u0915\u093c", "नमस्ते दुनिया", "ภาษาไทย", "العربية", "עברית", "Ελληνικά", "Привет, мир",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "x\U0001f600y", " \U0001f600 ", "\ufeffBOM",
    "\0", "a\0b", "\x01\x02\x7f", "\x1b[31mred\x1b[0m", "\x1c\x1d", "<|endoftext", "<|im_start|>user\nHi<|im_end|>", "<|im_start|><|im_end|>", "a<|im_start|>b",
    " <|im_end|> ", "<|im_start|", "<<|im_start|>>", "<|IM_START|>", "int main(void) { return 0; }", "for(i=0;i<10;i++)x[i]+=y[i]*2;",
    "https://example.org/a?b=c&d=e%20f#g", "user@example.org", "C:\\path\\to\\file.txt", "/usr/local/lib", "#include <stdio.h>", "// comment\n",
    "---------", "=====\n=====", "...\n...", "!!!\r\n\r\n???", "?!\n x", "a-b_c.d,e;f:g", "(((())))", "\"quoted\"", "`code`", "**bold**", "| a | b |",
    "CamelCaseWord", "snake_case_word", "UPPER lower Title", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", " " * 70, "\n" * 20, "a" * 300,
    "ab" * 200, "1" * 100, "é" * 50, "the the the the", "internationalization", "Straße", "ﬁﬂ", "İstanbul ı", "ǅ ʰ ª º", "ᾳ \u03b1\u0345", "a\u0300\u0301\u0302\u0323b",
    "\u0327\u0301", "\u0301", " \u0301", "\n\u0301a", "x\u200dy", "\ud7a3\u11a8", "\u09c7\u09be", "\u0b47\u0b56", "\U0001d15e", "\U00010400\U00010428", "\U000e0041",
    "\U0010ffff", "\ue000", "\u0378", "\ufffd\ufffd", "tab\tseparated\tvalues", "trailing   ", "   leading", "mid   dle", "a\n  b\n    c\n", "\n\n  \n\n  x",
    "  \r\n  ", "\r\r", "\n\r\n\r", " \t \n\t x", "\u2003\n\u2003x", "x\n\u3000\ny", "\u00a0\u00a0x", " \u00a0x", "\u00a0 x", "1\u00a0000", "10 000", "10\n000",
    "£5 €6 ¥7", "±2°C", "a→b⇒c", "∀x∈ℝ", "™®©", "“quotes” ‘single’ don’t", "naïve café", "…", "—", "x—y",
]


def strings():
    draw = random.Random(1)
    pool = list("aeit nrsd  \n\t'.,;:!?-_()0123456789ABC") + ["'s", "'LL", " the", "ing", "\r\n", "é", "e\u0301", "ß", "中", "한", "\u00a0", "\u3000", "٣", "½", "\U0001f600", "\u0301"]
    found = list(BY_HAND)
    while len(found) < 240:
        found.append("".join(draw.choice(pool) for _ in range(draw.randint(2, 40))))
    return found
