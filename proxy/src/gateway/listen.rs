//! The ports of one thread, as the view says.
//!
//! Enters: views. Leaves: connections, each in a task of its own. Never: an end of the connections of a port because another one comes
//! or goes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Instant;

use crate::accept::{Dropped, Listener};
use crate::context::Worker;
use crate::worker::both;

/// How long until a port that couldn't be opened is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Opens and closes ports for as long as the thread lives.
pub async fn follow(worker: Rc<Worker>) {
    let mut open: BTreeMap<u16, Vec<AbortHandle>> = BTreeMap::new();
    let mut failed: BTreeSet<u16> = BTreeSet::new();
    let mut watch = worker.watch();
    loop {
        let wanted = wanted(&worker);
        let doors = &worker.shared.doors;
        open.retain(|port, tasks| {
            let keep = wanted.contains(port);
            if !keep {
                tasks.iter().for_each(AbortHandle::abort);
                doors.closed(*port);
                tracing::info!(port, "port closed");
            }
            keep
        });
        failed.retain(|port| {
            wanted.contains(port) || {
                doors.given_up(*port);
                false
            }
        });
        for port in wanted {
            if open.contains_key(&port) {
                continue;
            }
            match bind(&worker, port) {
                Ok(tasks) => {
                    open.insert(port, tasks);
                    failed.remove(&port);
                    doors.opened(port);
                    tracing::info!(port, "port open");
                }
                Err(error) => {
                    failed.insert(port);
                    worker.shared.telemetry.own().refused("gateway-port");
                    if doors.failed(port, &error) {
                        tracing::error!(
                            port,
                            %error,
                            "a port can't be opened, and is tried again every second; change the Service's targetPort or stop what uses it"
                        );
                    }
                }
            }
        }
        let again = (!failed.is_empty()).then(|| Instant::now() + AGAIN);
        poll_fn(|cx| {
            let mut changed = false;
            while watch.watcher.poll_changed(cx).is_ready() {
                changed = true;
            }
            match (changed, again) {
                (true, _) => Poll::Ready(()),
                (false, Some(again)) => watch.alarm.poll_at(cx, again),
                (false, None) => Poll::Pending,
            }
        })
        .await;
    }
}

fn wanted(worker: &Worker) -> BTreeSet<u16> {
    let view = worker.view();
    let ports = view.gateway.iter().flat_map(|table| table.ports());
    ports.map(|port| port.bind).collect()
}

fn bind(worker: &Rc<Worker>, port: u16) -> io::Result<Vec<AbortHandle>> {
    let listeners = both(port)?;
    let tasks = listeners.into_iter().map(|listener| {
        let worker = worker.clone();
        spawn_local(accept(worker, listener, port)).abort_handle()
    });
    Ok(tasks.collect())
}

async fn accept(worker: Rc<Worker>, listener: Listener, port: u16) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => drop(spawn_local(super::serve(worker.clone(), socket, peer, port))),
            Err(Dropped::Accept(error)) => worker.shared.telemetry.failed("accept", &error),
            Err(Dropped::NotIntercepted(_)) => {}
        }
    }
}
