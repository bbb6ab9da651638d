#!/usr/bin/env python3
"""Side-by-side proxy-pair benchmark: client -> A -> mTLS -> B -> backend. See README.md."""
import argparse, atexit, ctypes, json, os, re, resource, shlex, shutil, signal, socket, statistics, subprocess, sys, time, tomllib

HERE = os.path.dirname(os.path.abspath(__file__))
HZ = os.sysconf("SC_CLK_TCK")
NAME = f"bench-{os.getpid()}"                # of the sandbox
NS = {}                                        # side -> process whose network namespace it is
procs = []                                     # everything we started


def sh(cmd, check=True):
    return subprocess.run(shlex.split(cmd), check=check, capture_output=True, text=True)


def cleanup():
    for p in procs:
        if p.poll() is None:
            p.terminate()
    end = time.time() + 3
    for p in procs:
        try:
            p.wait(max(0.1, end - time.time()))
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def weft(args):
    return subprocess.run([opt.weft, *shlex.split(args), "--name", NAME], check=True, capture_output=True, text=True).stdout


def setup_sandbox():
    """A sandbox with the pods of mesh.yaml: one pair in the mesh, one beside it."""
    log = open(V["RUN"] + "/weft.log", "w+")
    with open(HERE + "/mesh.yaml") as f, open(V["RUN"] + "/mesh.yaml", "w") as g:
        g.write(f.read().replace('workers: "1"', f'workers: "{opt.threads}"'))
    procs.append(subprocess.Popen([opt.weft, "up", "--name", NAME, V["RUN"] + "/mesh.yaml"], stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    end = time.time() + 90
    while "is up" not in open(V["RUN"] + "/weft.log").read():
        if time.time() > end or procs[-1].poll() is not None:
            sys.exit("the sandbox did not come up; see " + V["RUN"] + "/weft.log")
        time.sleep(0.2)
    state = json.loads(weft("status --json"))
    pods = {f"{p['namespace']}/{p['name']}": p["address"] for p in state["pods"]}
    V["A_IP"], V["B_IP"] = pods["plain/a"], pods["plain/b"]
    V["MESH_IP"] = next(x["address"] for x in state["services"] if x["name"] == "server")
    V["SERVER_IP"] = pods["mesh/server"]
    for key, pod in (("a", "plain/a"), ("b", "plain/b"), ("client", "mesh/client"), ("server", "mesh/server")):
        NS[key] = pod_process(pods[pod])
        sh(f"nsenter --net=/proc/{NS[key]}/ns/net sysctl -qw net.ipv4.tcp_tw_reuse=1", check=False)


def processes():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield int(pid), open(f"/proc/{pid}/cmdline").read().split("\0")
        except OSError:
            pass


def pod_process(address):
    """A `sleep infinity` in the network namespace that has this address."""
    for pid, argv in processes():
        if argv[:2] == ["sleep", "infinity"]:
            addresses = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-o", "addr"], capture_output=True, text=True).stdout
            if f" {address}/" in addresses:
                return pid
    sys.exit(f"no process in the pod with {address}")


def sidecar(side):
    """The sidecar's process in a pod's network namespace."""
    ns = os.readlink(f"/proc/{NS[side]}/ns/net")
    for pid, argv in processes():
        try:
            if len(argv) > 1 and argv[0].endswith("weft") and argv[1] == "proxy" and os.readlink(f"/proc/{pid}/ns/net") == ns:
                return pid
        except OSError:
            pass
    return None


class Sidecar:
    """A process that the sandbox started; looks like what `start` gives."""
    def __init__(self, side):
        self.side, self.pid = side, sidecar(side)
        if opt.pin:
            subprocess.run(["taskset", "-acp", str(opt.proxy_core), str(self.pid)], capture_output=True, check=True)

    def poll(self):
        return None if os.path.exists(f"/proc/{self.pid}") else 0


def into(side):
    """This process (so every client) moves into a pod's network namespace."""
    fd = os.open(f"/proc/{NS[side]}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:
        sys.exit("setns failed: this needs root")
    os.close(fd)


def fill(text):
    def one(m):
        k = m.group(1)
        if k in V:
            return str(V[k])
        path = os.environ.get("BENCH_" + k) or shutil.which(k.lower())
        if not path:
            raise KeyError(f"@{k}@: set BENCH_{k}")
        return path
    return re.sub(r"@([A-Z][A-Z0-9_]*)@", one, text)


def put(template, **extra):
    V.update(extra)
    with open(os.path.join(HERE, "templates", template)) as f:
        text = fill(f.read())
    with open(os.path.join(V["RUN"], template), "w") as f:
        f.write(text)


def onto(core):
    return ["taskset", "-c", str(core)] if opt.pin else []


def start(cmd, side, core, name):
    pre = ["nsenter", f"--net=/proc/{NS[side]}/ns/net"]
    pre += onto(core)
    log = open(os.path.join(V["RUN"], name + ".log"), "w")
    p = subprocess.Popen(pre + shlex.split(fill(cmd)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    procs.append(p)
    return p


# ---- accounting ---------------------------------------------------------------------------------
def tree(pid):
    out = [pid]
    try:
        for t in os.listdir(f"/proc/{pid}/task"):
            for c in open(f"/proc/{pid}/task/{t}/children").read().split():
                out += tree(int(c))
    except OSError:
        pass
    return out


def cpu(pid):
    """user+system seconds of a process and its live children"""
    s = 0.0
    for p in tree(pid):
        try:
            f = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
            s += (int(f[11]) + int(f[12])) / HZ
        except OSError:
            pass
    return s


def rss_mb(pid, field="VmRSS"):
    s = 0
    for p in tree(pid):
        m = re.search(field + r":\s+(\d+) kB", open(f"/proc/{p}/status").read())
        s += int(m.group(1)) if m else 0
    return s / 1024


def busy():
    f = open("/proc/stat").readline().split()
    return sum(int(f[i]) for i in (1, 2, 3, 6, 7, 8)) / HZ     # user nice system irq softirq steal


def kids():
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


# ---- targets ------------------------------------------------------------------------------------
class Target:
    def __init__(self, name, base):
        with open(os.path.join(HERE, "targets", name + ".toml"), "rb") as f:
            self.d = tomllib.load(f)
        self.name, self.base, self.p, self.aux = name, base, {}, []
        self.vars = {"BASE": base, "ADMIN_A": base + 80, "ADMIN_B": base + 81}
        for i in range(1, 7):
            self.vars |= {f"A{i}": base + i, f"B{i}": base + 50 + i, f"C{i}": base + 20 + i}
        self.mesh = self.d.get("mesh", False)
        self.ip = V["MESH_IP"] if self.mesh else V["B_IP"] if self.d.get("connect") == "B" else V["A_IP"]

    def port(self, key):
        k = self.d["ports"].get(key)
        return None if k is None else k if isinstance(k, int) else {**V, **self.vars}[k]

    def up(self):
        V.update(self.vars)
        into("client" if self.mesh else "a")
        for t in self.d.get("templates", []):
            put(t)
        for side in "ba":
            if side in self.d:
                self.p[side] = start(self.d[side], side, opt.proxy_core, f"{self.name}-{side}")
        if self.mesh:
            self.p = {"a": Sidecar("client"), "b": Sidecar("server")}
        end = time.time() + 20
        while True:
            try:
                for key in ("h1", "tcp"):
                    if self.port(key):
                        self.get(self.port(key)).close()
                return
            except (OSError, AssertionError) as e:
                if time.time() > end:
                    sys.exit(f"{self.name} did not come up ({e!r}); logs in {V['RUN']}")
                time.sleep(0.2)

    def down(self):
        old = list(self.p.values())
        for p in old:
            os.kill(p.pid, signal.SIGTERM if not self.mesh else signal.SIGKILL)
        if self.mesh:                           # the sandbox starts them again
            end = time.time() + 30
            while any(sidecar(side) in (None, p.pid) for side, p in (("client", old[0]), ("server", old[1]))):
                if time.time() > end:
                    sys.exit("the sidecars did not come back")
                time.sleep(0.1)
        else:
            for p in old:
                try:
                    p.wait(3)
                except subprocess.TimeoutExpired:
                    p.kill()
                    p.wait()
        self.p = {}

    def get(self, port, n=1024):
        """One keep-alive GET; returns the open socket."""
        s = socket.create_connection((self.ip, port), 3)
        s.settimeout(3)
        s.sendall(b"GET /1k HTTP/1.1\r\nHost: bench.test\r\n\r\n")
        buf = b""
        while b"\r\n\r\n" not in buf or len(buf.split(b"\r\n\r\n", 1)[1]) < n:
            got = s.recv(65536)
            assert got, f"short answer: {buf[:120]!r}"
            buf += got
        assert buf.startswith(b"HTTP/1.1 200"), buf[:120]
        return s

    def cpu(self):
        return sum(cpu(p.pid) for p in self.p.values())

    def rss(self, field="VmRSS"):
        return sum(rss_mb(p.pid, field) for p in self.p.values())


# ---- workloads ----------------------------------------------------------------------------------
def load(cmd):
    r = subprocess.run(onto(opt.load_core) + shlex.split(cmd), capture_output=True, text=True, timeout=opt.duration + 60)
    if r.returncode != 0:
        raise RuntimeError(f"{cmd}: {r.returncode} {r.stderr[-300:]} {r.stdout[-300:]}")
    return r.stdout


def ms(text):
    v, u = re.match(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(v) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[u]


def wrk(t, key, conns, path="/1k", close=False):
    o = load(fill(f"@WRK@ -t1 -c{conns} -d{opt.duration}s --latency ")
             + ("-H 'Connection: close' " if close else "") + f"http://{t.ip}:{t.port(key)}{path}")
    n = int(re.search(r"(\d+) requests in", o).group(1))
    e = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", o)))
    e += sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", o)))
    return n, {"rps": float(re.search(r"Requests/sec:\s+([\d.]+)", o).group(1)),
               "p50_ms": ms(re.search(r"(?m)^\s+50%\s+(\S+)", o).group(1)),
               "p99_ms": ms(re.search(r"(?m)^\s+99%\s+(\S+)", o).group(1)), "errors": e}


def rate(t, key, qps, conns):
    """Each connection sends at its own steady rate, whatever the answers take (as long as they come before its next turn)."""
    log = V["RUN"] + "/requests.log"
    if os.path.exists(log):
        os.remove(log)
    o = load(fill(f"@H2LOAD@ --h1 -t1 -c{conns} -m1 --rps={qps / conns} -D{opt.duration} --log-file={log} http://{t.ip}:{t.port(key)}/1k"))
    m = re.search(r"requests: (\d+) total.*?(\d+) succeeded, (\d+) failed, (\d+) errored", o)
    lines = [line.split() for line in open(log)]
    first = min(int(line[0]) for line in lines)
    micros = sorted(int(line[2]) for line in lines if int(line[0]) - first > 1e6)     # without the first connections' handshakes
    at = lambda share: micros[int(share * (len(micros) - 1))] / 1e3
    return int(m.group(2)), {"p50_ms": at(.5), "p99_ms": at(.99), "errors": int(m.group(3)) + int(m.group(4))}


def h2(t, key, conns, streams):
    o = load(fill(f"@H2LOAD@ -t1 -c{conns} -m{streams} -D{opt.duration} --warm-up-time=1 http://{t.ip}:{t.port(key)}/1k"))
    m = re.search(r"requests: (\d+) total.*?(\d+) succeeded, (\d+) failed, (\d+) errored", o)
    n = int(m.group(2))
    return n * (opt.duration + 1) / opt.duration, {"rps": n / opt.duration, "errors": int(m.group(3)) + int(m.group(4))}


def bulk(t, key, reverse):
    o = json.loads(load(fill(f"@IPERF3@ -J -t{opt.duration} -c {t.ip} -p {t.port(key)}") + (" -R" if reverse else "")))
    b = o["end"]["sum_received"]
    return b["bytes"] / 1e9 * 1000, {"gbps": b["bits_per_second"] / 1e9}     # CPU figure is per GB


def memory(t, key):
    """fresh processes, then 1000 connections that made one request each and stay open"""
    t.down()
    t.up()
    time.sleep(1)
    out = {"idle_mb": t.rss()}
    socks = [t.get(t.port(key)) for _ in range(1000)]
    time.sleep(1)
    out["1000_conns_mb"] = t.rss()
    out["kb_per_conn"] = (out["1000_conns_mb"] - out["idle_mb"]) * 1024 / 1000
    for s in socks:
        s.close()
    return 0, out


# name: (port key, function, higher-is-better metrics)
W = {
    "h1_c32":      ("h1", lambda t, k: wrk(t, k, 32)),
    "h1_c128":     ("h1", lambda t, k: wrk(t, k, 128)),
    "h1_10k_c32":  ("h1", lambda t, k: wrk(t, k, 32, "/10k")),
    "h1_1000qps":  ("h1", lambda t, k: rate(t, k, 1000, 16)),
    "h1_8000qps":  ("h1", lambda t, k: rate(t, k, 8000, 64)),
    "h1_close":    ("h1", lambda t, k: wrk(t, k, 32, "/ok", True)),
    "h1_h2_c32":   ("h1_h2", lambda t, k: wrk(t, k, 32)),
    "h2_c8m16":    ("h2", lambda t, k: h2(t, k, 8, 16)),
    "tcp_c32":     ("tcp", lambda t, k: wrk(t, k, 32)),
    "tcp_1000qps": ("tcp", lambda t, k: rate(t, k, 1000, 16)),
    "tcp_8000qps": ("tcp", lambda t, k: rate(t, k, 8000, 64)),
    "tcp_close":   ("tcp", lambda t, k: wrk(t, k, 32, "/ok", True)),
    "full_close":  ("full", lambda t, k: wrk(t, k, 32, "/ok", True)),
    "bulk_up":     ("bulk", lambda t, k: bulk(t, k, False)),
    "bulk_down":   ("bulk", lambda t, k: bulk(t, k, True)),
    "mem_h1":      ("h1", memory),
    "mem_tcp":     ("tcp", memory),
}


def quiet():
    """wait until others leave the machine alone, --wait-quiet seconds at most"""
    end = time.time() + opt.wait_quiet
    while time.time() < end:
        b0, m0, t0 = busy(), sum(cpu(p.pid) for p in procs if p.poll() is None), time.time()
        time.sleep(0.5)
        m1 = sum(cpu(p.pid) for p in procs if p.poll() is None)
        if (busy() - b0 - (m1 - m0)) / (time.time() - t0) < opt.max_foreign / 2:
            return


def measure(t, w):
    key, fn = W[w]
    best = None
    into("client" if t.mesh else "a")
    for attempt in range(1 + opt.retries):
        quiet()
        mine = list(t.p.values()) + backend
        side0 = {x: cpu(p.pid) for x, p in t.p.items()}
        c0, m0, b0, k0, t0 = t.cpu(), sum(cpu(p.pid) for p in mine), busy(), kids(), time.time()
        n, out = fn(t, key)
        if w.startswith("mem"):
            return out
        dc, dt = t.cpu() - c0, time.time() - t0
        foreign = (busy() - b0) - (sum(cpu(p.pid) for p in mine) - m0) - (kids() - k0)
        if n and t.p:
            out["cpu_ms_per_1k" if "gbps" not in out else "cpu_s_per_gb"] = dc * 1e3 / n * (1000 if "gbps" not in out else 1)
            out |= {f"_cpu_{x}_share": round((cpu(p.pid) - side0[x]) / dc, 3) for x, p in t.p.items() if dc}
        out["foreign_cpu"] = round(foreign / dt, 3)
        if best is None or out["foreign_cpu"] < best["foreign_cpu"]:
            best = out
        if best["foreign_cpu"] < opt.max_foreign:
            break
    return best


def table(res, names):
    for k, runs in res.items():                 # medians of the undisturbed runs, where there are any
        res[k] = [r for r in runs if r.get("foreign_cpu", 0) < opt.max_foreign] or runs
    rows = []
    for w in W:
        for m in dict.fromkeys(m for n in names for r in res.get((w, n), []) for m in r):
            if m == "foreign_cpu" or m[0] == "_" or (m == "errors" and not any(r.get(m) for n in names for r in res.get((w, n), []))):
                continue
            vals = {n: statistics.median([r[m] for r in res[(w, n)] if m in r]) for n in names
                    if any(m in r for r in res.get((w, n), []))}
            cells = []
            for n in names:
                if n not in vals:
                    cells.append("-")
                    continue
                v, s = vals[n], ""
                for ref in ("direct", "envoy"):
                    if vals.get(ref) and n != ref:
                        s += f" {v / vals[ref]:.2f}{ref[0]}"
                cells.append(f"{v:.4g}{s}")
            rows.append([f"{w} {m}"] + cells)
    print("\n| " + " | ".join(["median (xd = of direct, xe = of Envoy)"] + names) + " |")
    print("|" + "---|" * (len(names) + 1))
    for r in rows:
        print("| " + " | ".join(r) + " |")


def main():
    os.makedirs(V["RUN"], exist_ok=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    atexit.register(cleanup)
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, lambda *_: sys.exit(1))
    if not os.path.exists(V["CERTS"] + "/b.pem"):
        sh(f"{HERE}/gencerts.sh {V['CERTS']}")
    setup_sandbox()
    targets = [Target(n, 21000 + 100 * i) for i, n in enumerate(opt.targets)]
    with open(V["RUN"] + "/bodies.conf", "w") as f:
        f.write('location = /ok { return 200 "ok"; }\n')
        f.write(f'location = /1k {{ return 200 "{"0123456789abcdef" * 64}"; }}\n')
        f.write(f'location = /10k {{ set $k "{"0123456789abcdef" * 64}"; return 200 "{"$k" * 10}"; }}\n')
    # One backend beside the mesh, one inside: the same program and bodies.
    for side, ip, h1, h2c, bulk_port in (("b", V["B_IP"], [V["BACK_H1"]], V["BACK_H2"], V["BACK_BULK"]),
                                         ("server", V["SERVER_IP"], [8080, 8082], 8081, 8083)):
        V["SIDE"] = side
        put("backend.conf", LISTEN_H1="".join(f"listen {ip}:{p} backlog=4096; " for p in h1),
            LISTEN_H2=f"listen {ip}:{h2c} http2 backlog=4096; ")
        os.rename(V["RUN"] + "/backend.conf", f"{V['RUN']}/backend-{side}.conf")
        backend.append(start(f"@NGINX@ -c @RUN@/backend-{side}.conf -e @RUN@/backend-{side}.err", side, opt.load_core, f"backend-{side}"))
        backend.append(start(f"@IPERF3@ -s -p {bulk_port}", side, opt.load_core, f"iperf3-{side}"))
    for t in targets:
        t.up()
    res = {}
    out = open(opt.out, "a") if opt.out else None
    for w in opt.workloads:
        for r in range(1 if w.startswith("mem") else opt.rounds):
            for t in targets:
                if t.port(W[w][0]) is None or (w.startswith("mem") and not t.p):
                    continue
                try:
                    m = measure(t, w)
                except Exception as e:                                     # keep the other rows
                    print(f"# {w} {t.name}: {e!r}", file=sys.stderr)
                    continue
                res.setdefault((w, t.name), []).append(m)
                line = json.dumps({"workload": w, "target": t.name, "round": r, "threads": opt.threads, "pin": opt.pin, **m})
                print("#", line, file=sys.stderr, flush=True)
                if out:
                    print(line, file=out, flush=True)
    for t in targets:
        if t.p:
            print(f"# {t.name}: peak RSS A+B {t.rss('VmHWM'):.0f} MB", file=sys.stderr)
    table(res, [t.name for t in targets])


ap = argparse.ArgumentParser(description=__doc__)
ap.add_argument("targets", nargs="+", help="names of targets/*.toml; put direct and envoy first for ratios")
ap.add_argument("-w", "--workloads", type=lambda s: s.split(","), default=list(W), help=",".join(W))
ap.add_argument("-d", "--duration", type=int, default=5)
ap.add_argument("-r", "--rounds", type=int, default=3)
ap.add_argument("-t", "--threads", type=int, default=1, help="worker threads of each proxy")
ap.add_argument("--weft", default=os.path.join(HERE, "../target/release/weft"), help="the weft binary")
ap.add_argument("--no-pin", dest="pin", action="store_false")
ap.add_argument("--proxy-core", default="0")
ap.add_argument("--load-core", default="1")
ap.add_argument("--max-foreign", type=float, default=0.25, help="repeat a run when others used this many cores, and leave it out of medians if others did not")
ap.add_argument("--retries", type=int, default=1)
ap.add_argument("--wait-quiet", type=float, default=10, help="before a run, wait so many seconds at most for others to be idle")
ap.add_argument("--run", default=os.environ.get("BENCH_RUN"), help="scratch folder (or BENCH_RUN)")
ap.add_argument("--out", help="append every run as a JSON line")
ap.add_argument("--table", help="run nothing: print the table of such a file")
opt = ap.parse_args()
if opt.table:
    saved = {}
    for line in open(opt.table):
        m = json.loads(line)
        k = m.pop("workload"), m.pop("target")
        for x in ("round", "threads", "pin"):
            m.pop(x)
        saved.setdefault(k, []).append(m)
    table(saved, opt.targets)
    sys.exit()
if not opt.run:
    ap.error("--run or BENCH_RUN is needed")
V = {"RUN": os.path.abspath(opt.run), "CERTS": os.path.abspath(opt.run) + "/certs", "THREADS": opt.threads,
     "BACK_H1": 20080, "BACK_H2": 20081, "BACK_BULK": 20090, "HERE": HERE}
backend = []
main()
