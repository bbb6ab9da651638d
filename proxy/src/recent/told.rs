//! What is remembered of a request, as an explanation.
//!
//! Enters: a request that ended. Leaves: steps, as if it were explained, and where it went. Never: what holds now in the place of what held
//! then: policies are those under which it was decided.

use serde::{Deserialize, Serialize};
use weft_engine::explain::{Considered, End, Explanation, Stage, Step, policy};
use weft_engine::policy::{Operation, Peer};
use weft_engine::{Reason, Tick};
use weft_proto::model::{Origin, ServiceName};

use super::{Attempt, Entered, Remembered, Side};
use crate::explain::listener;
use crate::failure::Failure;
use crate::upstream::call::Place;

/// A request that was served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// `outbound`: the caller's side; `gateway`: on the way in from outside the mesh; `inbound`: the application's side.
    pub direction: String,
    /// Milliseconds since it ended.
    pub ago_millis: u64,
    /// Method.
    pub method: String,
    /// Host as asked.
    pub authority: String,
    /// Path without query; perhaps only its begin.
    pub path: String,
    /// Status; 0: there was none.
    pub code: u16,
    /// Envoy's response flags.
    pub flags: String,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// What was decided.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// The pod that it went to last: namespace and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<(String, String)>,
}

/// Said of what can't be told for certain.
const CUT: &str = "the request's texts were too long to keep: this is decided by their begin";

pub(super) fn served(one: &Remembered, now: Tick) -> Served {
    let mut served = Served {
        direction: String::new(),
        ago_millis: now.since(one.at) / 1_000,
        method: one.part(1).to_owned(),
        authority: one.part(2).to_owned(),
        path: one.part(3).to_owned(),
        code: one.code,
        flags: one.flags.to_owned(),
        micros: u64::try_from(one.duration.as_micros()).unwrap_or(u64::MAX),
        explanation: Explanation::default(),
        next: None,
    };
    match &one.side {
        Side::Outbound { .. } => outbound(one, &mut served),
        Side::Inbound { .. } => inbound(one, &mut served),
    }
    served
}

fn outbound(one: &Remembered, served: &mut Served) {
    served.direction = "outbound".to_owned();
    let Side::Outbound {
        entered,
        called,
        rule,
        backend,
        tries,
    } = &one.side
    else {
        return;
    };
    let steps = &mut served.explanation.steps;
    match entered {
        Some(entered) => {
            served.direction = "gateway".to_owned();
            let refused = self::entered(one, entered, steps);
            if let Some(end) = refused.filter(|_| matches!(one.flags, "UAEX" | "NR")) {
                served.explanation.end = end;
                return;
            }
        }
        None => steps.push(called_service(called.as_ref())),
    }
    if let Some((table, index)) = rule
        && let Some(rule) = table.rules().get(*index)
    {
        steps.push(Step::new(Stage::Route, rule.origin.to_string()).because(&rule.origin));
    }
    if let Some((service, port, subset)) = backend {
        let subset = subset
            .as_ref()
            .map(|subset| format!(" subset {subset}"))
            .unwrap_or_default();
        steps.push(Step::new(Stage::Backend, format!("{service}:{port}{subset}")));
    }
    let last = tries.last();
    let what = match last {
        Some(last) => format!("{} ({})", last.place.address(), pod(&last.place)),
        None => "none".to_owned(),
    };
    let options = tries
        .iter()
        .enumerate()
        .map(|(index, one)| attempt(one, index + 1 == tries.len()));
    steps.push(Step::new(Stage::Endpoint, what).with(options));
    if let Some(last) = last {
        steps.push(match last.place.identity() {
            Some(identity) => Step::new(Stage::Tls, identity.to_string()),
            None => Step::new(Stage::Tls, "none: plain text"),
        });
        let workload = last.place.workload().filter(|workload| !workload.pod.is_empty());
        served.next = workload.map(|workload| (workload.namespace.to_string(), workload.pod.to_string()));
    }
    served.explanation.end = match one.flags {
        "-" if served.next.is_some() => End::Reaches {
            what: format!(
                "{}, which answered {}",
                last.map_or(String::new(), |last| pod(&last.place)),
                one.code
            ),
        },
        "-" if tries.is_empty() => End::Answered {
            status: one.code,
            why: "as its rule says".to_owned(),
            because: rule
                .as_ref()
                .and_then(|(table, index)| Some(table.rules().get(*index)?.origin.clone())),
        },
        "-" => End::Leaves {
            what: format!("answered {}", one.code),
        },
        flags => End::Refused {
            stage: if tries.is_empty() {
                Stage::Route
            } else {
                Stage::Endpoint
            },
            status: (one.code > 0).then_some(one.code),
            why: format!("response flag {flags}: {}", meaning(flags)),
            because: None,
            remedies: Vec::new(),
        },
    };
}

fn called_service(called: Option<&(ServiceName, u16)>) -> Step {
    match called {
        Some((service, port)) => Step::new(Stage::Name, format!("Service {service}, port {port}"))
            .because(&Origin::object("Service", &service.namespace, &service.name)),
        None => Step::new(Stage::Name, "no Service's address"),
    }
}

/// What a gateway decided before any rule; the end, if there was one.
fn entered(one: &Remembered, entered: &Entered, steps: &mut Vec<Step>) -> Option<End> {
    let arrival = &entered.arrival;
    let (host, port) = (one.part(2), arrival.bind());
    let peer = Peer {
        identity: None,
        address: one.caller.ip(),
    };
    let operation = Operation {
        method: one.part(1),
        path: one.part(3),
        host,
    };
    if let Some(site) = arrival.own() {
        let listener = &site.listener;
        steps.push(Step::new(Stage::Listener, listener.origin.to_string()).because(&listener.origin));
    }
    let (mut step, denied) = policy::decide(&entered.policies, &peer, port, Some(&operation));
    if one.cut {
        step = step.note(CUT);
    }
    steps.push(step);
    match denied {
        Some(end) => Some(end),
        None => listener(arrival, host, steps).err().map(|end| *end),
    }
}

fn attempt(one: &Attempt, last: bool) -> Considered {
    let reason = match one.reason {
        Some(Reason::Balanced) => "picked by the balancer",
        Some(Reason::Trial) => "on trial after an ejection",
        Some(Reason::Check) => "a check of its silence",
        Some(Reason::Panic) => "nothing healthy was left",
        Some(Reason::Draining) => "nothing was ready",
        Some(_) => "picked",
        None => "there was no choice",
    };
    let outcome = match one.outcome {
        "" if last => "answered",
        "" => "given up",
        outcome => outcome,
    };
    Considered {
        chosen: last,
        ..Considered::rejected(one.place.address().to_string(), format!("{outcome}; {reason}"))
    }
    .fact("pod", pod(&one.place))
    .fact("after", format!("{:.1} ms", one.micros as f64 / 1e3))
}

fn pod(place: &Place) -> String {
    match place.workload().filter(|workload| !workload.pod.is_empty()) {
        Some(workload) => format!("{}/{}", workload.namespace, workload.pod),
        None => "no pod of the mesh".to_owned(),
    }
}

fn inbound(one: &Remembered, served: &mut Served) {
    served.direction = "inbound".to_owned();
    let Side::Inbound {
        peer,
        port,
        own,
        policies,
    } = &one.side
    else {
        return;
    };
    let steps = &mut served.explanation.steps;
    let mut end = None;
    if let Some(own) = own {
        let (step, refused) = policy::admission(own.authentication(*port), peer.is_some());
        steps.push(step);
        end = refused;
    }
    let peer = Peer {
        identity: peer.as_ref().map(|peer| &peer.id),
        address: one.caller.ip(),
    };
    let operation = Operation {
        method: one.part(1),
        path: one.part(3),
        host: one.part(2),
    };
    let (mut step, denied) = policy::decide(policies, &peer, *port, Some(&operation));
    if one.cut {
        step = step.note(CUT);
    }
    steps.push(step);
    end = end.or(denied);
    served.explanation.end = match (end, one.flags) {
        (Some(end), "UAEX") => end,
        (_, "-") => {
            let what = format!("the application, port {port}, which answered {}", one.code);
            steps.push(Step::new(Stage::Application, what.clone()));
            End::Reaches { what }
        }
        (_, flags) => End::Refused {
            stage: if flags == "RL" {
                Stage::Limit
            } else {
                Stage::Application
            },
            status: (one.code > 0).then_some(one.code),
            why: format!("response flag {flags}: {}", meaning(flags)),
            because: None,
            remedies: Vec::new(),
        },
    };
}

/// What a response flag says.
fn meaning(flag: &str) -> &'static str {
    let known = [
        Failure::Path,
        Failure::NoRoute,
        Failure::NotLearned,
        Failure::NoEndpoint,
        Failure::Connect,
        Failure::Reset,
        Failure::Response,
        Failure::Timeout,
        Failure::ClientGone,
        Failure::Denied,
        Failure::Ended,
    ];
    let found = known.into_iter().find(|failure| failure.flag() == flag);
    found.map_or("see the documents", |failure| failure.text().trim_end())
}
