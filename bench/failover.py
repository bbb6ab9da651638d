#!/usr/bin/env python3
"""What the loss of a zone costs under load: failed safe requests, and how soon the p99 of the survivors is back.

    bench/failover.py [--weft PATH] [--rate 2000] [--seconds 12] [--node us-east-1a-shop]

Starts the scenario demo/multi-region in a sandbox (two regions, two zones each), sends GETs from the pod `web`, cuts a zone off, and
prints one JSON document. Exit code 1 if a safe request failed or the p99 was not back within 20% in 2 s.

The p99 before and after is the median of the p99s of single seconds, so that a second in which a hypervisor gave the processors to
somebody else doesn't decide; how much it gave away is in the document (`stolen_percent`).
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weft", default=os.path.join(HERE, "../target/release/weft"))
    parser.add_argument("--rate", type=float, default=2000, help="requests per second in all")
    parser.add_argument("--seconds", type=int, default=12, help="before the loss, and after it")
    parser.add_argument("--node", action="append", help="nodes that are cut off (default us-east-1a-shop: a zone's endpoints)")
    return parser.parse_args()


def state(name):
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = os.path.join(runtime, "weft") if os.path.isdir(runtime) else f"/tmp/weft-{os.geteuid()}"
    return os.path.join(base, name, "control.sock")


def ask(name, request):
    """One request to the sandbox's control socket: a line of JSON each way."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(state(name))
        stream.sendall(json.dumps(request).encode() + b"\n")
        answer = stream.makefile().readline()
    return json.loads(answer)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else None


def stolen():
    """Ticks that a hypervisor gave to others, and all, since the machine started."""
    with open("/proc/stat") as stat:
        ticks = [int(field) for field in stat.readline().split()[1:9]]
    return ticks[7], sum(ticks)


def share(before, after):
    return round(100 * (after[0] - before[0]) / max(after[1] - before[1], 1), 1)


def median(values):
    return percentile(values, 0.5)


def measure(weft, args, name, folder):
    records = os.path.join(folder, "records")
    targets = ["cart", "catalog"]
    load = [weft, "exec", "--name", name, "-n", "shop", "deployment/web", "--", "weft", "load"]
    load += ["--rate", str(args.rate / len(targets))]
    for target in targets:
        load += ["--http1", f"GET=http://{target}.shop/items"]
    with open(records, "wb") as out:
        process = subprocess.Popen(load, stdout=out, stdin=subprocess.DEVNULL)
        try:
            # The first seconds are those of cold pools.
            time.sleep(3)
            stolen_at = [stolen()]
            time.sleep(args.seconds)
            stolen_at.append(stolen())
            cut = time.time() * 1000
            answer = ask(name, {"verb": "fault", "fault": "partition", "nodes": args.node or ["us-east-1a-shop"]})
            if "error" in answer:
                sys.exit(f"the zone could not be cut off: {answer}")
            time.sleep(args.seconds)
            stolen_at.append(stolen())
        finally:
            process.terminate()
            process.wait()
    found = []
    with open(records, "rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                found.append(json.loads(line))
    return found, cut, [share(*pair) for pair in zip(stolen_at, stolen_at[1:])]


def judge(args, records, cut, stolen_percent):
    def within(start, end):
        return [r for r in records if cut + start * 1000 <= r["start_ms"] < cut + end * 1000]

    def seconds(start, end):
        rows = []
        for second in range(start, end):
            times = [r["micros"] for r in within(second, second + 1)]
            rows.append({
                "second": second,
                "requests": len(times),
                "p50_micros": percentile(times, 0.5),
                "p99_micros": percentile(times, 0.99),
            })
        return rows

    before = seconds(-args.seconds, 0)
    after = seconds(0, args.seconds - 1)
    p99_before = median([row["p99_micros"] for row in before if row["requests"]])
    p99_after = median([row["p99_micros"] for row in after[2:] if row["requests"]])
    failed = [r for r in records if r.get("error")]
    slow = [r["start_ms"] - cut for r in within(0, args.seconds) if r["micros"] > 250_000]
    return {
        "rate_asked": args.rate,
        "rate_measured": round(len(within(-args.seconds, 0)) / args.seconds),
        "failed_safe_requests": len(failed),
        "first_failures": [r["error"] for r in failed[:3]],
        "p99_micros_before": p99_before,
        "p99_micros_after_2s": p99_after,
        "p99_ratio": round(p99_after / p99_before, 2) if p99_after and p99_before else None,
        "last_slow_request_ms": round(max(slow, default=0)),
        "stolen_percent": dict(zip(("before", "after"), stolen_percent)),
        "seconds_before": before,
        "seconds_after": after,
    }


def main():
    args = options()
    weft = os.path.abspath(args.weft)
    name = f"bench-failover-{os.getpid()}"
    scenario = os.path.join(HERE, "../demo/multi-region")
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "up.log"), "wb") as log:
            up = subprocess.Popen([weft, "up", "--name", name, scenario], stdout=subprocess.PIPE, stderr=log)
        try:
            for line in up.stdout:
                if b"is up." in line:
                    break
            else:
                sys.exit("the sandbox did not start: " + open(os.path.join(folder, "up.log")).read())
            records, cut, stolen_percent = measure(weft, args, name, folder)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait()
    found = judge(args, records, cut, stolen_percent)
    print(json.dumps(found, indent=2))
    kept = found["failed_safe_requests"] == 0 and (found["p99_ratio"] or 99) <= 1.2
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
