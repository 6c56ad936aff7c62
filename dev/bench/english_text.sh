#!/usr/bin/env bash
# english_text.sh OUT.txt: 85 MB of English from packages of Debian, for bench_data: a dictionary (Webster's of 1913 and
# additions), a book-length FAQ, Linux's and Perl's documentation. Needs Debian or Ubuntu with its lists of packages
# (apt-get update), nothing is installed.
set -euo pipefail
export LC_ALL=C

out=$(realpath "${1:?which file to write}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

linux_doc=$(apt-cache depends linux-doc | sed -n 's/.*Depends: *\(linux-doc-[0-9.]*\)$/\1/p')
apt-get -q download dict-gcide anarchism perl-doc "$linux_doc"
for package in *.deb; do dpkg -x "$package" tree; done

{
    zcat tree/usr/share/dictd/gcide.dict.dz
    find tree/usr/share/doc/anarchism/markdown -type f -print0 | sort -z | xargs -0 zcat -f
    find tree/usr/share/doc/linux-doc-* -name '*.rst.gz' -print0 | sort -z | xargs -0 zcat
    find tree/usr/share/perl -name '*.pod' -print0 | sort -z | xargs -0 cat
} | iconv -c -f UTF-8 -t UTF-8 >text || true # which fails where it left something out
mv text "$out"
echo "$(wc -c <"$out") bytes of English in $out"
