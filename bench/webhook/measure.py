#!/usr/bin/env python3
"""How long a call of the injector's webhook takes with 50 at a time.

Usage: measure.py WEFT [CALLS]. WEFT is the binary, best a release build. Needs openssl and h2load (nghttp2), and loopback only.
Prints a line for HTTP/2 over one connection, as the API server holds it, and one for five connections.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def review():
    def container(name):
        return {
            "name": name, "image": "registry.example.com/shop/web:1.2.3",
            "env": [{"name": f"VARIABLE_{n}", "value": "some value of a common length"} for n in range(20)],
            "ports": [{"name": "http", "containerPort": 8080}, {"name": "grpc", "containerPort": 9090}],
            "livenessProbe": {"httpGet": {"path": "/live", "port": "http"}},
            "readinessProbe": {"grpc": {"port": 9090}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }

    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "web-6b7f9d-", "labels": {"app": "web", "pod-template-hash": "6b7f9d"}},
        "spec": {"containers": [container("web"), container("helper")], "volumes": [{"name": "data", "emptyDir": {}}]},
    }
    return {
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {"uid": "7c3f2b0a", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop",
                    "operation": "CREATE", "object": pod},
    }


def main():
    weft, calls = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "20000"
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = f"{folder}/tls.crt", f"{folder}/tls.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
             "-subj", "/CN=injector", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True)
        body = f"{folder}/review.json"
        with open(body, "w") as file:
            json.dump(review(), file)
        https, plain = port(), port()
        environment = {
            **os.environ, "WEFT_LOG": "warn", "RUST_LOG": "warn", "WEFT_INJECTOR_CERTIFICATE_FILE": certificate,
            "WEFT_INJECTOR_KEY_FILE": key, "WEFT_INJECTOR_LISTEN": f"127.0.0.1:{https}",
            "WEFT_INJECTOR_METRICS_LISTEN": f"127.0.0.1:{plain}",
        }
        injector = subprocess.Popen([weft, "injector"], env=environment)
        try:
            for _ in range(200):
                try:
                    with socket.create_connection(("127.0.0.1", plain), 1) as asked:
                        asked.sendall(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                        if b" 200 " in asked.recv(64):
                            break
                except OSError:
                    pass
                time.sleep(0.05)
            for connections, streams in [(1, 50), (5, 10)]:
                log = f"{folder}/log-{connections}"
                told = subprocess.run(
                    ["h2load", "-n", calls, "-c", str(connections), "-m", str(streams), "-d", body,
                     "-H", "content-type: application/json", f"--log-file={log}", f"https://localhost:{https}/inject"],
                    check=True, capture_output=True, text=True).stdout
                with open(log) as file:
                    rows = [line.split() for line in file]
                took = sorted(int(row[2]) for row in rows if row[1] == "200")
                at = lambda part: took[int((len(took) - 1) * part)] / 1000
                rate = next(line for line in told.splitlines() if line.startswith("finished in"))
                print(f"{len(took)} of {calls} answered, 50 at a time over {connections} connection(s), "
                      f"{os.path.getsize(body)} bytes each: p50 {at(.5):.2f} ms, p99 {at(.99):.2f} ms, "
                      f"p99.9 {at(.999):.2f} ms; {rate}")
        finally:
            injector.send_signal(signal.SIGTERM)
            _, _, used = os.wait4(injector.pid, 0)
            print(f"the injector used {used.ru_utime + used.ru_stime:.2f} s of CPU, at most {used.ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
