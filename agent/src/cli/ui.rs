//! `egret ui`: serves the page, and asks for what it shows.

mod asking;

use std::sync::Arc;

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::StatusCode,
    routing::get,
};
use jiff::Timestamp;
use serde::Serialize;

use self::asking::{Asking, Look};
use super::{
    args::{Selection, Ui},
    output,
};
use crate::{
    app::{listen::listen, port},
    survey::{
        health::Health,
        hits::{Hits, hits},
        map::{TrafficMap, map},
    },
    ui::{self, Row, Token},
};

/// Serves until it is interrupted.
pub(super) async fn run(arguments: Ui) -> anyhow::Result<()> {
    let Ui { instance, access, listen: address } = arguments;
    let asking = Arc::new(Asking::new(instance, access).await?);
    let listener = listen(address)
        .with_context(|| format!("cannot listen on {address}: choose another port with --listen"))?;
    let token = Token::random();
    output::text(format!("http://{}/#{token}", listener.local_addr()?))?;
    output::note("the address is for you alone: whoever has it may look, too; Ctrl-C ends it");
    let api = Router::new()
        .route("/api/flows", get(flows))
        .route("/api/map", get(traffic))
        .route("/api/policies", get(policies))
        .route("/api/health", get(health))
        .with_state(asking);
    port::answer(listener, ui::router(api, &token)).await;
    Ok(())
}

/// An error for the page: a status and a sentence.
type Failure = (StatusCode, String);

/// What all answers about flows have.
#[derive(Serialize)]
struct About<T> {
    /// Of a cluster.
    cluster: bool,
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
        let Look { cluster, now, missing, more, .. } = look;
        Json(Self { cluster: *cluster, now: *now, missing: missing.clone(), more: *more, what })
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

type Asked = State<Arc<Asking>>;

async fn flows(State(asking): Asked, RawQuery(query): RawQuery) -> Result<Json<About<Flows>>, Failure> {
    let (look, selection) = look(&asking, query).await?;
    let limit = Some(selection.limit).filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    // Those that count most are last there, and first here.
    let rows = look.flows.iter().rev().take(limit).map(Row::from).collect();
    let mut answer = About::of(&look, Flows { flows: rows });
    answer.more |= look.flows.len() > limit;
    Ok(answer)
}

async fn traffic(
    State(asking): Asked,
    RawQuery(query): RawQuery,
) -> Result<Json<About<TrafficMap>>, Failure> {
    let (look, _) = look(&asking, query).await?;
    Ok(About::of(&look, map(&look.flows, look.window())))
}

async fn policies(State(asking): Asked, RawQuery(query): RawQuery) -> Result<Json<About<Policies>>, Failure> {
    let (look, _) = look(&asking, query).await?;
    Ok(About::of(&look, Policies { policies: hits(&look.flows) }))
}

async fn health(State(asking): Asked) -> Result<Json<Health>, Failure> {
    let health = asking.health().await.map_err(|e| unanswered(&e))?;
    Ok(Json(Health::clone(&health)))
}

async fn look(asking: &Asking, query: Option<String>) -> Result<(Arc<Look>, Selection), Failure> {
    let query = query.unwrap_or_default();
    let selection = Selection::from_url(&query).map_err(|e| (StatusCode::BAD_REQUEST, e))?;
    let look = asking.look(&query, &selection).await.map_err(|e| unanswered(&e))?;
    Ok((look, selection))
}

fn unanswered(error: &anyhow::Error) -> Failure {
    (StatusCode::BAD_GATEWAY, output::message(error))
}
