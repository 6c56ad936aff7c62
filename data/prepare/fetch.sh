# shellcheck shell=bash
# fetch.sh: downloads of large files that survive broken connections, for the scripts that prepare data sets. Sourced,
# not run. Those scripts know what to download, and what to do with it.
#
#   fetch_into FOLDER                     where the files go; it is made
#   fetch_add URL BYTES SHA256 NAME       one more file to have; SHA256 is "-" where nobody publishes it
#   fetch_add_sized URL NAME              the same where the host tells the size
#   fetch_hub REPOSITORY [FOLDER]         reads which files a folder of a data set on Hugging Face has, then
#   fetch_add_hub PATTERN [N]             adds those whose names match, in their order, or only the first N
#   fetch_all TITLE [MORE]                says what is downloaded and how large it is, then does it; MORE bytes of the
#                                         disk are for what the script makes of it
#   fetch_check=FUNCTION                  called with a complete file before it gets its name; prints what is wrong
#
# A file is written as NAME.part, and renamed when its size, its checksum and fetch_check are right: a file with its own
# name is whole. Those that are there in the right size are left alone. A transfer that breaks goes on where it stopped,
# within a run and from run to run.
#
#   HF_ENDPOINT=https://huggingface.co    where data sets come from, as Python's huggingface_hub has it; a mirror, say
#   GITHUB_RAW=https://raw.githubusercontent.com    the same for files of repositories on GitHub
#   FETCH_TRIES=6                         tries in a row that bring nothing, until a file is given up
#   FETCH_PAUSE=1                         seconds before the second try; each pause after it is twice as long, to a minute

HF_ENDPOINT=${HF_ENDPOINT:-https://huggingface.co}
GITHUB_RAW=${GITHUB_RAW:-https://raw.githubusercontent.com}
FETCH_TRIES=${FETCH_TRIES:-6}
FETCH_PAUSE=${FETCH_PAUSE:-1}
fetch_check=

fetch_folder=. fetch_urls=() fetch_sizes=() fetch_sums=() fetch_names=()
fetch_curl= # the process, while there is one
fetch_scratch=$(mktemp -d)
fetch_end() {
    [ -z "$fetch_curl" ] || kill "$fetch_curl" 2>/dev/null || true
    rm -rf "$fetch_scratch"
}
trap fetch_end EXIT

# fetch_fail TEXT [STATUS]
fetch_fail() {
    echo "$(basename "$(dirname "$0")")/${0##*/}: $1" >&2
    exit "${2:-1}"
}

# fetch_human BYTES: as in 24.2 GB, in powers of 1000.
fetch_human() {
    LC_ALL=C awk -v n="$1" 'BEGIN {
        split("bytes kB MB GB TB", unit, " ")
        for (i = 1; n >= 999.95 && i < 5; i++) n /= 1000
        printf i == 1 ? "%d %s\n" : "%.1f %s\n", n, unit[i]
    }'
}

# fetch_size FILE: its bytes; 0 where there is none.
fetch_size() { stat -L -c %s "$1" 2>/dev/null || echo 0; }

# ---- one request ----

# fetch_try URL FILE [CURL_OPTION...]: one request; its status is curl's. The words for a failure are in fetch_reason;
# fetch_lasting is yes where another try could not help, and fetch_wait has the seconds that the server wants us to wait.
fetch_try() {
    local url=$1 file=$2 status=0 errors=$fetch_scratch/errors progress=-sS
    shift 2
    if [ -t 2 ]; then
        errors=/dev/stderr
        progress=-#
    fi
    : >"$fetch_scratch/headers"
    : >"$fetch_scratch/errors"
    # In the background, so that whoever stops this script stops the transfer too.
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    curl -fL "$progress" --connect-timeout 20 --speed-limit 1000 --speed-time 30 -w '%{http_code}' \
        -D "$fetch_scratch/headers" -o "$file" "$@" "$url" >"$fetch_scratch/http" 2>"$errors" &
    fetch_curl=$!
    wait $fetch_curl || status=$?
    fetch_curl=
    trap - INT TERM HUP
    fetch_http=$(<"$fetch_scratch/http")
    fetch_lasting=no
    case $status in
        6) fetch_reason="The host is not found." ;;
        7) fetch_reason="No connection to the host." ;;
        18 | 56 | 92) fetch_reason="The transfer broke." ;;
        22)
            fetch_reason="The host answers with HTTP status $fetch_http."
            case $fetch_http in 408 | 425 | 429 | 5??) ;; *) fetch_lasting=yes ;; esac
            ;;
        23) fetch_reason="It cannot be written here; is the disk full?" fetch_lasting=yes ;;
        28) fetch_reason="Nothing comes from the host." ;;
        *) fetch_reason="curl ends with status $status$(sed -n '$s/^curl: ([0-9]*)/:/p' "$fetch_scratch/errors")" ;;
    esac
    fetch_wait=$(sed -n 's/^retry-after: *\([0-9]\{1,4\}\)[^0-9]*$/\1/Ip' "$fetch_scratch/headers" | tail -n 1)
    return $status
}

# fetch_rest TRY: waits before the next one; as long as the server asked, if it did.
fetch_rest() {
    sleep "${fetch_wait:-$(LC_ALL=C awk -v first="$FETCH_PAUSE" -v try="$1" \
        'BEGIN { pause = first * 2 ^ (try - 1); print pause < 60 ? pause : 60 }')}"
}

# fetch_give_up URL WHAT TEXT
fetch_give_up() {
    fetch_fail "cannot download $2
  from $1
  $3
  Start the same command again to go on: what is complete or begun is kept. Where the host cannot be reached from
  here, HF_ENDPOINT names another for the data sets of Hugging Face, and GITHUB_RAW for files on GitHub."
}

# fetch_again WHAT URL FILE [CURL_OPTION...]: fetch_try, until it succeeds or there is no hope.
fetch_again() {
    local what=$1 try
    shift
    for ((try = 1; ; try++)); do
        if fetch_try "$@"; then return; fi
        if [ "$fetch_lasting" = yes ] || [ $try -ge "$FETCH_TRIES" ]; then
            fetch_give_up "$1" "$what" "$fetch_reason"
        fi
        fetch_rest $try
    done
}

# ---- one file ----

# fetch_problem FILE BYTES SHA256: what is wrong with it; nothing where it is right.
fetch_problem() {
    local bytes sum
    bytes=$(fetch_size "$1")
    if [ "$bytes" -ne "$2" ]; then
        echo "it has $bytes bytes and should have $2"
        return
    fi
    if [ "$3" != - ]; then
        sum=$(sha256sum <"$1")
        if [ "${sum%% *}" != "$3" ]; then
            echo "its SHA-256 is ${sum%% *} and should be $3"
            return
        fi
    fi
    if [ -n "$fetch_check" ]; then "$fetch_check" "$1"; fi
}

# fetch_one URL BYTES SHA256 FILE. Tries that bring something do not count, as a long download may break often. What is
# complete and wrong is downloaded anew, once: what was there before may have come from another version of the file.
fetch_one() {
    local url=$1 bytes=$2 sum=$3 file=$4 part=$4.part idle=0 anew=0 before now status problem
    while :; do
        before=$(fetch_size "$part") status=0
        if [ "$before" -lt "$bytes" ]; then fetch_try "$url" "$part" -C - || status=$?; fi
        now=$(fetch_size "$part")
        # All of it has come, or the host has nothing after what is here (416, a failure for older versions of curl alone).
        if [ "$now" -ge "$bytes" ] || [ "$fetch_http" = 416 ]; then
            problem=$(fetch_problem "$part" "$bytes" "$sum")
            if [ -z "$problem" ]; then break; fi
            rm -f "$part"
            anew=$((anew + 1))
            [ $anew -le 1 ] || fetch_give_up "$url" "$file" "What the host sends is not the file: $problem."
            echo "  $problem: once more from its beginning" >&2
            continue
        fi
        if [ $status -eq 33 ]; then # it cannot send the rest alone
            rm -f "$part"
            now=0
        fi
        idle=$((now > before ? 0 : idle + 1))
        if [ "$fetch_lasting" = yes ] || [ $idle -ge "$FETCH_TRIES" ]; then
            fetch_give_up "$url" "$file" "$fetch_reason"
        fi
        fetch_rest $((idle + 1))
    done
    mv "$part" "$file"
}

# ---- which files ----

fetch_into() {
    local command
    for command in curl python3 sha256sum flock; do
        command -v $command >/dev/null || fetch_fail "$command is missing; scripts/install_deps.sh installs it on Debian"
    done
    [[ $FETCH_TRIES =~ ^[1-9][0-9]{0,5}$ ]] ||
        fetch_fail "FETCH_TRIES=$FETCH_TRIES: expected a number of tries; unset it for 6" 2
    [[ $FETCH_PAUSE =~ ^[0-9]+(\.[0-9]+)?$ ]] ||
        fetch_fail "FETCH_PAUSE=$FETCH_PAUSE: expected seconds; unset it for 1" 2
    mkdir -p "$1" || fetch_fail "cannot make the folder $1"
    fetch_folder=$1
}

fetch_add() {
    fetch_urls+=("$1") fetch_sizes+=("$2") fetch_sums+=("$3") fetch_names+=("$4")
}

fetch_add_sized() {
    local bytes
    fetch_again "$2" "$1" "$fetch_scratch/answer" -I
    bytes=$(sed -n 's/^content-length: *\([1-9][0-9]*\)[^0-9]*$/\1/Ip' "$fetch_scratch/headers" | tail -n 1)
    [ -n "$bytes" ] || fetch_give_up "$1" "$2" "The host does not say how large it is."
    fetch_add "$1" "$bytes" - "$2"
}

# The Hub's list of files comes in pages; a header names the next one.
fetch_hub() {
    fetch_repository=$1
    local url="$HF_ENDPOINT/api/datasets/$1/tree/main${2:+/$2}" page=$fetch_scratch/page pages=()
    while [ -n "$url" ]; do
        fetch_again "the list of files" "$url" "$page${#pages[@]}"
        pages+=("$page${#pages[@]}")
        url=$(sed -n 's/^link: *<\([^>]*\)>; *rel="next".*/\1/Ip' "$fetch_scratch/headers")
    done
    python3 -S -c '
import json, sys
for page in sys.argv[1:]:
    with open(page) as file:
        for entry in json.load(file):
            if entry["type"] == "file":
                print(entry["size"], (entry.get("lfs") or {}).get("oid", "-"), entry["path"])' \
        "${pages[@]}" >"$fetch_scratch/hub" 2>"$fetch_scratch/errors" ||
        fetch_fail "$HF_ENDPOINT/api/datasets/$1 does not give a list of files: $(tail -n 1 "$fetch_scratch/errors")"
}

fetch_add_hub() {
    local pattern=$1 most=${2:-} bytes sum path found=0
    while read -r bytes sum path; do
        # shellcheck disable=SC2053 # a pattern
        [[ ${path##*/} == $pattern ]] || continue
        if [ -n "$most" ] && [ $found -ge "$most" ]; then break; fi
        fetch_add "$HF_ENDPOINT/datasets/$fetch_repository/resolve/main/$path" "$bytes" "$sum" "${path##*/}"
        found=$((found + 1))
    done < <(LC_ALL=C sort -k 3 "$fetch_scratch/hub")
    local where=$HF_ENDPOINT/datasets/$fetch_repository
    [ $found -gt 0 ] ||
        fetch_fail "$where has no files $pattern; expected some; unset HF_ENDPOINT, or let it name a whole mirror"
    [ $found -ge "${most:-0}" ] ||
        fetch_fail "$where has only $found files $pattern, not $most; give a smaller number" 2
}

# ---- all of them ----

# Prints which files are missing, and sets fetch_missing to the numbers of the files that are not here.
fetch_plan() {
    local title=$1 more=$2 i total=0 begun=0 rest=0 free
    fetch_missing=()
    for i in "${!fetch_names[@]}"; do
        total=$((total + fetch_sizes[i]))
        if [ "$(fetch_size "$fetch_folder/${fetch_names[i]}")" -eq "${fetch_sizes[i]}" ]; then continue; fi
        fetch_missing+=("$i")
        rest=$((rest + fetch_sizes[i]))
        begun=$((begun + $(fetch_size "$fetch_folder/${fetch_names[i]}.part")))
    done
    echo "$title: ${#fetch_names[@]} files, $(fetch_human $total), in $fetch_folder"
    if [ ${#fetch_missing[@]} -eq 0 ]; then
        echo "  all are here"
        return
    fi
    for i in "${fetch_missing[@]::4}"; do
        echo "  ${fetch_urls[i]}  $(fetch_human "${fetch_sizes[i]}")"
    done
    if [ ${#fetch_missing[@]} -gt 4 ]; then echo "  ... and so on to ${fetch_names[${fetch_missing[-1]}]}"; fi
    free=$(df -Pk "$fetch_folder" | awk 'END { printf "%.0f", $4 * 1024 }')
    echo "  to download: ${#fetch_missing[@]} files, $(fetch_human $((rest - begun)));" \
        "free on that disk: $(fetch_human "$free")"
    [ "$free" -ge $((rest - begun + more)) ] ||
        fetch_fail "$fetch_folder needs $(fetch_human $((rest - begun + more))) and its disk has $(fetch_human "$free")
  free$([ "$more" -eq 0 ] || echo "; $(fetch_human "$more") of it are for what is made of the files"). Make room there, or put a link to a larger disk in its place."
}

fetch_all() {
    local i number=0
    exec 9<"$fetch_folder"
    flock -n 9 || fetch_fail "another program downloads into $fetch_folder; wait for it, or stop it"
    fetch_plan "$1" "${2:-0}"
    for i in "${fetch_missing[@]}"; do
        number=$((number + 1))
        echo "[$number/${#fetch_missing[@]}] ${fetch_names[i]}  $(fetch_human "${fetch_sizes[i]}")"
        fetch_one "${fetch_urls[i]}" "${fetch_sizes[i]}" "${fetch_sums[i]}" "$fetch_folder/${fetch_names[i]}"
    done
    exec 9<&-
}
