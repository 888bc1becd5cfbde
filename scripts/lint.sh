#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Static checks of the whole tree: layout, the rooms' walls, names in documents, clang-tidy, cppcheck, gcc's analyzer, Python and shell syntax.
#   scripts/lint.sh [format|rooms|docs|tidy|cppcheck|analyzer|scripts]...      without arguments: all
# Exit status 1 when anything is found. A tool that is missing is a failure: scripts/setup.sh installs it.
set -u
cd "$(dirname "$0")/.."
jobs=$(nproc)
includes="-iquote vmm/x86 -I. -isystem /usr/include/libnl3 -D_GNU_SOURCE -std=gnu17"
# The test guests are freestanding: the compiler's warnings are all that fits them.
mapfile -t hosted < <(git ls-files -co --exclude-standard 'common/*.c' 'store/*.c' 'forkd/*.c' 'forkctl/*.c' 'vmm/*.c' 'guest/*.c' 'tests/*.c' ':!tests/guests/*' | sort)
mapfile -t all < <(git ls-files -co --exclude-standard '*.c' '*.h' | sort)
passed=0 failed=0

# step NAME TOOL COMMAND…: silent when fine; prints what COMMAND prints when not.
step() {
	local name=$1 tool=$2 out
	shift 2
	if ! command -v "$tool" >/dev/null; then
		echo "not ok lint $name: $tool is missing; run scripts/setup.sh"
		failed=$((failed + 1))
	elif out=$("$@" 2>&1); then
		echo "ok lint $name"
		passed=$((passed + 1))
	else
		echo "$out"
		echo "not ok lint $name"
		failed=$((failed + 1))
	fi
}

format() { clang-format --dry-run -Werror "${all[@]}"; }

tidy() {
	# shellcheck disable=SC2086
	printf '%s\0' "${hosted[@]}" | xargs -0 -n 1 -P "$jobs" sh -c \
		'clang-tidy --quiet --warnings-as-errors="*" "$1" -- '"$includes"' 2>/dev/null' sh
}

run_cppcheck() {
	# shellcheck disable=SC2086
	cppcheck --quiet --error-exitcode=1 --inline-suppr --enable=warning,performance,portability --std=c11 -j "$jobs" \
		--suppressions-list=scripts/cppcheck.txt -Ivmm/x86 -I. -D_GNU_SOURCE "${hosted[@]}"
}

# One file at a time, as it is compiled. Leaks are left to AddressSanitizer: the analyzer takes every pointer that is moved into
# a struct which its owner frees for one. Tests may trust calloc().
analyzer() {	# not the tests: it does not know that an assertion ends them
	printf '%s\0' "${hosted[@]}" | grep -zv '^tests/unit/' | xargs -0 -n 1 -P "$jobs" sh -c 'gcc '"$includes"' -O2 -fanalyzer -Werror \
		-Wno-analyzer-malloc-leak -Wno-analyzer-fd-leak -Wno-analyzer-possible-null-argument \
		-Wno-analyzer-possible-null-dereference -c "$1" -o /dev/null' sh
}

scripts() {
	local f status=0
	for f in $(git ls-files -co --exclude-standard '*.sh' .ci/run); do bash -n "$f" || status=1; done
	for f in $(git ls-files -co --exclude-standard '*.py'); do
		python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])' "$f" || status=1
	done
	return $status
}

rooms() { scripts/rooms.py && scripts/rooms.py --planted; }
docs() { scripts/docs.py && scripts/docs.py --planted; }

mkdir -p build
[ $# -gt 0 ] || set -- format rooms docs tidy cppcheck analyzer scripts
for what in "$@"; do
	case $what in
	format) step format clang-format format ;;
	rooms) step rooms python3 rooms ;;
	docs) step docs python3 docs ;;
	tidy) step tidy clang-tidy tidy ;;
	cppcheck) step cppcheck cppcheck run_cppcheck ;;
	analyzer) step analyzer gcc analyzer ;;
	scripts) step scripts python3 scripts ;;
	*) echo "lint: no check is called '$what'"; exit 2 ;;
	esac
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
