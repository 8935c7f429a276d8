#!/usr/bin/env python3
"""A module in Python, standard library only: halves every PNG picture until it is a thumbnail.

It understands what most PNG files are: 8 bits a channel, not interlaced, no palette.
"""
import json
import os
import pathlib
import struct
import sys
import time
import urllib.error
import urllib.request
import uuid
import zlib

SIZE = 128  # the longer side of a thumbnail, in pixels
BASE = pathlib.Path(os.environ.get("SIDECAR_BASE_DIR", "/ion"))
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by PNG colour type
HEADERS = {
    # A sidecar in development mode keeps the secret that it made up in a file.
    "secret": os.environ.get("SHARED_SECRET") or pathlib.Path("dev/secret").read_text().strip(),
    # Tells this process from one that was started before it and died.
    "module-start": uuid.uuid4().hex,
}
# The sidecar is a neighbour: a proxy for the outside world does not know it.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(name):
    """Calls the sidecar, which may start later than this module."""
    url = f"http://127.0.0.1:{os.environ.get('SIDECAR_PORT', '8080')}/{name}"
    request = urllib.request.Request(url, headers=HEADERS)
    deadline = time.monotonic() + 60
    while True:
        try:
            return json.load(HTTP.open(request))
        except urllib.error.HTTPError as error:
            answer = json.load(error)
            if not answer["retryable"] or time.monotonic() > deadline:
                sys.exit(f"{name}: {answer['message']} {answer['problems']}")
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{name}: {error}")
        time.sleep(0.2)


def decode(data):
    """Returns the colour type and the rows of pixels, each pixel a tuple."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("no PNG")
    chunks, at = [], 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        chunks.append((kind, data[at + 8:at + 8 + length]))
        at += length + 12
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth != 8 or interlace or colour not in CHANNELS:
        raise ValueError("a kind of PNG this example does not read")
    n = CHANNELS[colour]
    raw = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    stride, before, rows = width * n, bytearray(width * n), []
    for y in range(height):
        start = y * (stride + 1)
        method, row = raw[start], bytearray(raw[start + 1:start + 1 + stride])
        for i in range(stride):
            left = row[i - n] if i >= n else 0
            up, corner = before[i], before[i - n] if i >= n else 0
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda value: abs(guess - value))
            row[i] = (row[i] + (0, left, up, (left + up) // 2, paeth)[method]) & 255
        rows.append([tuple(row[i:i + n]) for i in range(0, stride, n)])
        before = row
    return colour, rows


def halve(rows):
    """Averages each square of four pixels."""
    def mean(*pixels):
        return tuple(sum(values) // len(values) for values in zip(*pixels))
    pairs = zip(rows[::2], rows[1::2]) if len(rows) > 1 else [(rows[0], rows[0])]
    return [[mean(a, b, c, d) for a, b, c, d in zip(top[::2], top[1::2], low[::2], low[1::2])]
            if len(top) > 1 else [mean(top[0], low[0])] for top, low in pairs]


def encode(colour, rows):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, colour, 0, 0, 0)
    raw = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in rows)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9))
            + chunk(b"IEND", b""))


def pairs(*items):
    return json.dumps([{"key": key, "value": str(value)} for key, value in items])


def main():
    call("ready")
    insights = []
    for path in sorted((BASE / "in/data").rglob("*.png")):
        name = path.relative_to(BASE / "in/data").as_posix()
        try:
            colour, rows = decode(path.read_bytes())
        except ValueError as error:
            print(f"{name}: {error}")
            continue
        size = f"{len(rows[0])}x{len(rows)}"
        while max(len(rows[0]), len(rows)) > SIZE:
            rows = halve(rows)
        small = BASE / "out/data" / f"{name}.thumb.png"
        small.parent.mkdir(parents=True, exist_ok=True)
        small.write_bytes(encode(colour, rows))
        insights.append((name, size))
        event = pairs(("eventType", "thumbnail_created"), ("files", f"{name}.thumb.png"), ("picture", name))
        (BASE / "out/events" / f"{len(insights):06}.json").write_text(event)
        print(f"{name}: {size} to {len(rows[0])}x{len(rows)}")
    (BASE / "out/meta.json").write_text(pairs(*insights))
    call("done")


main()
