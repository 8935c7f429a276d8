#!/bin/sh
# The two-module pipeline over a folder of pictures, on the embedded data plane in ./dev.
#
#   examples/pipeline.sh [FOLDER]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
pictures=${1:-$root/examples/pictures}
# Local files need none of the providers on the network, which take minutes to build.
cargo build --release --no-default-features --manifest-path "$root/Cargo.toml" \
    -p sidecar-bin -p thumbnail -p contact-sheet
bin=${CARGO_TARGET_DIR:-$root/target}/release
export SIDECAR_DEVELOPMENT=true SIDECAR_LOGLEVEL=${SIDECAR_LOGLEVEL:-warn}

first=$("$bin/sidecar" submit --type pictures_added "$pictures")
echo "submitted $pictures as event $first"

"$bin/sidecar" run --context.eventid="$first" \
    --valideventtypes=thumbnail_created,thumbnails_created -- "$bin/thumbnail"

# Its last event, which has all thumbnails, starts the second module. On a cluster the same command goes on for ever.
"$bin/sidecar" worker --subscribe=thumbnails_created --idle-exit=1s \
    --valideventtypes=contact_sheet_created -- "$bin/contact-sheet"
second=$(basename "$(grep -l "\"parentEventId\": \"$first\"" dev/events/*.json | xargs grep -l '"thumbnails_created"')" .json)

# `get` fills only a directory that is absent or empty: from the second time on the event's id makes another name.
[ ! -e thumbnails ] && thumbnails=thumbnails || thumbnails=thumbnails-$first
[ ! -e contact-sheet ] && sheet=contact-sheet || sheet=contact-sheet-$second
"$bin/sidecar" get "$first/thumbnail" "$thumbnails" >/dev/null
"$bin/sidecar" get "$second/contact-sheet" "$sheet" >/dev/null

echo
echo "thumbnails:    $thumbnails"
echo "contact sheet: $sheet/contact-sheet.png"
echo "insights:      dev/insights    events: dev/events    outcomes: dev/executions"
