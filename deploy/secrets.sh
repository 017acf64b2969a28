#!/usr/bin/env bash
# Makes what deploy/compose.yaml mounts as secrets, once: bash deploy/secrets.sh deploy/secrets
# A password that is there stays. Run as root, the files belong to the user of the containers (10001)
# alone; otherwise everybody on this machine can read them, because a container's user is not you.
set -euo pipefail
folder=${1:?name a folder: bash deploy/secrets.sh deploy/secrets}
mkdir -p "$folder"
chmod 0711 "$folder"
password="$folder/clickhouse-password"
if [ ! -s "$password" ]; then
    (umask 077 && head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$password")
fi
for place in clickhouse:clickhouse clickhouse-host:127.0.0.1; do
    (umask 077 && printf 'http://tidemill:%s@%s:8123' "$(cat "$password")" "${place#*:}" \
        >"$folder/${place%%:*}")
done
if [ "$(id -u)" = 0 ]; then
    chown 10001:10001 "$folder"/*
    chmod 0400 "$folder"/*
    # ClickHouse's own user (101) reads this one.
    chmod 0444 "$password"
else
    chmod 0444 "$folder"/*
fi
echo "made $(ls "$folder" | tr '\n' ' ')in $folder"
