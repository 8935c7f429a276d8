#!/bin/sh
# Makes the secrets of compose.yaml, once.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
[ -e secrets/postgres-password ] && exit 0
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
random >secrets/postgres-password
random >secrets/s3-secret-access-key
printf 'postgres://sidecar:%s@postgres/sidecar\n' "$(cat secrets/postgres-password)" >secrets/documents-url
cat >secrets/s3-identities.json <<IDENTITIES
{"identities": [{"name": "sidecar", "actions": ["Admin"],
  "credentials": [{"accessKey": "sidecar", "secretKey": "$(cat secrets/s3-secret-access-key)"}]}]}
IDENTITIES
# The containers' users are not this one.
chmod 644 secrets/*
