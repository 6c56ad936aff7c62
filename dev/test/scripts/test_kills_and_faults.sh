#!/usr/bin/env bash
# test_kills_and_faults.sh: runs that are killed, and disks that fail, as far as there is time for it. All of it is done by
# dev/test/faults.sh --all.
exec bash "$(dirname "$0")/../faults.sh" "$@"
