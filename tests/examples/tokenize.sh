#!/bin/sh
# 12_tokenize: what PyPI's `tokenizers` and `sentencepiece` made of difficult strings (golden/, by make_golden.py and make_pieces.py), and
# the text back; mistakes get a sentence. Where Python has them: the same with larger vocabularies, on the strings and on this project's
# own text.
. "$(dirname "$0")/../tree/common"
export LD_LIBRARY_PATH="$OUTDIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" PYTHONDONTWRITEBYTECODE=1
tokenize=$B/examples/12_tokenize golden=tests/examples/golden

for file in gpt2.json smollm.json smollm.gguf llama3.json qwen2.json pieces.gguf; do
    check "$file encodes" $tokenize --tokenizer $golden/$file --text $golden/strings.txt --raw --out "$tmp/raw.bin"
    check "$file: the tokens of PyPI's library" cmp "$tmp/raw.bin" "$golden/${file%.*}.bin"
    check "$file decodes" $tokenize --tokenizer $golden/$file --decode "$tmp/raw.bin" --out "$tmp/text"
    # Qwen's normalization is not undone.
    [ $file = qwen2.json ] || check "$file: the text comes back" cmp "$tmp/text" $golden/strings.txt
done
check "the kinds differ" test "$(cksum <$golden/gpt2.bin)" != "$(cksum <$golden/smollm.bin)"

# Files: headers, widths, several texts, separators, a folder.
mkdir "$tmp/folder"
cp $golden/gpt2.json "$tmp/folder/tokenizer.json"
printf 'one' >"$tmp/one"
printf 'two' >"$tmp/two"
numbers() {
    $tokenize --tokenizer "$tmp/folder" --numbers "$@" 2>"$tmp/err" | tr '\n' ' '
}
one=$(numbers --text "$tmp/one") two=$(numbers --text "$tmp/two")
check "texts have tokens" test -n "$one" -a -n "$two" -a "$one" != "$two"
check "several files, each after its separator" test "$(numbers --text "$tmp/one,$tmp/two" --document-token 2)" = "2 ${one}2 $two"
check "with a header" $tokenize --tokenizer "$tmp/folder" --text "$tmp/one" --out "$tmp/head.bin"
count=$(echo "$one" | wc -w)
check "its size" test "$(wc -c <"$tmp/head.bin")" -eq $((1024 + 2 * count))
check "the header has magic, version and count" test "$(od -An -tu1 -N12 "$tmp/head.bin" | tr -s ' ')" = " 136 216 52 1 1 0 0 0 $count 0 0 0"
check "of 4 bytes" $tokenize --tokenizer "$tmp/folder" --text "$tmp/one" --out "$tmp/wide.bin" --token-bytes 4
check "their header" test "$(od -An -tu1 -N12 "$tmp/wide.bin" | tr -s ' ')" = " 161 217 52 1 7 0 0 0 $count 0 0 0"
for file in head wide; do
    check "$file.bin decodes" sh -c "$tokenize --tokenizer '$tmp/folder' --decode '$tmp/$file.bin' | cmp - '$tmp/one'"
done
# Bytes that are no UTF-8 come back too.
printf 'a\200\377b\303' >"$tmp/bytes"
check "no UTF-8" sh -c "$tokenize --tokenizer $golden/qwen2.json --text '$tmp/bytes' --out '$tmp/bytes.bin' && \
    $tokenize --tokenizer $golden/qwen2.json --decode '$tmp/bytes.bin' | cmp - '$tmp/bytes'"
check "no UTF-8, by pieces" sh -c "$tokenize --tokenizer $golden/pieces.gguf --text '$tmp/bytes' --out '$tmp/bytes.bin' && \
    $tokenize --tokenizer $golden/pieces.gguf --decode '$tmp/bytes.bin' | cmp - '$tmp/bytes'"
# Words longer than all that is remembered, merged in one go: a heap and not a search for each merge.
head -c 1000000 /dev/zero | tr '\0' a >"$tmp/long"
for file in gpt2.json pieces.gguf; do
    check "$file: a word of 1 MB" timeout 20 $tokenize --tokenizer $golden/$file --text "$tmp/long" --out "$tmp/long.bin"
    check "it comes back" sh -c "$tokenize --tokenizer $golden/$file --decode '$tmp/long.bin' | cmp - '$tmp/long'"
done

# refused "words of the sentence" ARGUMENT ...
refused() {
    words=$1
    shift
    if $tokenize "$@" >"$tmp/out" 2>"$tmp/err"; then fail "not refused: $words"; else check "refused: $words" grep -q "$words" "$tmp/err"; fi
}
other() {
    sed "$1" $golden/gpt2.json >"$tmp/other.json"
}
refused "are needed" --tokenizer $golden/gpt2.json
refused "cannot be opened" --tokenizer "$tmp/none" --text "$tmp/one" --numbers
refused "cannot be opened" --tokenizer $golden/gpt2.json --text "$tmp/none" --numbers
refused "cannot be written" --tokenizer $golden/gpt2.json --text "$tmp/one" --out "$tmp/none/x"
refused "has no token 70000" --tokenizer $golden/gpt2.json --text "$tmp/one" --numbers --document-token 70000
refused "needs 2 or 4" --tokenizer $golden/gpt2.json --text "$tmp/one" --numbers --token-bytes 3
refused "no JSON" --tokenizer "$tmp/one" --text "$tmp/one" --numbers
head -c 3000 $golden/gpt2.json >"$tmp/other.json"
refused "no JSON" --tokenizer "$tmp/other.json" --text "$tmp/one" --numbers
head -c 3000 $golden/smollm.gguf >"$tmp/other.gguf"
refused "ends too early" --tokenizer "$tmp/other.gguf" --text "$tmp/one" --numbers
sed 's/smollm/whoami/' $golden/smollm.gguf >"$tmp/other.gguf"
refused '"whoami" is not supported' --tokenizer "$tmp/other.gguf" --text "$tmp/one" --numbers
sed 's/ggml.scores/ggml.tscore/' $golden/pieces.gguf >"$tmp/other.gguf"
refused 'not a score for each' --tokenizer "$tmp/other.gguf" --text "$tmp/one" --numbers
sed 's/<0x41>/<0x4g>/' $golden/pieces.gguf >"$tmp/other.gguf"
refused 'is no byte' --tokenizer "$tmp/other.gguf" --text "$tmp/one" --numbers
other 's/"normalizer":null/"normalizer":{"type":"Lowercase"}/'
refused "normalizer Lowercase is not supported" --tokenizer "$tmp/other.json" --text "$tmp/one" --numbers
other 's/"type":"BPE"/"type":"Unigram"/'
refused "type Unigram is not supported" --tokenizer "$tmp/other.json" --text "$tmp/one" --numbers
other 's/"type":"ByteLevel"/"type":"Metaspace"/'
refused "Metaspace" --tokenizer "$tmp/other.json" --text "$tmp/one" --numbers
other 's/"add_prefix_space":false/"add_prefix_space":true/'
refused "ByteLevel, or an option of it" --tokenizer "$tmp/other.json" --text "$tmp/one" --numbers
other 's/"lstrip":false/"lstrip":true/'
refused "lstrip" --tokenizer "$tmp/other.json" --text "$tmp/one" --numbers
other 's/"merges":\[\[/"merges":[["one","two"],[/'
refused 'merges "one" and "two"' --tokenizer "$tmp/other.json" --text "$tmp/one" --numbers
sed 's/{1,3}/{1,4}/' $golden/llama3.json >"$tmp/other.json"
refused "regular expression is not supported" --tokenizer "$tmp/other.json" --text "$tmp/one" --numbers
printf '\377\377' >"$tmp/tokens.bin"
refused "does not have" --tokenizer $golden/gpt2.json --decode "$tmp/tokens.bin"

# python_with MODULE: a Python that has it, in $found; empty where there is none.
python_with() {
    found=
    for python in "$PYTHON" python3 /usr/bin/python3; do
        if [ -z "$found" ] && have "$python" && "$python" -c "import $1" 2>"$tmp/no"; then found=$python; fi
    done
}
find README.md docs include src tests examples -type f \( -name '*.md' -o -name '*.[ch]' \) | LC_ALL=C sort | xargs cat 2>/dev/null | head -c 1000000 >"$tmp/own"
cat "$tmp/own" $golden/strings.txt >"$tmp/all"
mkdir "$tmp/large"
python_with sentencepiece
if [ -n "$found" ]; then
    check "1 MB of text as \`sentencepiece\`" "$found" tests/examples/make_pieces.py "$tmp/large" 3000 $tokenize "$tmp/all"
else
    skip "no python3 with sentencepiece"
fi
python_with tokenizers
if [ -z "$found" ]; then
    skip "no python3 with tokenizers"
    finish
fi
check "larger vocabularies" "$found" tests/examples/make_golden.py "$tmp/large" 3000 README.md docs/numerics.md include/dqt.h
for kind in gpt2 smollm llama3 qwen2; do
    check "$kind: 1 MB of text as \`tokenizers\`" "$found" tests/examples/compare_tokens.py $tokenize "$tmp/large/$kind.json" "$tmp/all" \
        "$tmp/numbers"
done
finish
