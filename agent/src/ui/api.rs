//! What the page is answered: flows, map, policies and health, each with what is missing from it.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::StatusCode,
    routing::get,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Row,
    asking::{Asking, Look, Source},
};
use crate::survey::{
    health::Health,
    hits::{Hits, hits},
    map::{TrafficMap, map},
    selection::Selection,
};

/// The API of the page, before its guard.
pub fn api<S: Source>(source: S) -> Router {
    Router::new()
        .route("/api/flows", get(flows::<S>))
        .route("/api/map", get(traffic::<S>))
        .route("/api/policies", get(policies::<S>))
        .route("/api/health", get(health::<S>))
        .with_state(Arc::new(Asking::new(source)))
}

/// An error for the page: a status and a sentence.
type Failure = (StatusCode, String);

/// What all answers about flows have.
#[derive(Serialize)]
struct About<T> {
    /// Of a cluster.
    cluster: bool,
    /// What it is a view of, where that is not the whole.
    scope: Option<String>,
    /// When it was asked for.
    now: Timestamp,
    /// Who did not answer, so that this is not the whole.
    missing: Vec<String>,
    /// There are more flows than were looked at.
    more: bool,
    #[serde(flatten)]
    what: T,
}

impl<T> About<T> {
    fn of(look: &Look, what: T) -> Json<Self> {
        let Look { cluster, scope, now, missing, more, .. } = look;
        let (scope, missing) = (scope.clone(), missing.clone());
        Json(Self { cluster: *cluster, scope, now: *now, missing, more: *more, what })
    }
}

#[derive(Serialize)]
struct Flows {
    flows: Vec<Row>,
}

#[derive(Serialize)]
struct Policies {
    policies: Vec<Hits>,
}

type Asked<S> = State<Arc<Asking<S>>>;

async fn flows<S: Source>(
    State(asking): Asked<S>,
    RawQuery(query): RawQuery,
) -> Result<Json<About<Flows>>, Failure> {
    let (look, selection) = look(&asking, query).await?;
    let limit = Some(selection.limit).filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    // Those that count most are last there, and first here.
    let rows = look.flows.iter().rev().take(limit).map(Row::from).collect();
    let mut answer = About::of(&look, Flows { flows: rows });
    answer.more |= look.flows.len() > limit;
    Ok(answer)
}

async fn traffic<S: Source>(
    State(asking): Asked<S>,
    RawQuery(query): RawQuery,
) -> Result<Json<About<TrafficMap>>, Failure> {
    let (look, _) = look(&asking, query).await?;
    Ok(About::of(&look, map(&look.flows, look.window())))
}

async fn policies<S: Source>(
    State(asking): Asked<S>,
    RawQuery(query): RawQuery,
) -> Result<Json<About<Policies>>, Failure> {
    let (look, _) = look(&asking, query).await?;
    Ok(About::of(&look, Policies { policies: hits(&look.flows) }))
}

async fn health<S: Source>(State(asking): Asked<S>) -> Result<Json<Health>, Failure> {
    let health = asking.health().await.map_err(unanswered)?;
    Ok(Json(Health::clone(&health)))
}

async fn look<S: Source>(
    asking: &Asking<S>,
    query: Option<String>,
) -> Result<(Arc<Look>, Selection), Failure> {
    let query = query.unwrap_or_default();
    let selection = Selection::from_url(&query).map_err(|e| (StatusCode::BAD_REQUEST, e))?;
    let look = asking.look(&query, &selection).await.map_err(unanswered)?;
    Ok((look, selection))
}

fn unanswered(why: String) -> Failure {
    (StatusCode::BAD_GATEWAY, why)
}
