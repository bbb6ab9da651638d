//! TCP connections of one caller, through one tunnel, to the application.
//!
//! Enters: a tunnel whose caller is known. Leaves: each of its streams, permitted for itself, as a connection to the
//! application. Never: a stream that is open before the application is, or that outlives the policy that permitted it.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::{Called, opaque};
use crate::context::Worker;
use crate::drain::Stage;
use crate::policy;
use crate::stream::Stream;
use crate::tunnel::{self, Arrival, Ended, Refusal, pool};
use crate::upstream::app;
use crate::upstream::connect::NoConnection;

/// How long a tunnel that begins while the sidecar drains takes streams: its caller hasn't heard yet.
const LATE: Duration = Duration::from_secs(1);

/// Serves a tunnel to its end.
pub async fn serve(worker: &Rc<Worker>, tls: Box<TlsStream<TcpStream>>, called: Called) {
    pool::tune(tls.get_ref().0);
    let (mut arrivals, driver) = tunnel::server(tls);
    let driver = spawn_local(driver);
    let called = Rc::new(called);
    let mut watch = worker.watch();
    let late = sleep(LATE);
    tokio::pin!(late);
    let mut is_late = worker.stage() >= Stage::Draining;
    loop {
        tokio::select! {
            arrival = arrivals.next() => match arrival {
                Some(arrival) => drop(spawn_local(stream(worker.clone(), called.clone(), arrival))),
                None => break,
            },
            () = &mut late, if is_late => {
                is_late = false;
                arrivals.go_away();
            }
            () = watch.watcher.changed() => match worker.stage() {
                Stage::Running => {}
                Stage::Draining => arrivals.go_away(),
                // The streams hear of it too, and say so; the driver ends with the thread.
                Stage::Ended => return,
            },
        }
    }
    match driver.await {
        Ok(Ended::Violation(violation)) => {
            let telemetry = &worker.shared.telemetry;
            telemetry.refused(violation.reason(), called.caller.address, &violation);
        }
        Ok(ended) => tracing::debug!(caller = %called.caller.address, %ended, "a tunnel ended"),
        Err(error) => tracing::error!(caller = %called.caller.address, %error, "a tunnel failed"),
    }
}

/// One TCP connection.
async fn stream(worker: Rc<Worker>, called: Rc<Called>, arrival: Arrival) {
    let open = &worker.shared.telemetry.own().inbound_connections;
    open.fetch_add(1, Relaxed);
    served(&worker, &called, arrival).await;
    open.fetch_sub(1, Relaxed);
}

async fn served(worker: &Worker, called: &Called, arrival: Arrival) {
    let mut line = opaque::line(called);
    // From before the permit, so that no change of policy is missed.
    let watch = worker.watch();
    let Ok(permit) = policy::connection(worker, &called.caller) else {
        arrival.refuse(Refusal::Denied);
        line.flags = "UAEX";
        return line.write(&worker.shared.telemetry);
    };
    let app = tokio::select! {
        biased;
        app = Box::pin(app::connect(worker, &permit, called.original)) => app,
        () = arrival.given_up() => return,
    };
    match app {
        Ok(app) => opaque::forward(worker, called, Stream::Tunnel(arrival.accept()), app, watch, line).await,
        Err(error) => {
            tracing::debug!(%error, "the application takes no connection");
            arrival.refuse(match error {
                NoConnection::Refused(_) => Refusal::Unreachable,
                _ => Refusal::Slow,
            });
            line.flags = "UF";
            line.write(&worker.shared.telemetry);
        }
    }
}
