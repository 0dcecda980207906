#!/bin/sh
# Both stages of tuning for `make speedrun`: the list of one program, then the second list that again.py makes of it. For a machine with many CPUs and, for PyTorch, a GPU; at the same time for both, on other CPUs.
#
#   DATA=train.txt VALID=valid.txt bench/speedrun/tune_list.sh library OUT SECONDS CPUS [THREADS [OPTIONS ...]]
#   DATA=train.txt VALID=valid.txt bench/speedrun/tune_list.sh torch OUT SECONDS CPUS GPUS [OPTIONS ...]
#
# CPUS: 0-13 or 0-3,8-11. A run has THREADS of them (2), as many run at once as fit; one CPU a run of PyTorch, whose runs share GPUS (0 or 0,1,2,3)
# in turn. After SECONDS all is stopped; the same command goes on, where the library's checkpoints (OUT/library.runs) are still there. Lines are in
# OUT/library.jsonl and OUT/torch.jsonl: bench/speedrun/table.py makes tables of them.
set -u
who=$1 out=$2 seconds=$3 cpus=$4
shift 4
here=$(dirname "$0")
python=${TORCH_PYTHON:-python3}
count=$(python3 -c "import sys; sys.path.insert(0, '$here'); import tune; print(len(tune.cpus('$cpus')))")
deadline=$(($(date +%s) + seconds))
if [ "$who" = library ]; then
    threads=${1:-2} gpus=
    [ $# -gt 0 ] && shift
    set -- --fused --precision int8 "$@"
else
    threads=1 gpus=$1
    shift
fi
mkdir -p "$out"

# stage LIST
stage() {
    list=$1
    shift
    python3 "$here/tune.py" "$who" --data "$DATA" --valid "$VALID" --list "$list" --jobs $((count / threads)) --threads "$threads" --cpus "$cpus" \
        --gpus "$gpus" --deadline "$deadline" --json "$out/$who.jsonl" --keep "$out/$who.runs" --program "${PROGRAM:-build/examples/03_train}" \
        --python "$python" --target "${TARGET:-1.85}" -- "$@"
}
first=${LIST:-$here/$who.list}
stage "$first" "$@"
if [ "$(python3 "$here/again.py" "$who" "$out/$who.jsonl" --left "$first")" != 0 ]; then
    echo "$who: the first list has not ended: the same command once more"
    exit
fi
[ -s "$out/$who.second.list" ] || python3 "$here/again.py" "$who" "$out/$who.jsonl" >"$out/$who.second.list"
stage "$out/$who.second.list" "$@"
