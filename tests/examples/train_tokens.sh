#!/bin/sh
# 03_train --tokens: files of nanoGPT and of llm.c, vocabularies, documents, resuming, mistakes.
. "$(dirname "$0")/../tree/common"
export LD_LIBRARY_PATH="$OUTDIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" OMP_WAIT_POLICY=passive
train=$B/examples/03_train tokenize=$B/examples/12_tokenize golden=tests/examples/golden

for bytes in 2 4; do
    check "tokens of $bytes bytes" $tokenize --tokenizer $golden/gpt2.json --text $golden/strings.txt --out "$tmp/$bytes.bin" --token-bytes $bytes
    check "the same without header" $tokenize --tokenizer $golden/gpt2.json --text $golden/strings.txt --raw --out "$tmp/raw$bytes.bin" \
        --token-bytes $bytes
done
small="--hidden 32 --ff 64 --layers 1 --heads 2 --seq 16 --batch 4 --steps 12 --warmup 2 --eval-every 4 --eval-windows 8 --threads 1 --lr 3e-3"

# run NAME ARGUMENT ...: trains into $tmp/NAME, its words in $tmp/NAME.txt.
run() {
    run_name=$1
    shift
    check "training: $run_name" $train $small --out "$tmp/$run_name" "$@"
    cp "$tmp/check.out" "$tmp/$run_name.txt"
}
run base --tokens "$tmp/2.bin"
for other in "4 $tmp/4.bin" "raw2 $tmp/raw2.bin" "raw4 $tmp/raw4.bin --token-bytes 4"; do
    run ${other%% *} --tokens ${other#* }
    check "the same model from ${other%% *}" cmp "$tmp/base/model.dqt" "$tmp/${other%% *}/model.dqt"
done
check "perplexity is shown before and after" test "$(grep -c '^step .*: held-out loss per token .*, perplexity [0-9.]*$' "$tmp/base.txt")" -eq 4
# The shown perplexity is e to the shown loss.
sed -n 's/.*held-out loss per token [a-z ]*: \([0-9.]*\), perplexity \([0-9.]*\)$/\1 \2/p' "$tmp/base.txt" >"$tmp/shown"
check "perplexity is e^loss" awk '{ if ((exp($1) / $2 - 1) ^ 2 > 1e-6) exit 1 } END { exit NR != 4 }' "$tmp/shown"
check "it falls" awk 'NR == 1 { first = $1 } END { exit !($1 < first - 0.05) }' "$tmp/shown"
check "an untrained model knows nothing of the vocabulary" awk 'NR == 1 { exit !($1 > 6.3 && $1 < 6.8) }' "$tmp/shown" # ln 700 = 6.55
check "the CSV names the unit" grep -q '^step,train_loss_per_token,valid_loss_per_token,' "$tmp/base/log.csv"
check "a plot" grep -q 'loss per token' "$tmp/base/losses.svg"

# Vocabulary: the largest token and one, or what is said.
od -An -v -tu2 -w2 "$tmp/raw2.bin" | sort -n | tail -n 1 >"$tmp/largest"
vocabulary=$(($(cat "$tmp/largest") + 1))
run given --tokens "$tmp/2.bin" --vocab $vocabulary
check "the vocabulary is the largest token and one" cmp "$tmp/base/model.dqt" "$tmp/given/model.dqt"
run larger --tokens "$tmp/2.bin" --vocab $((vocabulary + 1))
check "a larger one is another model" sh -c "! cmp -s '$tmp/base/model.dqt' '$tmp/larger/model.dqt'"

# Held-out files: both in one argument, or --valid.
run pair --tokens "$tmp/2.bin,$tmp/4.bin"
run valid --tokens "$tmp/2.bin" --valid "$tmp/4.bin"
check "A,B is A with --valid B" cmp "$tmp/pair/model.dqt" "$tmp/valid/model.dqt"
check "nothing is held out of A then" grep -q "training on $((($(wc -c <"$tmp/raw2.bin")) / 2)) tokens" "$tmp/pair.txt"

# Resuming.
run half --tokens "$tmp/2.bin" --stop-at 5
run half --tokens "$tmp/2.bin" --resume
check "resumed is uninterrupted" cmp "$tmp/base/model.dqt" "$tmp/half/model.dqt"
check "the log has every step" test "$(wc -l <"$tmp/half/log.csv")" -eq $((1 + 13))

# Documents: token 0 is <|endoftext|>. With a token that never comes they change nothing.
run documents --tokens "$tmp/2.bin" --document-token 0
check "documents are separate" sh -c "! cmp -s '$tmp/base/model.dqt' '$tmp/documents/model.dqt'"
run none --tokens "$tmp/2.bin" --document-token 9999
check "without documents nothing changes" cmp "$tmp/base/model.dqt" "$tmp/none/model.dqt"

# A text's bytes are what they were: 256 tokens, bits per byte.
run text --data $golden/strings.txt
check "bits per byte" grep -q '^step 12: held-out bits per byte after training: [0-9.]*$' "$tmp/text.txt"

# Targets are the next tokens: nothing predicts random ones, of 4 bits each, while their own copy would be learnt at once.
awk 'BEGIN { srand(7); for (i = 0; i < 8000; i++) printf "%c", 97 + int(16 * rand()) }' >"$tmp/letters"
run random --data "$tmp/letters" --steps 80 --lr 1e-2 --eval-windows 32
check "random letters stay random" awk '/after training/ { found = $NF } END { exit !(found > 3.95 && found < 4.6) }' "$tmp/random.txt"

# refused "words of the sentence" ARGUMENT ...
refused() {
    words=$1
    shift
    if $train $small --out "$tmp/refused" "$@" >"$tmp/out" 2>"$tmp/err"; then
        fail "not refused: $words"
    else
        check "refused: $words" grep -q "$words" "$tmp/err"
    fi
}
refused "not both" --tokens "$tmp/2.bin" --data $golden/strings.txt
refused "not both"
refused "outside the vocabulary\|token" --tokens "$tmp/2.bin" --vocab 100
for bytes in 1 3 8; do
    refused "token-bytes cannot be \"$bytes\"; it takes: 2 4$" --tokens "$tmp/2.bin" --token-bytes $bytes
done
head -c 4096 "$tmp/raw2.bin" >"$tmp/wrong.bin"
refused "see --token-bytes" --tokens "$tmp/wrong.bin" --token-bytes 4
refused "cannot be opened" --tokens "$tmp/nothing.bin"
head -c 2047 "$tmp/raw2.bin" >"$tmp/odd.bin"
refused "whole number of tokens" --tokens "$tmp/odd.bin"
head -c 2048 "$tmp/2.bin" >"$tmp/short.bin"
refused "tokens that its header says" --tokens "$tmp/short.bin"
head -c 100 "$tmp/raw2.bin" >"$tmp/few.bin"
refused "too short for one sequence" --tokens "$tmp/few.bin"
: >"$tmp/empty.bin"
refused "too short for one sequence" --tokens "$tmp/empty.bin"
{ head -c 4 "$tmp/2.bin" && printf '\2' && tail -c +6 "$tmp/2.bin"; } >"$tmp/version.bin"
refused "version of llm.c" --tokens "$tmp/version.bin"
refused "no .*/model.dqt to resume from" --tokens "$tmp/2.bin" --resume
refused "no .*/model.dqt to resume from" --tokens "$tmp/2.bin" --resume --out "$tmp/nowhere"
check "no folder was made for it" test ! -e "$tmp/nowhere"
# Numbers that their places do not hold, and what is no number.
for mistake in "seed 4294967297" "threads 99999999999999999999" "steps 99999999999999999999" "until nan" "scale-lr nan" "batch -4" "cooldown 40" "noise -0.1"; do
    refused "${mistake% *} cannot be" --tokens "$tmp/2.bin" --${mistake% *} " ${mistake#* }"
done

# Ctrl-C is heard inside an evaluation, too: this one would take years.
$train $small --data $golden/strings.txt --eval-windows 1000000000000 --out "$tmp/years" >"$tmp/years.txt" 2>&1 &
for _ in 1 2 3 4 5 6 7 8 9; do [ -f "$tmp/years/log.csv" ] || sleep 1; done
sleep 1
kill -INT $!
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 $! 2>/dev/null && sleep 1; done
if kill -0 $! 2>/dev/null; then
    kill -9 $!
    fail "an evaluation goes on after Ctrl-C"
else
    check "an interrupted evaluation ends well" wait $!
    check "it is said" grep -q "interrupted at step 0: saved; go on with --resume" "$tmp/years.txt"
fi
check "the run goes on" $train $small --data $golden/strings.txt --resume --out "$tmp/years"
check "as one that was not interrupted" $train $small --data $golden/strings.txt --out "$tmp/once"
check "with the same bits" cmp "$tmp/years/model.dqt" "$tmp/once/model.dqt"
finish
