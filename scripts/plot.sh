#!/usr/bin/env bash
# plot.sh [OPTION...] RUN_DIR...: draws the loss curves of one or more runs with gnuplot.
#
#   --out=PATH      writes PATH.png and PATH.svg (default: loss.png and loss.svg in the first run's folder)
#   --x=tokens      plots against tokens seen instead of steps, for runs whose steps are not the same size
#   --y=LOW:HIGH    only losses between these
#   --validation    only validation losses
#   --title=TEXT    the title above the curves
#   --label=TEXT    a run's name in the key; once for each run, in the same order
#
# It reads RUN_DIR/metrics.jsonl with metrics.py, also of a run that is still going on or was killed: it skips lines
# that are not whole, or have no loss. Training loss is a thin line, validation loss a thick one with points, in one
# colour for each run; the names are those of the folders. For more than four runs the key is next to the curves.
set -euo pipefail

fail() {
    echo "plot.sh: $1" >&2
    exit "${2:-1}"
}

out=
x=step
y=
title=
validation_only=no
runs=()
labels=()
for argument in "$@"; do
    case $argument in
        --out=?*) out=${argument#--out=} ;;
        --x=step | --x=tokens) x=${argument#--x=} ;;
        --y=?*:?*) y=${argument#--y=} ;;
        --validation) validation_only=yes ;;
        --title=*) title=${argument#--title=} ;;
        --label=?*) labels+=("${argument#--label=}") ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        -*) fail "unknown option $argument; expected --out, --x, --y, --validation, --title or --label; see --help" 2 ;;
        metrics.jsonl) runs+=(.) ;;
        */metrics.jsonl) runs+=("${argument%/*}") ;;
        *) runs+=("$argument") ;;
    esac
done
[ ${#runs[@]} -gt 0 ] || fail "no run; expected the folder of at least one; give it, as in: plot.sh runs/quickstart" 2
[ ${#labels[@]} -eq 0 ] || [ ${#labels[@]} -eq ${#runs[@]} ] ||
    fail "${#labels[@]} labels for ${#runs[@]} runs; give one --label for each run, or none" 2
if [ -n "$y" ] && ! [[ $y =~ ^[0-9]+(\.[0-9]*)?:[0-9]+(\.[0-9]*)?$ ]]; then
    fail "--y=$y: expected two losses; write --y=2.5:3.5, for example" 2
fi
command -v gnuplot >/dev/null || fail "gnuplot is missing: install gnuplot-nox, or run bash scripts/install_deps.sh"
command -v python3 >/dev/null || fail "python3 is missing: install it, or run bash scripts/install_deps.sh"
out=${out:-${runs[0]%/}/loss}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# extract EVENT: writes "x loss" of every event of this name that has a loss, in order of x, to NUMBER_OF_THE_RUN.EVENT.
extract() {
    python3 "$(dirname "$0")/metrics.py" values "$1" "$x,loss" "${runs[@]}" |
        awk -v folder="$folder" -v event="$1" 'NF == 0 { n++; next } { print >(folder "/" n + 0 "." event) }'
}

# The names of the runs: labels, or folder names; if folder names are not unique, the paths.
names() {
    local run
    if [ ${#labels[@]} -gt 0 ]; then
        printf '%s\n' "${labels[@]}" >"$folder/names"
        return
    fi
    for run in "${runs[@]}"; do basename "$(realpath "$run")"; done >"$folder/names"
    if [ -n "$(sort "$folder/names" | uniq -d)" ]; then printf '%s\n' "${runs[@]}" >"$folder/names"; fi
}

# A string for gnuplot, in its single quotes. A line break would end the command, and begin another one.
quoted() {
    local text=${1//[[:cntrl:]]/ }
    printf "'%s'" "${text//\'/\'\'}"
}

# The plot command: up to two curves for each run, those that have points.
curves() {
    local colours=(1f77b4 d62728 2ca02c 9467bd ff7f0e 17becf 8c564b e377c2 202020 bcbd22 888888 00008b)
    local points=(7 5 9 11 13 15) i=0 colour point name separator='plot' suffix=', validation'
    if [ $validation_only = yes ]; then suffix=; fi
    while IFS= read -r name; do
        colour=${colours[i % ${#colours[@]}]}
        point=${points[i % ${#points[@]}]}
        if [ $validation_only = no ] && [ -s "$folder/$i.train" ]; then
            printf '%s %s with lines linewidth 1 linecolor rgb "#70%s" title %s' "$separator" \
                "$(quoted "$folder/$i.train")" "$colour" "$(quoted "$name, training")"
            separator=', \
    '
        fi
        if [ -s "$folder/$i.val" ]; then
            printf '%s %s with linespoints linewidth 2.5 pointtype %s pointsize 0.7 linecolor rgb "#%s" title %s' \
                "$separator" "$(quoted "$folder/$i.val")" "$point" "$colour" "$(quoted "$name$suffix")"
            separator=', \
    '
        fi
        i=$((i + 1))
    done <"$folder/names"
    echo
}

draw() {
    local terminal=$1 file=$2
    {
        echo "set terminal $terminal"
        echo "set output '$folder/picture'"
        echo "load $(quoted "$(dirname "$0")/plot_style.gp")"
        echo 'set ylabel "loss (nats per token)"'
        if [ ${#runs[@]} -gt 4 ]; then echo 'set key outside right center; set rmargin'; fi
        if [ -n "$y" ]; then echo "set yrange [$y]"; fi
        if [ -n "$title" ]; then echo "set title $(quoted "$title") noenhanced"; fi
        if [ $validation_only = yes ]; then echo 'set ylabel "validation loss (nats per token)"'; fi
        if [ "$x" = tokens ]; then
            echo 'set xlabel "tokens"; set format x "%.0s%c"'
        else
            echo 'set xlabel "step"'
        fi
        cat "$folder/curves"
    } >"$folder/plot.gp"
    gnuplot "$folder/plot.gp" 2>"$folder/error" || fail "gnuplot failed: $(cat "$folder/error")"
    cp "$folder/picture" "$file" || fail "cannot write $file; expected a folder that can be written; give another --out"
}

extract val
if [ $validation_only = no ]; then extract train; fi
for i in "${!runs[@]}"; do
    metrics=${runs[i]}/metrics.jsonl
    [ $validation_only = yes ] || [ -s "$folder/$i.train" ] || [ -s "$folder/$i.val" ] ||
        fail "$metrics holds no losses yet; expected one in a train or val line; wait for the run's first step"
    [ $validation_only = no ] || [ -s "$folder/$i.val" ] ||
        fail "$metrics holds no validation losses yet; expected a val line; wait for one, or leave --validation out"
done
names
curves >"$folder/curves"

# Not every gnuplot has cairo.
png='png truecolor'
if gnuplot -e 'set terminal pngcairo' 2>/dev/null; then png=pngcairo; fi
draw "$png size 1000,600 font 'sans,12' linewidth 1" "$out.png"
draw "svg size 1000,600 font 'sans,14' background rgb 'white'" "$out.svg"
echo "$out.png"
echo "$out.svg"
