#!/bin/sh
# A module in shell, curl only: wraps every picture in an SVG that shows it small.
set -eu
base=${SIDECAR_BASE_DIR:-/ion}
# A sidecar in development mode keeps the secret that it made up in a file.
secret=${SHARED_SECRET:-$(cat dev/secret)}
# Tells this process from one that was started before it and died.
start=$$-$(date +%s%N)

call() {
    # The sidecar is a neighbour: a proxy for the outside world does not know it.
    curl --noproxy '*' --silent --show-error --fail-with-body --retry 60 --retry-delay 1 --retry-connrefused \
        --header "secret: $secret" --header "module-start: $start" "http://127.0.0.1:${SIDECAR_PORT:-8080}/$1"
    echo
}

call ready
cd "$base/in/data"
number=0
find . -name '*.png' | sort | while read -r picture; do
    name=${picture#./}
    mkdir -p "$base/out/data/$(dirname "$name")"
    {
        printf '<svg xmlns="http://www.w3.org/2000/svg" width="128" height="128">'
        printf '<image width="128" height="128" href="data:image/png;base64,'
        base64 < "$picture" | tr -d '\n'
        printf '"/></svg>\n'
    } > "$base/out/data/$name.thumb.svg"
    number=$((number + 1))
    printf '[{"key":"eventType","value":"thumbnail_created"},{"key":"files","value":"%s"},{"key":"picture","value":"%s"}]\n' \
        "$name.thumb.svg" "$name" > "$base/out/events/$(printf %06d $number).json"
done
call done
