#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An OpenAPI client that knows nothing of us (schemathesis, from PyPI) against a live daemon with a template and a clone: it makes
# requests from api-spec/openapi.yaml, right and wrong ones, and compares every answer with it.
#   tests/kvm/check_api.sh [MAX_EXAMPLES]      default 20 a route; needs pip and PyPI, about two minutes
set -eu
cd "$(dirname "$0")/../.."
examples=${1:-20}
venv=${FORKD_VENV:-build/venv}
work=$(mktemp -d "${TMPDIR:-/tmp}/forkd-api.XXXXXX")
daemon=
finish() {
	status=$?
	trap - EXIT
	[ -z "$daemon" ] || { build/forkctl --socket "$work/s" delete --all >/dev/null 2>&1 || true; kill "$daemon"; wait "$daemon" || true; }
	rm -rf "$work"
	exit $status
}
trap finish EXIT

if [ ! -x "$venv/bin/schemathesis" ]; then
	if ! python3 -m venv "$venv" || ! "$venv/bin/pip" install -q schemathesis openapi-spec-validator; then
		echo "SKIPPED check-api: no schemathesis, and it cannot be installed from PyPI"
		rm -rf "$venv"
		exit 0
	fi
fi
"$venv/bin/openapi-spec-validator" api-spec/openapi.yaml

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
token=token-of-this-test-only
printf '%s\n' "$token" > "$work/token"
chmod 600 "$work/token"
build/forkd --socket "$work/s" --store "$work/store" --runtime-dir "$work/run" --listen "127.0.0.1:$port" --token-file "$work/token" \
	> "$work/ready" 2> "$work/log" &
daemon=$!
for _ in $(seq 100); do [ ! -s "$work/ready" ] || break; sleep 0.1; done
cat "$work/ready"
cat > "$work/vm.json" <<-END
	{"payload": {"kernel": "$PWD/build/tests/guests/resumed", "cmdline": "warm=1"}, "memory": {"size": 67108864}, "console": {"mode": "Off"}}
END
build/forkctl --socket "$work/s" template create web --vm "$work/vm.json" --ready-delay 3000
build/forkctl --socket "$work/s" clone web -n 2

# An event stream has no end, and 504 is what /wait answers when the time is up: both are described, neither is an error.
"$venv/bin/schemathesis" run api-spec/openapi.yaml --url "http://127.0.0.1:$port" -H "Authorization: Bearer $token" \
	--exclude-path /v1/events --exclude-path '/v1/clones/{id}/wait' --phases examples,coverage,fuzzing --max-examples "$examples" \
	--request-timeout 40 --no-color \
	--exclude-checks not_a_server_error,unsupported_method,negative_data_rejection,positive_data_acceptance,ignored_auth
echo "1 passed, 0 failed"
