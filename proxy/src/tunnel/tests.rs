mod pieces;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream, copy, duplex, split};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::Instant;

use super::frame::{Event, write};
use super::*;

/// Runs both ends' tasks and what is tested on one thread, with a clock that moves when all wait.
fn local<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    // An hour of a clock that runs ahead whenever all wait.
    let bound = Duration::from_secs(3600);
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(bound, test()).await.expect("it ends")
    });
}

struct Pair {
    opener: Opener,
    arrivals: Arrivals,
    client: JoinHandle<Ended>,
    server: JoinHandle<Ended>,
}

fn pair(size: usize) -> Pair {
    let (one, other) = duplex(size);
    let (opener, driver) = client(BufReader::with_capacity(size, one));
    let client = spawn_local(driver);
    let (arrivals, driver) = server(BufReader::with_capacity(size, other));
    Pair {
        opener,
        arrivals,
        client,
        server: spawn_local(driver),
    }
}

/// Answers every stream with what came, until it ends.
fn echo(mut arrivals: Arrivals) -> JoinHandle<()> {
    spawn_local(async move {
        while let Some(arrival) = arrivals.next().await {
            spawn_local(async move {
                let (mut from, mut to) = split(arrival.accept());
                let _ = copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    })
}

/// An end that is driven by hand.
struct Raw(DuplexStream);

impl Raw {
    async fn send(&mut self, events: &[Event<'_>]) {
        let mut out = Vec::new();
        events.iter().for_each(|event| write(&mut out, *event));
        // Who ends the tunnel doesn't read the rest.
        let _ = self.0.write_all(&out).await;
    }

    async fn expect(&mut self, events: &[Event<'_>]) {
        let mut wanted = Vec::new();
        events.iter().for_each(|event| write(&mut wanted, *event));
        let mut got = vec![0; wanted.len()];
        self.0.read_exact(&mut got).await.unwrap();
        assert_eq!(got, wanted, "expected {events:?}");
    }
}

fn raw_client() -> (Raw, Arrivals, JoinHandle<Ended>) {
    let (one, other) = duplex(1 << 20);
    let (arrivals, driver) = server(BufReader::new(other));
    (Raw(one), arrivals, spawn_local(driver))
}

fn raw_server() -> (Raw, Opener, JoinHandle<Ended>) {
    let (one, other) = duplex(1 << 20);
    let (opener, driver) = client(BufReader::new(other));
    (Raw(one), opener, spawn_local(driver))
}

async fn turn_over() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_thousand_streams_at_once() {
    local(|| async {
        let pair = pair(64 * 1024);
        let server = echo(pair.arrivals);
        let mut tasks = Vec::new();
        for number in 0..1_000_usize {
            let opening = pair.opener.open();
            tasks.push(spawn_local(async move {
                let stream = opening.await.unwrap();
                let sent: Vec<u8> = (0..number * 71).map(|at| (at + number) as u8).collect();
                let (mut from, mut to) = split(stream);
                let (mut got, copy) = (Vec::new(), sent.clone());
                let send = async {
                    to.write_all(&copy).await.unwrap();
                    to.shutdown().await.unwrap();
                };
                let (_, read) = tokio::join!(send, from.read_to_end(&mut got));
                read.unwrap();
                assert!(got == sent, "stream {number}");
            }));
        }
        assert_eq!(pair.opener.streams(), 1_000);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(pair.opener.streams(), 0);
        drop(pair.opener);
        assert!(matches!(pair.client.await.unwrap(), Ended::Closed));
        assert!(matches!(pair.server.await.unwrap(), Ended::Closed));
        server.await.unwrap();
    });
}

#[test]
fn each_direction_ends_by_itself() {
    local(|| async {
        for server_first in [false, true] {
            let mut pair = pair(4096);
            let opening = pair.opener.open();
            let arrival = pair.arrivals.next().await.unwrap();
            let mut ends = [Some(arrival.accept()), Some(opening.await.unwrap())];
            if !server_first {
                ends.reverse();
            }
            let [mut first, mut second] = ends.map(Option::unwrap);
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            assert_eq!(
                first.write(b"x").await.unwrap_err().kind(),
                io::ErrorKind::BrokenPipe
            );
            let mut text = String::new();
            second.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "question");
            // The other direction is still open.
            second.write_all(b"answer").await.unwrap();
            second.shutdown().await.unwrap();
            drop(second);
            text.clear();
            first.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "answer");
        }
    });
}

#[test]
fn a_slow_reader_keeps_nobody_waiting_and_no_memory() {
    local(|| async {
        let mut pair = pair(16 * 1024);
        let opening = pair.opener.open();
        let slow = pair.arrivals.next().await.unwrap().accept();
        let mut flood = opening.await.unwrap();
        let accepted = poll_fn(|cx| {
            let mut total = 0;
            while let Poll::Ready(count) = Pin::new(&mut flood).poll_write(cx, &[7; 5000]) {
                total += count.unwrap();
            }
            Poll::Ready(total)
        })
        .await;
        assert_eq!(accepted, window::FIRST as usize);
        let server = echo(pair.arrivals);
        for _ in 0..20 {
            let mut stream = pair.opener.open().await.unwrap();
            stream.write_all(b"quick").await.unwrap();
            let mut got = [0; 5];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"quick");
        }
        // What waits for the slow one is there when it reads, and only then does more come.
        let mut slow = slow;
        let mut got = vec![0; window::FIRST as usize];
        slow.read_exact(&mut got).await.unwrap();
        flood.write_all(&[7; 5000]).await.unwrap();
        drop(flood);
        drop(slow);
        drop(pair.opener);
        server.await.unwrap();
    });
}

#[test]
fn a_bulk_stream_shares_with_others() {
    local(|| async {
        let pair = pair(64 * 1024);
        let server = echo(pair.arrivals);
        let (bulk_from, mut bulk_to) = split(pair.opener.open().await.unwrap());
        let bulk = spawn_local(async move {
            let block = vec![1; 256 * 1024];
            for _ in 0..200 {
                bulk_to.write_all(&block).await.unwrap();
            }
            bulk_to.shutdown().await.unwrap();
        });
        let sink = spawn_local(async move {
            let mut from = bulk_from;
            copy(&mut from, &mut tokio::io::sink()).await.unwrap()
        });
        let (mut rounds, mut stream) = (0, pair.opener.open().await.unwrap());
        while !bulk.is_finished() {
            stream.write_all(b"ping").await.unwrap();
            let mut got = [0; 4];
            stream.read_exact(&mut got).await.unwrap();
            rounds += 1;
        }
        assert_eq!(sink.await.unwrap(), 200 * 256 * 1024);
        assert!(rounds > 50, "{rounds} round trips beside the bulk");
        drop(stream);
        drop(pair.opener);
        server.await.unwrap();
    });
}

#[test]
fn nothing_is_sent_before_the_application_is_connected() {
    local(|| async {
        let (mut peer, opener, driver) = raw_server();
        let (first, second) = (opener.open(), opener.open());
        peer.expect(&[Event::Open(1), Event::Open(2)]).await;
        peer.send(&[Event::Refused(2, Refusal::Unreachable), Event::Opened(1)])
            .await;
        assert_eq!(
            second.await.unwrap_err(),
            NotOpened::Refused(Refusal::Unreachable)
        );
        let mut stream = first.await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        peer.expect(&[Event::DataBegins(1, 5), Event::Data(1, b"hello")])
            .await;
        let third = opener.open();
        peer.expect(&[Event::Open(3)]).await;
        drop(third);
        peer.expect(&[Event::Reset(3, Reset::Broken)]).await;
        // GOAWAY: what is open goes on, and nothing new begins.
        peer.send(&[Event::GoAway, Event::DataBegins(1, 2), Event::Data(1, b"ok")])
            .await;
        let mut got = [0; 2];
        stream.read_exact(&mut got).await.unwrap();
        assert!(opener.is_closed());
        assert_eq!(
            opener.open().await.unwrap_err(),
            NotOpened::Refused(Refusal::Draining)
        );
        drop(stream);
        peer.expect(&[Event::Reset(1, Reset::Broken)]).await;
        assert!(matches!(driver.await.unwrap(), Ended::Closed));
    });
}

#[test]
fn a_tunnel_that_breaks_shows_as_a_reset_never_as_an_end() {
    local(|| async {
        let (mut peer, opener, driver) = raw_server();
        let (open, opening) = (opener.open(), opener.open());
        peer.send(&[Event::Opened(1), Event::DataBegins(1, 3), Event::Data(1, b"abc")])
            .await;
        let mut stream = open.await.unwrap();
        drop(peer);
        assert!(matches!(driver.await.unwrap(), Ended::Broken(_)));
        assert_eq!(opening.await.unwrap_err(), NotOpened::Gone);
        let mut got = Vec::new();
        let error = stream.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(
            (got.as_slice(), error.kind()),
            (&b"abc"[..], io::ErrorKind::ConnectionReset)
        );
        assert!(stream.shutdown().await.is_err());
        assert_eq!(opener.open().await.unwrap_err(), NotOpened::Gone);
    });
}

#[test]
fn a_silent_peer_is_noticed_within_a_second() {
    local(|| async {
        let (mut peer, opener, driver) = raw_server();
        let opening = opener.open();
        peer.send(&[Event::Opened(1)]).await;
        let stream = opening.await.unwrap();
        // It is there as long as it answers, however long nothing else happens.
        let mut asked = 0;
        let begun = Instant::now();
        let expected = [Event::Open(1), Event::Ping(0)];
        peer.expect(&expected[..1]).await;
        while begun.elapsed() < Duration::from_secs(120) {
            peer.expect(&expected[1..]).await;
            peer.send(&[Event::Pong(0)]).await;
            asked += 1;
        }
        assert!(asked < 40, "{asked} questions");
        let lost = Instant::now();
        let opening = opener.open();
        assert_eq!(opening.await.unwrap_err(), NotOpened::Silent);
        assert!(lost.elapsed() < Duration::from_secs(1), "{:?}", lost.elapsed());
        assert!(matches!(driver.await.unwrap(), Ended::Silent));
        let mut stream = stream;
        assert_eq!(
            stream.read(&mut [0; 1]).await.unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
    });
}

#[test]
fn an_idle_tunnel_closes() {
    local(|| async {
        let pair = pair(4096);
        let begun = Instant::now();
        let server = echo(pair.arrivals);
        assert!(matches!(pair.client.await.unwrap(), Ended::Closed));
        assert!(begun.elapsed() >= Duration::from_secs(60));
        assert!(matches!(pair.server.await.unwrap(), Ended::Closed));
        assert!(pair.opener.is_closed());
        server.await.unwrap();
    });
}

#[test]
fn going_away_ends_with_the_last_stream() {
    local(|| async {
        let mut pair = pair(4096);
        let opening = pair.opener.open();
        let mut there = pair.arrivals.next().await.unwrap().accept();
        let mut here = opening.await.unwrap();
        pair.arrivals.go_away();
        turn_over().await;
        assert!(pair.opener.is_closed() && !pair.client.is_finished());
        here.write_all(b"still").await.unwrap();
        here.shutdown().await.unwrap();
        let mut text = String::new();
        there.read_to_string(&mut text).await.unwrap();
        there.shutdown().await.unwrap();
        here.read_to_string(&mut text).await.unwrap();
        drop((here, there));
        assert_eq!(text, "still");
        assert!(matches!(pair.client.await.unwrap(), Ended::Closed));
        assert!(matches!(pair.server.await.unwrap(), Ended::Closed));
        assert!(pair.arrivals.next().await.is_none());
    });
}

#[test]
fn too_many_streams_are_refused_and_those_given_up_are_forgotten() {
    local(|| async {
        let (mut peer, mut arrivals, driver) = raw_client();
        let most = MOST_STREAMS as u32;
        let opens: Vec<_> = (1..=most + 1).map(Event::Open).collect();
        peer.send(&opens).await;
        peer.expect(&[Event::Refused(most + 1, Refusal::Busy)]).await;
        let held = arrivals.next().await.unwrap();
        peer.send(&[Event::Reset(1, Reset::Broken), Event::Reset(2, Reset::Broken)])
            .await;
        held.given_up().await;
        assert_eq!(arrivals.streams(), MOST_STREAMS - 1);
        let mut late = held.accept();
        assert!(late.write(b"x").await.is_err());
        drop(late);
        assert_eq!(arrivals.streams(), MOST_STREAMS - 2);
        arrivals.next().await.unwrap().refuse(Refusal::Denied);
        peer.expect(&[Event::Refused(3, Refusal::Denied)]).await;
        drop(arrivals.next().await);
        peer.expect(&[Event::Refused(4, Refusal::Unreachable)]).await;
        driver.abort();
    });
}

#[test]
fn what_breaks_the_rules_ends_the_tunnel() {
    let data = |id, length| Event::DataBegins(id, length);
    let flood = vec![Event::Ping(1); 5_000];
    let given_up: Vec<_> = (1..=1_100)
        .flat_map(|id| [Event::Open(id), Event::Reset(id, Reset::Broken)])
        .collect();
    let whole = [0; frame::MOST_DATA];
    let beyond: Vec<_> = std::iter::once(Event::Open(1))
        .chain((0..3).flat_map(|_| [Event::DataBegins(1, whole.len()), Event::Data(1, &whole)]))
        .collect();
    let cases: [(&str, &[Event<'_>], &str); 11] = [
        ("numbers fall", &[Event::Open(2), Event::Open(1)], "out of place"),
        ("data of no stream", &[data(1, 1)], "out of place"),
        (
            "answers from the wrong side",
            &[Event::Open(1), Event::Opened(1)],
            "out of place",
        ),
        ("goaway from the wrong side", &[Event::GoAway], "out of place"),
        (
            "reset of no stream",
            &[Event::Reset(1, Reset::Broken)],
            "out of place",
        ),
        (
            "two ends",
            &[Event::Open(1), Event::Fin(1), Event::Fin(1)],
            "out of place",
        ),
        (
            "data after the end",
            &[Event::Open(1), Event::Fin(1), data(1, 1)],
            "out of place",
        ),
        (
            "endless credit",
            &[Event::Open(1), Event::Window(1, u32::MAX)],
            "window",
        ),
        ("more than the window", &beyond, "window"),
        ("pings", &flood, "do nothing"),
        ("streams given up", &given_up, "gave up"),
    ];
    for (name, events, reason) in cases {
        local(|| async {
            let (mut peer, mut arrivals, driver) = raw_client();
            let mut streams = Vec::new();
            for (at, event) in events.iter().enumerate() {
                peer.send(&[*event]).await;
                if at == 0 && matches!(event, Event::Open(_)) && name != "streams given up" {
                    streams.push(arrivals.next().await.unwrap().accept());
                }
            }
            let ended = driver.await.unwrap();
            assert!(matches!(ended, Ended::Violation(_)), "{name}: {ended}");
            assert!(ended.to_string().contains(reason), "{name}: {ended}");
            for mut stream in streams {
                assert!(stream.write(b"x").await.is_err(), "{name}");
            }
        });
    }
    local(|| async {
        let (mut peer, _arrivals, driver) = raw_client();
        peer.0.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(matches!(
            driver.await.unwrap(),
            Ended::Violation(Violation::Malformed(_))
        ));
    });
}
