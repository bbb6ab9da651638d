//! The rules and links do in the kernel what they say, without root: this binary enters a user and a network
//! namespace of its own in `main`, before any thread. Where the kernel refuses that, it says so and fails.

#![allow(clippy::unwrap_used)] // a test: what is not there fails it

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use weft_netlink::link::{self, End, Mac, Route};
use weft_netlink::nft::{Chain, Direction, Hook, Match, Protocol, State, Table, Verdict, priority};
use weft_netlink::{namespace, sysctl};

type Test = fn(&Lab);

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    enter();
    let lab = Lab::new();
    let tests: &[(&str, Test)] = &[
        ("reaches_directly", reaches_directly),
        ("redirect_by_port", redirect_by_port),
        ("redirect_spares_a_mark", redirect_spares_a_mark),
        ("redirect_spares_a_user", redirect_spares_a_user),
        ("drop_and_negated_port", drop_and_negated_port),
        ("dnat", dnat),
        ("dnat_udp", dnat_udp),
        ("reset_and_unreachable", reset_and_unreachable),
        ("forwarded", forwarded),
        ("refusal_names_the_rule", refusal_names_the_rule),
        ("a_refused_batch_changes_nothing", a_refused_batch_changes_nothing),
        ("every_match_is_taken", every_match_is_taken),
        ("many_rules", many_rules),
    ];
    for (name, test) in tests {
        if filter.is_empty() || filter.iter().any(|f| name.contains(f.as_str())) {
            test(&lab);
            Table::delete("weft").unwrap();
            println!("test {name} ... ok");
        }
    }
}

/// New user and network namespace; the only user there is 0.
fn enter() {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    if let Err(e) = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
        eprintln!("the kernel refuses a user namespace ({e}): see user.max_user_namespaces and its like");
        std::process::exit(1);
    }
    std::fs::write("/proc/self/setgroups", "deny").unwrap();
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
}

/// This namespace (10.1.0.1, fd01::1) and another (10.1.0.2, fd01::2) behind a veth pair.
struct Lab {
    far: OwnedFd,
}

const NEAR: Mac = Mac([2, 0, 0, 0, 0, 1]);
const FAR: Mac = Mac([2, 0, 0, 0, 0, 2]);

impl Lab {
    fn new() -> Self {
        sysctl::quick_ipv6().unwrap();
        sysctl::forward().unwrap();
        link::set_up("lo").unwrap();
        let far = namespace::create().unwrap();
        link::add_veth(
            End {
                name: "near",
                mac: NEAR,
                namespace: None,
            },
            End {
                name: "far",
                mac: FAR,
                namespace: Some(far.as_fd()),
            },
            1500,
        )
        .unwrap();
        link::set_up("near").unwrap();
        link::add_address("lo", net("10.1.0.1/32")).unwrap();
        link::add_address("lo", net("fd01::1/128")).unwrap();
        for to in ["10.1.0.2/32", "fd01::2/128"] {
            let route = Route {
                destination: net(to),
                interface: Some("near"),
                via: None,
                source: None,
            };
            link::add_route(route).unwrap();
            link::add_neighbour("near", net(to).addr(), FAR).unwrap();
        }
        namespace::run(far.as_fd(), || {
            sysctl::quick_ipv6().unwrap();
            sysctl::low_ports_for_all().unwrap();
            link::set_up("lo").unwrap();
            link::set_up("far").unwrap();
            for (own, gateway, all) in [
                ("10.1.0.2/32", "169.254.1.1", "0.0.0.0/0"),
                ("fd01::2/128", "fe80::1", "::/0"),
            ] {
                link::add_address("far", net(own)).unwrap();
                link::add_address("far", net(own)).unwrap();
                let via: IpAddr = gateway.parse().unwrap();
                link::add_neighbour("far", via, NEAR).unwrap();
                let route = Route {
                    destination: net(all),
                    interface: Some("far"),
                    via: Some(via),
                    source: None,
                };
                link::add_route(route).unwrap();
            }
            link::wait_until_running("far").unwrap();
        })
        .unwrap();
        link::wait_until_running("near").unwrap();
        Self { far }
    }

    /// Listens in the far namespace.
    fn far_listener(&self, at: &str) -> Echo {
        namespace::run(self.far.as_fd(), || Echo::new(at)).unwrap()
    }

    /// Connects from the far namespace.
    fn far_asks(&self, to: &str) -> Option<String> {
        namespace::run(self.far.as_fd(), || ask(to)).unwrap()
    }
}

/// Answers each connection with its own name.
struct Echo {
    address: SocketAddr,
}

impl Echo {
    fn new(at: &str) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                stream.unwrap().write_all(address.to_string().as_bytes()).unwrap();
            }
        });
        Self { address }
    }

    fn name(&self) -> Option<String> {
        Some(self.address.to_string())
    }
}

/// What answers at this address, or nothing within the time that a dropped packet needs to be believed lost.
fn ask(to: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_millis(300)).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// The same from a socket with a mark.
fn ask_marked(to: &str, mark: u32) -> Option<String> {
    let address: SocketAddr = to.parse().unwrap();
    let kind = if address.is_ipv4() {
        nix::sys::socket::AddressFamily::Inet
    } else {
        nix::sys::socket::AddressFamily::Inet6
    };
    let socket = nix::sys::socket::socket(
        kind,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::empty(),
        None,
    )
    .unwrap();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Mark, &mark).unwrap();
    let target = nix::sys::socket::SockaddrStorage::from(address);
    use std::os::fd::AsRawFd;
    nix::sys::socket::connect(socket.as_raw_fd(), &target).ok()?;
    let mut answer = String::new();
    TcpStream::from(socket).read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A table with one chain of translation at output, filled by `fill`.
fn output_nat(fill: impl FnOnce(&mut Chain)) {
    let mut table = Table::new("weft");
    fill(table.chain(Chain::nat("output", Hook::Output, priority::DNAT)));
    table.replace().unwrap();
    show(&["chain output"]);
}

/// `nft` reads the same out of the kernel, where it is installed.
fn show(expected: &[&str]) {
    let Ok(out) = std::process::Command::new("/usr/sbin/nft")
        .args(["list", "ruleset"])
        .output()
    else {
        return;
    };
    let text = String::from_utf8_lossy(&out.stdout);
    if std::env::var_os("SHOW").is_some() {
        println!("{text}{}", String::from_utf8_lossy(&out.stderr));
    }
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

fn reaches_directly(lab: &Lab) {
    for (far, near) in [("10.1.0.2:0", "10.1.0.1:0"), ("[fd01::2]:0", "[fd01::1]:0")] {
        let far = lab.far_listener(far);
        assert_eq!(ask(&far.address.to_string()), far.name());
        let near = Echo::new(near);
        assert_eq!(lab.far_asks(&near.address.to_string()), near.name());
    }
}

fn redirect_by_port(_: &Lab) {
    let (v4, v6) = (Echo::new("127.0.0.1:15001"), Echo::new("[::1]:15001"));
    output_nat(|c| {
        c.rule([Match::port(Protocol::Tcp, 80)], Verdict::Redirect(15001))
            .comment("to the proxy")
            .counted();
    });
    show(&[
        "tcp dport 80",
        "redirect to :15001",
        "to the proxy",
        "counter packets",
    ]);
    assert_eq!(ask("10.1.0.2:80"), v4.name());
    assert_eq!(ask("[fd01::2]:80"), v6.name());
    assert_eq!(ask("10.1.0.2:81"), None);
}

fn redirect_spares_a_mark(lab: &Lab) {
    let proxy = Echo::new("127.0.0.1:15002");
    let far = lab.far_listener("10.1.0.2:0");
    output_nat(|c| {
        c.rule([Match::mark(1337)], Verdict::Return);
        c.rule([Match::protocol(Protocol::Tcp)], Verdict::Redirect(15002));
    });
    show(&["meta mark 0x00000539 return"]);
    assert_eq!(ask(&far.address.to_string()), proxy.name());
    assert_eq!(ask_marked(&far.address.to_string(), 1337), far.name());
}

fn redirect_spares_a_user(lab: &Lab) {
    let proxy = Echo::new("127.0.0.1:15003");
    let far = lab.far_listener("10.1.0.2:0");
    for (user, answers) in [(0, far.name()), (1337, proxy.name())] {
        output_nat(|c| {
            c.rule([Match::user(user)], Verdict::Return);
            c.rule([Match::protocol(Protocol::Tcp)], Verdict::Redirect(15003));
        });
        assert_eq!(ask(&far.address.to_string()), answers, "user {user}");
    }
    output_nat(|c| {
        c.rule(
            [Match::protocol(Protocol::Tcp), !Match::group(0)],
            Verdict::Redirect(15003),
        );
    });
    assert_eq!(ask(&far.address.to_string()), far.name());
}

fn drop_and_negated_port(lab: &Lab) {
    let (a, b) = (lab.far_listener("[fd01::2]:0"), lab.far_listener("[fd01::2]:0"));
    let mut table = Table::new("weft");
    let chain = table.chain(Chain::filter("out", Hook::Output, priority::FILTER));
    let matches = [
        Match::destination(net("fd01::/64")),
        !Match::port(Protocol::Tcp, a.address.port()),
    ];
    chain.rule(matches, Verdict::Drop);
    table.replace().unwrap();
    assert_eq!(ask(&a.address.to_string()), a.name());
    assert_eq!(ask(&b.address.to_string()), None);
    table.chains[0].rules.clear();
    table.refill().unwrap();
    assert_eq!(ask(&b.address.to_string()), b.name());
}

fn dnat(lab: &Lab) {
    let (a, b) = (lab.far_listener("10.1.0.2:0"), lab.far_listener("10.1.0.2:0"));
    let c = lab.far_listener("[fd01::2]:0");
    output_nat(|chain| {
        let service = |net: &str| [Match::destination(self::net(net)), Match::port(Protocol::Tcp, 80)];
        let mut first = service("10.96.0.7/32").to_vec();
        first.push(Match::one_in(2));
        chain.rule(first, Verdict::Dnat(a.address));
        chain.rule(service("10.96.0.7/32"), Verdict::Dnat(b.address));
        chain.rule(service("fd96::7/128"), Verdict::Dnat(c.address));
    });
    let all: [IpNet; 2] = [net("10.96.0.0/16"), net("fd96::/112")];
    for destination in all {
        link::add_route(Route {
            destination,
            interface: Some("near"),
            via: None,
            source: None,
        })
        .unwrap();
    }
    let answers: Vec<_> = (0..40).map(|_| ask("10.96.0.7:80")).collect();
    assert!(
        answers.contains(&a.name()) && answers.contains(&b.name()),
        "{answers:?}"
    );
    assert!(
        answers.iter().all(|x| *x == a.name() || *x == b.name()),
        "{answers:?}"
    );
    assert_eq!(ask("[fd96::7]:80"), c.name());
}

fn dnat_udp(_: &Lab) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    output_nat(|c| {
        let to = server.local_addr().unwrap();
        c.rule(
            [
                Match::destination(net("10.1.0.1/32")),
                Match::port(Protocol::Udp, 53),
            ],
            Verdict::Dnat(to),
        );
    });
    let client = UdpSocket::bind("10.1.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.send_to(b"who", "10.1.0.1:53").unwrap();
    let mut buf = [0; 16];
    let (n, from) = server.recv_from(&mut buf).unwrap();
    server.send_to(&buf[..n], from).unwrap();
    let (n, from) = client.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..n], from), (&b"who"[..], "10.1.0.1:53".parse().unwrap()));
}

fn reset_and_unreachable(_: &Lab) {
    let mut table = Table::new("weft");
    let chain = table.chain(Chain::filter("out", Hook::Output, priority::FILTER));
    chain.rule([Match::port(Protocol::Tcp, 7)], Verdict::Reset);
    chain.rule([Match::port(Protocol::Udp, 7)], Verdict::Unreachable);
    table.replace().unwrap();
    show(&["reject with tcp reset"]);
    for to in ["10.1.0.2:7", "[fd01::2]:7"] {
        let error = TcpStream::connect(to).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
}

fn forwarded(lab: &Lab) {
    let far = lab.far_listener("10.1.0.2:0");
    let near = Echo::new("10.1.0.1:0");
    let mut table = Table::new("weft");
    let chain = table.chain(Chain::filter("in", Hook::Input, priority::FILTER));
    chain.rule(
        [Match::state(State::ESTABLISHED.or(State::RELATED))],
        Verdict::Accept,
    );
    chain.rule([Match::direction(Direction::Reply)], Verdict::Accept);
    chain.rule(
        [Match::input("nea*"), Match::source(net("10.1.0.0/24"))],
        Verdict::Drop,
    );
    table.replace().unwrap();
    show(&[
        "ct state established,related accept",
        "ct direction reply accept",
        "iifname \"nea*\"",
    ]);
    assert_eq!(lab.far_asks(&near.address.to_string()), None);
    assert_eq!(ask(&far.address.to_string()), far.name());
}

fn refusal_names_the_rule(_: &Lab) {
    let mut table = Table::new("weft");
    let chain = table.chain(Chain::nat("output", Hook::Output, priority::DNAT));
    chain.rule([], Verdict::Accept);
    chain.rule([], Verdict::Jump("nowhere".into())).comment("lost");
    let error = table.replace().unwrap_err();
    assert_eq!(error.errno(), Some(nix::libc::ENOENT));
    assert!(
        error
            .to_string()
            .contains("rule 2 of chain output of table weft, \"lost\""),
        "{error}"
    );
    let long = Match::input("sixteen bytes is");
    table.chains[0].rules.clear();
    table.chains[0].rule([long], Verdict::Accept);
    assert!(table.replace().unwrap_err().to_string().contains("1 to 15 bytes"));
}

fn a_refused_batch_changes_nothing(_: &Lab) {
    let echo = Echo::new("127.0.0.1:15004");
    output_nat(|c| {
        c.rule([Match::port(Protocol::Tcp, 80)], Verdict::Redirect(15004));
    });
    let mut table = Table::new("weft");
    table
        .chain(Chain::nat("output", Hook::Output, priority::DNAT))
        .rule([], Verdict::Jump("nowhere".into()));
    assert!(table.replace().is_err() && table.refill().is_err());
    assert_eq!(ask("10.1.0.2:80"), echo.name());
}

fn every_match_is_taken(_: &Lab) {
    let mut table = Table::new("weft");
    let all = [
        Match::v4(),
        Match::protocol(Protocol::Udp),
        Match::source(net("10.0.0.0/8")),
        Match::destination(net("0.0.0.0/0")),
        Match::source(net("fd00::/8")),
        Match::destination(net("fd00::1/128")),
        Match::port(Protocol::Tcp, 1),
        Match::ports(Protocol::Udp, 1..=9),
        Match::source_ports(Protocol::Tcp, 1..=9),
        Match::mark(1),
        Match::output("lo"),
        Match::local_destination(),
        Match::state(State::NEW.or(State::INVALID)),
        Match::direction(Direction::Original),
        Match::one_in(3),
    ];
    let chain = table.chain(Chain::filter("post", Hook::Postrouting, priority::MANGLE));
    for m in all {
        chain.rule([m.clone()], Verdict::Accept).counted();
        chain.rule([!m], Verdict::Mark(7));
    }
    table.chain(Chain::plain("other")).rule([], Verdict::Return);
    table
        .chain(Chain::nat("snat", Hook::Postrouting, priority::SNAT))
        .rule([], Verdict::Masquerade);
    table.chains[0].rule([], Verdict::Jump("other".into()));
    table.replace().unwrap();
    show(&[
        "ip saddr 10.0.0.0/8",
        "ip6 daddr fd00::1",
        "fib daddr type local",
        "numgen random mod 3",
        "masquerade",
    ]);
}

fn many_rules(_: &Lab) {
    let mut table = Table::new("weft");
    let chain = table.chain(Chain::nat("output", Hook::Output, priority::DNAT));
    for i in 0..600u16 {
        let to = SocketAddr::new("10.1.0.2".parse().unwrap(), i);
        chain.rule(
            [
                Match::destination(net("10.96.0.9/32")),
                Match::port(Protocol::Tcp, i),
            ],
            Verdict::Dnat(to),
        );
    }
    table.replace().unwrap();
    table.refill().unwrap();
}
