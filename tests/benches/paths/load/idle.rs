//! Idle flows: connections on which one request was made, held open while the proxies' memory is read.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Options,
    connection::{Connection, SMALL, Target, get},
    meter,
};

/// Connections that are made, or used, at a time.
const AT_A_TIME: usize = 32;
/// Between the last request and the reading: idle is what has been idle for a while.
const SETTLE: Duration = Duration::from_secs(12);

pub(super) async fn run(options: &Options, target: Target) -> Result<Value> {
    let proxies = options.proxies.as_deref().context("no proxies whose memory could be read")?;
    let mut held: Vec<Connection> = Vec::new();
    let mut levels = Vec::new();
    for flows in &options.flows {
        let missing = (held.len()..*flows).map(|_| opened(target.clone()));
        held.extend(some_at_a_time(missing).await?);
        sleep(SETTLE).await;
        let (rss, pss) = meter::memory(proxies)?;
        levels.push(json!({ "flows": flows, "rss_mib": rss, "pss_mib": pss }));
    }
    // None of them may have been closed meanwhile.
    some_at_a_time(held.into_iter().map(used)).await.context("an idle flow")?;
    Ok(json!({ "levels": levels }))
}

async fn opened(target: Target) -> Result<Connection> {
    used(target.connect().await?).await
}

async fn used(mut connection: Connection) -> Result<Connection> {
    connection.exchange(&get(SMALL, false)).await?.expect(200)?;
    Ok(connection)
}

async fn some_at_a_time(
    connections: impl Iterator<Item = impl Future<Output = Result<Connection>> + 'static>,
) -> Result<Vec<Connection>> {
    let (mut done, mut running) = (Vec::new(), JoinSet::new());
    for connection in connections {
        if running.len() == AT_A_TIME {
            done.extend(running.join_next().await.transpose()?.transpose()?);
        }
        running.spawn_local(connection);
    }
    while let Some(connection) = running.join_next().await {
        done.push(connection??);
    }
    Ok(done)
}
