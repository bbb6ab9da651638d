//! From a caller to the application.
//!
//! Enters: a view, and a request that arrives. Leaves: whether the connection is taken, the request allowed, and how many there may be.
//! Never: a permit: only `policy` makes one, and nothing is sent.

use weft_engine::explain::{Arrival, Considered, End, Explanation, Stage, Step, policy};
use weft_engine::policy::{Operation, Peer};
use weft_proto::model::{Inbound, MtlsMode, Protocol, SpiffeId};

use crate::view::View;

/// Explains one request that arrives.
pub fn inbound(view: &View, arrival: &Arrival) -> Explanation {
    let Some(own) = view.inbound.as_deref() else {
        let end = End::Refused {
            stage: Stage::Admission,
            status: None,
            why: "the sidecar has no configuration yet: nothing is let in".to_owned(),
            because: None,
            remedies: vec!["weft status says whether the control plane is reached".to_owned()],
        };
        return Explanation {
            steps: Vec::new(),
            end,
        };
    };
    let identity: Option<SpiffeId> = arrival.identity.as_deref().and_then(|text| text.parse().ok());
    let mut steps = Vec::new();
    let authentication = own.authentication(arrival.port);
    // Where no TLS is terminated nobody has an identity.
    let identity = identity.filter(|_| authentication.mode != MtlsMode::Disable);
    let (step, end) = policy::admission(authentication, identity.is_some());
    steps.push(step);
    if let Some(end) = end {
        return Explanation { steps, end };
    }
    let protocol = own
        .port(arrival.port)
        .map(|port| port.protocol)
        .unwrap_or_default();
    let http = arrival.http && (identity.is_some() || !matches!(protocol, Protocol::Tcp | Protocol::Tls));
    let operation = Operation {
        method: &arrival.method,
        path: &arrival.path,
        host: &arrival.authority,
    };
    let peer = Peer {
        identity: identity.as_ref(),
        address: arrival.address,
    };
    let (step, end) = policy::decide(&view.policies, &peer, arrival.port, http.then_some(&operation));
    steps.push(step);
    if let Some(end) = end {
        return Explanation { steps, end };
    }
    steps.extend(limits(own, arrival));
    let workload = &own.workload;
    let what = format!(
        "the application of pod {}/{}, port {}",
        workload.namespace, workload.pod, arrival.port
    );
    let mut step = Step::new(Stage::Application, what.clone());
    if own.port(arrival.port).is_none() {
        step = step.note(
            "no Service and no container declares this port: whether anything listens there is not known",
        );
    }
    steps.push(step);
    Explanation {
        steps,
        end: End::Reaches { what },
    }
}

/// How many requests there may be. Whether one is left is not asked: that would use it up.
fn limits(own: &Inbound, arrival: &Arrival) -> Option<Step> {
    let about: Vec<_> = own
        .rate_limits
        .iter()
        .filter(|limit| limit.port.is_none_or(|port| port == arrival.port))
        .collect();
    if about.is_empty() || !arrival.http {
        return None;
    }
    let options = about.into_iter().map(|limit| {
        let every = format!("in {:?}", limit.interval);
        let all = limit.requests.map(|count| format!("{count} requests {every}"));
        let each = limit
            .requests_per_identity
            .map(|count| format!("{count} of each caller {every}"));
        let words: Vec<String> = all.into_iter().chain(each).collect();
        let why = match limit.matches.len() {
            0 => "counts every request".to_owned(),
            some => format!("counts requests that one of {some} matches takes"),
        };
        Considered::rejected(words.join(", "), why).because(&limit.origin)
    });
    Some(Step::new(Stage::Limit, "more are answered 429").with(options))
}
