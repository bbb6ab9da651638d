//! Whose rules hold for a pod that is called by its own address.
//!
//! Enters: a view, and the pod. Leaves: steps about the rules of the headless Service that is meant. Never: a choice of its own.

use std::borrow::Cow;

use weft_engine::explain::route::{self as why, Chosen};
use weft_engine::explain::{Stage, Step};
use weft_engine::route::RequestHead;
use weft_proto::model::Routes;

use crate::upstream::call::Target;
use crate::view::{Behind, Destination, Direct, View};

/// The rules for a request to the pod.
pub(super) fn request(view: &View, direct: &Direct, head: &RequestHead<'_>, chosen: Chosen) -> Vec<Step> {
    if !direct.is_ruled() {
        return Vec::new();
    }
    let Some(behind) = direct.meant(view, head.host) else {
        let what = "none: the pod is behind several headless Services, and the host names none of them";
        return vec![Step::new(Stage::Route, what)];
    };
    let service = &behind.destination.service;
    match said(view, behind) {
        Some(routes) => {
            let mut steps = why::steps(&routes, behind.destination.port.port, head, chosen);
            if let Some(first) = steps.first_mut() {
                let note = format!("the pod is behind the headless Service {service}: its rules hold");
                first.notes.push(note);
            }
            steps
        }
        None => {
            let what = format!("none of the headless Service {service} is about this port: the pod itself");
            vec![Step::new(Stage::Route, what)]
        }
    }
}

/// The rules for connections to a target, as the control plane says.
pub(super) fn routes<'a>(
    view: &'a View,
    target: &Target,
    destination: &Destination,
) -> Option<Cow<'a, Routes>> {
    match target {
        Target::Pod(direct, _) => said(view, direct.only()?),
        _ => Some(Cow::Borrowed(
            view.service(&destination.service)?.routes.as_ref()?,
        )),
    }
}

/// The rules that hold for the pod, as the control plane says; `None`: none is about the port.
fn said<'a>(view: &'a View, behind: &Behind) -> Option<Cow<'a, Routes>> {
    behind.routes.as_ref()?;
    let routes = view.service(&behind.destination.service)?.routes.as_ref()?;
    Some(match routes.of_pod(&behind.hostname) {
        Some(own) => Cow::Owned(own),
        None => Cow::Borrowed(routes),
    })
}
