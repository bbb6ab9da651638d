//! A cluster that is picked from without anybody noticing.
//!
//! In: a cluster that serves. Out: one that chooses as that would now, with the same draws. Never: a trace in the first.

use super::Cluster;
use crate::endpoint::EndpointState;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

impl Cluster {
    /// The same endpoints and all that is known of them, apart: what is picked here changes nothing there.
    #[must_use]
    pub fn apart(&self) -> Self {
        let shared = Arc::new((*self.shared).clone());
        let mut made: HashMap<*const EndpointState, Arc<EndpointState>> = HashMap::new();
        let mut copy = |endpoint: &Arc<EndpointState>| {
            let copy = made
                .entry(Arc::as_ptr(endpoint))
                .or_insert_with(|| Arc::new(endpoint.apart(&shared)));
            Arc::clone(copy)
        };
        let tiers = self.tiers.iter().map(|tier| tier.apart(&mut copy)).collect();
        let [draining, unready, elsewhere] =
            [&self.draining, &self.unready, &self.elsewhere].map(|list| list.iter().map(&mut copy).collect());
        Self {
            service: self.service.clone(),
            subset: self.subset.clone(),
            traffic: Arc::clone(&self.traffic),
            parts: self.parts.clone(),
            tiers,
            draining,
            unready,
            elsewhere,
            shares: self.shares.clone(),
            panic: self.panic.clone(),
            addresses: OnceLock::new(),
            review_at: self.review_at.clone(),
            next_errand: self.next_errand.clone(),
            shared: Arc::clone(&shared),
            ..*self
        }
    }
}
