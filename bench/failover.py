#!/usr/bin/env python3
"""What the loss of a zone costs under load: failed safe requests, and how soon the p99 of the survivors is back.

    bench/failover.py [--weft PATH] [--rate 2000] [--seconds 12] [--node us-east-1a-shop]

Starts the scenario demo/multi-region in a sandbox (two regions, two zones each), sends GETs from the pod `web`, cuts a zone off, and
prints one JSON document. Exit code 1 if a safe request failed or the p99 was not back within 20% in 2 s.
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
            time.sleep(3 + args.seconds)
            cut = time.time() * 1000
            answer = ask(name, {"verb": "fault", "fault": "partition", "nodes": args.node or ["us-east-1a-shop"]})
            if "error" in answer:
                sys.exit(f"the zone could not be cut off: {answer}")
            time.sleep(args.seconds)
        finally:
            process.terminate()
            process.wait()
    found = []
    with open(records, "rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                found.append(json.loads(line))
    return found, cut


def judge(args, records, cut):
    def within(start, end):
        return [r for r in records if cut + start * 1000 <= r["start_ms"] < cut + end * 1000]

    before = within(-args.seconds, 0)
    later = within(2, args.seconds)
    failed = [r for r in records if r.get("error")]
    p99 = percentile([r["micros"] for r in before], 0.99)
    seconds = []
    for second in range(args.seconds - 1):
        there = within(second, second + 1)
        seconds.append({
            "second": second,
            "requests": len(there),
            "p50_micros": percentile([r["micros"] for r in there], 0.5),
            "p99_micros": percentile([r["micros"] for r in there], 0.99),
        })
    after = percentile([r["micros"] for r in later], 0.99)
    left = [r["start_ms"] - cut for r in within(0, args.seconds) if r["micros"] > 250_000]
    return {
        "rate_asked": args.rate,
        "rate_measured": round(len(before) / args.seconds),
        "failed_safe_requests": len(failed),
        "first_failures": [r["error"] for r in failed[:3]],
        "p99_micros_before": p99,
        "p99_micros_after_2s": after,
        "p99_ratio": round(after / p99, 2) if p99 and after else None,
        "last_slow_request_ms": round(max(left, default=0)),
        "seconds_after": seconds,
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
            records, cut = measure(weft, args, name, folder)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait()
    found = judge(args, records, cut)
    print(json.dumps(found, indent=2))
    kept = found["failed_safe_requests"] == 0 and (found["p99_ratio"] or 99) <= 1.2
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
