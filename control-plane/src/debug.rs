//! Debug pages that `weft status` reads.
//!
//! Enters: questions. Leaves: how each stream does; the catalog that holds everything that the API server had when that was asked.
//! Never: more than a few questions at once that list the API server, a change.

use crate::ingest::kube::seen::{Seen, Unlisted};
use crate::mesh::Change;
use crate::xds::Sessions;
use crate::xds::catalog::Catalog;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

/// Most questions at once.
const AT_ONCE: usize = 4;
/// Longest that a question waits, seconds.
const MAX_WITHIN: u64 = 60;

/// Answers when what is applied now has been compiled. Cloning is cheap.
#[derive(Clone)]
pub struct Applied {
    client: kube::Client,
    seen: Seen,
    changes: mpsc::Sender<Change>,
    catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    turns: Arc<Semaphore>,
    /// Which process this is: the sequences of catalogs begin again with another.
    instance: Arc<str>,
}

/// Why it can't be told.
#[derive(Debug, thiserror::Error)]
pub enum NotApplied {
    /// Too many ask.
    #[error("{AT_ONCE} others ask the same already; try again")]
    Busy,
    /// The API server can't be asked.
    #[error("{0}")]
    Unlisted(#[from] Unlisted),
    /// It took too long.
    #[error(
        "this replica hasn't seen what is applied now within {0} s; its log says whether it can reach the API server"
    )]
    Late(u64),
    /// The process ends.
    #[error("this replica is stopping")]
    Stopping,
}

impl Applied {
    /// Compares `client`'s API server with what has been `seen`, then follows `changes` into `catalogs`.
    pub fn new(
        client: kube::Client,
        seen: Seen,
        changes: mpsc::Sender<Change>,
        catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    ) -> Self {
        Self {
            client,
            seen,
            changes,
            catalogs,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            instance: format!("{:016x}", rand::random::<u64>()).into(),
        }
    }

    /// The sequence of a catalog that holds everything that the API server has when this is called.
    ///
    /// # Errors
    /// See [`NotApplied`].
    pub async fn catalog(&self, within: Duration) -> Result<u64, NotApplied> {
        let _turn = self.turns.try_acquire().map_err(|_| NotApplied::Busy)?;
        let late = |_| NotApplied::Late(within.as_secs());
        timeout(within, self.reach()).await.map_err(late)?
    }

    async fn reach(&self) -> Result<u64, NotApplied> {
        self.seen.caught_up(&self.client).await?;
        let (answer, mut version) = mpsc::channel(1);
        let asked = self.changes.send(Change::Reached(answer)).await;
        asked.map_err(|_| NotApplied::Stopping)?;
        let version = version.recv().await.ok_or(NotApplied::Stopping)?;
        let mut catalogs = self.catalogs.clone();
        let holds = |catalog: &Option<Arc<Catalog>>| {
            catalog
                .as_ref()
                .is_some_and(|catalog| catalog.shared.mesh().version >= version)
        };
        let catalog = catalogs.wait_for(holds).await.map_err(|_| NotApplied::Stopping)?;
        Ok(catalog.as_ref().map_or(0, |catalog| catalog.sequence))
    }
}

/// The pages.
pub fn router(applied: Applied, sessions: Arc<Sessions>) -> Router {
    Router::new()
        .route("/debug/sessions", get(list))
        .route("/debug/applied", get(page))
        .with_state((applied, sessions))
}

type Shown = State<(Applied, Arc<Sessions>)>;

async fn list(State((applied, sessions)): Shown) -> Json<Value> {
    // Streams that the newest catalog doesn't concern have time; whoever asks hasn't.
    sessions.wake_all();
    let catalog = applied
        .catalogs
        .borrow()
        .as_ref()
        .map_or(0, |catalog| catalog.sequence);
    Json(json!({"instance": applied.instance, "catalog": catalog, "sessions": sessions.list()}))
}

#[derive(serde::Deserialize)]
struct Within {
    within: Option<u64>,
}

async fn page(State((applied, sessions)): Shown, Query(query): Query<Within>) -> Response {
    let within = Duration::from_secs(query.within.unwrap_or(MAX_WITHIN).min(MAX_WITHIN));
    match applied.catalog(within).await {
        Ok(catalog) => {
            sessions.wake_all();
            Json(json!({"instance": applied.instance, "catalog": catalog})).into_response()
        }
        Err(error) => {
            let error = Json(json!({"error": error.to_string()}));
            (StatusCode::SERVICE_UNAVAILABLE, error).into_response()
        }
    }
}
